"""From a shape to its figures: model, server and experiment, put together."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress
from tokenizers import Tokenizer

from benchmarks.figures import Figures
from benchmarks.intervals import median
from benchmarks.latency.backbone import Backbone, prepare_backbone
from benchmarks.latency.bounds import Comparison, speedups
from benchmarks.latency.engines import bare_engine
from benchmarks.latency.experiment import Experiment
from benchmarks.latency.prompts import TEMPLATE, PromptIds
from benchmarks.latency.samples import E2RankSamples, LlmSamples
from benchmarks.latency.shapes import PROMPT_DOCUMENTS, Shape
from benchmarks.latency.turns import Turns, connected
from benchmarks.overhead.texts import Texts
from e2rank_client.local_server import local_server
from e2rank_server.generator.chat import ChatTokenizer
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.tokenizer.in_process import InProcessTokenizer


async def measure(shape: Shape, candidates: int, progress: Progress) -> tuple[Figures, Any]:
    """Run the experiment on a shape; return figures and conditions."""
    with tempfile.TemporaryDirectory(prefix="e2rank-latency-") as directory:
        starting = progress.add_task(f"{shape.name}: preparing the model", total=None)
        backbone = await asyncio.to_thread(prepare_backbone, shape, Path(directory))
        progress.update(starting, description=f"{shape.name}: starting the server")
        with local_server(backbone.flags) as address:
            progress.remove_task(starting)
            task = progress.add_task(shape.name, total=_steps(shape))
            advance = partial(progress.advance, task)
            async with _prompt_ids(backbone) as prompts, connected(address) as server:
                passages = _passages(shape, candidates, backbone)
                experiment = Experiment(shape, prompts, passages, advance)
                # One bare engine at a time: three of a model are in memory, not four.
                progress.update(task, description=f"{shape.name}: E2RANK")
                async with bare_engine("embedder", backbone.embedder_arguments) as bare:
                    e2rank = await experiment.e2rank(Turns(server, bare))
                progress.update(task, description=f"{shape.name}: LLM listwise")
                async with bare_engine("generator", backbone.generator_arguments) as bare:
                    llm = await experiment.llm(Turns(server, bare))
        return _figures(shape, e2rank, llm), _conditions(backbone, candidates, llm)


@asynccontextmanager
async def _prompt_ids(backbone: Backbone) -> AsyncIterator[PromptIds]:
    folder = backbone.prepared.folder
    tokenizer = InProcessTokenizer(backbone.prepared.profile.prompts, folder.tokenizer_json)
    chat = await asyncio.to_thread(ChatTokenizer.load, folder.path)
    async with tokenizer:
        yield PromptIds(tokenizer, chat, load_templates()[TEMPLATE], backbone.max_words)


def _passages(shape: Shape, number: int, backbone: Backbone) -> list[str]:
    tokenizer = Tokenizer.from_file(str(backbone.prepared.folder.tokenizer_json))
    return shape.passages(number, Texts(), tokenizer)


def _steps(shape: Shape) -> int:
    windows = shape.windows_between * (shape.queries + 1)
    return shape.warm_iterations + shape.cold_iterations + shape.queries + windows


def _figures(shape: Shape, e2rank: E2RankSamples, llm: LlmSamples) -> Figures:
    samples = {
        "documents_seconds": e2rank.documents,
        "prompt_pass_seconds": e2rank.prompt_pass,
        "cold_seconds": e2rank.cold,
        "warm_seconds": e2rank.warm,
        "llm_seconds": llm.queries,
        "bare_documents_seconds": e2rank.bare_documents,
        "bare_prompt_seconds": e2rank.bare_prompt,
        "bare_window_seconds": llm.bare_windows,
        "prompt_tokens": e2rank.prompt_tokens,
        "document_tokens": e2rank.document_tokens,
        "window_prompt_tokens": llm.window_prompt_tokens,
        "window_answer_tokens": llm.window_answer_tokens,
        "idle_engine_cpu_share": llm.idle_engine_cpu_share,
    }
    figures = speedups(Comparison(e2rank.warm_pairs, e2rank.cold_pairs, llm.pairs))
    figures |= {name: median(values) for name, values in samples.items()}
    return {f"{shape.name}.{name}": figure for name, figure in figures.items()}


def _conditions(backbone: Backbone, candidates: int, llm: LlmSamples) -> dict[str, Any]:
    return {
        "revision": backbone.prepared.folder.revision,
        "dtype": backbone.dtype,
        "candidates": candidates,
        "prompt_documents": PROMPT_DOCUMENTS,
        "max_words_per_document": backbone.max_words,
        "llm_template": TEMPLATE,
        "llm_outputs": llm.outputs,
    }
