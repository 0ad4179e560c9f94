"""What runs while a section is measured: started with its progress shown, stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.peers.commands import PROFILE, SERVER_FLAGS, shown_names
from benchmarks.peers.peer_process import PeerCommand, RunningPeer, running_peer
from e2rank_client.local_server import local_server


class Stage:
    """Starts servers and shows how far things are."""

    def __init__(self, console: Console, peers: Sequence[str]) -> None:
        self._console = console
        self._peers = peers

    @contextmanager
    def our_server(self) -> Iterator[str]:
        """Run our server of the default profile; yield its address."""
        with ExitStack() as stack:
            with self.progress(f"starting E2Rank Server: {PROFILE}", None):
                address = stack.enter_context(local_server(SERVER_FLAGS))
            yield address

    def chosen(self, available: Mapping[str, PeerCommand]) -> list[tuple[str, PeerCommand]]:
        """Return those of the peers that are wanted."""
        return [(name, command) for name, command in available.items() if name in self._peers]

    @contextmanager
    def started(
        self, available: Mapping[str, PeerCommand], model: Path
    ) -> Iterator[tuple[list[RunningPeer], dict[str, str]]]:
        """Run the peers that are wanted, all started at once; yield them and their commands.

        The commands are printed, and have names in place of this machine's paths.
        """
        chosen = self.chosen(available)
        lines = {command.name: command.line(shown_names(model)) for _, command in chosen}
        for name, line in lines.items():
            self._console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
        with ExitStack() as stack:
            peers = [stack.enter_context(running_peer(command)) for _, command in chosen]
            for peer in peers:
                with self.progress(f"starting {peer.name}", None):
                    peer.wait_until_ready()
            yield peers, lines

    @contextmanager
    def progress(self, what: str, steps: int | None) -> Iterator[Callable[[], None]]:
        """Show a bar; yield what advances it by one of `steps`, which may be unknown."""
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=steps)
            yield lambda: progress.advance(task)
