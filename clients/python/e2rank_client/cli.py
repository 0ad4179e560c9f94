"""The command `e2rank`: rerank and store documents, look at a server, verify a model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
except ImportError as error:
    sys.exit(f"e2rank: {error}; install the extra: pip install 'e2rank-server[cli]'")

from e2rank_client import cli_documents
from e2rank_client import verify as verification
from e2rank_client.cli_options import DEFAULT_ADDRESS, Address, AsJson, Timeout, print_json
from e2rank_client.client import E2RankClient
from e2rank_client.connection import DEFAULT_TIMEOUT_SECONDS
from e2rank_client.document_file import DocumentFileError, read_documents
from e2rank_client.errors import E2RankError, InvalidRequestError, UnknownDocumentsError
from e2rank_client.local_server import ServerStartError, local_server
from e2rank_client.types import Document, HealthStatus, Method, Model, RerankResult

_SHOWN_CHARACTERS = 100

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


class MethodName(StrEnum):
    """The methods, as the command line spells them."""

    E2RANK = "e2rank"
    COSINE = "cosine"
    VECTOR_PRF = "vector-prf"
    LLM_LISTWISE = "llm-listwise"


@app.command()
def rerank(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    documents: Annotated[
        str | None,
        typer.Argument(
            help="A file with a document a line: JSON objects with text and, if wanted, id or "
            "_id, title, first_stage_score; or plain text. - is standard input, the default."
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Instead of a file, a stored document; repeatable."),
    ] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out ids that are not stored.")
    ] = False,
    method: Annotated[MethodName | None, typer.Option(help="Default: the model's own.")] = None,
    model: Annotated[str, typer.Option(help="Default: the server's first profile.")] = "",
    namespace: Annotated[
        str, typer.Option(help="Whose stored documents and cached embeddings to use.")
    ] = "",
    instruction: Annotated[str, typer.Option(help="Default: the profile's own.")] = "",
    top_n: Annotated[
        int | None, typer.Option(min=1, help="How many results. Default: all.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Order the documents of a file, or stored ones, by relevance to a query."""
    candidates = _candidates(documents, ids)
    with E2RankClient(address, timeout_seconds=timeout) as client:
        answer = client.rerank(
            query,
            candidates,
            method=None if method is None else Method[method.name],
            model=model,
            namespace=namespace,
            instruction=instruction,
            top_n=top_n,
            return_documents=True,
            unknown_documents="DROP" if drop_unknown else "FAIL",
        )
    if as_json:
        print_json(answer)
    else:
        _print_ranking(answer)


@app.command()
def models(
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """List what the server serves, its default first."""
    with E2RankClient(address, timeout_seconds=timeout) as client:
        served = client.list_models()
    if as_json:
        print_json(served)
    else:
        Console().print(_models_table(served))


@app.command()
def health(
    service: Annotated[
        str, typer.Argument(help="Such as e2rank.v1.RerankService. Default: the whole server.")
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
) -> None:
    """Say whether the server is serving; the exit code is 0 if it is."""
    with E2RankClient(address, timeout_seconds=timeout) as client:
        status = client.check_health(service)
    typer.echo(status)
    if status is not HealthStatus.SERVING:
        raise typer.Exit(1)


@app.command()
def verify(
    profile: Annotated[
        str,
        typer.Option(
            help="A profile that has published scores, or a .toml file of that name which "
            "says, for example, where else the weights are."
        ),
    ],
    address: Annotated[
        str,
        typer.Option(help="Ask this server, started with the same listwise template."),
    ] = "",
) -> None:
    """Compare served scores with published ones; the exit code is 1 if any disagrees.

    Without --address it starts a server of its own, and stops it.
    """
    name = Path(profile).name.removesuffix(".toml")
    if name not in verification.golden_profiles():
        known = ", ".join(verification.golden_profiles())
        raise typer.BadParameter(f"no golden scores are shipped for {name!r}; known: {known}")
    golden = verification.read_golden(name)
    with contextlib.ExitStack() as stack:
        where = address or stack.enter_context(_own_server(profile, golden.listwise_template))
        client = stack.enter_context(E2RankClient(where))
        comparisons = verification.compare(
            golden, verification.served_scores(client, golden, model=name)
        )
    _print_comparisons(comparisons, golden.source)
    if not all(comparison.agrees for comparison in comparisons):
        raise typer.Exit(1)


for command in (
    cli_documents.put,
    cli_documents.get,
    cli_documents.delete,
    cli_documents.stats,
):
    app.command()(command)


def main() -> None:
    """Run the command; errors that a user can act on are one message and exit code 1."""
    try:
        app()
    except (InvalidRequestError, UnknownDocumentsError) as error:
        fields = [f"{violation.field}: {violation.description}" for violation in error.violations]
        sys.exit(_failed(error, *(fields or [str(error)])))
    except E2RankError as error:
        sys.exit(_failed(error, f"{error.code.name}: {error}"))
    except (DocumentFileError, ServerStartError) as error:
        sys.exit(_failed(error, str(error)))


def _failed(error: Exception, *messages: str) -> int:
    for message in (*messages, *getattr(error, "__notes__", ())):
        typer.echo(f"e2rank: {message}", err=True)
    return 1


def _candidates(documents: str | None, ids: list[str] | None) -> list[Document]:
    if ids and documents is not None:
        raise typer.BadParameter("name a file or --id, not both")
    if ids:
        return [Document(id=document_id) for document_id in ids]
    with _documents_file(documents or "-") as file:
        return read_documents(file)


@contextlib.contextmanager
def _documents_file(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    try:
        file = Path(name).open(encoding="utf-8")  # noqa: SIM115 - closed two lines down
    except OSError as error:
        raise DocumentFileError(f"cannot read {name}: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def _own_server(profile: str, listwise_template: str) -> Iterator[str]:
    console = Console(stderr=True)
    arguments = ["--profile", profile]
    if listwise_template:
        arguments += ["--listwise-template", listwise_template]
    with console.status(f"starting a server for {profile}") as status, contextlib.ExitStack() as s:
        address = s.enter_context(
            local_server(
                arguments,
                on_progress=lambda line: status.update(f"starting the server: {escape(line)}"),
            )
        )
        status.stop()
        yield address


def _print_ranking(answer: RerankResult) -> None:
    table = Table(box=None)
    for heading in ("rank", "score", "was", "id", "document"):
        table.add_column(heading, justify="right" if heading in {"rank", "was"} else "left")
    for rank, result in enumerate(answer.results, start=1):
        document = result.document
        shown = " ".join(
            part for part in (document and document.title, document and document.text) if part
        )
        table.add_row(
            str(rank),
            f"{result.relevance_score:.4f}",
            str(result.index + 1),
            escape(result.id),
            escape(shown[:_SHOWN_CHARACTERS]),
        )
    console = Console()
    console.print(table)
    unknown = len(answer.unknown_documents)
    if unknown:
        console.print(f"left out, since not stored: {unknown}")
    console.print(
        f"{answer.method} by {answer.model.profile}, {answer.timings.total_seconds:.3f} s; "
        f"documents from the cache: {answer.usage.documents_cached}, "
        f"embedded: {answer.usage.documents_embedded}"
    )
    for warning in answer.warnings:
        Console(stderr=True).print(f"warning: {escape(warning.message)}")


def _models_table(served: tuple[Model, ...]) -> Table:
    table = Table(box=None)
    for heading in ("profile", "method", "dimension", "dtype", "embedder", "tokenizer", "revision"):
        table.add_column(heading)
    for model in served:
        table.add_row(
            model.identity.profile,
            model.default_method,
            str(model.dimension),
            model.compute_dtype,
            model.identity.embedder_backend,
            model.identity.tokenizer_backend,
            escape(model.identity.revision),
        )
    return table


def _print_comparisons(comparisons: list[verification.Comparison], source: str) -> None:
    table = Table(box=None)
    for heading in ("query", "document", "served", "golden", "difference", ""):
        table.add_column(heading)
    for comparison in comparisons:
        table.add_row(
            escape(comparison.query),
            escape(comparison.document[:40]),
            f"{comparison.served:.4f}",
            f"{comparison.golden:.4f}",
            f"{comparison.difference:+.4f}",
            "agrees" if comparison.agrees else "DISAGREES",
        )
    console = Console()
    console.print(table)
    console.print(f"golden scores: {escape(source)}; tolerance {comparisons[0].tolerance:g}")
