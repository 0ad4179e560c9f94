"""The commands about stored documents. Needs the extra `cli`."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from e2rank_client.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    AsJson,
    Namespace,
    Timeout,
    print_json,
)
from e2rank_client.client import AsyncE2RankClient, E2RankClient
from e2rank_client.connection import DEFAULT_TIMEOUT_SECONDS
from e2rank_client.document_file import DocumentFileError
from e2rank_client.errors import E2RankError, OverloadedError, UnavailableError
from e2rank_client.file_lines import open_lines
from e2rank_client.put_file import FilePut, PutSettings, PutTotals
from e2rank_client.put_resume import ResumeFile
from e2rank_client.types import NamespaceStats

# A batch of long documents takes minutes on a CPU.
_PUT_TIMEOUT_SECONDS = 600.0
_INTERRUPTED = 130


def put(
    file: Annotated[
        str,
        typer.Argument(
            help="A file with a JSON object a line, plain or gzip: _id or id, text and, if "
            "wanted, title, as in BEIR's corpus.jsonl. - is standard input."
        ),
    ],
    namespace: Annotated[str, typer.Option(help="Where to store the documents.")] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Embed with this profile; repeatable. Default: the server's first."),
    ] = None,
    store_only: Annotated[bool, typer.Option("--store-only", help="Embed nothing now.")] = False,
    priority: Annotated[
        int, typer.Option(help="Of the embedding; lower runs earlier, searches have 0.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Most documents in a request.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Most requests at a time.")] = 4,
    skip_blank: Annotated[
        bool,
        typer.Option("--skip-blank", help="Leave out documents whose text is blank, else errors."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew, though an earlier put can be gone on with."),
    ] = False,
    max_wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds that a request waits for a server busy or away."),
    ] = 60.0,
    address: Address = DEFAULT_ADDRESS,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a request may take.")
    ] = _PUT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Store the documents of a file, and embed them ahead.

    How far it came is kept beside the file, in FILE.e2rank-put, until all is
    stored: the same command goes on where it was stopped, by whatever. It
    begins anew if the file has changed before that place. Putting a document
    again is safe. Of lines with one id the last counts.
    """
    models = tuple(model or ())
    if store_only and models:
        raise typer.BadParameter("--store-only embeds nothing; leave --model out")
    settings = PutSettings(
        namespace=namespace,
        models=models,
        store_only=store_only,
        priority=priority,
        batch_size=batch_size,
        concurrency=concurrency,
        max_wait_seconds=max_wait,
        skip_blank=skip_blank,
    )
    resume = None
    if file != "-":
        call = {
            "address": address,
            "namespace": namespace,
            "models": list(models),
            "store_only": store_only,
        }
        resume = ResumeFile(Path(file), call)
        if restart:
            resume.remove()
    started = time.monotonic()
    totals = _put_file(file, settings, resume, address, timeout)
    if as_json:
        print_json(totals)
    else:
        _print_totals(totals, time.monotonic() - started)


def stats(
    namespace: Namespace = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Say how many documents a namespace has, and how much of its quota they take."""
    with E2RankClient(address, timeout_seconds=timeout) as client:
        held = client.get_namespace_stats(namespace)
    if as_json:
        print_json(held)
        return
    table = Table(box=None)
    for heading in ("namespace", "documents", "stored", "quota", "used"):
        table.add_column(heading, justify="left" if heading == "namespace" else "right")
    table.add_row(
        escape(repr(namespace)),
        f"{held.documents:,}",
        decimal(held.stored_bytes),
        decimal(held.max_bytes),
        _percent(held),
    )
    Console().print(table)


def get(
    ids: Annotated[list[str], typer.Argument(help="Of the documents.")],
    namespace: Namespace = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Print documents as `put` takes them; the exit code is 1 if one is not stored."""
    with E2RankClient(address, timeout_seconds=timeout) as client:
        found = client.get_documents(ids, namespace=namespace)
    for document_id, document in zip(ids, found, strict=True):
        if document is None:
            typer.echo(f"e2rank: {document_id!r} is not stored", err=True)
            continue
        line = {"_id": document.id, "text": document.text}
        if document.title is not None:
            line["title"] = document.title
        typer.echo(json.dumps(line, ensure_ascii=False))
    if None in found:
        raise typer.Exit(1)


def delete(
    ids: Annotated[list[str] | None, typer.Argument(help="Of the documents.")] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Where the documents are stored. Default: the empty one.")
    ] = None,
    whole_namespace: Annotated[
        bool, typer.Option("--whole-namespace", help="All documents of --namespace.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before a namespace is deleted.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Delete documents, or a namespace with all of them and with what is cached of it."""
    if bool(ids) == whole_namespace:
        raise typer.BadParameter("name documents, or else --whole-namespace")
    if whole_namespace and namespace is None:
        raise typer.BadParameter("--whole-namespace needs --namespace, be it ''")
    place = namespace or ""
    if whole_namespace and not yes:
        typer.confirm(f"Delete all documents of namespace {place!r}?", abort=True)
    with E2RankClient(address, timeout_seconds=timeout) as client:
        if whole_namespace:
            number = client.delete_namespace(place).documents
        else:
            number = sum(client.delete_documents(ids or [], namespace=place))
    typer.echo(f"{number} deleted")


def _put_file(
    file: str, settings: PutSettings, resume: ResumeFile | None, address: str, timeout: float
) -> PutTotals:
    """Put with a progress bar; whatever ends it says how to go on."""
    running: FilePut | None = None

    async def run() -> PutTotals:
        nonlocal running
        me = asyncio.current_task()
        assert me is not None
        # A plain signal handler may not run before something else wakes the loop.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, me.cancel)
        with open_lines(file) as lines, _Watcher(lines.num_bytes) as watcher:
            async with AsyncE2RankClient(address, timeout_seconds=timeout) as client:
                running = FilePut(client, lines, settings, resume, watcher)
                return await running.run()

    try:
        return asyncio.run(run())
    except (E2RankError, DocumentFileError) as error:
        error.add_note(_how_to_go_on(running))
        raise
    except asyncio.CancelledError:
        typer.echo(f"e2rank: stopped; {_how_to_go_on(running)}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _how_to_go_on(put: FilePut | None) -> str:
    if put is None or put.acknowledged is None:
        return "nothing is known to be stored; run the command again to begin anew"
    stored = f"all up to line {put.acknowledged.mark.line} is stored"
    if put.resume:
        return f"{stored}; run the command again to go on behind it"
    return f"{stored}; the command begins anew when it is run again, which is safe"


class _Watcher:
    """Shows how a put goes, on standard error. See `PutWatcher`."""

    def __init__(self, num_bytes: int | None) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("putting", total=num_bytes)
        self._started = time.monotonic()

    def __enter__(self) -> _Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progressed(self, totals: PutTotals, position_bytes: int) -> None:
        rate = totals.documents / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(
            self._task,
            completed=position_bytes,
            description=f"{totals.documents:,} documents, {rate:,.0f}/s: {_outcomes(totals)}",
        )

    def waits(self, error: OverloadedError | UnavailableError, seconds: float) -> None:
        text = f"{error.code.name}, again in {seconds:.1f} s: {escape(str(error))}"
        self._progress.update(self._task, description=text)

    def noticed(self, message: str) -> None:
        self._console.print(escape(message), soft_wrap=True)


def _outcomes(totals: PutTotals) -> str:
    return (
        f"{totals.documents_new:,} new, {totals.documents_unchanged:,} unchanged, "
        f"{totals.documents_replaced:,} replaced; {totals.documents_embedded:,} embedded"
    )


def _print_totals(totals: PutTotals, seconds: float) -> None:
    rate = totals.documents / max(seconds, 1e-3)
    where = f" from line {totals.first_line}" if totals.first_line > 1 else ""
    typer.echo(f"{totals.documents:,} documents{where} in {seconds:.1f} s ({rate:,.0f}/s)")
    typer.echo(
        f"{_outcomes(totals)} ({totals.tokens:,} tokens), "
        f"{totals.documents_cached:,} embedded before"
    )
    if totals.stats is not None:
        held = totals.stats
        typer.echo(
            f"the namespace has {held.documents:,} documents, {decimal(held.stored_bytes)} of "
            f"{decimal(held.max_bytes)} ({_percent(held)})"
        )
    for number, what in (
        (totals.documents_truncated, "were cut to the model's limit when embedded"),
        (totals.lines_superseded, "were left out: a line close behind had the same id"),
        (totals.lines_blank, "were left out: their text is blank"),
        (
            totals.documents_not_embedded,
            "are stored but not embedded: put them again, or the first call that names one will",
        ),
    ):
        if number:
            typer.echo(f"warning: {number:,} documents {what}", err=True)


def _percent(held: NamespaceStats) -> str:
    return f"{held.stored_bytes / held.max_bytes:.1%}" if held.max_bytes else "-"
