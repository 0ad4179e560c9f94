"""DocumentService: decode, ask the engine, encode."""

from __future__ import annotations

from e2rank.v1 import document_pb2, document_pb2_grpc
from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.gateway.document_codec import (
    decode_ids,
    decode_namespace,
    decode_put_request,
    encode_documents,
    encode_existence,
    encode_put_response,
    encode_statistics,
)
from e2rank_server.gateway.interceptors import Context
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.served_models import ServedModels


class DocumentServicer(document_pb2_grpc.DocumentServiceServicer):
    """Serves DocumentService."""

    def __init__(
        self, documents: DocumentsEngine, models: ServedModels, limits: GatewayLimits
    ) -> None:
        self._documents = documents
        self._models = models
        self._limits = limits

    async def PutDocuments(  # noqa: N802 - the contract's name
        self,
        request: document_pb2.PutDocumentsRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> document_pb2.PutDocumentsResponse:
        """Store documents and embed them ahead."""
        put = decode_put_request(request, self._limits)
        names = [] if request.store_only else list(request.models) or [""]
        models = [self._models.find(name) for name in names]
        return encode_put_response(await self._documents.put(put, models))

    async def GetDocuments(  # noqa: N802 - the contract's name
        self,
        request: document_pb2.GetDocumentsRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> document_pb2.GetDocumentsResponse:
        """Return documents, or which of them exist."""
        ids = decode_ids(request, self._limits)
        if request.existence_only:
            return encode_existence(ids, await self._documents.exist(request.namespace, ids))
        return encode_documents(ids, await self._documents.get(request.namespace, ids))

    async def DeleteDocuments(  # noqa: N802 - the contract's name
        self,
        request: document_pb2.DeleteDocumentsRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> document_pb2.DeleteDocumentsResponse:
        """Delete documents."""
        ids = decode_ids(request, self._limits)
        existed = await self._documents.delete(request.namespace, ids)
        return document_pb2.DeleteDocumentsResponse(existed=existed, documents_deleted=sum(existed))

    async def DeleteNamespace(  # noqa: N802 - the contract's name
        self,
        request: document_pb2.DeleteNamespaceRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> document_pb2.DeleteNamespaceResponse:
        """Delete a namespace."""
        namespace = decode_namespace(request, self._limits)
        held = await self._documents.delete_namespace(namespace)
        return document_pb2.DeleteNamespaceResponse(deleted=encode_statistics(held))

    async def GetNamespaceStats(  # noqa: N802 - the contract's name
        self,
        request: document_pb2.GetNamespaceStatsRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> document_pb2.GetNamespaceStatsResponse:
        """Say how full a namespace is."""
        namespace = decode_namespace(request, self._limits)
        statistics = await self._documents.statistics(namespace)
        return document_pb2.GetNamespaceStatsResponse(stats=encode_statistics(statistics))
