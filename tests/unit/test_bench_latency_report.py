"""The latency experiment's table and plot."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # not in the environment of the fast tests alone

from benchmarks.latency.report import markdown_table, measured_shapes, plot

FIGURES = {
    "smollm2-350t.documents_seconds": 30.0,
    "smollm2-350t.prompt_pass_seconds": 7.9,
    "smollm2-350t.cold_seconds": 38.0,
    "smollm2-350t.warm_seconds": 8.0,
    "smollm2-350t.llm_seconds": 120.0,
    "smollm2-350t.cold_speedup": 3.2,
    "smollm2-350t.cold_bound": 3.3,
    "smollm2-350t.cold_share_of_bound": 0.97,
    "smollm2-350t.warm_speedup": 15.0,
    "smollm2-350t.warm_bound": 17.0,
    "smollm2-350t.warm_share_of_bound": 0.88,
    "smollm2-350t.cold_over_passes": 1.04,
    "smollm2-350t.warm_over_passes": 1.15,
    "smollm2-350t.llm_over_windows": 1.01,
}


def test_table_has_the_papers_rows_above_ours() -> None:
    lines = markdown_table(FIGURES).splitlines()
    assert lines[2] == "| the paper, 0.6B | 0.50 | 0.13 | 0.63 | 0.13 | 4.58 | 7.3x |  | 35x |  |"
    assert [line for line in lines if line.startswith("| the paper")][1:] == [
        "| the paper, 4B | 1.74 | 0.43 | 2.17 | 0.43 | 11.25 | 5.2x |  | 26x |  |",
        "| the paper, 8B | 2.76 | 0.64 | 3.40 | 0.64 | 16.93 | 5.0x |  | 26x |  |",
    ]
    assert lines[5] == (
        "| SmolLM2-135M, 350 tokens | 30 | 7.9 | 38 | 8 | 120 | 3.2x | 3.3x | 15.0x | 17.0x |"
    )


def test_table_says_whether_the_target_is_met() -> None:
    table = markdown_table(FIGURES)
    assert "- smollm2-350t, cold: 0.97 of the bound; at least 0.9: met" in table
    assert (
        "- smollm2-350t, warm: 0.88 of the bound; at least 0.9: missed. E2RANK took 1.15 x" in table
    )


def test_shapes_that_were_not_measured_are_left_out() -> None:
    assert measured_shapes(FIGURES) == ["smollm2-350t"]
    assert measured_shapes({}) == []


def test_plot_is_drawn_of_what_was_measured(tmp_path: Path) -> None:
    plot(FIGURES, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
