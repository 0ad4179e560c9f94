"""What Triton's Python models share: the profiles, requests in, answers and errors out.

Imported by `model_repository/*/1/model.py` inside Triton's Python backend.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from e2rank_server.errors import ConfigurationError, E2RankError, InvalidRequestError
from e2rank_server.prompting.prompter import Prompter
from e2rank_server.tokenizer.triton.manifest import read_manifest
from e2rank_server.tokenizer.triton.wire import PromptTensors, error_text

Work = TypeVar("Work")
Outputs: TypeAlias = dict[str, NDArray[Any]]
"""Output tensors by name, without the batch dimension."""


class Profiles:
    """The prompters of the manifest's profiles, by the key that requests carry."""

    def __init__(self) -> None:
        self._prompters: dict[str, Prompter] = {}
        for profile in read_manifest():
            try:
                key, prompter = profile.key, Prompter(profile.prompts, profile.tokenizer_json)
            except (ConfigurationError, OSError) as error:
                raise ConfigurationError([f"profile {profile.name}: {error}"]) from error
            self._prompters[key] = prompter

    def prompter(self, key: str) -> Prompter:
        """Return a profile's prompter. Raises ConfigurationError if the manifest lacks it."""
        if key not in self._prompters:
            served = ", ".join(self._prompters)
            raise ConfigurationError([f"no profile {key!r} is served here; served: {served}"])
        return self._prompters[key]


class Inputs:
    """The input tensors of one request, which must be a batch of one."""

    def __init__(self, request: triton.InferenceRequest) -> None:
        self._request = request

    def has(self, name: str) -> bool:
        """Say whether an optional input was given."""
        return triton.get_input_tensor_by_name(self._request, name) is not None

    def array(self, name: str) -> NDArray[Any]:
        """Return a tensor without its batch dimension."""
        array: NDArray[Any] = triton.get_input_tensor_by_name(self._request, name).as_numpy()
        if array.shape[0] != 1:
            raise InvalidRequestError.of(name, f"has batch size {array.shape[0]}; send one of 1")
        row: NDArray[Any] = array[0]
        return row

    def texts(self, name: str) -> list[str]:
        """Return the elements of a BYTES tensor."""
        try:
            return [element.decode() for element in self.array(name)]
        except UnicodeDecodeError as error:
            raise InvalidRequestError.of(name, f"is not UTF-8: {error}") from error

    def text(self, name: str) -> str:
        """Return the only element of a BYTES tensor."""
        [text] = self.texts(name)
        return text

    def optional_text(self, name: str) -> str | None:
        """Return the only element of an optional BYTES tensor, or None."""
        return self.text(name) if self.has(name) else None


def prompt_outputs(tensors: PromptTensors) -> Outputs:
    """Name the tensors that carry prompts to the model `tokenizer`."""
    return {
        "SEGMENTS": np.array([text.encode() for text in tensors.segments], dtype=np.object_),
        "IS_SPECIAL": tensors.is_special,
        "LAYOUT": tensors.layout,
    }


def prompt_inputs(inputs: Inputs) -> PromptTensors:
    """Read the tensors that `prompt_outputs` named."""
    return PromptTensors(
        inputs.texts("SEGMENTS"), inputs.array("IS_SPECIAL"), inputs.array("LAYOUT")
    )


def respond(
    requests: Sequence[triton.InferenceRequest], answer: Callable[[Inputs], Outputs]
) -> list[triton.InferenceResponse]:
    """Answer each request of a dynamic batch by itself."""
    return respond_together(
        requests, lambda inputs: ("", inputs), lambda _, works: [answer(work) for work in works]
    )


def respond_together(
    requests: Sequence[triton.InferenceRequest],
    read: Callable[[Inputs], tuple[str, Work]],
    answer: Callable[[str, Sequence[Work]], list[Outputs]],
) -> list[triton.InferenceResponse]:
    """Answer a dynamic batch, in order: one call of `answer` for all requests of the same key.

    `read` turns a request into a key and work. An exception would fail the whole
    batch, other callers' requests included; here it fails its own request alone.
    """
    responses: dict[int, triton.InferenceResponse] = {}
    groups: dict[str, dict[int, Work]] = {}
    for index, request in enumerate(requests):
        if request.is_cancelled():
            responses[index] = _cancelled_response()
            continue
        try:
            key, work = read(Inputs(request))
        except Exception as error:  # noqa: BLE001 - see above
            responses[index] = _error_response(error)
        else:
            groups.setdefault(key, {})[index] = work
    for key, works in groups.items():
        answers = _answer_group(key, list(works.values()), answer)
        responses.update(zip(works, answers, strict=True))
    return [responses[index] for index in range(len(requests))]


def _answer_group(
    key: str, works: Sequence[Work], answer: Callable[[str, Sequence[Work]], list[Outputs]]
) -> list[triton.InferenceResponse]:
    try:
        return [_response(outputs) for outputs in answer(key, works)]
    except Exception as error:  # noqa: BLE001 - see `respond_together`
        if len(works) == 1:
            return [_error_response(error)]
    return [response for work in works for response in _answer_group(key, [work], answer)]


def _response(outputs: Outputs) -> triton.InferenceResponse:
    """Make a response."""
    return triton.InferenceResponse(
        [triton.Tensor(name, array[np.newaxis]) for name, array in outputs.items()]
    )


def _error_response(error: Exception) -> triton.InferenceResponse:
    """Make the response that lets the gateway raise the same error, if it is the caller's."""
    code = triton.TritonError.INVALID_ARG
    match error:
        case InvalidRequestError():
            message = error_text(error)
        case E2RankError():
            message = str(error)
        case _:
            # Its text may hold a caller's text, and reaches other people's logs.
            code, message = triton.TritonError.INTERNAL, f"a defect: {type(error).__name__}"
            triton.Logger.log_error("".join(traceback.format_exception(error)))
    return triton.InferenceResponse(error=triton.TritonError(message, code))


def _cancelled_response() -> triton.InferenceResponse:
    """Make the response to a request that nobody waits for any longer."""
    error = triton.TritonError("the caller has cancelled it", triton.TritonError.CANCELLED)
    return triton.InferenceResponse(error=error)
