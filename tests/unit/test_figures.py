"""The files of figures that all benchmarks write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.figures import FOLDER, Figures, Provenance, Section, merge, merge_into_file
from benchmarks.intervals import Estimate


def section(name: str, figures: Figures, command: str = "run") -> Section:
    provenance = Provenance({"cores": 2}, "abc", command, "2026-01-01")
    return Section(name, provenance, {"dtype": "float32"}, figures)


def test_a_figure_has_its_run_and_the_file_the_latest_ones_provenance() -> None:
    content = merge(merge({}, section("one", {"a": 1.0}, "first")), section("two", {"b": 2.0}))
    assert content == {
        "machine": {"cores": 2},
        "commit": "abc",
        "command": "run",
        "date": "2026-01-01",
        "figures": {"a": 1.0, "b": 2.0},
        "intervals": {},
        "runs": [
            {
                "name": name,
                "machine": {"cores": 2},
                "commit": "abc",
                "command": command,
                "date": "2026-01-01",
                "conditions": {"dtype": "float32"},
                "figures": figures,
            }
            for name, command, figures in (("one", "first", ["a"]), ("two", "run", ["b"]))
        ],
    }


def test_estimates_have_intervals_beside_their_plain_numbers_all_rounded() -> None:
    content = merge({}, section("one", {"a": Estimate(1.23456789, 1.0, 2.0, 30), "b": 1 / 3}))
    assert content["figures"] == {"a": 1.23457, "b": 0.333333}
    assert content["intervals"] == {"a": {"low": 1.0, "high": 2.0, "iterations": 30}}


def test_a_section_takes_the_place_of_the_earlier_one_of_its_name() -> None:
    content = merge({}, section("one", {"gone": Estimate(1.0, 1.0, 1.0, 3), "a": 1.0}))
    content = merge(content, section("two", {"b": 2.0}))
    content = merge(content, section("one", {"a": 3.0}))
    assert content["figures"] == {"a": 3.0, "b": 2.0}
    assert content["intervals"] == {}
    assert [(run["name"], run["figures"]) for run in content["runs"]] == [
        ("two", ["b"]),
        ("one", ["a"]),
    ]


def test_a_figure_that_another_section_measures_too_is_the_latest_ones() -> None:
    content = merge({}, section("one", {"shared": Estimate(1.0, 0.9, 1.1, 3), "a": 1.0}))
    content = merge(content, section("two", {"shared": 2.0}))
    assert content["figures"] == {"a": 1.0, "shared": 2.0}
    assert content["intervals"] == {}
    assert [run["figures"] for run in content["runs"]] == [["a"], ["shared"]]
    content = merge(content, section("three", {"a": 4.0}))
    assert [run["name"] for run in content["runs"]] == ["two", "three"]


def test_results_are_merged_into_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "some.json"
    merge_into_file(file, section("one", {"a": 0.1}))
    content = merge_into_file(file, section("two", {"b": 0.2}))
    assert json.loads(file.read_text()) == content
    assert content["figures"] == {"a": 0.1, "b": 0.2}
    assert list(file.parent.iterdir()) == [file]


def test_provenance_names_what_judging_a_figure_needs_and_no_path() -> None:
    provenance = Provenance.of("python -m benchmarks.some")
    assert provenance.command == "python -m benchmarks.some"
    assert provenance.machine["cores"] >= 1
    assert str(FOLDER) not in repr(provenance)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.name)
def test_committed_figures_all_have_a_run(file: Path) -> None:
    content = json.loads(file.read_text())
    if "figures" in content:
        measured = [name for run in content["runs"] for name in run["figures"]]
        assert sorted(measured) == sorted(content["figures"])
