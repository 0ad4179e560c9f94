"""Between wire messages and the domain; only the codecs know both.

Decoding checks shape and limits and reports every breach of a request in one
InvalidRequestError. What depends on the model's tokens or on the order of
documents is the engine's to check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from e2rank.v1 import embedding_pb2, rerank_pb2, types_pb2
from e2rank_server.gateway.fields import decode_count, decode_enum
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.options_codec import decode_options
from e2rank_server.gateway.vector_codec import check_encoding, decode_vectors, encode_matrix
from e2rank_server.gateway.violations import Violations, utf8_length
from e2rank_server.types import (
    AnswerWarning,
    CacheTier,
    Document,
    EmbedOutcome,
    EmbedRequest,
    InputType,
    LlmListwiseReport,
    LlmOutputCounts,
    ModelDescription,
    RerankOutcome,
    RerankRequest,
    TextInput,
)

_NANOSECONDS = 1_000_000_000
_MAX_BYTES_PER_CHARACTER = 4  # of UTF-8

_DROP_UNKNOWN: Mapping[int, bool] = {
    types_pb2.UNKNOWN_DOCUMENTS_UNSPECIFIED: False,
    types_pb2.UNKNOWN_DOCUMENTS_FAIL: False,
    types_pb2.UNKNOWN_DOCUMENTS_DROP: True,
}
_INPUT_TYPES: Mapping[int, InputType] = {
    embedding_pb2.INPUT_TYPE_QUERY: InputType.QUERY,
    embedding_pb2.INPUT_TYPE_DOCUMENT: InputType.DOCUMENT,
}

# Any: the stubs let Value return an int, which repeated fields then refuse.
_TIERS: Mapping[CacheTier, Any] = {
    tier: types_pb2.CacheTier.Value(f"CACHE_TIER_{tier}") for tier in CacheTier
}


def decode_rerank_request(
    message: rerank_pb2.RerankRequest, model: ModelDescription, limits: GatewayLimits
) -> RerankRequest:
    """Check and convert a request to `model`.

    Raises:
        InvalidRequestError: with every breach that was found.
        ModelMismatchError: nothing else is wrong, but a vector is another model's.
    """
    violations = Violations()
    violations.check_size("namespace", utf8_length(message.namespace), limits.max_name_bytes)
    violations.check_text("query", message.query, limits.max_query_bytes)
    violations.check_size(
        "instruction", utf8_length(message.instruction), limits.max_instruction_bytes
    )
    documents = _decode_documents(message.documents, model, limits, violations)
    request = RerankRequest(
        query=message.query,
        documents=documents,
        namespace=message.namespace,
        instruction=message.instruction or None,
        top_n=decode_count(message, "top_n", violations),
        max_tokens_per_document=decode_count(message, "max_tokens_per_document", violations),
        priority=message.priority,
        options=decode_options(message, documents, model, limits, violations),
        return_documents=message.return_documents,
        drop_unknown=_decode_drop_unknown(message.unknown_documents, violations),
    )
    violations.raise_if_any()
    return request


def encode_rerank_response(
    outcome: RerankOutcome, model: ModelDescription, *, return_documents: bool
) -> rerank_pb2.RerankResponse:
    """Convert an answer, with the documents' texts and titles if they were asked for."""
    usage = outcome.usage
    response = rerank_pb2.RerankResponse(
        usage=rerank_pb2.RerankUsage(
            prompt_tokens=usage.prompt_tokens,
            document_tokens=usage.document_tokens,
            documents_from_caller=usage.documents_from_caller,
            documents_cached=usage.documents_cached,
            documents_embedded=usage.documents_embedded,
            documents_truncated=usage.documents_truncated,
            prompt_documents=usage.prompt_documents,
            prompt_documents_truncated=usage.prompt_documents_truncated,
            documents_stored=usage.documents_stored,
        ),
        model=encode_identity(model),
        method=f"RERANK_METHOD_{outcome.method}",
        warnings=_encode_warnings(outcome.warnings),
        unknown_documents=outcome.unknown,
        score_kind=f"SCORE_KIND_{outcome.score_kind}",
        llm_listwise=_encode_llm_report(outcome.llm_listwise),
    )
    add_result = response.results.add
    for ranked in outcome.results:
        document = ranked.document
        result = add_result()
        result.index = ranked.index
        result.id = document.id
        result.relevance_score = ranked.relevance_score
        if ranked.cache_tier is not None:
            result.cache_tier = _TIERS[ranked.cache_tier]
        if return_documents:
            _fill_document(result.document, document)
    timings = outcome.timings
    _fill_duration(response.timings.total, timings.total_seconds)
    _fill_duration(response.timings.queue, timings.queue_seconds)
    _fill_duration(response.timings.tokenize, timings.tokenize_seconds)
    _fill_duration(response.timings.prompt, timings.prompt_seconds)
    _fill_duration(response.timings.lookup, timings.lookup_seconds)
    _fill_duration(response.timings.documents, timings.documents_seconds)
    _fill_duration(response.timings.score, timings.score_seconds)
    _fill_duration(response.timings.store, timings.store_seconds)
    _fill_duration(response.timings.generate, timings.generate_seconds)
    return response


def decode_embed_request(
    message: embedding_pb2.EmbedRequest, limits: GatewayLimits
) -> EmbedRequest:
    """Check and convert a request.

    Raises:
        InvalidRequestError: with every breach that was found.
    """
    violations = Violations()
    violations.check_size("namespace", utf8_length(message.namespace), limits.max_name_bytes)
    violations.check_size(
        "instruction", utf8_length(message.instruction), limits.max_instruction_bytes
    )
    if message.encoding != types_pb2.VECTOR_ENCODING_UNSPECIFIED:
        check_encoding("encoding", message.encoding, violations)
    input_type = _INPUT_TYPES.get(message.input_type)
    if input_type is None:
        violations.add("input_type", f"{message.input_type} is neither QUERY (1) nor DOCUMENT (2)")
    if input_type is InputType.DOCUMENT and message.instruction:
        violations.add("instruction", "is for queries; these inputs are documents")
    inputs = _decode_inputs(message.inputs, input_type, limits, violations)
    drop_unknown = _decode_drop_unknown(message.unknown_documents, violations)
    violations.raise_if_any()
    assert input_type is not None
    return EmbedRequest(
        input_type=input_type,
        inputs=inputs,
        namespace=message.namespace,
        instruction=message.instruction or None,
        priority=message.priority,
        drop_unknown=drop_unknown,
    )


def encode_embed_response(
    outcome: EmbedOutcome, model: ModelDescription, encoding: types_pb2.VectorEncoding
) -> embedding_pb2.EmbedResponse:
    """Convert the answer to a request for vectors of `encoding`."""
    encoding = encoding or types_pb2.VECTOR_ENCODING_FLOAT32
    usage = outcome.usage
    response = embedding_pb2.EmbedResponse(
        usage=embedding_pb2.EmbedUsage(
            tokens=usage.tokens,
            inputs_cached=usage.inputs_cached,
            inputs_embedded=usage.inputs_embedded,
            inputs_truncated=usage.inputs_truncated,
        ),
        model=encode_identity(model),
        warnings=_encode_warnings(outcome.warnings),
        truncated=outcome.truncated,
        cache_tiers=[_TIERS[tier] for tier in outcome.cache_tiers],
        unknown_inputs=outcome.unknown,
    )
    encode_matrix(response.vectors, outcome.vectors, encoding, model)
    timings = outcome.timings
    _fill_duration(response.timings.total, timings.total_seconds)
    _fill_duration(response.timings.queue, timings.queue_seconds)
    _fill_duration(response.timings.lookup, timings.lookup_seconds)
    _fill_duration(response.timings.tokenize, timings.tokenize_seconds)
    _fill_duration(response.timings.embed, timings.documents_seconds + timings.prompt_seconds)
    _fill_duration(response.timings.store, timings.store_seconds)
    return response


def encode_identity(model: ModelDescription) -> types_pb2.ModelIdentity:
    """Say which model answers."""
    return types_pb2.ModelIdentity(
        profile=model.profile,
        revision=model.revision,
        fingerprint=model.fingerprint,
        template_version=model.template_version,
        tokenizer_backend=f"TOKENIZER_BACKEND_{model.tokenizer_backend}",
        embedder_backend=f"EMBEDDER_BACKEND_{model.embedder_backend}",
    )


def _decode_documents(
    messages: Sequence[rerank_pb2.Document],
    model: ModelDescription,
    limits: GatewayLimits,
    violations: Violations,
) -> list[Document]:
    if not messages:
        violations.add("documents", "must not be empty")
        return []
    if len(messages) > limits.max_documents:
        # Not looked into: the limit bounds the work that a bad request can cause, too.
        violations.add(
            "documents",
            f"has {len(messages)} elements, more than the limit of {limits.max_documents}",
        )
        return []
    messages = list(messages)  # else each pass over them makes their Python objects anew
    vectors = decode_vectors(messages, model, limits, violations)
    max_name_length, max_document_length = (
        max_bytes // _MAX_BYTES_PER_CHARACTER
        for max_bytes in (limits.max_name_bytes, limits.max_document_bytes)
    )
    documents = []
    for index, message in enumerate(messages):
        name, text, title = message.id, message.text, message.title
        # A text, or the id of a stored document alone, or a vector with an id.
        is_plain = (
            not text.isspace() if text else name and not title and not message.HasField("text")
        )
        if (
            not is_plain
            or len(name) > max_name_length
            or len(text) + len(title) > max_document_length
        ):
            _check_document(index, message, limits, violations)
        score = message.first_stage_score if message.HasField("first_stage_score") else None
        documents.append(Document(name, text or None, title or None, vectors.get(index), score))
    _check_scores(documents, violations)
    return documents


def _check_document(
    index: int,
    message: rerank_pb2.Document,
    limits: GatewayLimits,
    violations: Violations,
) -> None:
    """Look closely at a document that may break a rule: most are seen to be fine at a glance."""
    text, title = message.text, message.title
    if not text and not message.HasField("text"):
        if not message.HasField("vector"):
            _check_name(f"documents[{index}]", message, violations)
    elif not text or text.isspace():
        violations.add(f"documents[{index}].text", "must not be blank")
    num_bytes = utf8_length(text) + utf8_length(title)
    if num_bytes > limits.max_document_bytes:
        violations.add(
            f"documents[{index}].text",
            f"has {num_bytes} bytes with its title, more than the limit of "
            f"{limits.max_document_bytes}",
        )
    violations.check_size(f"documents[{index}].id", utf8_length(message.id), limits.max_name_bytes)


def _check_name(field: str, message: rerank_pb2.Document, violations: Violations) -> None:
    """Look at what has to be the name of a stored document, there being nothing else."""
    if not message.id:
        violations.add(field, "needs a text, a vector or the id of a stored document")
    elif message.title:
        violations.add(f"{field}.title", "must not be set: a stored document has its own")


def _check_scores(documents: Sequence[Document], violations: Violations) -> None:
    missing = [i for i, document in enumerate(documents) if document.first_stage_score is None]
    if len(missing) == len(documents):
        return
    if missing:
        violations.add(
            f"documents[{missing[0]}].first_stage_score",
            f"is not set, but {len(documents) - len(missing)} of the {len(documents)} documents "
            "have one: set all or none",
        )
    for index, document in enumerate(documents):
        score = document.first_stage_score
        if score is not None and not math.isfinite(score):
            violations.add(f"documents[{index}].first_stage_score", f"{score} is not finite")


def _decode_inputs(
    messages: Sequence[embedding_pb2.TextInput],
    input_type: InputType | None,
    limits: GatewayLimits,
    violations: Violations,
) -> list[TextInput]:
    if not messages:
        violations.add("inputs", "must not be empty")
    if len(messages) > limits.max_inputs:
        violations.add(
            "inputs", f"has {len(messages)} elements, more than the limit of {limits.max_inputs}"
        )
        return []
    is_query = input_type is InputType.QUERY
    max_bytes = limits.max_query_bytes if is_query else limits.max_document_bytes
    inputs = []
    for index, message in enumerate(messages):
        text = message.text
        title = message.title
        name = message.id
        if name:
            _check_input_name(f"inputs[{index}]", message, is_query, limits, violations)
        elif not text or text.isspace():
            violations.add(f"inputs[{index}].text", "must not be blank")
        if title and is_query:
            violations.add(f"inputs[{index}].title", "is for documents; these inputs are queries")
        num_bytes = utf8_length(text) + utf8_length(title)
        if num_bytes > max_bytes:
            violations.check_size(f"inputs[{index}].text", num_bytes, max_bytes)
        inputs.append(TextInput(text, title or None, name))
    return inputs


def _check_input_name(
    field: str,
    message: embedding_pb2.TextInput,
    is_query: bool,
    limits: GatewayLimits,
    violations: Violations,
) -> None:
    if is_query:
        violations.add(f"{field}.id", "is for documents; these inputs are queries")
    elif message.text or message.title:
        violations.add(f"{field}.id", "names a stored document, and cannot go with a text or title")
    violations.check_size(f"{field}.id", utf8_length(message.id), limits.max_name_bytes)


def _decode_drop_unknown(number: int, violations: Violations) -> bool:
    return bool(decode_enum(number, _DROP_UNKNOWN, "unknown_documents", violations))


def _encode_warnings(warnings: Sequence[AnswerWarning]) -> list[types_pb2.Warning]:
    return [
        types_pb2.Warning(code=f"WARNING_CODE_{warning.code}", message=warning.message)
        for warning in warnings
    ]


def _encode_llm_report(report: LlmListwiseReport | None) -> rerank_pb2.LlmListwiseReport | None:
    if report is None:
        return None
    return rerank_pb2.LlmListwiseReport(
        generator_model=report.generator_model,
        template=report.template,
        template_version=report.template_version,
        windows=report.windows,
        outputs=encode_outputs(report.outputs),
        prompt_tokens=report.prompt_tokens,
        generated_tokens=report.generated_tokens,
        identifiers_absent=report.identifiers_absent,
    )


def encode_outputs(outputs: LlmOutputCounts) -> rerank_pb2.LlmOutputCounts:
    """Convert how an LLM's outputs were."""
    return rerank_pb2.LlmOutputCounts(
        ok=outputs.ok,
        malformed=outputs.malformed,
        repetition=outputs.repetition,
        missing=outputs.missing,
        refused=outputs.refused,
        failed=outputs.failed,
    )


def _fill_document(message: rerank_pb2.Document, document: Document) -> None:
    message.id = document.id
    if document.text is not None:
        message.text = document.text
    if document.title is not None:
        message.title = document.title


def _fill_duration(message: Duration, seconds: float) -> None:
    """Set a duration; a stage that took no time stays unset."""
    if seconds > 0.0:
        message.seconds, message.nanos = divmod(round(seconds * _NANOSECONDS), _NANOSECONDS)
