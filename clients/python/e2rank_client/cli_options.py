"""What the commands have in common: options, and JSON for programs. Needs the extra `cli`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[str, typer.Option("--address", help="The server's host:port.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Where the documents are stored.")]


def print_json(value: Any) -> None:  # noqa: ANN401 - a result, or a tuple of them
    """Print a dataclass or a tuple of them."""
    plain = (
        [dataclasses.asdict(item) for item in value]
        if isinstance(value, tuple)
        else dataclasses.asdict(value)
    )
    typer.echo(json.dumps(plain, ensure_ascii=False, indent=2))
