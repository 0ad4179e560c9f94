"""Programs that measure: `python -m benchmarks.demo`, `python -m benchmarks.quality`."""
