"""The commands about stored documents, against a server that keeps them in a dict."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from e2rank.v1 import (
    document_pb2,
    document_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    rerank_pb2,
    rerank_pb2_grpc,
    types_pb2,
)
from e2rank_client import cli, file_lines

OUTCOMES = document_pb2.PutOutcome


class Documents(
    document_pb2_grpc.DocumentServiceServicer,  # type: ignore[misc]  # generated without types
    model_pb2_grpc.ModelServiceServicer,  # type: ignore[misc]
    rerank_pb2_grpc.RerankServiceServicer,  # type: ignore[misc]
):
    """Keeps documents, and the ids of each call's; `before_put`, if set, may end a call."""

    def __init__(self) -> None:
        self.limits = model_pb2.ModelLimits(
            max_documents_per_request=100, max_document_bytes=1000, max_request_bytes=1 << 20
        )
        self.held: dict[tuple[str, str], document_pb2.StoredDocument] = {}
        self.puts: list[list[str]] = []
        self.requests: list[Any] = []
        self.num_not_embedded = 0
        self.before_put: Callable[[int, Any, grpc.ServicerContext], None] | None = None
        self._lock = threading.Lock()

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the RPC
        self.requests.append(request)
        return model_pb2.GetModelResponse(model=model_pb2.Model(limits=self.limits))

    def PutDocuments(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self._lock:
            self.requests.append(request)
            self.puts.append([document.id for document in request.documents])
            number = len(self.puts)
        if self.before_put:
            self.before_put(number, request, context)
        assert len({document.id for document in request.documents}) == len(request.documents)
        outcomes = [self._put(request.namespace, document) for document in request.documents]
        return document_pb2.PutDocumentsResponse(
            outcomes=outcomes,
            documents_new=outcomes.count(OUTCOMES.PUT_OUTCOME_NEW),
            documents_unchanged=outcomes.count(OUTCOMES.PUT_OUTCOME_UNCHANGED),
            documents_replaced=outcomes.count(OUTCOMES.PUT_OUTCOME_REPLACED),
            stats=self._stats(request.namespace),
            embedded=[
                document_pb2.EmbeddedAhead(
                    model="small",
                    documents_embedded=len(outcomes),
                    documents_not_embedded=self.num_not_embedded,
                    tokens=3,
                )
            ],
        )

    def GetDocuments(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = document_pb2.GetDocumentsResponse()
        for document_id in request.ids:
            found = self.held.get((request.namespace, document_id))
            response.results.add(id=document_id, found=found is not None, document=found)
        return response

    def DeleteDocuments(self, request: Any, context: Any) -> Any:  # noqa: N802
        existed = [self.held.pop((request.namespace, i), None) is not None for i in request.ids]
        return document_pb2.DeleteDocumentsResponse(existed=existed)

    def DeleteNamespace(self, request: Any, context: Any) -> Any:  # noqa: N802
        assert request.HasField("namespace")
        deleted = self._stats(request.namespace)
        self.held = {key: value for key, value in self.held.items() if key[0] != request.namespace}
        return document_pb2.DeleteNamespaceResponse(deleted=deleted)

    def GetNamespaceStats(self, request: Any, context: Any) -> Any:  # noqa: N802
        return document_pb2.GetNamespaceStatsResponse(stats=self._stats(request.namespace))

    def Rerank(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        response = rerank_pb2.RerankResponse()
        for index, document in enumerate(request.documents):
            found = self.held.get((request.namespace, document.id))
            if found is None:
                response.unknown_documents.append(index)
                continue
            result = response.results.add(index=index, id=document.id)
            result.document.text = found.text
        return response

    def texts(self, namespace: str = "") -> dict[str, str]:
        return {key[1]: value.text for key, value in self.held.items() if key[0] == namespace}

    def _put(self, namespace: str, document: document_pb2.StoredDocument) -> Any:
        old = self.held.get((namespace, document.id))
        self.held[namespace, document.id] = document
        if old is None:
            return OUTCOMES.PUT_OUTCOME_NEW
        unchanged = old == document
        return OUTCOMES.PUT_OUTCOME_UNCHANGED if unchanged else OUTCOMES.PUT_OUTCOME_REPLACED

    def _stats(self, namespace: str) -> document_pb2.NamespaceStats:
        number = len(self.texts(namespace))
        return document_pb2.NamespaceStats(
            documents=number, stored_bytes=100 * number, max_bytes=4000
        )


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, *more: Any) -> None:
    status = status_pb2.Status(code=code.value[0], message="the server's words")
    for detail in (error_details_pb2.ErrorInfo(reason=reason), *more):
        status.details.add().Pack(detail)
    context.abort_with_status(rpc_status.to_status(status))


@pytest.fixture
def server() -> Iterator[Documents]:
    documents = Documents()
    grpc_server = grpc.server(ThreadPoolExecutor(8))
    document_pb2_grpc.add_DocumentServiceServicer_to_server(documents, grpc_server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(documents, grpc_server)
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(documents, grpc_server)
    documents.address = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    grpc_server.start()
    yield documents
    grpc_server.stop(None).wait()


class Shell:
    """Runs the command as a shell does."""

    def __init__(
        self, server: Documents, monkeypatch: pytest.MonkeyPatch, capsys: Any, folder: Path
    ) -> None:
        self.file = folder / "corpus.jsonl"
        self.resume = folder / "corpus.jsonl.e2rank-put"
        self.out = ""
        self.err = ""
        self._address = server.address
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def write(self, *lines: object) -> None:
        self.file.write_text("".join(f"{_line(line)}\n" for line in lines))

    def write_numbered(self, number: int) -> None:
        self.write(*({"_id": str(i), "text": f"text {i}"} for i in range(1, number + 1)))

    def run(self, *arguments: str) -> int:
        command = ["e2rank", *arguments, "--address", self._address]
        self._monkeypatch.setattr(sys, "argv", command)
        self._monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = self._capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        return int(ended.value.code or 0)

    def put(self, *options: str) -> int:
        return self.run("put", str(self.file), *options)

    def stop_in_the_middle(self, server: Documents) -> None:
        """Put 5 documents one by one, and press Ctrl-C while the third is on the way."""
        server.before_put = interrupt_at(3)
        assert self.put("--batch-size", "1", "--concurrency", "1") == 130
        server.before_put = None
        assert sorted(server.texts()) == ["1", "2"]
        server.puts.clear()


def _line(line: object) -> str:
    return line if isinstance(line, str) else json.dumps(line)


def interrupt_at(last: int) -> Callable[[int, Any, grpc.ServicerContext], None]:
    def interrupt(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if number == last:
            gone = threading.Event()
            if not context.add_callback(gone.set):
                return
            os.kill(os.getpid(), signal.SIGINT)
            assert gone.wait(10)
            context.abort(grpc.StatusCode.CANCELLED, "the client went away")

    return interrupt


@pytest.fixture
def shell(server: Documents, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Shell:
    return Shell(server, monkeypatch, capsys, tmp_path)


def test_a_file_is_put_in_batches_and_the_totals_are_printed(
    shell: Shell, server: Documents
) -> None:
    shell.write(
        {"_id": "a", "title": "T", "text": "one", "metadata": {}},
        "",
        {"id": 7, "text": "two"},
        {"_id": "c", "text": "three"},
    )
    assert shell.put("--batch-size", "2", "--namespace", "n", "--model", "small") == 0
    assert sorted(server.puts, key=len) == [["c"], ["a", "7"]]
    assert server.held["n", "a"] == document_pb2.StoredDocument(id="a", title="T", text="one")
    assert not server.held["n", "7"].HasField("title")
    put = server.requests[-1]
    assert (list(put.models), put.store_only, put.priority) == (["small"], False, 1)
    assert shell.out.splitlines()[0].startswith("3 documents in ")
    assert "3 new, 0 unchanged, 0 replaced; 3 embedded (6 tokens)" in shell.out
    assert "the namespace has 3 documents, 300 bytes of 4.0 kB (7.5%)" in shell.out
    assert not shell.resume.exists()


def test_what_is_there_already_is_reported_as_unchanged_or_replaced(
    shell: Shell, server: Documents
) -> None:
    shell.write_numbered(3)
    assert shell.put() == 0
    shell.write({"_id": "1", "text": "text 1"}, {"_id": "2", "text": "other"})
    assert shell.put("--json") == 0
    totals = json.loads(shell.out)
    assert (totals["documents_unchanged"], totals["documents_replaced"]) == (1, 1)
    assert totals["stats"]["documents"] == 3


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl"])
def test_gzip_is_known_by_its_content(shell: Shell, server: Documents, name: str) -> None:
    shell.write_numbered(5)
    shell.file.write_bytes(gzip.compress(shell.file.read_bytes()))
    shell.file = shell.file.rename(shell.file.with_name(name))
    assert shell.put("--store-only") == 0
    assert len(server.texts()) == 5
    assert server.requests[-1].store_only


def test_documents_may_come_through_a_pipe(
    shell: Shell, server: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.BufferedReader(io.BytesIO(b'{"_id": "a", "text": "one"}\n{"no": "document"}'))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=piped))
    assert shell.run("put", "-") == 1
    assert server.texts() == {"a": "one"}
    assert "e2rank: line 2: expected an object with a string `text`" in shell.err
    assert "the command begins anew when it is run again, which is safe" in shell.err


def test_a_put_that_is_stopped_says_how_to_go_on_and_then_puts_only_the_rest(
    shell: Shell, server: Documents
) -> None:
    shell.write_numbered(5)
    shell.stop_in_the_middle(server)
    assert "stopped; all up to line 2 is stored; run the command again to go on" in shell.err
    assert shell.put("--batch-size", "2") == 0
    assert "going on at line 3" in shell.err
    assert sorted(server.puts) == [["3", "4"], ["5"]]
    assert shell.out.startswith("3 documents from line 3 in ")
    assert not shell.resume.exists()


def test_a_gzip_file_is_gone_on_with_like_any_other(shell: Shell, server: Documents) -> None:
    shell.write_numbered(5)
    shell.file.write_bytes(gzip.compress(shell.file.read_bytes()))
    shell.stop_in_the_middle(server)
    assert shell.put() == 0
    assert server.puts == [["3", "4", "5"]]


def test_only_what_has_nothing_open_before_it_counts_as_stored(
    shell: Shell, server: Documents
) -> None:
    third_is_done = threading.Event()

    def hold_the_second(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if request.documents[0].id == "2":
            assert third_is_done.wait(10)
            interrupt_at(number)(number, request, context)
        if request.documents[0].id == "4":
            # With two at a time, this was sent after the answer to the third.
            third_is_done.set()

    shell.write_numbered(5)
    server.before_put = hold_the_second
    assert shell.put("--batch-size", "1", "--concurrency", "2") == 130
    assert "all up to line 1 is stored" in shell.err
    assert {"1", "3"} <= set(server.texts())
    server.before_put = None
    server.puts.clear()
    assert shell.put() == 0
    assert server.puts == [["2", "3", "4", "5"]]


def change_the_beginning(shell: Shell, server: Documents) -> None:
    shell.file.write_text(shell.file.read_text().replace("text 2", "text 9"))


def shorten(shell: Shell, server: Documents) -> None:
    shell.write_numbered(1)


def delete_on_the_server(shell: Shell, server: Documents) -> None:
    server.held.clear()


def garble(shell: Shell, server: Documents) -> None:
    shell.resume.write_bytes(shell.resume.read_bytes()[:-9])


def nest(shell: Shell, server: Documents) -> None:
    shell.resume.write_text("[" * 50_000)


def make_negative(shell: Shell, server: Documents) -> None:
    kept = json.loads(shell.resume.read_text())
    kept["mark"]["offset"] = -1
    shell.resume.write_text(json.dumps(kept))


def make_newer(shell: Shell, server: Documents) -> None:
    kept = json.loads(shell.resume.read_text())
    shell.resume.write_text(json.dumps({**kept, "format": 2}))


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (change_the_beginning, [], "starting over: the file has changed before line 2"),
        (shorten, [], "starting over: the file has changed before line 2"),
        (delete_on_the_server, [], "starting over: document '2' is not stored any more"),
        (garble, [], "e2rank-put cannot be read"),
        (nest, [], "e2rank-put cannot be read"),
        (make_negative, [], "e2rank-put cannot be read"),
        (make_newer, [], "e2rank-put is of another version of this program"),
        (None, ["--namespace", "n"], "to another address, namespace or model"),
        (None, ["--model", "other"], "to another address, namespace or model"),
        (None, ["--restart"], ""),
    ],
)
def test_what_cannot_be_gone_on_with_is_put_anew_and_it_is_said_why(
    shell: Shell,
    server: Documents,
    change: Callable[[Shell, Documents], None] | None,
    options: Sequence[str],
    reason: str,
) -> None:
    shell.write_numbered(5)
    shell.stop_in_the_middle(server)
    if change:
        change(shell, server)
    assert shell.put(*options) == 0
    assert reason in shell.err
    assert "going on" not in shell.err
    assert server.puts[0][0] == "1"
    assert not shell.resume.exists()


def test_a_change_behind_the_place_does_not_matter(shell: Shell, server: Documents) -> None:
    shell.write_numbered(5)
    shell.stop_in_the_middle(server)
    shell.file.write_text(shell.file.read_text().replace("text 5", "text five"))
    assert shell.put() == 0
    assert server.puts == [["3", "4", "5"]]
    assert server.texts()["5"] == "text five"


def test_a_folder_that_cannot_be_written_costs_only_the_going_on(
    shell: Shell, server: Documents
) -> None:
    shell.write_numbered(5)
    shell.resume.mkdir()
    assert shell.put("--batch-size", "1") == 0
    assert shell.err.count("a put that is stopped will begin anew") == 1
    assert len(server.texts()) == 5


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 4: not JSON"),
        ('{"_id": "d", "text": "\\ud800"}', "line 4: has half of a surrogate pair"),
        (
            {"_id": "d", "title": "é", "text": "x" * 999},
            "line 4: text: has 1001 bytes with its title, more than the server's limit of 1000",
        ),
    ],
)
def test_a_bad_line_is_named_and_all_before_it_are_stored(
    shell: Shell, server: Documents, line: object, problem: str
) -> None:
    good = [{"_id": str(number), "text": "x"} for number in range(3)]
    shell.write(*good, line, {"_id": "e", "text": "x"})
    assert shell.put("--batch-size", "2") == 1
    assert f"e2rank: {problem}" in shell.err
    assert "all up to line 3 is stored; run the command again to go on behind it" in shell.err
    assert len(server.texts()) == 3
    shell.write(*good, {"_id": "d", "text": "x"}, {"_id": "e", "text": "x"})
    server.puts.clear()
    assert shell.put() == 0
    assert server.puts == [["d", "e"]]


def test_bytes_that_are_no_utf8_are_named_by_their_line(shell: Shell) -> None:
    shell.file.write_bytes(b'{"_id": "a", "text": "caf\xe9"}\n')
    assert shell.put() == 1
    assert "e2rank: line 1: not UTF-8" in shell.err
    assert "nothing is known to be stored" in shell.err


def test_a_line_that_never_ends_is_refused_in_bounded_memory(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lines, "MAX_LINE_BYTES", 100)
    shell.write({"_id": "a", "text": "x"}, {"_id": "b", "text": "x" * 100})
    assert shell.put() == 1
    assert "line 2: longer than the limit of 100 bytes" in shell.err


def test_gzip_that_is_cut_off_is_an_error_behind_the_last_whole_line(
    shell: Shell, server: Documents
) -> None:
    lines = [json.dumps({"_id": str(i), "text": os.urandom(400).hex()}) for i in range(100)]
    shell.file.write_bytes(gzip.compress("\n".join(lines).encode())[:-20])
    assert shell.put() == 1
    assert "cannot read on behind line" in shell.err


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_documents_is_an_error(shell: Shell, content: str) -> None:
    shell.file.write_text(content)
    assert shell.put() == 1
    assert "there are no documents" in shell.err


def test_a_file_that_is_not_there_is_an_error(shell: Shell) -> None:
    assert shell.put() == 1
    assert "No such file" in shell.err


def test_batches_keep_to_the_servers_limits(shell: Shell, server: Documents) -> None:
    server.limits.max_documents_per_request = 3
    server.limits.max_request_bytes = 6000
    texts = ["x"] * 4 + ["y" * 900] * 4
    shell.write(*({"_id": str(i), "text": text} for i, text in enumerate(texts)))
    assert shell.put("--concurrency", "1") == 0
    assert server.puts == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]


def test_of_lines_with_one_id_the_last_counts(shell: Shell, server: Documents) -> None:
    on_the_way: set[str] = set()

    def note(number: int, request: Any, context: grpc.ServicerContext) -> None:
        ids = {document.id for document in request.documents}
        assert not on_the_way & ids
        on_the_way.update(ids)
        context.add_callback(lambda: on_the_way.difference_update(ids))

    server.before_put = note
    ids = ["a", "a", "b", "c", "a", "d", "b", "e", "a", "f", "g", "a"]
    shell.write(*({"_id": each, "text": f"line {n}"} for n, each in enumerate(ids, start=1)))
    assert shell.put("--batch-size", "2") == 0
    last = {each: f"line {n}" for n, each in enumerate(ids, start=1)}
    assert server.texts() == last
    assert "warning: 1 documents were left out: a line close behind had the same id" in shell.err


def test_a_server_that_is_busy_or_away_is_waited_for(shell: Shell, server: Documents) -> None:
    def refuse(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if number == 1:
            retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1))
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry)

    server.before_put = refuse
    shell.write_numbered(2)
    assert shell.put() == 0
    assert server.puts == [["1", "2"], ["1", "2"]]


@pytest.mark.parametrize("asked_seconds", [0, 3600])
def test_waiting_ends_and_it_is_said_how_to_go_on(
    shell: Shell, server: Documents, asked_seconds: int
) -> None:
    def refuse(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if number > 1:
            retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=asked_seconds))
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry)

    server.before_put = refuse
    shell.write_numbered(2)
    assert shell.put("--batch-size", "1", "--concurrency", "1", "--max-wait", "0.15") == 1
    assert len(server.puts) == (3 if asked_seconds == 0 else 2)
    assert shell.err.splitlines()[-2:] == [
        "e2rank: RESOURCE_EXHAUSTED: the server's words",
        "e2rank: all up to line 1 is stored; run the command again to go on behind it",
    ]


def test_documents_that_the_server_refuses_are_named_by_their_lines(
    shell: Shell, server: Documents
) -> None:
    def refuse(number: int, request: Any, context: grpc.ServicerContext) -> None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field="documents[1].text", description="must not be blank"
        )
        details = error_details_pb2.BadRequest(field_violations=[violation])
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", details)

    server.before_put = refuse
    shell.write({"_id": "a", "text": "x"}, "", {"_id": "b", "text": " "})
    assert shell.put() == 1
    assert "e2rank: line 3: text: must not be blank" in shell.err


def test_blank_documents_can_be_left_out(shell: Shell, server: Documents) -> None:
    shell.write({"_id": "a", "text": "x"}, {"_id": "b", "title": "T", "text": " "})
    assert shell.put("--skip-blank") == 0
    assert server.puts == [["a"]]
    assert "warning: 1 documents were left out: their text is blank" in shell.err


def test_a_full_namespace_ends_the_put_at_once(shell: Shell, server: Documents) -> None:
    def refuse(number: int, request: Any, context: grpc.ServicerContext) -> None:
        abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")

    server.before_put = refuse
    shell.write_numbered(1)
    assert shell.put() == 1
    assert len(server.puts) == 1
    assert "e2rank: RESOURCE_EXHAUSTED: the server's words" in shell.err


def test_documents_that_are_not_embedded_are_a_warning(shell: Shell, server: Documents) -> None:
    server.num_not_embedded = 2
    shell.write_numbered(2)
    assert shell.put() == 0
    assert "warning: 2 documents are stored but not embedded" in shell.err


def test_options_that_contradict_each_other_are_refused(shell: Shell) -> None:
    assert shell.put("--store-only", "--model", "small") == 2
    assert shell.run("rerank", "q", "file", "--id", "a") == 2
    assert shell.run("delete") == 2
    assert shell.run("delete", "a", "--whole-namespace") == 2
    assert shell.run("delete", "--whole-namespace") == 2


def test_stats_say_how_full_a_namespace_is(shell: Shell, server: Documents) -> None:
    shell.write_numbered(5)
    shell.put("--namespace", "n")
    assert shell.run("stats", "--namespace", "n") == 0
    assert shell.out.splitlines()[1].split() == ["'n'", "5", "500", "bytes", "4.0", "kB", "12.5%"]
    assert shell.run("stats", "--json") == 0
    assert json.loads(shell.out) == {"documents": 0, "stored_bytes": 0, "max_bytes": 4000}


def test_documents_are_printed_as_they_are_put(shell: Shell) -> None:
    lines = [{"_id": "a", "text": "é\n[bold]", "title": "T"}, {"_id": "b", "text": "x"}]
    shell.write(*lines)
    shell.put()
    assert shell.run("get", "a", "b") == 0
    assert [json.loads(line) for line in shell.out.splitlines()] == lines
    assert shell.run("get", "?", "b") == 1
    assert len(shell.out.splitlines()) == 1
    assert "e2rank: '?' is not stored" in shell.err


def test_documents_are_deleted(shell: Shell, server: Documents) -> None:
    shell.write_numbered(3)
    shell.put()
    assert shell.run("delete", "1", "?") == 0
    assert shell.out == "1 deleted\n"
    assert sorted(server.texts()) == ["2", "3"]


def test_a_namespace_is_deleted_once_that_is_confirmed(
    shell: Shell, server: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.write_numbered(3)
    shell.put()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert shell.run("delete", "--whole-namespace", "--namespace", "") == 1
    assert len(server.texts()) == 3
    assert shell.run("delete", "--whole-namespace", "--namespace", "", "--yes") == 0
    assert server.texts() == {}


def test_stored_documents_are_reranked_by_id(shell: Shell, server: Documents) -> None:
    shell.write_numbered(2)
    shell.put()
    assert shell.run("rerank", "q", "--id", "2", "--id", "?", "--drop-unknown") == 0
    assert "text 2" in shell.out
    assert "left out, since not stored: 1" in shell.out
    request = server.requests[-1]
    assert [(each.id, each.HasField("text")) for each in request.documents] == [
        ("2", False),
        ("?", False),
    ]
    assert request.unknown_documents == types_pb2.UNKNOWN_DOCUMENTS_DROP
