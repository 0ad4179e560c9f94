"""The tokenizer on a Triton server, embedded or elsewhere, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from e2rank_server.errors import InvalidRequestError, UnavailableError
from e2rank_server.prompting.prompt import with_title
from e2rank_server.tokenizer.protocol import (
    ListwisePromptInput,
    TokenizedPrompt,
    TokenizedText,
)
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.wire import pack_texts, read_error
from e2rank_server.types import InputType, TextInput, TokenizerBackend

MAX_INT32 = 2**31 - 1
_Scalar = TypeVar("_Scalar", bound=np.generic)

MAX_DETAILS = 300
"""Characters of Triton's own words in an error."""
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # A restarted Triton must be found again in a moment, not after minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_CANARY = ListwisePromptInput("canary", [TextInput("canary")])


class TritonTokenizer:
    """Implements `protocol.Tokenizer` for one profile with Triton's two ensembles.

    `address` is a gRPC target: `host:port`, or the `address` of an
    EmbeddedTriton. A call that has no answer after `timeout_seconds` raises
    UnavailableError. Make it in a running event loop.
    """

    backend = TokenizerBackend.TRITON

    def __init__(
        self, address: str, profile: TritonProfile, *, timeout_seconds: float = 30.0
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._profile_key = profile.key
        self._title_separator = profile.prompts.title_separator
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._calls: set[Any] = set()  # grpc cancels a call that nobody refers to

    async def tokenize_texts(
        self, input_type: InputType, texts: Sequence[TextInput], instruction: str | None = None
    ) -> list[TokenizedText]:
        """See `protocol.Tokenizer`."""
        if not texts:
            return []
        request = _Request("tokenize_texts", self._profile_key)
        request.add_texts("INPUT_TYPE", [input_type])
        match input_type:
            case InputType.QUERY:
                request.add_texts("TEXTS", [text.text for text in texts])
            case InputType.DOCUMENT:
                request.add_texts("TEXTS", self._joined(texts))
        if instruction is not None:
            request.add_texts("INSTRUCTION", [instruction])
        answer = await self._infer(request)
        token_ids = answer.array("TOKEN_IDS", np.int32)
        ends = np.cumsum(answer.array("LENGTHS", np.int32))
        truncated = answer.array("IS_TRUNCATED", np.bool_).tolist()
        return [
            TokenizedText(ids, is_truncated)
            for ids, is_truncated in zip(np.split(token_ids, ends[:-1]), truncated, strict=True)
        ]

    async def tokenize_listwise_prompt(self, prompt: ListwisePromptInput) -> TokenizedPrompt:
        """See `protocol.Tokenizer`."""
        request = _Request("tokenize_listwise_prompt", self._profile_key)
        request.add_texts("QUERY", [prompt.query])
        request.add_texts("DOCUMENTS", self._joined(prompt.documents))
        if prompt.instruction is not None:
            request.add_texts("INSTRUCTION", [prompt.instruction])
        if prompt.scores is not None:
            request.add_texts("SCORES", prompt.scores)
        if prompt.max_tokens_per_document is not None:
            limit = min(prompt.max_tokens_per_document, MAX_INT32)
            request.add_integer("MAX_TOKENS_PER_DOCUMENT", limit)
        answer = await self._infer(request)
        start, end = answer.array("QUERY_SPAN", np.int32).tolist()
        return TokenizedPrompt(
            token_ids=answer.array("TOKEN_IDS", np.int32),
            query_span=(start, end),
            truncated=tuple(answer.array("TRUNCATED", np.bool_).tolist()),
            is_shrunk=bool(answer.array("IS_SHRUNK", np.bool_)[0]),
        )

    async def check_health(self) -> None:
        """Go through all of Triton's models; see `protocol.Tokenizer`."""
        # A profile too narrow for the canary has been asked, and has answered.
        with contextlib.suppress(InvalidRequestError):
            await self.tokenize_texts(InputType.QUERY, [TextInput("canary")])
            await self.tokenize_listwise_prompt(_CANARY)

    async def wait_until_connected(self) -> None:
        """Wait, for as long as it takes, until a server listens at the address."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    def _joined(self, texts: Iterable[TextInput]) -> list[str]:
        return [with_title(text.title, text.text, self._title_separator) for text in texts]

    async def _infer(self, request: _Request) -> _Answer:
        call = self._stub.ModelInfer(request.message, timeout=self._timeout_seconds)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        await _wait_without_cancelling(call)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT and (known := read_error(details)):
                raise known from error
            message = f"Triton answered {error.code().name}: {details[:MAX_DETAILS]}"
            raise UnavailableError("tokenizer", message) from error
        return _Answer(answer)


async def _wait_without_cancelling(call: Any) -> None:  # noqa: ANN401 - a call of grpc's
    """Wait for the call's end; a cancellation leaves the wait, not the call.

    Triton before 25.04 can crash when a call is cancelled as it ends
    (triton-inference-server/server#8034; 2.51.0 did, once in some hundred).
    """
    done = asyncio.Event()
    call.add_done_callback(lambda _: done.set())
    await done.wait()


class _Request:
    """A batch of one for a model, in the making."""

    def __init__(self, model: str, profile_key: str) -> None:
        self.message = service_pb2.ModelInferRequest(model_name=model)
        self.add_texts("PROFILE", [profile_key])

    def add_texts(self, name: str, texts: Sequence[str]) -> None:
        self._add(name, "BYTES", len(texts), pack_texts(texts))

    def add_integer(self, name: str, value: int) -> None:
        self._add(name, "INT32", 1, np.int32(value).tobytes())

    def _add(self, name: str, datatype: str, elements: int, content: bytes) -> None:
        self.message.inputs.add(name=name, datatype=datatype, shape=[1, elements])
        self.message.raw_input_contents.append(content)


class _Answer:
    """The tensors of a response, by name."""

    def __init__(self, message: Any) -> None:  # noqa: ANN401 - tritonclient has no types
        names = (output.name for output in message.outputs)
        self._contents = dict(zip(names, message.raw_output_contents, strict=True))

    def array(self, name: str, dtype: type[_Scalar]) -> NDArray[_Scalar]:
        """Return a tensor's elements in one row, read-only."""
        return np.frombuffer(self._contents[name], dtype=dtype)
