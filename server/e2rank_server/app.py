"""The composition root: where the settings become backends, engines and a gateway.

Opens in order and closes in reverse: models on disk, Triton, engines, warm-up,
gateway. The gateway goes first at the end, so that no request meets a backend
that is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.identity import PROBE_TEXTS, ProbeReferences, check_identity
from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.embedder.vllm_remote.embedder import VllmRemoteEmbedder
from e2rank_server.embedder.vllm_remote.lane import Expectation
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.engine.model import ServedModel
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import ConfigurationError
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.request_id import RequestIdFilter
from e2rank_server.gateway.server import GatewayServer
from e2rank_server.generation import open_llm
from e2rank_server.model_folder import ModelFolder, prepare_model_folder
from e2rank_server.profiles.fingerprint import document_fingerprint
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Profile
from e2rank_server.settings import Settings
from e2rank_server.storage import Storage
from e2rank_server.telemetry import MetricsEndpoint, Telemetry
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.tokenizer.protocol import Tokenizer
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.environment import obstacle
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.server import EmbeddedTriton
from e2rank_server.types import InputType, TextInput

logger = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s [%(request_id)s] %(message)s"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile whose files are in place; `vllm_urls` is empty if vLLM is to run here."""

    profile: Profile
    folder: ModelFolder
    fingerprint: str
    vllm_urls: Sequence[str] = ()

    @property
    def for_triton(self) -> TritonProfile:
        """Return what Triton needs to know of it."""
        return TritonProfile(self.profile.name, self.profile.prompts, self.folder.tokenizer_json)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all models share."""

    storage: Storage
    stored: StoredDocuments
    llm: LlmRerankEngine | None
    num_models: int


PARENT_PID_VARIABLE = "_E2RANK_PARENT_PID"
"""The process that this one is to end with, if it is one of several (processes.py)."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ConfigurationError: the server cannot start as it was asked to.
    """
    await serve(settings, partial(_start, settings))


async def serve(
    settings: Settings, start: Callable[[AsyncExitStack], Coroutine[Any, Any, None]]
) -> None:
    """Run `start`, and close what it left on the stack when this process is told to stop."""
    _configure_logging(settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    if (parent := os.environ.get(PARENT_PID_VARIABLE)) is not None:
        _stop_with(int(parent), stop)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(start(stack))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            logger.info("stopping before the start is complete")
            starting.cancel()
            await asyncio.wait({starting})
            return
        starting.result()
        await stopping
        logger.info("draining: requests in progress have %g s to finish", settings.drain_seconds)
    logger.info("stopped")


async def _start(settings: Settings, stack: AsyncExitStack) -> None:
    """Open everything, leaving on `stack` how to close it."""
    started = time.monotonic()
    check_address(settings.listen, reuse_port=settings.reuse_port == "on")
    telemetry = await _start_telemetry(settings, stack)
    prepared = await asyncio.to_thread(prepare, settings)
    storage = await Storage.open(settings, stack)
    tokenizers = await start_tokenizers(settings, prepared, stack)
    stored = StoredDocuments(storage.store, settings.max_request_bytes)
    shared = _Shared(storage, stored, await open_llm(settings, stored, stack), len(prepared))
    models = [
        await _start_model(settings, each, tokenizer, shared, stack)
        for each, tokenizer in zip(prepared, tokenizers, strict=True)
    ]
    gateway = GatewayServer(
        models,
        _limits(settings),
        address=settings.listen,
        max_concurrent_requests=settings.max_concurrent_requests,
        health_interval_seconds=settings.health_interval_seconds,
        documents=_documents_engine(storage, settings),
        reuse_port=settings.reuse_port == "on",
        max_connection_age_seconds=settings.max_connection_age_seconds,
        telemetry=telemetry,
    )
    address = await gateway.start()
    stack.push_async_callback(gateway.stop, settings.drain_seconds)
    if settings.address_file is not None:
        write_address(settings.address_file, address)
    names = ", ".join(each.profile.name for each in prepared)
    logger.info("serving %s at %s after %.0f s", names, address, time.monotonic() - started)
    logger.info(
        'call it with: e2rank rerank "a query" documents.jsonl --address %s, '
        "or: grpcurl -plaintext %s list",
        address,
        address,
    )


async def _start_telemetry(settings: Settings, stack: AsyncExitStack) -> Telemetry | None:
    """Listen for those who collect metrics, if they are asked for: before what takes minutes."""
    if settings.metrics_listen is None:
        return None
    telemetry = Telemetry(CollectorRegistry())
    endpoint = MetricsEndpoint(telemetry.registry)
    await endpoint.start(settings.metrics_listen)
    stack.push_async_callback(endpoint.close)
    return telemetry


def prepare(settings: Settings) -> list[Prepared]:
    """Load all profiles and put their files in place; blocks, at first for long.

    Raises:
        ConfigurationError: a profile is wrong or named twice, its model is not to be had, or
            a vLLM server is for none of them.
    """
    profiles: list[Profile] = []
    for name in settings.profile:
        profile = load_profile(name, settings.listwise_template)
        if any(profile.name == other.name for other in profiles):
            raise ConfigurationError([f"--profile: {profile.name} is named twice"])
        profiles.append(profile)
    urls = _urls_of(settings, profiles)
    return [_prepare_one(settings, profile, urls.get(profile.name, ())) for profile in profiles]


def _prepare_one(settings: Settings, profile: Profile, vllm_urls: Sequence[str]) -> Prepared:
    folder = prepare_model_folder(
        profile, settings.data_directory / "models", with_weights=not vllm_urls
    )
    fingerprint = document_fingerprint(profile, folder.revision, folder.tokenizer_json.read_bytes())
    return Prepared(profile, folder, fingerprint, vllm_urls)


def _urls_of(settings: Settings, profiles: Sequence[Profile]) -> Mapping[str, Sequence[str]]:
    """Return the vLLM servers of each profile that has some."""
    names = [profile.name for profile in profiles]
    if len(names) == 1 and settings.vllm_urls.keys() == {""}:
        return {names[0]: settings.vllm_urls[""]}
    problems = [
        f"--vllm-urls: {url} needs one of {', '.join(names)} before it, as in {names[0]}={url}"
        for url in settings.vllm_urls.get("", ())
    ]
    problems += [
        f"--vllm-urls: no profile {name!r} is served; served: {', '.join(names)}"
        for name in settings.vllm_urls
        if name not in ("", *names)
    ]
    if problems:
        raise ConfigurationError(problems)
    return settings.vllm_urls


async def start_tokenizers(
    settings: Settings, prepared: Sequence[Prepared], stack: AsyncExitStack
) -> list[Tokenizer]:
    """Return a tokenizer for each profile, of the kind that the settings ask for.

    Raises:
        ConfigurationError: Triton is asked for and cannot run, or its environment is wrong.
    """
    address = await start_triton(settings, prepared, stack)
    if address is None:
        return [
            await stack.enter_async_context(
                InProcessTokenizer(each.profile.prompts, each.folder.tokenizer_json)
            )
            for each in prepared
        ]
    tokenizers: list[Tokenizer] = []
    for each in prepared:
        tokenizer = TritonTokenizer(address, each.for_triton)
        stack.push_async_callback(tokenizer.close)
        tokenizers.append(tokenizer)
    return tokenizers


async def start_triton(
    settings: Settings, prepared: Sequence[Prepared], stack: AsyncExitStack
) -> str | None:
    """Return where Triton is, started here unless it is elsewhere; None to do without.

    Raises:
        ConfigurationError: Triton is asked for and cannot run, or its environment is wrong.
    """
    if settings.tokenizer == "in-process":
        return None
    if settings.triton_url is not None:
        return settings.triton_url
    if settings.tokenizer == "auto":
        reason = await asyncio.to_thread(obstacle, settings.triton_environment)
        if reason is not None:
            logger.warning("Triton cannot run here, tokenizing in process: %s", reason)
            return None
    logger.info("starting Triton from %s", settings.triton_environment)
    triton = await EmbeddedTriton.start(
        settings.triton_environment,
        [each.for_triton for each in prepared],
        settings.data_directory / "triton.log",
    )
    stack.push_async_callback(triton.close)
    return triton.address


async def _start_model(
    settings: Settings,
    prepared: Prepared,
    tokenizer: Tokenizer,
    shared: _Shared,
    stack: AsyncExitStack,
) -> ServedModel:
    """Start the engine of one profile and warm it up."""
    profile = prepared.profile
    embedder = await start_embedder(settings, prepared, tokenizer, stack)
    model = ServedModel(
        profile,
        revision=prepared.folder.revision,
        fingerprint=prepared.fingerprint,
        tokenizer=tokenizer,
        embedder=embedder,
        cache=shared.storage.open_cache(profile.dimension, shared.num_models, stack),
        secret=shared.storage.secret,
        gate=WorkGate(settings.max_running_tokens, settings.max_waiting_tokens),
        stored=shared.stored,
        epoch_of=shared.storage.epoch_of,
        llm=shared.llm,
    )
    if prepared.vllm_urls and settings.reuse_port == "off":
        # They may be loading yet; the first health check that finds one warms up.
        logger.info("%s waits for %s", profile.name, ", ".join(prepared.vllm_urls))
    else:
        await model.warm_up()
        logger.info("%s is ready, computing in %s", profile.name, embedder.compute_dtype)
    return model


async def start_embedder(
    settings: Settings, prepared: Prepared, tokenizer: Tokenizer, stack: AsyncExitStack
) -> Embedder:
    """Start what embeds, or begin to connect to it; it must be the model that it should be."""
    if settings.embedder == "fake":
        return FakeEmbedder(prepared.profile.dimension)
    probe_prompts = await tokenize_probes(tokenizer)
    references = ProbeReferences(prepared.fingerprint, settings.data_directory / "probes")
    if prepared.vllm_urls:
        remote = await VllmRemoteEmbedder.start(
            Expectation(prepared.profile, probe_prompts, references),
            prepared.vllm_urls,
            api_key=settings.vllm_api_key,
            limits=RemoteLimits(request_timeout_seconds=settings.vllm_timeout_seconds),
        )
        stack.push_async_callback(remote.close)
        if settings.reuse_port == "on":
            # Other gateways answer at this address: to listen would draw calls away from them.
            await remote.wait_until_ready()
        return remote
    logger.info("starting vLLM for %s", prepared.profile.name)
    embedder = await VllmInProcessEmbedder.start(
        prepared.profile,
        prepared.folder.path,
        dtype=settings.dtype,
        prefix_caching=settings.prefix_caching == "on",
    )
    stack.push_async_callback(embedder.close)
    await check_identity(embedder, probe_prompts, references)
    return embedder


async def tokenize_probes(tokenizer: Tokenizer) -> list[EmbedderPrompt]:
    """Return the prompts by whose vectors an engine is known."""
    probes = await tokenizer.tokenize_texts(
        InputType.DOCUMENT, [TextInput(text) for text in PROBE_TEXTS]
    )
    return [EmbedderPrompt(probe.token_ids) for probe in probes]


def _documents_engine(storage: Storage, settings: Settings) -> DocumentsEngine | None:
    if storage.store is None or storage.epochs is None:
        return None
    return DocumentsEngine(
        storage.store, storage.epochs, storage.secret, max_answer_bytes=settings.max_request_bytes
    )


def _limits(settings: Settings) -> GatewayLimits:
    return GatewayLimits(
        max_documents=settings.max_documents,
        max_inputs=settings.max_inputs,
        max_query_bytes=settings.max_query_bytes,
        max_document_bytes=settings.max_document_bytes,
        max_instruction_bytes=settings.max_instruction_bytes,
        max_request_bytes=settings.max_request_bytes,
    )


def check_address(address: str, *, reuse_port: bool) -> None:
    """Fail at once, not after minutes of loading, when the port is taken.

    Raises:
        ConfigurationError: naming the address and the reason.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
            probe.bind(target)
    except OSError as error:
        raise ConfigurationError([f"cannot listen on {address}: {error.strerror}"]) from error


def _stop_with(pid: int, stop: asyncio.Event) -> None:
    """Set `stop` when process `pid` has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        stop.set()
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(process)
        os.close(process)
        stop.set()

    loop.add_reader(process, ended)


def write_address(file: Path, address: str) -> None:
    """Appear whole or not at all to whoever waits for the file."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_text(address)
    draft.rename(file)


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request to an LLM
