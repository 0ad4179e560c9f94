"""What a request may contain. GetModel reports these limits; the codec enforces them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Limits on shape and size; bytes are UTF-8.

    `max_request_bytes` bounds a whole request message; grpc itself refuses a
    larger one, with RESOURCE_EXHAUSTED and without details.
    """

    max_documents: int = 1000
    max_inputs: int = 2048
    max_query_bytes: int = 32 * 1024
    max_document_bytes: int = 1024 * 1024
    """Of a document's title and text together."""
    max_instruction_bytes: int = 4 * 1024
    max_name_bytes: int = 256
    """Of a model, a namespace, a document id and a fingerprint."""
    max_request_bytes: int = 32 * 1024 * 1024
