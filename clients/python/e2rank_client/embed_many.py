"""Embedding more texts than one request may have: how they are split and put together.

Nothing here does input or output; the clients run an `EmbedJob`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from e2rank_client import calls
from e2rank_client.calls import Call, InputChoice
from e2rank_client.errors import (
    FailedCall,
    FieldViolation,
    InvalidRequestError,
    ModelMismatchError,
    unreadable_answer,
)
from e2rank_client.types import (
    AnswerWarning,
    EmbedManyResult,
    EmbedResult,
    EmbedUsage,
    Model,
    ModelLimits,
)

Progress = Callable[[int, int], None]
"""Called with the number of texts that are embedded, and of all."""

# Tags and lengths of an input, and the request's own fields, beside its texts.
_INPUT_OVERHEAD_BYTES = 16
_REQUEST_OVERHEAD_BYTES = 4096
_INPUT_PATH = re.compile(r"\binputs\[(\d+)\]")


def embed_many(
    texts: Sequence[str],
    *,
    input_type: InputChoice,
    titles: Sequence[str | None] | None = None,
    model: str = "",
    namespace: str = "",
    instruction: str = "",
    priority: int = 0,
    timeout_seconds: float | None = None,
    batch_size: int = 128,
    concurrency: int = 4,
    on_progress: Progress | None = None,
) -> EmbedJob:
    """Embed any number of texts, several batches at a time; all texts or none.

    Batches are cut to the server's limits, which it is asked for first. The
    first error cancels the rest; `violations` then name a text by its place in
    `texts`. These calls are never hedged.

    Args:
        texts: None blank; there may be none at all.
        input_type: QUERY or DOCUMENT: their templates differ in most models.
        titles: For documents, one a text.
        model: Profile to use; empty means the server's default.
        namespace: As for `rerank`; for documents only.
        instruction: For queries, as for `rerank`.
        priority: Lower runs earlier; 0 is normal, and bulk work is better above it.
        timeout_seconds: Deadline of each batch; None means the client's default.
        batch_size: Most texts in a request.
        concurrency: Most requests at a time.
        on_progress: Called after each batch with the number of texts done, and of all.

    Raises:
        ValueError: `titles` and `texts` differ in length, or a number is below 1.
        ModelMismatchError: The server began to serve other weights half-way.
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a sequence of strings, not a string")
    if titles is not None and len(titles) != len(texts):
        raise ValueError(f"there are {len(texts)} texts and {len(titles)} titles")
    for name, value in (("batch_size", batch_size), ("concurrency", concurrency)):
        if value < 1:
            raise ValueError(f"{name} is {value}, below 1")

    def embed(start: int, end: int) -> Call[EmbedResult]:
        return calls.embed(
            texts[start:end],
            input_type=input_type,
            titles=titles[start:end] if titles is not None else None,
            model=model,
            namespace=namespace,
            instruction=instruction,
            priority=priority,
            timeout_seconds=timeout_seconds,
        )

    return EmbedJob(
        texts=texts,
        titles=titles,
        embed=embed,
        get_model=calls.get_model(model, timeout_seconds=timeout_seconds),
        batch_size=batch_size,
        concurrency=concurrency,
        on_progress=on_progress,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """The call for the texts from `start` to before `end`."""

    start: int
    end: int
    call: Call[EmbedResult]

    def place(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return the error with texts named by their places among all."""
        violations = tuple(
            FieldViolation(self._shift(violation.field), violation.description)
            for violation in error.violations
        )
        message = self._shift(error.call.message)
        return type(error)(dataclasses.replace(error.call, message=message, violations=violations))

    def _shift(self, text: str) -> str:
        return _INPUT_PATH.sub(lambda found: f"texts[{int(found[1]) + self.start}]", text)


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Many texts to embed, not begun yet: ask `get_model`, then run what `begin` yields."""

    texts: Sequence[str]
    titles: Sequence[str | None] | None
    embed: Callable[[int, int], Call[EmbedResult]]
    get_model: Call[Model]
    batch_size: int
    concurrency: int
    on_progress: Progress | None

    def begin(self, model: Model) -> tuple[Iterator[Batch], Assembly]:
        """Return the batches, in order, and what their answers are added to."""
        return self._batches(model.limits), Assembly(len(self.texts), model, self.on_progress)

    def _batches(self, limits: ModelLimits) -> Iterator[Batch]:
        max_texts = max(1, min(self.batch_size, limits.max_inputs_per_request))
        max_bytes = limits.max_request_bytes - _REQUEST_OVERHEAD_BYTES
        start, num_bytes = 0, 0
        for index in range(len(self.texts)):
            size = self._size_bytes(index)
            if index > start and (index - start == max_texts or num_bytes + size > max_bytes):
                yield Batch(start, index, self.embed(start, index))
                start, num_bytes = index, 0
            num_bytes += size
        if start < len(self.texts):
            yield Batch(start, len(self.texts), self.embed(start, len(self.texts)))

    def _size_bytes(self, index: int) -> int:
        title = (self.titles[index] if self.titles else None) or ""
        return len(self.texts[index].encode()) + len(title.encode()) + _INPUT_OVERHEAD_BYTES


class Assembly:
    """The answers so far, each in its place."""

    def __init__(self, num_texts: int, model: Model, on_progress: Progress | None) -> None:
        self._identity = model.identity
        self._on_progress = on_progress
        self._vectors = np.empty((num_texts, model.dimension), np.float32)
        self._truncated = np.zeros(num_texts, np.bool_)
        self._usages: list[EmbedUsage] = []
        self._warnings: dict[AnswerWarning, None] = {}
        self._num_done = 0

    def add(self, batch: Batch, answer: EmbedResult) -> None:
        """Put a batch's vectors in their place, and report progress.

        Raises:
            ModelMismatchError: Another model made them than the first.
            ServerError: They are not as many, or not as long, as they must be.
        """
        fingerprint, expected = answer.model.fingerprint, self._identity.fingerprint
        if fingerprint != expected:
            message = (
                f"the server's model changed on the way: texts[{batch.start}] and those behind it "
                f"have the fingerprint {fingerprint!r}, not {expected!r}"
            )
            raise ModelMismatchError(FailedCall(grpc.StatusCode.FAILED_PRECONDITION, message))
        shape = (batch.end - batch.start, self._vectors.shape[1])
        if answer.vectors.shape != shape:
            raise unreadable_answer(f"vectors of shape {answer.vectors.shape}, not {shape}")
        self._vectors[batch.start : batch.end] = answer.vectors
        self._truncated[batch.start : batch.end] = answer.truncated
        self._usages.append(answer.usage)
        self._warnings.update(dict.fromkeys(answer.warnings))
        self._num_done += shape[0]
        if self._on_progress is not None:
            self._on_progress(self._num_done, len(self._vectors))

    def result(self) -> EmbedManyResult:
        """Return everything, once all batches were added."""
        counts = {
            field.name: sum(getattr(usage, field.name) for usage in self._usages)
            for field in dataclasses.fields(EmbedUsage)
        }
        return EmbedManyResult(
            vectors=self._vectors,
            truncated=self._truncated,
            usage=EmbedUsage(**counts),
            model=self._identity,
            warnings=tuple(self._warnings),
        )
