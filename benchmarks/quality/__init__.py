"""Ranking quality on BEIR-format collections: `python -m benchmarks.quality FOLDER ...`."""
