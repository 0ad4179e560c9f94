"""Flags of the servers that benchmarks start."""

from __future__ import annotations

MEMORY_ONLY = ("--second-tier", "off", "--document-store", "off")
"""Such a server finds nothing that an earlier one left: what is to be cold is."""

ON_FAKES = ("--embedder", "fake", "--tokenizer", "in-process")
"""No model and no Triton: what is measured is the gateway's own."""
