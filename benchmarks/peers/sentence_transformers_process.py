"""sentence-transformers as its users have it: called in process. This is that process.

    python -m benchmarks.peers.sentence_transformers_process embed|rerank --model FOLDER --port N

It answers `GET /health`, and `POST /call` with what the library returned and how
long each call took here, so that HTTP is no part of it:

    {"batches": [[text, ...], ...]}      embed: an `encode` a batch
    {"query": text, "documents": [...]}  rerank: one `predict`
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Call: TypeAlias = Callable[[Any], "NDArray[np.float32]"]
"""What is timed: from a batch of texts or pairs to vectors or scores."""


def load(options: argparse.Namespace) -> Call:
    """Load the model; return its call."""
    import sentence_transformers  # type: ignore[import-not-found,unused-ignore]
    import torch

    arguments: dict[str, Any] = {"device": "cpu", "model_kwargs": {"dtype": torch.float32}}
    if options.task == "embed":
        embedder = sentence_transformers.SentenceTransformer(options.model, **arguments)
        return lambda texts: embedder.encode(texts, batch_size=options.batch_size)
    scorer = sentence_transformers.CrossEncoder(
        options.model, max_length=options.max_tokens, **arguments
    )
    return lambda pairs: scorer.predict(pairs, batch_size=options.batch_size)


def answer(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Run a request's calls; `rows` is base64 of float32, little-endian."""
    if "batches" in request:
        batches = request["batches"]
    else:
        batches = [[(request["query"], document) for document in request["documents"]]]
    seconds, rows = [], []
    for batch in batches:
        started = time.perf_counter()
        rows.append(call(batch))
        seconds.append(time.perf_counter() - started)
    data = np.concatenate(rows).astype("<f4").tobytes()
    return {"seconds": seconds, "rows": base64.b64encode(data).decode()}


def server(call: Call, port: int) -> HTTPServer:
    """Make the server; it answers one request after another."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(answer(call, json.loads(body)))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            """Say nothing."""

        def _send(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return HTTPServer(("127.0.0.1", port), Handler)


def main(arguments: Sequence[str]) -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.sentence_transformers_process"
    )
    parser.add_argument("task", choices=["embed", "rerank"])
    parser.add_argument("--model", required=True, help="folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True, help="of a pair")
    options = parser.parse_args(arguments)
    server(load(options), options.port).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
