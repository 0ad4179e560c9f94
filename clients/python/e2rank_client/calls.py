"""Each RPC as a value: what is sent, and how the answer is read.

These functions are the methods of both clients, which differ only in how they
run a `Call`. They do no input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from google.protobuf.message import Message

from e2rank.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    rerank_pb2,
    rerank_pb2_grpc,
    types_pb2,
)
from e2rank_client import health, wire
from e2rank_client.method_options import MethodChoice, method_to_wire
from e2rank_client.types import (
    Document,
    EmbedResult,
    HealthStatus,
    InputType,
    Model,
    RerankResult,
    UnknownDocuments,
)

ResultT = TypeVar("ResultT")
InputChoice: TypeAlias = Literal["QUERY", "DOCUMENT"] | InputType
UnknownChoice: TypeAlias = Literal["FAIL", "DROP"] | UnknownDocuments


@dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """A unary RPC that has not been made yet.

    `stub` is a generated stub's class, made with a channel of either kind, and
    `rpc` the name of its attribute. `timeout_seconds` None means the client's default.
    Calls go to servers that say they are serving; those about health to any server.
    A write is not hedged: two at once would say different things of what they changed.
    """

    stub: Callable[[Any], Any]
    rpc: str
    request: Message
    read: Callable[[Any], ResultT]
    timeout_seconds: float | None
    request_id: str = ""
    is_about_health: bool = False
    is_write: bool = False

    @property
    def may_be_hedged(self) -> bool:
        """Whether it may be sent a second time while the first goes on."""
        return not (self.is_about_health or self.is_write)


def rerank(
    query: str,
    documents: Sequence[str | Document],
    *,
    model: str = "",
    namespace: str = "",
    instruction: str = "",
    method: MethodChoice | None = None,
    top_n: int | None = None,
    return_documents: bool = False,
    max_tokens_per_document: int | None = None,
    unknown_documents: UnknownChoice = "FAIL",
    priority: int = 0,
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[RerankResult]:
    """Order documents by relevance to a query.

    Args:
        query: Not blank.
        documents: Candidates in first-stage order, best first; strings are texts, and a
            Document with neither text nor vector is the stored one of that id.
        model: Profile to use; empty means the server's default.
        namespace: Stored documents and cached embeddings are shared within it and nowhere
            else.
        instruction: Task description for instruction-aware models; empty means the profile's.
        method: A method's name or its options; None means the profile's default method.
        top_n: How many results to return; None means all.
        return_documents: Whether results carry texts and titles.
        max_tokens_per_document: Cuts each document's copy in the listwise prompt.
        unknown_documents: Of ids that are not stored: FAIL, or DROP them.
        priority: Lower runs earlier; 0 is normal.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    request = rerank_pb2.RerankRequest(
        model=model,
        namespace=namespace,
        query=query,
        instruction=instruction,
        top_n=top_n,
        return_documents=return_documents,
        max_tokens_per_document=max_tokens_per_document,
        priority=priority,
        unknown_documents=f"UNKNOWN_DOCUMENTS_{UnknownDocuments(unknown_documents)}",
        **method_to_wire(method),
    )
    for document in documents:
        wire.add_document(request, document)
    return Call(
        rerank_pb2_grpc.RerankServiceStub,
        "Rerank",
        request,
        wire.rerank_result_from_wire,
        timeout_seconds,
        request_id,
    )


def embed(
    texts: Sequence[str],
    *,
    input_type: InputChoice,
    titles: Sequence[str | None] | None = None,
    model: str = "",
    namespace: str = "",
    instruction: str = "",
    priority: int = 0,
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[EmbedResult]:
    """Embed a batch; all texts or none.

    Args:
        texts: At least one, none blank.
        input_type: QUERY or DOCUMENT: their templates differ in most models.
        titles: For documents, one a text.
        model: Profile to use; empty means the server's default.
        namespace: As for `rerank`; for documents only.
        instruction: For queries, as for `rerank`.
        priority: Lower runs earlier; 0 is normal.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        ValueError: `titles` and `texts` differ in length.
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a sequence of strings, not a string")
    pairs = zip(texts, titles if titles is not None else [None] * len(texts), strict=True)
    request = embedding_pb2.EmbedRequest(
        model=model,
        namespace=namespace,
        input_type=f"INPUT_TYPE_{InputType(input_type)}",
        instruction=instruction,
        encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
        priority=priority,
    )
    for text, title in pairs:
        request.inputs.add(text=text, title=title)
    return Call(
        embedding_pb2_grpc.EmbeddingServiceStub,
        "Embed",
        request,
        wire.embed_result_from_wire,
        timeout_seconds,
        request_id,
    )


def get_model(model: str = "", *, timeout_seconds: float | None = None) -> Call[Model]:
    """Describe one profile; an empty name means the server's default.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    return Call(
        model_pb2_grpc.ModelServiceStub,
        "GetModel",
        model_pb2.GetModelRequest(model=model),
        lambda response: wire.model_from_wire(response.model),
        timeout_seconds,
    )


def list_models(*, timeout_seconds: float | None = None) -> Call[tuple[Model, ...]]:
    """List the profiles that the server serves, its default first.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    return Call(
        model_pb2_grpc.ModelServiceStub,
        "ListModels",
        model_pb2.ListModelsRequest(),
        lambda response: tuple(wire.model_from_wire(model) for model in response.models),
        timeout_seconds,
    )


def check_health(service: str = "", *, timeout_seconds: float | None = None) -> Call[HealthStatus]:
    """Ask whether the server, or one service such as `e2rank.v1.RerankService`, is serving.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    return Call(
        health.HealthStub,
        "Check",
        health.HealthCheckRequest(service=service),
        _read_health,
        timeout_seconds,
        is_about_health=True,
    )


def _read_health(response: Any) -> HealthStatus:  # noqa: ANN401 - the message has no generated type
    return {
        health.SERVING: HealthStatus.SERVING,
        health.NOT_SERVING: HealthStatus.NOT_SERVING,
    }.get(response.status, HealthStatus.UNRECOGNISED)
