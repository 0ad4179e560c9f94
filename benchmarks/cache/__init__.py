"""What the embedding cache can do: `python -m benchmarks.cache [FOLDER]`."""
