"""E2Rank Server: one embedding model that retrieves and reranks, behind gRPC."""

__version__ = "0.1.0"
