"""The queue of prompts that no replica has."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_remote.queue import PromptQueue, WaitingPrompt

# Priority, tokens, whether it has a span, whether its caller leaves.
ENTRIES = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(1, 9), st.booleans(), st.booleans()), max_size=40
)


def waiting(priority: int, num_tokens: int, has_span: bool = False) -> WaitingPrompt:
    span = (0, 1) if has_span else None
    prompt = EmbedderPrompt(np.zeros(num_tokens, np.int32), span)
    return WaitingPrompt(prompt, priority, _LOOP.create_future())


_LOOP = asyncio.new_event_loop()


@given(ENTRIES, st.integers(1, 5), st.integers(1, 20))
def test_requests_keep_order_and_bounds_and_lose_nobody_who_waits(
    entries: list[tuple[int, int, bool, bool]], max_prompts: int, max_tokens: int
) -> None:
    queue = PromptQueue()
    prompts = [waiting(*entry[:3]) for entry in entries]
    for prompt in prompts:
        queue.push(prompt)
    leavers = [prompt for prompt, entry in zip(prompts, entries, strict=True) if entry[3]]
    for prompt in leavers:
        prompt.vector.cancel()
    queue.note_left(len(leavers))
    stayers = [prompt for prompt in prompts if not prompt.vector.done()]
    assert len(queue) == len(stayers)

    taken = []
    while queue.head() is not None:
        batch = queue.take(max_prompts, max_tokens)
        taken += batch
        assert 1 <= len(batch) <= max_prompts
        assert len(batch) == 1 or sum(each.num_tokens for each in batch) <= max_tokens
        assert len({each.priority for each in batch}) == 1
        assert len(batch) == 1 or all(each.prompt.pooling_span is None for each in batch)
    assert taken == sorted(stayers, key=lambda each: (each.priority, each.arrival))
    assert len(queue) == 0


def test_a_prompt_that_comes_back_takes_its_old_place() -> None:
    queue = PromptQueue()
    first, second = waiting(0, 1), waiting(0, 1)
    queue.push(first)
    queue.push(second)
    assert queue.take(1, 9) == [first]
    queue.push(first)
    assert queue.take(2, 9) == [first, second]


def test_a_prompt_that_failed_somewhere_shares_no_request_with_one_that_did_not() -> None:
    queue = PromptQueue()
    failed, fresh = waiting(0, 1), waiting(0, 1)
    failed.tried = frozenset({"a replica"})
    queue.push(failed)
    queue.push(fresh)
    assert queue.take(2, 9) == [failed]


def test_prompts_whose_callers_left_are_not_kept() -> None:
    queue = PromptQueue()
    stayer = waiting(0, 1)
    queue.push(stayer)
    leavers = [waiting(1, 1) for _ in range(100)]
    for prompt in leavers:
        queue.push(prompt)
    for prompt in leavers:
        prompt.vector.cancel()
        queue.note_left(1)
    assert len(queue._heap) < 5
    assert queue.head() is stayer
