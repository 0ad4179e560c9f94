from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.llm_listwise.windows import windows


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, int, int]:
    window_size = draw(st.integers(2, 40))
    return draw(st.integers(0, 300)), window_size, draw(st.integers(1, window_size))


def test_a_hundred_documents_are_the_published_nine_calls() -> None:
    starts = [80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert windows(100, 20, 10) == [range(start, start + 20) for start in starts]


def test_the_last_window_may_be_smaller() -> None:
    assert windows(35, 20, 10) == [range(15, 35), range(5, 25), range(15)]


@pytest.mark.parametrize("num_documents", [1, 2, 10, 19, 20])
def test_a_list_no_longer_than_a_window_is_one_window(num_documents: int) -> None:
    assert windows(num_documents, 20, 10) == [range(num_documents)]


def test_no_documents_are_no_window() -> None:
    assert windows(0, 20, 10) == []


@given(schedules())
def test_windows_cover_all_documents_within_bounds_and_overlap(
    schedule: tuple[int, int, int],
) -> None:
    num_documents, window_size, stride = schedule
    found = windows(num_documents, window_size, stride)
    assert {position for window in found for position in window} == set(range(num_documents))
    assert all(0 < len(window) <= window_size for window in found)
    assert all(len(window) == window_size for window in found[:-1])
    for earlier, later in pairwise(found):
        assert later.stop - earlier.start == window_size - stride
        assert later.start < earlier.start
    if found:
        assert found[0].stop == num_documents
        assert [window.start for window in found].index(0) == len(found) - 1


@pytest.mark.parametrize(
    ("window_size", "stride", "message"),
    [
        (1, 1, "window_size: 1 is less than 2"),
        (20, 0, "stride: 0 is not within 1 and window_size, 20"),
        (20, -1, "stride: -1 is not within"),
        (20, 21, "stride: 21 is not within"),
    ],
)
def test_a_schedule_that_would_not_end_or_leave_gaps_is_refused(
    window_size: int, stride: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        windows(100, window_size, stride)
