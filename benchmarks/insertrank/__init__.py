"""First-stage scores in the prompt (InsertRank): `python -m benchmarks.insertrank FOLDER ...`."""
