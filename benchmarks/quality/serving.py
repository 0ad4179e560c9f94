"""What quality benchmarks run on: a server of their own or a named one, and bars on a terminal."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.server_flags import MEMORY_ONLY
from benchmarks.serving import what_serves
from e2rank_client import Model
from e2rank_client.local_server import local_server


class MissingGeneratorError(Exception):
    """A method was asked for that the server has no model for."""


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what serves."""
    parser.add_argument("--address", help="use this server instead of starting one")
    parser.add_argument(
        "--generator-model", metavar="NAME", help="what the server that is started generates with"
    )
    parser.add_argument(
        "--server-flags",
        default="",
        metavar='"FLAG ..."',
        help="further flags of the server that is started, in one string",
    )


def server_arguments(options: argparse.Namespace) -> list[str]:
    """Return the flags of the server that the options ask for, without the profile."""
    generator = ["--generator-model", options.generator_model] if options.generator_model else []
    return [*generator, *shlex.split(options.server_flags)]


@contextlib.contextmanager
def started_server(options: argparse.Namespace, profile: str, console: Console) -> Iterator[str]:
    """Yield the address of the server named, or of one that runs meanwhile.

    One that is started keeps nothing on disk: figures must not depend on vectors
    that an earlier run left there, rounded to float16.
    """
    if options.address is not None:
        yield options.address
        return
    arguments = ["--profile", profile, *MEMORY_ONLY, *server_arguments(options)]
    with contextlib.ExitStack() as stack:
        with console.status(f"starting the server for {Path(profile).name}"):
            address = stack.enter_context(local_server(arguments))
        yield address


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """Show bars while the block runs."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        yield progress


def serving(model: Model) -> dict[str, str]:
    """Describe what serves, as conditions of a section."""
    return {
        **what_serves(model),
        "fingerprint": model.identity.fingerprint,
        "template_version": model.identity.template_version,
    }


def generating(model: Model) -> dict[str, str]:
    """Describe what generates, as conditions of a section; nothing if nothing does."""
    if model.generator is None:
        return {}
    return {"generator": generator_name(model), "generator_backend": model.generator.backend}


def generator_name(model: Model) -> str:
    """Return the last part of a generator's name, which may be a hub's id or a path."""
    name = "" if model.generator is None else model.generator.model
    return name.rstrip("/").rpartition("/")[2]
