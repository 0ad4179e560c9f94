"""The main job on a small collection: `python -m benchmarks.demo`."""
