"""Why Triton cannot run: one line each, found in real virtual environments of fake packages."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

import e2rank_server
from e2rank_server.errors import ConfigurationError
from e2rank_server.tokenizer.triton.environment import (
    TritonCannotRunError,
    TritonEnvironment,
    obstacle,
    platform_obstacle,
)
from e2rank_server.tokenizer.triton.server import EmbeddedTriton

PACKAGES = {
    "nvidia-pytriton": "0.7.0",
    "numpy": "1.26.4",
    "tokenizers": "0.23.3",
    "e2rank-server": e2rank_server.__version__,
}
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

pytestmark = pytest.mark.skipif(
    platform_obstacle(sys.version_info[:2], "2.35") is not None,
    reason="no environment for Triton can exist under this Python",
)


def make_environment(folder: Path, packages: dict[str, str]) -> Path:
    """Make a virtual environment with packages that are nothing but names and versions."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = folder / "lib" / f"python{PYTHON}" / "site-packages"
    for package, version in packages.items():
        record = site / f"{package.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        record.joinpath("METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        module = site / package.replace("nvidia-", "").replace("-", "_")
        module.mkdir()
        module.joinpath("__init__.py").write_text(f"__version__ = {version!r}\n")
    parts = site / "pytriton" / "tritonserver"
    if parts.parent.exists():
        (parts / "bin").mkdir(parents=True)
        (parts / "bin" / "tritonserver").touch()
        (parts / "backends" / "python").mkdir(parents=True)
        stub = parts / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
        stub.parent.mkdir(parents=True)
        stub.touch()
    return folder


def problem_with(folder: Path) -> str:
    """Return the one line about an environment that is wrong on a machine that is not."""
    with pytest.raises(ConfigurationError) as raised:
        obstacle(folder)
    assert not isinstance(raised.value, TritonCannotRunError)
    [problem] = raised.value.problems
    return problem


def test_a_missing_environment_is_a_problem_and_no_obstacle(tmp_path: Path) -> None:
    problem = problem_with(tmp_path / "nowhere")

    assert problem.startswith(f"there is no Triton environment at {tmp_path / 'nowhere'}: ")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "Permission denied"),
        ("exit 3", "exit status 3"),
        ("echo first >&2; echo last >&2; exit 1", "last"),
        ("echo not JSON", "Expecting value"),
    ],
)
def test_an_environment_whose_python_does_not_run_is_a_problem(
    tmp_path: Path, script: str | None, words: str
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755 if script else 0o644)

    reason = problem_with(tmp_path)

    assert reason.startswith(f"the Python of the Triton environment {tmp_path} does not work: ")
    assert words in reason
    assert "\n" not in reason


@pytest.mark.parametrize("missing", PACKAGES)
def test_a_missing_package_is_named(tmp_path: Path, missing: str) -> None:
    packages = {name: version for name, version in PACKAGES.items() if name != missing}

    reason = problem_with(make_environment(tmp_path, packages))

    assert reason == f"the Triton environment {tmp_path} lacks the package {missing}"


def test_numpy_2_is_refused_in_one_line(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, PACKAGES | {"numpy": "2.3.5"})

    assert problem_with(environment) == (
        f"the Triton environment {tmp_path} has numpy 2.3.5: "
        "Triton's Python backend corrupts tensors under numpy 2"
    )


async def test_a_start_with_numpy_2_is_refused_in_the_same_line(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, PACKAGES | {"numpy": "2.3.5"})

    with pytest.raises(ConfigurationError) as raised:
        await EmbeddedTriton.start(environment, [], tmp_path / "log")

    assert raised.value.problems == (problem_with(environment),)


def test_another_version_of_this_package_is_refused(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, PACKAGES | {"e2rank-server": "0.0.1"})

    assert problem_with(environment) == (
        f"the Triton environment {tmp_path} has e2rank-server 0.0.1, "
        f"and this is {e2rank_server.__version__}: their prompts may differ"
    )


def test_a_stub_that_the_wheel_lacks_is_named(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, PACKAGES)
    [stub] = environment.glob("lib/*/site-packages/**/triton_python_backend_stub")
    stub.unlink()

    with pytest.raises(ConfigurationError, match=r"triton_python_backend_stub|libpython"):
        TritonEnvironment.inspect(environment)


def test_tritonserver_sees_its_own_environment_first_and_no_variable_of_ours() -> None:
    environment = TritonEnvironment(
        Path("/venv"), Path("/t"), Path("/b"), Path("/s"), library_folder=Path("/python/lib")
    )

    assert environment.variables() == {
        "PATH": "/venv/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/python/lib",
    }


@pytest.mark.parametrize(
    ("python", "glibc", "words"),
    [
        ((3, 13), "2.36", "numpy 1, which has no build for Python 3.13"),
        ((3, 11), "2.31", "glibc 2.35 or newer; this is 2.31"),
        ((3, 11), "", "glibc 2.35 or newer; this is not glibc"),
    ],
)
def test_a_platform_without_triton_is_an_obstacle(
    python: tuple[int, int], glibc: str, words: str
) -> None:
    reason = platform_obstacle(python, glibc)

    assert reason is not None
    assert words in reason


def test_a_platform_with_all_that_triton_needs_is_none() -> None:
    assert platform_obstacle((3, 12), "2.35") is None
