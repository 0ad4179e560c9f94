"""Requests, made before the clock runs, and calls that send them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import grpc

from e2rank.v1 import rerank_pb2

MAX_MESSAGE_BYTES = 64 << 20
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

MethodName: TypeAlias = Literal["cosine", "e2rank"]


def rerank_request(
    query: str,
    passages: Sequence[str],
    method: MethodName,
    *,
    prompt_documents: int | None = None,
    namespace: str = "",
) -> rerank_pb2.RerankRequest:
    """Make a request; documents are called d0, d1, ... and enter a prompt in their order."""
    request = rerank_pb2.RerankRequest(query=query, namespace=namespace)
    for index, passage in enumerate(passages):
        request.documents.add(id=f"d{index}", text=passage)
    if method == "cosine":
        request.cosine.SetInParent()
    else:
        request.e2rank.prompt_order = rerank_pb2.PROMPT_ORDER_FIRST_STAGE
        if prompt_documents is not None:
            request.e2rank.prompt_documents = prompt_documents
    return request


def raw_rerank(channel: grpc.aio.Channel) -> Any:  # noqa: ANN401 - grpc's callables are untyped
    """Return Rerank from bytes to bytes, so that the load costs its client next to nothing."""
    return channel.unary_unary("/e2rank.v1.RerankService/Rerank")
