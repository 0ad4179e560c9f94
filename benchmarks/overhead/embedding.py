"""Bulk embedding through the server beside the bare engine, with as much in flight on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.rig import Rig
from benchmarks.overhead.texts import Texts
from e2rank.v1 import embedding_pb2
from e2rank_server.types import InputType, TextInput, TokenIds

ITERATIONS = 6
_CLIENTS = 8
_BATCHES_PER_CLIENT = 2
_BATCH = 32
_PASSAGE_WORDS = 30

_DOCUMENT = InputType.DOCUMENT


async def measure_embedding(
    rig: Rig, prefix: str, advance: Callable[[], None]
) -> dict[str, Estimate]:
    """Return the ratio of throughputs, and texts a second on each side.

    Every text is new, so nothing comes from a cache. The bare engine is given
    token ids that were made before the clock runs.
    """
    texts = Texts()
    served: list[float] = []
    bare: list[float] = []
    for iteration in range(1 + ITERATIONS):  # the first one warms up
        batches = [
            [TextInput(texts.passage(_PASSAGE_WORDS)) for _ in range(_BATCH)]
            for _ in range(_CLIENTS * _BATCHES_PER_CLIENT)
        ]
        token_ids = [
            [text.token_ids for text in await rig.tokenizer.tokenize_texts(_DOCUMENT, batch)]
            for batch in batches
        ]
        embedding = _in_turn([partial(_embed, rig, batch) for batch in batches])
        seconds, _ = await rig.time_server(embedding)
        encoding = _in_turn([partial(_encode, rig, batch) for batch in token_ids])
        if iteration:
            served.append(seconds)
            bare.append(await rig.time_bare(encoding))
            advance()
        else:
            await encoding
    count = _CLIENTS * _BATCHES_PER_CLIENT * _BATCH
    return {
        f"{prefix}.embed_over_bare_engine": ratio_of_medians(bare, served),
        f"{prefix}.embed_texts_per_second": median([count / seconds for seconds in served]),
        f"{prefix}.bare_texts_per_second": median([count / seconds for seconds in bare]),
    }


async def _in_turn(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Let each client make one call after another until there are none left."""
    pending = iter(calls)

    async def client() -> None:
        for call in pending:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(client())


async def _embed(rig: Rig, batch: Sequence[TextInput]) -> None:
    request = embedding_pb2.EmbedRequest(
        input_type=embedding_pb2.INPUT_TYPE_DOCUMENT,
        inputs=[embedding_pb2.TextInput(text=each.text) for each in batch],
    )
    answer = await rig.embed(request)
    assert answer.usage.inputs_embedded == len(batch)


async def _encode(rig: Rig, batch: Sequence[TokenIds]) -> None:
    async with asyncio.TaskGroup() as group:
        for token_ids in batch:
            group.create_task(rig.bare.encode(token_ids))
