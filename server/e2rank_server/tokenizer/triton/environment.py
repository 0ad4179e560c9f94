"""Finds, in a virtual environment with `nvidia-pytriton`, what an embedded Triton needs to run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2rank_server
from e2rank_server.errors import ConfigurationError

MIN_GLIBC = (2, 35)
"""The wheel is a manylinux_2_35 one."""
MAX_PYTHON = (3, 12)
"""The Python backend needs numpy 1, which was not built for anything newer."""

# Runs in the environment's own interpreter and prints what it found as JSON.
_PROBE = """
import ctypes, importlib.metadata, importlib.util, json, os, pathlib, sys, sysconfig

def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

def own_version():
    try:
        import e2rank_server
        return e2rank_server.__version__
    except (ImportError, AttributeError):
        return None

def is_loadable(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

library = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
libdir = sysconfig.get_config_var("LIBDIR") or ""
multiarch = sysconfig.get_config_var("MULTIARCH") or ""
folders = [libdir, os.path.join(libdir, multiarch), os.path.join(sys.base_prefix, "lib")]
pytriton = importlib.util.find_spec("pytriton")
print(json.dumps({
    "python": sys.version_info[:2],
    "numpy": version("numpy"),
    "tokenizers": version("tokenizers"),
    "e2rank_server": own_version(),
    "pytriton": pytriton and str(pathlib.Path(pytriton.origin).parent),
    "library_folders": [f for f in folders if os.path.exists(os.path.join(f, library))],
    "is_library_on_path": is_loadable(library),
}))
"""
_PROBE_TIMEOUT_SECONDS = 60.0


class TritonCannotRunError(ConfigurationError):
    """Triton cannot run on this machine or with this Python, whatever is installed."""


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """Where Triton's parts are, in an environment in which it can run.

    `library_folder` holds the shared libpython; None if the loader finds it.
    """

    folder: Path
    tritonserver: Path
    backend: Path
    stub: Path
    library_folder: Path | None

    @classmethod
    def inspect(cls, folder: Path) -> TritonEnvironment:
        """Look into a virtual environment; takes a fraction of a second.

        Raises TritonCannotRunError with one line that says why Triton cannot run here at
        all, or ConfigurationError with what is wrong with the environment.
        """
        folder = folder.absolute()  # not resolved: the interpreter's link is what makes it a venv
        if reason := platform_obstacle(sys.version_info[:2], platform.libc_ver()[1]):
            raise TritonCannotRunError([reason])
        found = _probe(folder)
        if reason := _python_obstacle(folder, found):
            raise TritonCannotRunError([reason])
        if problem := _package_problem(folder, found):
            raise ConfigurationError([problem])
        parts = Path(found["pytriton"]) / "tritonserver"
        major, minor = found["python"]
        folders = found["library_folders"]
        environment = cls(
            folder=folder,
            tritonserver=parts / "bin" / "tritonserver",
            backend=parts / "backends" / "python",
            stub=parts / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub",
            library_folder=Path(folders[0]) if folders else None,
        )
        for path in (environment.tritonserver, environment.backend, environment.stub):
            if not path.exists():
                raise ConfigurationError([f"{folder} lacks Triton's {path.name} ({path})"])
        return environment

    def variables(self) -> dict[str, str]:
        """Return the whole environment for tritonserver: none of this process's own passes."""
        # Triton's interpreter finds its packages from the first `python3` on PATH.
        variables = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8"}
        if self.library_folder:
            variables["LD_LIBRARY_PATH"] = str(self.library_folder)
        return variables


def obstacle(folder: Path) -> str | None:
    """Say in one line why Triton cannot run here at all; None if it can.

    Raises ConfigurationError if it could, but `folder` is no environment for it.
    """
    try:
        TritonEnvironment.inspect(folder)
    except TritonCannotRunError as error:
        return error.problems[0]
    return None


def platform_obstacle(python: tuple[int, int], glibc: str) -> str | None:
    """Say why Triton cannot run under this Python and C library, whatever is installed."""
    if sys.platform != "linux":
        return f"Triton runs on Linux only; this is {sys.platform}"
    if python > MAX_PYTHON:
        return (
            "Triton's Python backend needs numpy 1, which has no build for "
            f"Python {python[0]}.{python[1]}; use 3.11 or 3.12"
        )
    numbers = tuple(int(part) for part in glibc.split(".")[:2]) if glibc else (0, 0)
    if numbers < MIN_GLIBC:
        return f"Triton needs glibc 2.35 or newer; this is {glibc or 'not glibc'}"
    return None


def _probe(folder: Path) -> dict[str, Any]:
    python = folder / "bin" / "python"
    if not python.exists():
        raise ConfigurationError(
            [
                f"there is no Triton environment at {folder}: make one (`make setup`), name it "
                "with --triton-environment, or choose --tokenizer in-process"
            ]
        )
    try:
        # -I: what this process was started with must not change what is found.
        answer = subprocess.run(
            [python, "-I", "-c", _PROBE],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_TIMEOUT_SECONDS,
        )
        if answer.returncode != 0:
            raise ValueError([f"exit status {answer.returncode}", *answer.stderr.splitlines()][-1])
        found: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        problem = f"the Python of the Triton environment {folder} does not work: {error}"
        raise ConfigurationError([problem]) from error
    return found


def _python_obstacle(folder: Path, found: dict[str, Any]) -> str | None:
    python = tuple(found["python"])
    if python > MAX_PYTHON:
        return platform_obstacle(python, platform.libc_ver()[1])
    if not found["library_folders"] and not found["is_library_on_path"]:
        return (
            f"Triton needs the shared library libpython{python[0]}.{python[1]}.so.1.0, "
            f"which the Python of {folder} does not have"
        )
    return None


def _package_problem(folder: Path, found: dict[str, Any]) -> str | None:
    for module, package in (
        ("pytriton", "nvidia-pytriton"),
        ("numpy", "numpy"),
        ("tokenizers", "tokenizers"),
        ("e2rank_server", "e2rank-server"),
    ):
        if not found[module]:
            return f"the Triton environment {folder} lacks the package {package}"
    if int(found["numpy"].partition(".")[0]) >= 2:
        return (
            f"the Triton environment {folder} has numpy {found['numpy']}: "
            "Triton's Python backend corrupts tensors under numpy 2"
        )
    if found["e2rank_server"] != e2rank_server.__version__:
        return (
            f"the Triton environment {folder} has e2rank-server {found['e2rank_server']}, "
            f"and this is {e2rank_server.__version__}: their prompts may differ"
        )
    return None
