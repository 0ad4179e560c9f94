from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from e2rank_server.profiles.loading import load_profile
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from tests.contract.small_tokenizers import TOKENIZERS
from tests.contract.tokenizer_contract import TokenizerCase, TokenizerContract


def specifications() -> dict[str, tuple[PromptSpecification, Callable[[Path], Path]]]:
    """Shipped prompts on small tokenizers of their kind, with limits a test can reach."""
    e2rank = {
        f"e2rank-{name}": (load_profile("e2rank-0.6b", name).prompts, TOKENIZERS["qwen"])
        for name in ("eval", "readme", "train")
    }
    others = {
        name: (load_profile(name).prompts, TOKENIZERS[kind])
        for name, kind in (
            ("qwen3-embedding-0.6b", "qwen"),
            ("smollm2-135m", "smollm"),
            ("all-minilm-l6-v2", "minilm"),
        )
    }
    limits = {"max_query_tokens": 200, "max_document_tokens": 240, "max_prompt_tokens": 3000}
    return {
        name: (replace(specification, **limits), make)
        for name, (specification, make) in (e2rank | others).items()
    }


@pytest.fixture(scope="module", params=sorted(specifications()))
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PromptSpecification, Path]:
    specification, make = specifications()[request.param]
    return specification, make(tmp_path_factory.mktemp(request.param))


class TestInProcessTokenizer(TokenizerContract):
    num_random_texts = 200  # compared with itself here

    @pytest.fixture
    async def case(self, files: tuple[PromptSpecification, Path]) -> AsyncIterator[TokenizerCase]:
        specification, path = files
        async with InProcessTokenizer(specification, path) as tokenizer:
            yield TokenizerCase(tokenizer, specification, path)
