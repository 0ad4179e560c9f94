"""Real Triton is hurt and ended in every way; each test that hurts it has its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.tokenizer.triton import guard
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.server import EmbeddedTriton
from e2rank_server.types import InputType, TextInput
from tests.e2e.triton_profiles import ENVIRONMENT, real_profile

pytestmark = pytest.mark.e2e

START_AND_SAY_WHERE = """
import asyncio, sys
from pathlib import Path
from e2rank_server.tokenizer.triton.server import EmbeddedTriton
from tests.e2e.triton_profiles import ENVIRONMENT, real_profile

async def main():
    profiles = [real_profile("all-minilm-l6-v2")]
    triton = await EmbeddedTriton.start(ENVIRONMENT, profiles, Path(sys.argv[1]))
    print(triton.address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Processes:
    """The processes and files of one embedded Triton, found by its private folder."""

    def __init__(self, address: str) -> None:
        self.directory = Path(address.removeprefix("unix:")).parent
        [self.guard] = self._with_argument("guard.py", str(self.directory))
        [self.server] = self._with_argument("tritonserver", f"{self.directory / 'backends'}")
        self.stubs = [p for p in guard.processes_of_group(self.server) if p != self.server]
        self.shm_prefix = self._arguments(self.guard)[4]

    def ended(self) -> bool:
        return all(map(guard.has_ended, [self.guard, self.server, *self.stubs]))

    def leftovers(self) -> list[Path]:
        directory = [self.directory] if self.directory.exists() else []
        return [*directory, *guard.SHM.glob(f"*{self.shm_prefix}*")]

    def stub_of(self, model: str) -> int:
        [stub] = [p for p in self.stubs if f"/{model}/" in " ".join(self._arguments(p))]
        return stub

    @staticmethod
    def _arguments(process: int) -> list[str]:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")

    @classmethod
    def _with_argument(cls, program: str, argument: str) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                arguments = cls._arguments(int(path.name))
            except OSError:  # ended meanwhile
                continue
            is_program = any(Path(part).name == program for part in arguments[:4])
            if is_program and any(argument in part for part in arguments):
                found.append(int(path.name))
        # The guard has the server's command among its own arguments.
        return [p for p in found if program == "guard.py" or "-I" not in cls._arguments(p)]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def profile() -> TritonProfile:
    return real_profile("all-minilm-l6-v2")


@pytest.fixture
async def triton(profile: TritonProfile, tmp_path: Path) -> AsyncIterator[EmbeddedTriton]:
    server = await EmbeddedTriton.start(
        ENVIRONMENT,
        [profile],
        tmp_path / "triton.log",
        canary_interval_seconds=0.5,
        canary_timeout_seconds=1.0,
    )
    yield server
    await server.close()


@pytest.fixture
async def tokenizer(
    triton: EmbeddedTriton, profile: TritonProfile
) -> AsyncIterator[TritonTokenizer]:
    client = TritonTokenizer(triton.address, profile, timeout_seconds=10)
    yield client
    await client.close()


async def until_healthy(tokenizer: TritonTokenizer) -> list[UnavailableError]:
    """Ask until it answers, and return what it said before."""
    failures: list[UnavailableError] = []
    async with asyncio.timeout(30):
        while True:
            try:
                await tokenizer.check_health()
                return failures
            except UnavailableError as error:
                failures.append(error)
                await asyncio.sleep(0.05)


async def test_it_recovers_from_the_death_of_any_part_and_leaves_nothing(
    triton: EmbeddedTriton, tokenizer: TritonTokenizer
) -> None:
    seen = []
    for restarts, victim in enumerate(("tokenizer", "server", "guard"), 1):
        processes = Processes(triton.address)
        seen.append(processes)
        match victim:
            case "server":
                os.kill(processes.server, signal.SIGKILL)
            case "guard":
                os.kill(processes.guard, signal.SIGKILL)
            case stub:
                os.kill(processes.stub_of(stub), signal.SIGKILL)

        with pytest.raises(UnavailableError, match="tokenizer: Triton answered"):
            await until_unavailable(tokenizer)
        await until_healthy(tokenizer)
        await until(lambda expected=restarts: triton.restarts >= expected)  # type: ignore[misc]
        assert triton.restarts == restarts

        [tokens] = await tokenizer.tokenize_texts(InputType.QUERY, [TextInput("hello world")])
        assert tokens.token_ids.tolist() == [101, 7592, 2088, 102]
        await until(processes.ended)

    seen.append(Processes(triton.address))
    await triton.close()
    for processes in seen:
        assert processes.ended()
        assert processes.leftovers() == []


async def until_unavailable(tokenizer: TritonTokenizer) -> None:
    async with asyncio.timeout(20):
        while True:
            await tokenizer.check_health()


async def test_a_stub_that_hangs_is_found_by_the_canary(
    triton: EmbeddedTriton, tokenizer: TritonTokenizer
) -> None:
    processes = Processes(triton.address)
    os.kill(processes.stub_of("text_template"), signal.SIGSTOP)

    await until(processes.ended)
    await until_healthy(tokenizer)

    assert triton.restarts == 1


async def test_a_gateway_that_is_killed_leaves_no_process_and_nothing_in_shared_memory(
    tmp_path: Path,
) -> None:
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", START_AND_SAY_WHERE, str(tmp_path / "triton.log")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert gateway.stdout
    processes = Processes((await gateway.stdout.readline()).decode().strip())
    assert len(processes.stubs) == 3

    gateway.kill()
    await gateway.wait()

    await until(processes.ended)
    assert processes.leftovers() == []


async def test_a_start_that_is_cancelled_leaves_nothing(
    profile: TritonProfile, tmp_path: Path
) -> None:
    log = tmp_path / "triton.log"
    before = set(guard.SHM.iterdir())
    start = asyncio.create_task(EmbeddedTriton.start(ENVIRONMENT, [profile], log))
    await until(lambda: any(path.suffix == ".lock" for path in set(guard.SHM.iterdir()) - before))

    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    left = [path for path in set(guard.SHM.iterdir()) - before if guard.PREFIX in path.name]
    assert left == []


async def test_a_tokenizer_that_cannot_be_loaded_is_named_at_the_start(tmp_path: Path) -> None:
    profile = real_profile("all-minilm-l6-v2")
    broken = tmp_path / "tokenizer.json"
    broken.write_text('{"model": ')
    wrong = TritonProfile("broken", profile.prompts, broken)

    with pytest.raises(ConfigurationError) as raised:
        await EmbeddedTriton.start(ENVIRONMENT, [profile, wrong], tmp_path / "triton.log")

    [problem] = raised.value.problems
    assert problem.startswith("Triton did not start: ")
    assert "profile broken: tokenizer.json" in problem
