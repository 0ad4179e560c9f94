import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.prompting.budget import cut_position, cut_words, overlapping, water_level


@pytest.mark.parametrize(
    ("lengths", "available", "level"),
    [
        ([10, 10], 20, 10),
        ([10, 10], 100, 10),
        ([2, 10, 10], 12, 5),
        ([2, 10, 10], 13, 5),
        ([1, 3, 9], 9, 5),
        ([5, 5], 1, 0),
        ([5, 5], -3, 0),
        ([], 5, 0),
        ([0, 0], 5, 0),
        ([0, 7], 3, 3),
    ],
)
def test_long_documents_share_what_short_ones_leave(
    lengths: list[int], available: int, level: int
) -> None:
    assert water_level(lengths, available) == level


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(-5, 300))
def test_the_water_level_is_the_highest_that_fits(lengths: list[int], available: int) -> None:
    level = water_level(lengths, available)

    def needed(level: int) -> int:
        return sum(min(length, level) for length in lengths)

    assert needed(level) <= max(available, 0)
    assert level == max(lengths, default=0) or needed(level + 1) > available


@given(st.text(), st.integers(1, 8))
def test_words_are_cut_as_the_evaluation_code_does(text: str, limit: int) -> None:
    words = text.split()
    assert cut_words(text, limit) == (" ".join(words[:limit]), len(words) > limit)


def test_without_a_word_limit_white_space_stays() -> None:
    assert cut_words(" a \n b ", None) == (" a \n b ", False)


def test_a_text_is_cut_where_its_last_kept_token_ends() -> None:
    assert cut_position([(0, 3), (4, 7), (8, 9)], keep=2) == 7
    assert cut_position([(0, 3), (3, 7)], keep=1) == 3
    assert cut_position([(2, 3), (3, 7)], keep=0) == 2


def test_a_character_of_several_tokens_is_kept_whole_or_not_at_all() -> None:
    emoji = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert [cut_position(emoji, keep) for keep in (1, 2, 3, 4)] == [1, 1, 1, 2]


def test_tokens_overlap_the_characters_they_came_from() -> None:
    offsets = [(0, 3), (3, 7), (7, 8), (7, 8), (10, 12)]
    assert overlapping(offsets, 0, 3) == (0, 1)
    assert overlapping(offsets, 2, 4) == (0, 2)
    assert overlapping(offsets, 7, 8) == (2, 4)
    assert overlapping(offsets, 8, 10) == (4, 4)
    assert overlapping(offsets, 5, 5) == (1, 1)
    assert overlapping([], 0, 5) == (0, 0)
