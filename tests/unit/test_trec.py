"""Runs in TREC's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trec import TrecError, read_run, write_run

RUN = {"q1": {"b/2": 0.30000000000000004, "a": -1.5e-08}, "q2": {"ü": 12.0}}


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.trec"
    write_run(file, RUN, "tag")
    assert file.read_text().splitlines()[0] == "q1 Q0 b/2 1 0.30000000000000004 tag"
    read = read_run(file)
    assert read == RUN
    assert [list(ranking) for ranking in read.values()] == [list(r) for r in RUN.values()]


def test_documents_come_best_score_first_and_equal_ones_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "x.trec"
    file.write_text("q Q0 c 3 1.0 t\nq\tQ0\tb\t2\t1.0\tt\n\nq Q0 a 9 2.0 t\n")
    assert list(read_run(file)["q"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 1.0", r"x\.trec line 2: 5 columns, not the six of query-id Q0"),
        ("q Q0 d 1 1.0 tag more", "line 2: 7 columns"),
        ("q Q0 d first 1.0 t", "line 2: rank 'first' is not a number from 0"),
        ("q Q0 d -1 1.0 t", "line 2: rank '-1'"),
        ("q Q0 d 1 high t", "line 2: score 'high' is not a number"),
        ("q Q0 d 1 nan t", "line 2: score 'nan' is not finite"),
        ("q Q0 d 1 -inf t", "line 2: score '-inf' is not finite"),
        ("q Q0 ok 2 1.0 t", "line 2: document 'ok' occurs twice for 'q'"),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(
    tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "x.trec"
    file.write_text(f"q Q0 ok 1 1.0 t\n{line}\n")
    with pytest.raises(TrecError, match=message):
        read_run(file)


def test_a_file_that_is_empty_or_missing_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty.trec").write_text("\n")
    with pytest.raises(TrecError, match=r"empty\.trec: no line"):
        read_run(tmp_path / "empty.trec")
    with pytest.raises(TrecError, match=r"gone\.trec: no such file"):
        read_run(tmp_path / "gone.trec")


@pytest.mark.parametrize("run", [{"q 1": {"d": 1.0}}, {"q": {"d\t1": 1.0}}, {"q": {"": 1.0}}])
def test_an_id_that_the_format_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, run: dict[str, dict[str, float]]
) -> None:
    with pytest.raises(TrecError, match="empty or has white space"):
        write_run(tmp_path / "x.trec", run, "t")
    assert list(tmp_path.iterdir()) == []
