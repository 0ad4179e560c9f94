"""Where the gateway's time goes: its stages one by one, in one process and without sockets.

    python -m benchmarks.overhead.stages

Prints a Markdown table of processor time a request (all threads, µs; the best
of several rounds, so that two runs can be compared), for 100 cached documents
of 1 KB on fakes. `results/overhead-profile.md` keeps such tables.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop

from benchmarks.overhead.gateway_cost import DOCUMENT_BYTES, NUM_DOCUMENTS
from benchmarks.overhead.messages import MethodName, rerank_request
from benchmarks.overhead.texts import Texts
from benchmarks.server_flags import ON_FAKES
from e2rank.v1 import rerank_pb2
from e2rank_server.app import prepare, start_tokenizers
from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedding_cache.keys import TextHasher, cache_keys, namespace_tag
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.model import ServedModel
from e2rank_server.engine.scoring import best_first, cosine_scores
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.gateway.codec import decode_rerank_request, encode_rerank_response
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.settings import read_settings

_ROUNDS = 15
_CALLS_PER_ROUND = 40
_SECRET = b"s" * 32


@dataclass(frozen=True, slots=True)
class _Rig:
    """A model on fakes in this process, its cache, and a request's documents."""

    model: ServedModel
    cache: MemoryEmbeddingCache
    texts: Texts
    passages: list[str]

    def message(self, method: MethodName) -> rerank_pb2.RerankRequest:
        passages = self.texts.shuffled(self.passages)
        return rerank_request(self.texts.query(), passages, method)


async def stage_times() -> dict[str, float]:
    """Return µs a request by stage; the indented ones are part of the engine's."""
    async with AsyncExitStack() as stack:
        rig = await _open_rig(stack)
        calls = {**await _gateway_calls(rig), **_engine_parts(rig)}
        return {stage: await _microseconds(call) for stage, call in calls.items()}


async def _open_rig(stack: AsyncExitStack) -> _Rig:
    settings = read_settings(ON_FAKES, {})
    [prepared] = prepare(settings)
    [tokenizer] = await start_tokenizers(settings, [prepared], stack)
    cache = MemoryEmbeddingCache(prepared.profile.dimension, settings.cache_bytes)
    model = ServedModel(
        prepared.profile,
        revision=prepared.folder.revision,
        fingerprint=prepared.fingerprint,
        tokenizer=tokenizer,
        embedder=FakeEmbedder(prepared.profile.dimension),
        cache=cache,
        secret=_SECRET,
        gate=WorkGate(settings.max_running_tokens, settings.max_waiting_tokens),
        stored=StoredDocuments(None, settings.max_request_bytes),
        epoch_of=lambda _: 0,
    )
    texts = Texts()
    passages = [texts.passage_of_bytes(DOCUMENT_BYTES) for _ in range(NUM_DOCUMENTS)]
    return _Rig(model, cache, texts, passages)


async def _gateway_calls(rig: _Rig) -> dict[str, Callable[[], Any]]:
    """Return what a request goes through, in its order."""
    description, limits = rig.model.description, GatewayLimits()
    message = rig.message("cosine")
    data = message.SerializeToString()
    cosine = decode_rerank_request(message, description, limits)
    e2rank = decode_rerank_request(rig.message("e2rank"), description, limits)
    outcome = await rig.model.rerank(cosine)  # also fills the cache

    def encode() -> rerank_pb2.RerankResponse:
        return encode_rerank_response(outcome, description, return_documents=False)

    response = encode()
    return {
        "parse": lambda: rerank_pb2.RerankRequest.FromString(data),
        "decode": lambda: decode_rerank_request(message, description, limits),
        "engine, COSINE": lambda: rig.model.rerank(cosine),
        "engine, E2RANK": lambda: rig.model.rerank(e2rank),
        "encode": encode,
        "serialise": response.SerializeToString,
    }


def _engine_parts(rig: _Rig) -> dict[str, Callable[[], Any]]:
    fingerprint, hasher = rig.model.description.fingerprint, TextHasher(_SECRET)

    def keys_of_passages() -> list[bytes]:
        digests = [hasher.digest(None, passage) for passage in rig.passages]
        return cache_keys(namespace_tag(_SECRET, "", 0), _SECRET, fingerprint, digests)

    keys = keys_of_passages()
    vectors = np.ones((NUM_DOCUMENTS, rig.model.description.dimension), np.float32)
    return {
        "- cache keys": keys_of_passages,
        "- look-up": lambda: rig.cache.lookup_memory(keys, vectors),
        "- scores and order": lambda: best_first(cosine_scores(vectors, vectors[0])),
    }


async def _microseconds(call: Callable[[], Any]) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for _ in range(_CALLS_PER_ROUND):
            result = call()
            if inspect.isawaitable(result):
                await result
        rounds.append(time.process_time() - started)
    return 1e6 * min(rounds) / _CALLS_PER_ROUND


def main() -> None:
    """Print the table."""
    print("| stage | µs |\n|---|---|")
    for stage, microseconds in uvloop.run(stage_times()).items():
        print(f"| {stage} | {microseconds:.0f} |")


if __name__ == "__main__":
    main()
