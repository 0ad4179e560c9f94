"""What was measured as Markdown tables, and as curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes  # type: ignore[import-not-found,unused-ignore]
from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

_COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "requests_per_second": "requests/s",
    "cpu_us_per_request": "CPU µs/request",
    "cores": "cores",
}


def markdown_table(content: Mapping[str, Any]) -> str:
    """Make a table of every series of points, and a line for the rest."""
    fakes, default = content["fakes"], content["default"]
    lines = [
        *_table("clients, on fakes", fakes["clients"]),
        *_table("candidates, on fakes", fakes["candidates"]),
        *_table("clients, default profile", default["clients"]),
        "",
    ]
    sizes = fakes["message_mib_to_p50_ms"].items()
    lines.append("messages: " + ", ".join(f"{mib} MiB {ms:.0f} ms" for mib, ms in sizes))
    lines.append(f"one byte too many: {fakes['one_byte_too_many']}")
    processes = content["processes"]
    ratio = processes["two_over_one_requests_per_second"]
    lines.append(
        f"two processes ÷ one, requests/s: {ratio['value']:.2f} ({ratio['low']:.2f} to "
        f"{ratio['high']:.2f}), on {processes['cores_of_two']:.2f} and "
        f"{processes['cores_of_one']:.2f} of {processes['cores_of_the_machine']} cores, "
        "which the load shares"
    )
    for name, part in (("fakes", fakes), ("default profile", default)):
        cancelled = part["cancellations"]
        lines.append(f"{cancelled['cancelled']} cancellations on {name}:")
        lines += [f"  {moment}: {cancelled[moment]}" for moment in ("before", "after")]
    return "\n".join(lines)


def _table(name: str, points: Mapping[Any, Mapping[str, float]]) -> list[str]:
    lines = ["", f"| {name} | {' | '.join(_COLUMNS.values())} |", "|---" * 6 + "|"]
    for count, point in points.items():
        cells = (f"{point[column]:.3g}" for column in _COLUMNS)
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return lines


def plot(content: Mapping[str, Any], file: Path) -> None:
    """Draw latency against clients and candidates, and rate and processor time against clients."""
    fakes, default = content["fakes"], content["default"]
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _latency(axes[0][0], fakes["clients"], "clients (100 candidates, on fakes)")
    _latency(axes[0][1], fakes["candidates"], "candidates (1 client, on fakes)")
    _latency(axes[1][0], default["clients"], "clients (100 candidates, default profile)")
    _rate(axes[1][1], fakes["clients"])
    figure.suptitle("One gateway process, documents cached")
    figure.savefig(file, dpi=100)


def _latency(axes: Axes, points: Mapping[Any, Mapping[str, float]], label: str) -> None:
    counts = [int(count) for count in points]
    for column in ("p50_ms", "p99_ms"):
        values = [point[column] for point in points.values()]
        axes.plot(counts, values, marker="o", label=_COLUMNS[column])
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("ms")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)


def _rate(axes: Axes, points: Mapping[Any, Mapping[str, float]]) -> None:
    counts = [int(count) for count in points]
    axes.plot(counts, [p["requests_per_second"] for p in points.values()], marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("clients (100 candidates, on fakes)")
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)
    cores = axes.twinx()
    cores.plot(counts, [p["cores"] for p in points.values()], marker="x", color="tab:orange")
    cores.set_ylabel("cores of the gateway (x)")
    cores.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
