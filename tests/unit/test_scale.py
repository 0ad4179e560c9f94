"""The scale benchmark's own parts: points, and messages of an exact size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale.load import summarize
from benchmarks.scale.messages import VectorSpace, request_of_size
from e2rank.v1 import rerank_pb2

SPACE = VectorSpace(dimension=384, fingerprint="f" * 32)


def test_a_point_has_percentiles_rate_and_processor_time() -> None:
    point = summarize([0.001] * 98 + [0.1] * 2, elapsed_seconds=2.0, used_cpu_seconds=1.0)
    assert point.p50_ms == pytest.approx(1.0)
    assert point.p99_ms == pytest.approx(100.0)
    assert point.requests_per_second == 50
    assert point.cpu_us_per_request == 10_000
    assert point.cores == 0.5


@pytest.mark.parametrize("num_bytes", [1 << 20, (1 << 20) + 1, 3 << 20, 4_000_003])
def test_requests_have_exactly_the_size_asked(num_bytes: int) -> None:
    data = request_of_size(num_bytes, 100, SPACE)
    request = rerank_pb2.RerankRequest.FromString(data)
    assert len(data) == num_bytes
    assert len(request.documents) == 100
    assert request.WhichOneof("method") == "cosine"
    assert all(len(document.vector.data) == 4 * 384 for document in request.documents)
    assert len({len(document.text) for document in request.documents}) == 1


def test_a_size_that_the_documents_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="100 documents do not fill 1024 bytes"):
        request_of_size(1024, 100, SPACE)


def test_plot_and_table_show_all_that_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.scale.report import markdown_table, plot

    point = {
        "p50_ms": 1.5,
        "p99_ms": 4.0,
        "requests_per_second": 700.0,
        "cpu_us_per_request": 1300.0,
        "cores": 0.9,
    }
    series = {"1": point, "64": point}
    cancelled = {"cancelled": 990, "before": {"open_files": 20}, "after": {"open_files": 21}}
    content = {
        "fakes": {
            "clients": series,
            "candidates": series,
            "message_mib_to_p50_ms": {"32": 250.0},
            "one_byte_too_many": "RESOURCE_EXHAUSTED: too large",
            "cancellations": cancelled,
        },
        "default": {"clients": series, "cancellations": cancelled},
        "processes": {
            "two_over_one_requests_per_second": {"value": 1.5, "low": 1.25, "high": 1.75},
            "cores_of_one": 0.875,
            "cores_of_two": 1.25,
            "cores_of_the_machine": 2,
        },
    }
    table = markdown_table(content)
    assert "| 64 | 1.5 | 4 | 700 | 1.3e+03 | 0.9 |" in table
    assert "32 MiB 250 ms" in table
    assert "1.50 (1.25 to 1.75), on 1.25 and 0.88 of 2 cores" in table
    assert "after: {'open_files': 21}" in table
    plot(content, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
