"""The Python of docs/client.md runs, in its order, against a gateway."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path

import pytest

import e2rank_client
from e2rank_client import E2RankClient
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel
from tests.gateway.documents_gateway import documents_gateway

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(address: str) -> str:
    """Return the blocks as one program; line numbers are the document's."""
    text = DOCUMENT.read_text()
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[start : start + len(code)] = code
    return re.sub(r"127\.0\.0\.1:5005\d", address, "\n".join(lines))


async def test_the_documentations_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ca.pem").write_text("of a real program")
    Path("token").write_text("of a real program")
    model = FakeServedModel()
    async with documents_gateway(FakeDocumentStore(), model) as address:
        # One namespace, and not this test's: blocks build upon those before them.
        run = compile(program(address), str(DOCUMENT), "exec")
        await asyncio.to_thread(exec, run, {"__name__": "documentation"})
    queries = [request.query for request in model.requests if hasattr(request, "query")]
    assert {"how do plants make sugar", "sugar", "planets"} <= set(queries)


def test_the_documentation_names_every_error_and_every_argument_of_a_client() -> None:
    text = DOCUMENT.read_text()
    errors = {name for name in e2rank_client.__all__ if name.endswith("Error")}
    assert {name for name in errors if f"`{name}`" not in text} == set()
    arguments = set(inspect.signature(E2RankClient).parameters) - {"address"}
    assert {
        name for name in arguments if f"{name}=" not in text and f"`{name}`" not in text
    } == set()
