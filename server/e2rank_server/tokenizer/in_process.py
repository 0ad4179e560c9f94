"""The tokenizer in this process: the same code that Triton's models run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from e2rank_server.prompting.prompt import ListwiseTexts, with_title
from e2rank_server.prompting.prompter import Prompter
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.tokenizer.protocol import ListwisePromptInput, TokenizedPrompt, TokenizedText
from e2rank_server.types import InputType, TextInput, TokenizerBackend

Result = TypeVar("Result")

_THREADS = 2
"""A batch uses all cores by itself; a second thread keeps a query from waiting behind it."""

_MAX_CHARACTERS_AT_ONCE = 512
"""Tokenizing so little, say a query, takes .1 ms, which is what handing it to a thread takes."""


class InProcessTokenizer:
    """Implements Tokenizer on a Prompter, in threads, so that the event loop is not blocked.

    Loads on construction, which takes about a second for a vocabulary of
    Qwen's size and raises ConfigurationError as Prompter does. A cancelled call
    that has not begun is dropped; one that has begun runs on, unheard.
    """

    backend = TokenizerBackend.IN_PROCESS

    def __init__(self, prompts: PromptSpecification, tokenizer_json: Path) -> None:
        self._separator = prompts.title_separator
        self._prompter = Prompter(prompts, tokenizer_json)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenizer")

    async def tokenize_texts(
        self, input_type: InputType, texts: Sequence[TextInput], instruction: str | None = None
    ) -> list[TokenizedText]:
        """Tokenize queries or documents, in order; see Tokenizer."""
        characters = sum(len(text.text) + len(text.title or "") for text in texts)
        if characters + len(instruction or "") <= _MAX_CHARACTERS_AT_ONCE:
            return self._tokenize_texts(input_type, texts, instruction)
        return await self._in_thread(lambda: self._tokenize_texts(input_type, texts, instruction))

    async def tokenize_listwise_prompt(self, prompt: ListwisePromptInput) -> TokenizedPrompt:
        """Assemble, fit and tokenize one listwise prompt; see Tokenizer."""
        return await self._in_thread(lambda: self._tokenize_listwise_prompt(prompt))

    async def check_health(self) -> None:
        """Return at once: what runs in this process cannot be away while this runs."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _tokenize_texts(
        self, input_type: InputType, texts: Sequence[TextInput], instruction: str | None
    ) -> list[TokenizedText]:
        match input_type:
            case InputType.QUERY:
                queries = [text.text for text in texts]
                rendered = self._prompter.render_queries(queries, instruction)
            case InputType.DOCUMENT:
                documents = [with_title(text.title, text.text, self._separator) for text in texts]
                rendered = self._prompter.render_documents(documents)
        return [
            TokenizedText(np.array(tokens.token_ids, np.int32), tokens.is_truncated)
            for tokens in self._prompter.tokenize(rendered)
        ]

    def _tokenize_listwise_prompt(self, prompt: ListwisePromptInput) -> TokenizedPrompt:
        texts = ListwiseTexts(
            query=prompt.query,
            documents=[with_title(d.title, d.text, self._separator) for d in prompt.documents],
            instruction=prompt.instruction,
            scores=prompt.scores,
            max_tokens_per_document=prompt.max_tokens_per_document,
        )
        listwise, tokens = self._prompter.tokenize_listwise(texts)
        return TokenizedPrompt(
            token_ids=np.array(tokens.token_ids, np.int32),
            query_span=tokens.own_span,
            truncated=listwise.truncated,
            is_shrunk=listwise.is_shrunk,
        )
