"""The prompts of both methods for the same passages: requests, and the ids that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.latency.shapes import PROMPT_DOCUMENTS, WINDOW_STRIDE
from benchmarks.overhead.messages import rerank_request
from e2rank.v1 import rerank_pb2
from e2rank_server.generator.chat import ChatTokenizer
from e2rank_server.llm_listwise.template import LlmTemplate
from e2rank_server.llm_listwise.windows import windows
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.tokenizer.protocol import ListwisePromptInput
from e2rank_server.types import InputType, TextInput, TokenIds

TEMPLATE = "rankqwen3"


@dataclass(frozen=True, slots=True)
class WindowIds:
    """The prompt of one window, and how many tokens its output has to have."""

    token_ids: Sequence[int]
    answer_tokens: int


class PromptIds:
    """Makes in this process the ids that the server's engines are given.

    `max_words` cuts a passage in the LLM's prompt; E2RANK's cut is the profile's.
    """

    def __init__(
        self, tokenizer: InProcessTokenizer, chat: ChatTokenizer, llm: LlmTemplate, max_words: int
    ) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._llm = llm
        self.max_words = max_words

    async def listwise(self, query: str, passages: Sequence[str]) -> TokenIds:
        """Return the prompt that E2RANK embeds: the query with its first candidates."""
        shown = [TextInput(passage) for passage in passages[:PROMPT_DOCUMENTS]]
        prompt = await self._tokenizer.tokenize_listwise_prompt(ListwisePromptInput(query, shown))
        return prompt.token_ids

    async def documents(self, passages: Sequence[str]) -> list[TokenIds]:
        """Return what is embedded of each candidate."""
        texts = [TextInput(passage) for passage in passages]
        tokenized = await self._tokenizer.tokenize_texts(InputType.DOCUMENT, texts)
        return [text.token_ids for text in tokenized]

    def windows(self, query: str, passages: Sequence[str]) -> list[WindowIds]:
        """Return the windows that an LLM would read if it changed no order, the first one first."""
        schedule = windows(len(passages), PROMPT_DOCUMENTS, WINDOW_STRIDE)
        return [self._window(query, passages[each.start : each.stop]) for each in schedule]

    def _window(self, query: str, passages: Sequence[str]) -> WindowIds:
        prompt, _ = self._llm.prompt(
            query,
            [TextInput(passage) for passage in passages],
            None,
            max_words=self.max_words,
            thinking=False,
        )
        budget = self._llm.budget(len(passages), thinking=False, reasoning_token_budget=None)
        token_ids = self._chat.tokenize(prompt).token_ids
        return WindowIds(token_ids, self._chat.num_tokens(budget.answer_like))


def e2rank_request(query: str, passages: Sequence[str], namespace: str) -> rerank_pb2.RerankRequest:
    """Ask for E2RANK as the paper has it; a new namespace has no document's vector."""
    return rerank_request(
        query, passages, "e2rank", prompt_documents=PROMPT_DOCUMENTS, namespace=namespace
    )


def llm_request(query: str, passages: Sequence[str], max_words: int) -> rerank_pb2.RerankRequest:
    """Ask for RankQwen3's protocol: windows back to front, one after the other."""
    request = rerank_pb2.RerankRequest(query=query)
    for index, passage in enumerate(passages):
        request.documents.add(id=f"d{index}", text=passage)
    options = request.llm_listwise
    options.template = TEMPLATE
    options.window_size = PROMPT_DOCUMENTS
    options.stride = WINDOW_STRIDE
    options.max_words_per_document = max_words
    return request
