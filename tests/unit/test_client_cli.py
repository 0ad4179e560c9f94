"""The command `e2rank` against a server whose answers the test decides."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from e2rank.v1 import model_pb2, model_pb2_grpc, rerank_pb2, rerank_pb2_grpc, types_pb2
from e2rank_client import cli
from e2rank_client.verify import read_golden

GOLDEN = read_golden("e2rank-0.6b")


class CannedServicer(
    rerank_pb2_grpc.RerankServiceServicer,  # type: ignore[misc]  # generated without types
    model_pb2_grpc.ModelServiceServicer,  # type: ignore[misc]
):
    """Scores each document as told, by query; keeps the last request."""

    def __init__(self) -> None:
        self.scores: dict[str, tuple[float, ...]] = {}
        self.request: Any = None

    def Rerank(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the RPC
        self.request = request
        if request.query not in self.scores:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model!r} is served here")
        scores = self.scores[request.query]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return rerank_pb2.RerankResponse(
            results=[
                rerank_pb2.RerankResult(
                    index=index,
                    id=request.documents[index].id,
                    relevance_score=scores[index],
                    document=request.documents[index],
                )
                for index in order
            ],
            method=rerank_pb2.RERANK_METHOD_COSINE,
            model=types_pb2.ModelIdentity(profile="small"),
            warnings=[types_pb2.Warning(message="take care")],
        )

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        identity = types_pb2.ModelIdentity(profile="small")
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(identity=identity)])


@pytest.fixture
def servicer() -> CannedServicer:
    return CannedServicer()


@pytest.fixture
def address(servicer: CannedServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def documents(tmp_path: Path) -> str:
    file = tmp_path / "documents.txt"
    file.write_text("about [bold]cats[/bold]\nabout dogs\n")
    return str(file)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command as the shell does; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["e2rank", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_rerank_prints_documents_best_first_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servicer: CannedServicer,
    address: str,
    documents: str,
) -> None:
    servicer.scores = {"pets": (0.1, 0.9)}
    assert run(monkeypatch, "rerank", "pets", documents, "--address", address) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert "0.9000" in lines[1]
    assert "about dogs" in lines[1]
    assert "about [bold]cats[/bold]" in lines[2]
    assert "warning: take care" in printed.err


def test_rerank_prints_json_that_programs_can_read(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servicer: CannedServicer,
    address: str,
    documents: str,
) -> None:
    servicer.scores = {"pets": (0.1, 0.9)}
    command = ["rerank", "pets", documents, "--json", "--method", "e2rank", "--top-n", "2"]
    assert run(monkeypatch, *command, "--address", address) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [result["id"] for result in answer["results"]] == ["2", "1"]
    assert answer["method"] == "COSINE"
    assert servicer.request.WhichOneof("method") == "e2rank"
    assert servicer.request.top_n == 2


def test_models_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert run(monkeypatch, "models", "--address", address) == 0
    assert "small" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["health"], ["models"], ["rerank", "q", "DOCUMENTS"]], ids=lambda a: a[0]
)
def test_without_a_server_it_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    documents: str,
    arguments: list[str],
) -> None:
    arguments = [documents if a == "DOCUMENTS" else a for a in arguments]
    assert run(monkeypatch, *arguments, "--address", "127.0.0.1:1") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("e2rank: UNAVAILABLE:")


def test_a_missing_file_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "rerank", "q", str(tmp_path / "none.txt")) == 1
    assert "No such file" in capsys.readouterr().err


def test_verify_succeeds_when_all_scores_agree(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servicer: CannedServicer,
    address: str,
) -> None:
    servicer.scores = dict(zip(GOLDEN.queries, GOLDEN.scores, strict=True))
    assert run(monkeypatch, "verify", "--profile", "e2rank-0.6b", "--address", address) == 0
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 4
    assert "github.com/Alibaba-NLP/E2Rank" in printed
    assert servicer.request.model == "e2rank-0.6b"
    assert servicer.request.e2rank.prompt_order == rerank_pb2.PROMPT_ORDER_FIRST_STAGE


def test_verify_fails_when_a_score_disagrees(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servicer: CannedServicer,
    address: str,
) -> None:
    servicer.scores = dict(zip(GOLDEN.queries, GOLDEN.scores, strict=True))
    servicer.scores["Explain gravity"] = (0.33, 0.70)
    assert run(monkeypatch, "verify", "--profile", "e2rank-0.6b", "--address", address) == 1
    assert capsys.readouterr().out.count("DISAGREES") == 1


def test_verify_knows_which_profiles_have_golden_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", "--profile", "nobody") == 2
    assert "e2rank-0.6b" in capsys.readouterr().err


def test_verify_of_a_model_that_is_not_served_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert run(monkeypatch, "verify", "--profile", "e2rank-0.6b", "--address", address) == 1
    assert "NOT_FOUND: no model 'e2rank-0.6b' is served here" in capsys.readouterr().err
