"""Collections from the Hugging Face hub as folders: `python -m benchmarks.loaders`."""
