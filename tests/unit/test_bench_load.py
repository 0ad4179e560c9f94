"""The load benchmark without Locust and without a server: arrivals, texts, figures."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")  # not in the environment of the fast tests alone
pytest.importorskip("matplotlib")

from benchmarks.figures import Provenance, Section, merge
from benchmarks.load.__main__ import parse_arguments
from benchmarks.load.arrivals import PoissonArrivals
from benchmarks.load.locust_process import Load
from benchmarks.load.parameters import (
    Arrivals,
    LoadParameters,
    ParameterError,
    Scenario,
    add_arguments,
    flags_of,
    parameters_of,
)
from benchmarks.load.passages import Passages
from benchmarks.load.quantiles import quantile, ratio
from benchmarks.load.recording import Recorder, Recording, RecordingError, load, merged, save
from benchmarks.load.report import markdown_table, plot_all
from benchmarks.load.sections import (
    CANDIDATES,
    PERCENT_OF_CAPACITY,
    SERIES,
    LoadPlan,
    LoadSections,
    num_loads,
    parts_of,
)
from benchmarks.load.summaries import conditions_of, scenario_figures
from benchmarks.load.workload import Workload
from benchmarks.load.zipf import ZipfNumbers


def recording(**values: Any) -> Recording:
    latencies = values.setdefault("latency_seconds", [0.1, 0.2])
    return Recording(
        **{
            "lateness_seconds": [0.0] * len(latencies),
            "statuses": ["OK"] * len(latencies),
            "wall_seconds": 2.0,
            "cpu_seconds": 0.5,
            "num_unsent": 0,
            "documents_cached": 30,
            "documents_embedded": 10,
            "stage_seconds": {"total_seconds": 0.25, "prompt_seconds": 0.2},
            **values,
        }
    )


class TestArrivals:
    def test_the_gaps_have_the_mean_and_spread_of_a_poisson_process(self) -> None:
        times = list(itertools.islice(PoissonArrivals(50.0, seed=3), 20_000))
        gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
        mean = sum(gaps) / len(gaps)
        spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        assert mean == pytest.approx(1 / 50, rel=0.03)
        assert spread == pytest.approx(mean, rel=0.03)  # exponential gaps: both are equal

    def test_a_seed_gives_the_same_arrivals_and_another_seed_others(self) -> None:
        first, again, other = (
            list(itertools.islice(PoissonArrivals(5.0, seed), 20)) for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_those_due_by_a_moment_are_counted_whatever_was_taken(self) -> None:
        arrivals = PoissonArrivals(10.0, seed=1)
        times = list(itertools.islice(arrivals, 100))
        assert arrivals.num_due(times[41]) == 42
        assert arrivals.num_due(0.0) == 0


class TestTexts:
    def test_passages_have_the_words_asked_for_and_all_differ(self) -> None:
        for num_words in (1, 2, 100, 2000):
            passages = Passages(num_words, seed=0)
            texts = [passages.new() for _ in range(300)] + [
                passages.numbered(n) for n in range(300)
            ]
            assert {len(text.split()) for text in texts} == {num_words}
            assert len(set(texts)) == 600

    def test_new_passages_differ_by_seed_and_numbered_ones_do_not(self) -> None:
        one, other = Passages(20, seed=1), Passages(20, seed=2)
        assert {one.new() for _ in range(500)}.isdisjoint(other.new() for _ in range(500))
        assert one.numbered(7) == other.numbered(7)

    def test_zipf_draws_different_documents_and_mostly_popular_ones(self) -> None:
        numbers = ZipfNumbers(100_000, seed=0)
        drawn = [numbers.draw(100) for _ in range(200)]
        assert all(len(set(each)) == 100 for each in drawn)
        flat = [number for each in drawn for number in each]
        assert max(flat) < 100_000
        # A tenth of the documents have 72 % of what is asked for at exponent 0.9.
        assert 0.6 < sum(number < 10_000 for number in flat) / len(flat) < 0.8


class SentTexts:
    """A client that keeps what it is asked and answers nothing."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def rerank(self, query: str, documents: list[str], **options: Any) -> None:
        self.calls.append({"query": query, "documents": documents, **options})

    def embed(self, texts: list[str], **options: Any) -> None:
        self.calls.append({"documents": texts, **options})


def sent(count: int, *, warm_up: bool = True, **values: Any) -> list[dict[str, Any]]:
    """Return the calls of a scenario's first requests, after its warm-up."""
    workload = Workload(LoadParameters(candidates=10, **values))
    client = SentTexts()
    if warm_up:
        for send in workload.warm_up():
            send(client)  # type: ignore[arg-type]
        client.calls.clear()
    for _ in range(count):
        workload.next()(client)  # type: ignore[arg-type]
    return client.calls


class TestWorkload:
    def test_a_warm_rerank_has_only_documents_that_the_warm_up_sent(self) -> None:
        workload = Workload(LoadParameters(candidates=10))
        client = SentTexts()
        for send in workload.warm_up():
            send(client)  # type: ignore[arg-type]
        warmed = {text for call in client.calls for text in call["documents"]}
        assert len(warmed) == 20
        calls = sent(30)
        assert {text for call in calls for text in call["documents"]} == warmed
        assert len({tuple(call["documents"]) for call in calls}) == 30  # a new order each time
        assert len({call["query"] for call in calls}) == 30

    @pytest.mark.parametrize("scenario", [Scenario.RERANK_COLD, Scenario.EMBED])
    def test_a_cold_scenario_never_repeats_a_text(self, scenario: Scenario) -> None:
        texts = [text for call in sent(30, scenario=scenario) for text in call["documents"]]
        assert len(set(texts)) == 300

    def test_an_llm_ranks_exactly_what_a_warm_rerank_with_its_seed_does(self) -> None:
        both = [
            sent(5, scenario=scenario, seed=4)
            for scenario in (Scenario.RERANK_WARM, Scenario.LLM_LISTWISE)
        ]
        warm, llm = ([(call["query"], call["documents"]) for call in calls] for calls in both)
        assert warm == llm
        assert {call["method"] for call in both[0]} == {"E2RANK"}
        assert {call["method"] for call in both[1]} == {"LLM_LISTWISE"}

    def test_every_call_carries_the_parameters(self) -> None:
        values = {"model": "m", "namespace": "n", "timeout_seconds": 7.0, "prompt_documents": 3}
        [call] = sent(1, **values)
        assert {name: call[name] for name in ("model", "namespace", "timeout_seconds")} == {
            "model": "m",
            "namespace": "n",
            "timeout_seconds": 7.0,
        }
        assert call["method"].prompt_documents == 3


def parsed(*flags: str) -> LoadParameters:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return parameters_of(parser.parse_args(flags))


class TestParameters:
    def test_flags_set_what_they_say_and_are_written_back(self) -> None:
        flags = ["--scenario=rerank_zipf", "--arrivals=open", "--rate=2.5", "--seed=9"]
        parameters = parsed(*flags)
        assert parameters == LoadParameters(
            scenario=Scenario.RERANK_ZIPF, arrivals=Arrivals.OPEN, rate=2.5, seed=9
        )
        assert parsed(*flags_of(parameters)) == parameters
        assert flags_of(LoadParameters()) == []

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--candidates=0"], "--candidates is 0, not within 1..10000"),
            (["--document-words=2001"], "--document-words is 2001, not within 1..2000"),
            (["--rate=0"], "--rate is 0, not above 0 and at most 100000"),
            (["--seconds=-1"], "--seconds is -1, not within 0..86400"),
            (
                ["--scenario=llm_listwise", "--method=COSINE"],
                "--method is COSINE, but the scenario llm_listwise is LLM_LISTWISE's",
            ),
            (
                ["--method=COSINE", "--prompt-documents=3"],
                "--prompt-documents is 3, but only E2RANK has them, not COSINE",
            ),
            (
                ["--scenario=embed", "--method=E2RANK"],
                "--method is E2RANK, but the scenario embed ranks nothing",
            ),
            (
                ["--scenario=rerank_zipf", "--documents=999"],
                "--documents is 999, but rerank_zipf needs at least 10 for each of the 100",
            ),
            (["--documents=99"], "--documents is 99, but rerank_warm needs at least 1 for each"),
            (["--candidates=0", "--rate=-1"], "--candidates is 0, not within 1..10000; --rate"),
        ],
    )
    def test_a_breach_is_named_with_value_and_limit(self, flags: list[str], message: str) -> None:
        with pytest.raises(ParameterError) as caught:
            parsed(*flags)
        assert message in str(caught.value)

    @pytest.mark.parametrize("flag", ["--candidates=ten", "--rate=nan", "--seconds=inf"])
    def test_what_is_no_number_is_refused(self, flag: str) -> None:
        with pytest.raises(argparse.ArgumentError, match="is not a"):
            parsed(flag)

    @pytest.mark.parametrize(
        ("lengths", "elapsed_seconds", "num_requests", "is_over"),
        [
            ({}, 1e6, 10**6, False),
            ({"seconds": 5.0}, 4.9, 1000, False),
            ({"seconds": 5.0}, 5.0, 0, True),
            ({"min_requests": 3}, 0.1, 3, True),
            ({"seconds": 5.0, "min_requests": 3}, 6.0, 2, False),
            ({"seconds": 5.0, "min_requests": 3, "max_seconds": 9.0}, 9.0, 2, True),
            ({"seconds": 5.0, "min_requests": 3, "max_seconds": 9.0}, 9.0, 0, False),
        ],
    )
    def test_a_run_ends_after_its_time_and_requests(
        self, lengths: dict[str, Any], elapsed_seconds: float, num_requests: int, is_over: bool
    ) -> None:
        assert LoadParameters(**lengths).is_over(elapsed_seconds, num_requests) == is_over

    def test_the_web_page_cannot_set_an_unknown_scenario(self) -> None:
        options = argparse.Namespace(
            **{name: getattr(LoadParameters(), name) for name in LoadParameters.__slots__}
        )
        options.scenario = "tea"
        with pytest.raises(ParameterError, match="--scenario is 'tea', not one of rerank_warm"):
            parameters_of(options)

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--scenarios=rerank_warm,tea", "'tea': not among rerank_warm"),
            ("--clients=0", "'0' is not a whole number within 1..1000"),
        ],
    )
    def test_the_command_names_what_it_does_not_know(
        self, flag: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            parse_arguments([flag])
        assert message in capsys.readouterr().err


class TestQuantiles:
    @pytest.mark.parametrize(
        ("count", "share", "rank"),
        [
            (100, 0.95, 95),
            (100, 0.99, 99),
            (100, 0.5, 50),
            (3, 0.95, 3),
            (1, 0.5, 1),
            (20, 0.95, 19),
        ],
    )
    def test_a_quantile_is_a_sample_by_nearest_rank(
        self, count: int, share: float, rank: int
    ) -> None:
        samples = [float(number) for number in range(count, 0, -1)]
        estimate = quantile(samples, share)
        assert estimate.value == rank
        assert estimate.iterations == count

    def test_an_interval_is_where_95_percent_of_the_medians_lie(self) -> None:
        samples = [float(number) for number in range(1, 101)]
        estimate = quantile(samples, 0.5)
        assert (estimate.low, estimate.high) == (40.0, 61.0)  # of the binomial of 100 and 1/2

    def test_a_ratio_is_as_uncertain_as_both_sides(self) -> None:
        above = quantile([10.0, 20.0, 30.0], 0.5)
        below = quantile([1.0, 2.0, 4.0, 5.0], 0.5)
        estimate = ratio(above, below)
        assert estimate.value == 10.0
        assert (estimate.low, estimate.high) == (2.0, 30.0)
        assert estimate.iterations == 3


class TestRecording:
    def test_failures_are_counted_by_status_and_are_no_latencies(self) -> None:
        seen = recording(
            latency_seconds=[0.1, 0.2, 0.3, 0.4],
            statuses=["OK", "UNAVAILABLE", "OK", "UNAVAILABLE"],
        )
        assert seen.failures == {"UNAVAILABLE": 2}
        assert seen.error_rate == 0.5
        assert seen.answered_seconds == [0.1, 0.3]
        assert seen.requests_per_second == 1.0

    def test_a_recorder_counts_from_when_a_request_was_due(self) -> None:
        recorder = Recorder()
        recorder.begin()
        latency = recorder.add(recorder.begun - 5.0, recorder.begun - 2.0, "ABORTED")
        seen = recorder.finished(num_due=4)
        assert latency >= 5.0
        assert list(seen.lateness_seconds) == [3.0]
        assert seen.num_unsent == 3
        assert seen.statuses == ["ABORTED"]

    def test_a_file_gives_back_what_was_saved(self, tmp_path: Path) -> None:
        file = tmp_path / "recording.json"
        save(recording(), file)
        assert load(file) == recording()

    def test_a_file_without_requests_is_an_error(self, tmp_path: Path) -> None:
        file = tmp_path / "recording.json"
        save(recording(latency_seconds=[]), file)
        with pytest.raises(RecordingError, match="no request ended"):
            load(file)
        file.write_text(json.dumps({"tea": 1}))
        with pytest.raises(RecordingError, match="holds no recording"):
            load(file)
        with pytest.raises(RecordingError, match="holds no recording"):
            load(tmp_path / "none.json")

    def test_runs_are_merged_as_if_they_were_one(self) -> None:
        one = recording(latency_seconds=[1.0], statuses=["ABORTED"], num_unsent=1)
        other = recording(latency_seconds=[2.0, 3.0], stage_seconds={"queue_seconds": 0.5})
        both = merged([one, other])
        assert list(both.latency_seconds) == [1.0, 2.0, 3.0]
        assert both.statuses == ["ABORTED", "OK", "OK"]
        assert both.wall_seconds == 4.0
        assert both.num_unsent == 1
        assert both.hit_rate == 60 / 80
        assert both.stage_seconds == {
            "total_seconds": 0.25,
            "prompt_seconds": 0.2,
            "queue_seconds": 0.5,
        }

    def test_a_generator_that_fills_a_core_is_called_saturated(self) -> None:
        assert recording(cpu_seconds=1.9).is_generator_saturated
        assert not recording(cpu_seconds=1.0).is_generator_saturated


class TestFigures:
    def test_there_is_no_p99_of_fewer_than_100_requests(self) -> None:
        few = scenario_figures("embed", recording(latency_seconds=[0.1] * 99))
        many = scenario_figures("embed", recording(latency_seconds=[0.1] * 100))
        assert "embed.p95_seconds" in few
        assert many.keys() - few.keys() == {"embed.p99_seconds"}

    def test_stages_are_means_over_the_answers(self) -> None:
        figures = scenario_figures("embed", recording())
        assert figures["embed.stage.prompt_seconds"] == 0.1
        assert figures["embed.hit_rate"] == 0.75

    def test_what_needs_no_embeddings_has_no_hit_rate(self) -> None:
        seen = recording(documents_cached=0, documents_embedded=0)
        assert "llm_listwise.hit_rate" not in scenario_figures("llm_listwise", seen)

    def test_a_load_that_only_failed_has_figures_but_no_latencies(self) -> None:
        figures = scenario_figures(
            "embed", recording(statuses=["UNAVAILABLE"] * 2, stage_seconds={})
        )
        assert figures["embed.error_rate"] == 1.0
        assert "embed.p50_seconds" not in figures

    def test_conditions_say_what_was_sent_and_how_the_generator_did(self) -> None:
        load = Load(LoadParameters(seed=2), users=8)
        conditions = conditions_of(load, recording(cpu_seconds=1.9))
        assert conditions["scenario"] == "rerank_warm"
        assert (conditions["users"], conditions["documents"], conditions["seed"]) == (8, 200, 2)
        assert conditions["is_generator_saturated"]
        assert "rate" not in conditions  # it says nothing about closed arrivals


class FakeLocust:
    """Answers each load with a recording whose latency is known."""

    def __init__(self) -> None:
        self.loads: list[Load] = []

    def __call__(self, address: str, load: Load) -> Recording:
        assert address == "here:1"
        self.loads.append(load)
        is_llm = load.parameters.scenario is Scenario.LLM_LISTWISE
        count = max(1, load.parameters.min_requests)
        return recording(latency_seconds=[12.0 if is_llm else 0.5] * count)


PLAN = LoadPlan(clients=4, candidates=100, document_words=50, llm_requests=2)
ALL = ("rerank_warm", "rerank_cold", "rerank_zipf", "embed", "offered_load", "llm_listwise")


@pytest.fixture
def locust() -> FakeLocust:
    return FakeLocust()


class TestSections:
    def sections(self, locust: FakeLocust) -> LoadSections:
        return LoadSections("here:1", PLAN, lambda: None, locust)

    def test_every_part_has_as_many_loads_as_its_progress_bar(self, locust: FakeLocust) -> None:
        sections = self.sections(locust)
        for part in (*ALL, *parts_of("candidates")):
            before = len(locust.loads)
            sections.measure(part)
            assert len(locust.loads) - before == num_loads(part, PLAN), part

    def test_no_two_cold_loads_have_the_same_texts(self, locust: FakeLocust) -> None:
        sections = self.sections(locust)
        for part in ("rerank_cold", "embed", "E2RANK_cold"):
            sections.measure(part)
        seeds = [load.parameters.seed for load in locust.loads]
        assert len(set(seeds)) == len(seeds) == 2 + len(CANDIDATES)

    def test_llm_and_warm_rerank_get_the_same_requests_in_turns(self, locust: FakeLocust) -> None:
        measured = self.sections(locust).measure("llm_listwise")
        kinds = [load.parameters.scenario for load in locust.loads]
        assert kinds == [Scenario.RERANK_WARM, Scenario.LLM_LISTWISE] * 2
        warm, llm = locust.loads[2:]
        for name in ("seed", "candidates", "document_words", "documents", "namespace"):
            assert getattr(warm.parameters, name) == getattr(llm.parameters, name)
        assert warm.users == llm.users == 1
        figure = measured.figures["llm_listwise_over_rerank_warm_p95"]
        assert (figure.value, figure.iterations) == (24.0, 2)  # type: ignore[union-attr]
        assert "llm_listwise.p95_seconds" in measured.figures
        assert "smollm2.rerank_warm.p95_seconds" in measured.figures

    def test_open_loads_are_shares_of_the_closed_capacity(self, locust: FakeLocust) -> None:
        measured = self.sections(locust).measure("offered_load")
        assert measured.figures["offered_load.capacity_rps"] == 0.5
        closed, *opened = locust.loads
        assert closed.parameters.arrivals is Arrivals.CLOSED
        rates = [load.parameters.rate for load in opened]
        assert rates == [0.5 * percent / 100 for percent in PERCENT_OF_CAPACITY]
        assert {load.parameters.arrivals for load in opened} == {Arrivals.OPEN}

    def test_all_figures_make_a_table_and_three_plots(
        self, locust: FakeLocust, tmp_path: Path
    ) -> None:
        sections, content = self.sections(locust), {}
        for part in (*ALL, *SERIES):
            measured = sections.measure(part)
            provenance = Provenance({}, "", "", "")
            section = Section(
                measured.name, provenance, dict(measured.conditions), measured.figures
            )
            content = merge(content, section)
        table = markdown_table(content)
        assert "| rerank_warm | 0.5 | 0.5 | 0.5 |" in table
        assert "llm_listwise_over_rerank_warm_p95: 24 (24 to 24, 2 requests" in table
        assert content["figures"]["candidates.LLM_LISTWISE.100.p50_seconds"] == 12.0
        plot_all(content, tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "load_candidates.png",
            "load_offered.png",
            "load_stages.png",
        ]

    def test_the_table_says_what_casts_doubt_on_a_figure(self) -> None:
        load = Load(LoadParameters(), users=1)
        doubtful = recording(cpu_seconds=1.9, num_unsent=7, statuses=["OK", "ABORTED"])
        conditions = {"30_percent": conditions_of(load, doubtful), "capacity": "4 closed clients"}
        figures = scenario_figures("rerank_warm", doubtful)
        section = Section("offered_load", Provenance({}, "", "", ""), conditions, figures)
        table = markdown_table(merge({}, section))
        assert "offered_load 30_percent: the load generator was saturated" in table
        assert "offered_load 30_percent: 7 requests were due and not sent" in table
        assert "offered_load 30_percent: failed by status: {'ABORTED': 1}" in table
