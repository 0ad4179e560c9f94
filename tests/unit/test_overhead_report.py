"""The overhead benchmark's table and plot."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # not in the environment of the fast tests alone

from benchmarks.intervals import Estimate
from benchmarks.overhead.report import TARGETS, headlines, markdown_table, plot


def estimate(value: float) -> Estimate:
    return Estimate(value, value * 0.9, value * 1.1, 30)


def test_table_says_whether_a_target_is_met() -> None:
    table = markdown_table(
        {
            "gateway_over_echo": estimate(0.31),
            "default.warm_rerank_over_passes_p50": estimate(1.3),
            "gateway.echo_cpu_us": estimate(390.0),
        }
    )
    assert "| gateway_over_echo | 0.31 | 0.279 to 0.341 | 30 | at least 0.3: met |" in table
    assert "at most 1.25: missed |" in table
    assert "| gateway.echo_cpu_us | 390 | 351 to 429 | 30 |  |" in table


def test_figures_with_a_short_name_are_known_by_it() -> None:
    figures = headlines(
        {
            "smollm2.e2rank.warm_rerank_over_passes_p50": estimate(1.02),
            "default.cosine.warm_rerank_over_passes_p50": estimate(1.3),
        }
    )
    assert set(figures) == {
        "smollm2.warm_rerank_over_encode_p50",
        "default.cosine.warm_rerank_over_passes_p50",
    }


@pytest.mark.parametrize("shown", [TARGETS, TARGETS[:1]])
def test_plot_shows_the_targets_that_were_measured(shown: tuple, tmp_path: Path) -> None:
    content = {
        "figures": {target.figure: 1.0 for target in shown},
        "intervals": {target.figure: {"low": 0.9, "high": 1.1} for target in shown},
    }
    plot(content, tmp_path / "overhead.png")
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
