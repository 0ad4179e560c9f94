"""Tensors and error texts survive the way through Triton, and nonsense does not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor

from e2rank_server.errors import FieldViolation, InvalidRequestError, PromptTooLongError
from e2rank_server.prompting.prompt import Prompt
from e2rank_server.prompting.template import Segment, TextRange
from e2rank_server.tokenizer.triton.wire import (
    PromptTensors,
    error_text,
    pack_texts,
    read_error,
)

texts = st.text(max_size=20)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    segments = draw(
        st.lists(st.builds(Segment, text=texts, is_special=st.booleans()), min_size=1, max_size=5)
    )
    segment = draw(st.integers(0, len(segments) - 1))
    end = draw(st.integers(0, len(segments[segment].text)))
    return Prompt(
        tuple(segments),
        TextRange(segment, draw(st.integers(0, end)), end),
        max_tokens=draw(st.none() | st.integers(1, 2**31 - 1)),
        is_truncated=draw(st.booleans()),
    )


# The first draw of any text builds Hypothesis's table of Unicode, on a busy machine for seconds.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(prompts(), max_size=5))
def test_prompts_are_restored_from_their_tensors(original: list[Prompt]) -> None:
    assert PromptTensors.of(original).prompts() == original


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts))
def test_texts_are_packed_as_triton_reads_them(original: list[str]) -> None:
    unpacked = deserialize_bytes_tensor(pack_texts(original))

    assert [element.decode() for element in unpacked] == original


PROMPT = Prompt((Segment("[CLS]", is_special=True), Segment("text", False)), TextRange(1, 0, 4), 9)


@pytest.mark.parametrize(
    "layout",
    [
        [3, 1, 0, 4, 9, 0],  # more segments than there are
        [1, 0, 0, 4, 9, 0],  # fewer
        [2, 2, 0, 4, 9, 0],  # own text in no segment
        [2, -1, 0, 4, 9, 0],
        [2, 1, 0, 5, 9, 0],  # beyond its end
        [2, 1, 3, 2, 9, 0],  # backwards
    ],
)
def test_a_layout_that_does_not_fit_its_segments_is_refused(layout: list[int]) -> None:
    tensors = replace(PromptTensors.of([PROMPT]), layout=np.array([layout], dtype=np.int32))

    with pytest.raises(InvalidRequestError):
        tensors.prompts()


def test_flags_that_do_not_match_the_segments_are_refused() -> None:
    tensors = replace(PromptTensors.of([PROMPT]), is_special=np.array([True]))

    with pytest.raises(InvalidRequestError, match="SEGMENTS"):
        tensors.prompts()


@pytest.mark.parametrize("kind", [InvalidRequestError, PromptTooLongError])
def test_an_error_is_the_same_after_triton_has_passed_it_on(
    kind: type[InvalidRequestError],
) -> None:
    violations = [FieldViolation("query", 'has "7" tokens, ünd mehr'), FieldViolation("a[0]", "b")]
    status_message = f"in ensemble 'x', {error_text(kind(violations))} (and so on)"

    error = read_error(status_message)

    assert type(error) is kind
    assert error.violations == tuple(violations)


@pytest.mark.parametrize(
    "message",
    ["", "unexpected shape", "e2rank-error:", 'e2rank-error:["X", []]', "e2rank-error:[1]"],
)
def test_other_messages_are_no_error_of_ours(message: str) -> None:
    assert read_error(message) is None
