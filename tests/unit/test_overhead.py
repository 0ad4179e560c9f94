"""The overhead benchmark's own parts: ratios, texts, processes, results."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.echo import NUM_RESULTS, canned_response
from benchmarks.overhead.messages import rerank_request
from benchmarks.overhead.processes import cpu_seconds, listeners, stopped
from benchmarks.overhead.texts import Texts
from benchmarks.server_flags import MEMORY_ONLY, ON_FAKES
from e2rank.v1 import rerank_pb2
from e2rank_server.settings import read_settings

# Ratios


def test_ratio_is_of_the_medians_and_lies_in_its_interval() -> None:
    ratio = ratio_of_medians([2.0, 2.2, 9.0], [1.0, 1.0, 4.0])
    assert ratio.value == 2.2
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.iterations == 3


def test_pairs_are_resampled_together() -> None:
    slow_and_fast = [1.0, 100.0] * 15
    twice = [2 * each for each in slow_and_fast]
    ratio = ratio_of_medians(twice, slow_and_fast)
    assert (ratio.low, ratio.value, ratio.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0])])
def test_sides_that_are_not_pairs_are_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match="not pairs"):
        ratio_of_medians(above, below)


def test_interval_of_equal_samples_is_a_point() -> None:
    assert median([3.0] * 5) == Estimate(3.0, 3.0, 3.0, 5)


# Texts and requests


def test_texts_have_the_size_asked_and_never_repeat() -> None:
    texts = Texts()
    passages = [texts.passage_of_bytes(1024) for _ in range(50)]
    assert {len(passage.encode()) for passage in passages} == {1024}
    assert len(set(passages)) == 50
    assert len(texts.passage(72).split()) == 72
    assert texts.query() != texts.query()


def test_texts_are_the_same_in_every_run() -> None:
    assert Texts().passage(20) == Texts().passage(20)


def test_shuffled_candidates_are_the_same_in_another_order() -> None:
    passages = [str(number) for number in range(50)]
    shuffled = Texts().shuffled(passages)
    assert shuffled != passages
    assert sorted(shuffled) == sorted(passages)


def test_requests_name_method_order_and_prompt_size() -> None:
    request = rerank_request("q", ["a", "b"], "e2rank", prompt_documents=2, namespace="n")
    assert request.e2rank.prompt_order == rerank_pb2.PROMPT_ORDER_FIRST_STAGE
    assert request.e2rank.prompt_documents == 2
    assert [(document.id, document.text) for document in request.documents] == [
        ("d0", "a"),
        ("d1", "b"),
    ]
    assert rerank_request("q", ["a"], "cosine").WhichOneof("method") == "cosine"


def test_canned_response_is_as_large_as_the_gateways() -> None:
    response = canned_response(NUM_RESULTS)
    assert len({result.id for result in response.results}) == NUM_RESULTS == 100
    assert all(result.relevance_score and result.cache_tier for result in response.results)


# Processes


def test_processor_time_of_another_process_grows_while_it_computes() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            before = cpu_seconds(process.pid)
            end = time.monotonic() + 10
            while cpu_seconds(process.pid) < before + 0.01:
                assert time.monotonic() < end
        finally:
            process.kill()


def test_stopped_processes_do_not_run_until_the_block_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            busy = psutil.Process(process.pid)
            with stopped([busy]):
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status)
            assert busy.status() != psutil.STATUS_STOPPED
        finally:
            process.kill()


def test_an_address_where_nothing_listens_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"at 127\.0\.0\.1:1"):
        listeners("127.0.0.1:1")


def test_servers_under_measurement_find_nothing_that_an_earlier_one_left() -> None:
    settings = read_settings([*ON_FAKES, *MEMORY_ONLY], {})
    assert (settings.second_tier, settings.document_store) == ("off", "off")
    assert (settings.embedder, settings.tokenizer) == ("fake", "in-process")
