"""The built wheel, without the checkout: what users of a package index get."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from e2rank_client import E2RankClient
from tests.e2e.server_process import ServerProcess

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.iterdir()
    return path


def environment_with(wheel: Path, folder: Path, dependencies: Path) -> Path:
    """Make a virtual environment of the wheel and the packages in `dependencies`.

    Paths that a .pth file names are not searched for .pth files, so the editable
    install of the checkout stays behind.
    """
    venv.create(folder, symlinks=True)
    site_packages = site_packages_of(folder)
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(site_packages), str(wheel)], check=True)
    return folder


def site_packages_of(environment: Path) -> Path:
    return environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


def test_server_triton_and_client_run_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    server = environment_with(wheel, tmp_path / "server", site_packages_of(Path(sys.prefix)))
    triton = environment_with(wheel, tmp_path / "triton", site_packages_of(ROOT / ".venv-triton"))
    for environment in (server, triton):
        program = "import e2rank_server; print(e2rank_server.__file__)"
        imported = subprocess.run(
            [environment / "bin" / "python", "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert imported.stdout.startswith(str(environment))
    process = ServerProcess(
        tmp_path,
        "--embedder=fake",
        "--tokenizer=triton",
        f"--triton-environment={triton}",
        f"--data-directory={tmp_path / 'data'}",
        python=server / "bin" / "python",
    )
    try:
        process.wait_until_serving()
        with E2RankClient(process.address) as client:
            answer = client.rerank("apple pie", ["a car", "pie of apples and apple tart"])
        assert answer.model.tokenizer_backend == "TRITON"
        assert len(answer.results) == 2
        assert process.stop() == 0
    finally:
        process.kill()


def test_the_wheel_holds_what_it_should_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if ".dist-info" not in top} == {
        "e2rank",
        "e2rank_client",
        "e2rank_server",
    }
    for needed in (
        "e2rank/v1/rerank_pb2.py",
        "e2rank_client/py.typed",
        "e2rank_server/profiles/e2rank-0.6b.toml",
        "e2rank_server/model_repository/tokenizer/config.pbtxt",
    ):
        assert needed in names
