"""The composition root: the only place that names concrete backends.

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
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.protocol import Embedder
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.embedding_cache.keys import load_or_create_secret
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.model import ServedModel
from e2rank_server.errors import ConfigurationError
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.request_id import RequestIdFilter
from e2rank_server.gateway.server import GatewayServer
from e2rank_server.model_folder import ModelFolder, prepare_model_folder
from e2rank_server.profiles.fingerprint import document_fingerprint
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Profile
from e2rank_server.settings import Settings
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.tokenizer.protocol import Tokenizer
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.environment import obstacle
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.server import EmbeddedTriton

logger = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile whose files are in place."""

    profile: Profile
    folder: ModelFolder
    fingerprint: str

    @property
    def for_triton(self) -> TritonProfile:
        """Return what Triton needs to know of it."""
        return TritonProfile(self.profile.name, self.profile.prompts, self.folder.tokenizer_json)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ConfigurationError: the server cannot start as it was asked to.
    """
    _configure_logging(settings.log_level)
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(_start(settings, stack))
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
    check_address(settings.listen)
    prepared = await asyncio.to_thread(prepare, settings)
    secret = settings.cache_secret or load_or_create_secret(
        settings.data_directory / "cache-secret"
    )
    tokenizers = await start_tokenizers(settings, prepared, stack)
    models = [
        await _start_model(settings, each, tokenizer, secret, len(prepared), stack)
        for each, tokenizer in zip(prepared, tokenizers, strict=True)
    ]
    gateway = GatewayServer(
        models,
        _limits(settings),
        address=settings.listen,
        max_concurrent_requests=settings.max_concurrent_requests,
        health_interval_seconds=settings.health_interval_seconds,
    )
    address = await gateway.start()
    stack.push_async_callback(gateway.stop, settings.drain_seconds)
    if settings.address_file is not None:
        _write_address(settings.address_file, address)
    names = ", ".join(each.profile.name for each in prepared)
    logger.info("serving %s at %s after %.0f s", names, address, time.monotonic() - started)
    logger.info(
        'call it with: e2rank rerank "a query" documents.jsonl --address %s, '
        "or: grpcurl -plaintext %s list",
        address,
        address,
    )


def prepare(settings: Settings) -> list[Prepared]:
    """Load all profiles and put their files in place; blocks, at first for long.

    Raises:
        ConfigurationError: a profile is wrong or named twice, or its model is not to be had.
    """
    prepared: list[Prepared] = []
    for name in settings.profile:
        profile = load_profile(name, settings.listwise_template)
        if any(profile.name == other.profile.name for other in prepared):
            raise ConfigurationError([f"--profile: {profile.name} is named twice"])
        folder = prepare_model_folder(profile, settings.data_directory / "models")
        fingerprint = document_fingerprint(
            profile, folder.revision, folder.tokenizer_json.read_bytes()
        )
        prepared.append(Prepared(profile, folder, fingerprint))
    return prepared


async def start_tokenizers(
    settings: Settings, prepared: Sequence[Prepared], stack: AsyncExitStack
) -> list[Tokenizer]:
    """Return a tokenizer for each profile, of the kind that the settings ask for.

    Raises:
        ConfigurationError: Triton is asked for and cannot run, or its environment is wrong.
    """
    address = settings.triton_url
    kind = settings.tokenizer
    if kind == "auto" and address is None:
        reason = await asyncio.to_thread(obstacle, settings.triton_environment)
        if reason is not None:
            logger.warning("Triton cannot run here, tokenizing in process: %s", reason)
            kind = "in-process"
    if kind == "in-process":
        return [
            await stack.enter_async_context(
                InProcessTokenizer(each.profile.prompts, each.folder.tokenizer_json)
            )
            for each in prepared
        ]
    profiles = [each.for_triton for each in prepared]
    if address is None:
        logger.info("starting Triton from %s", settings.triton_environment)
        triton = await EmbeddedTriton.start(
            settings.triton_environment, profiles, settings.data_directory / "triton.log"
        )
        stack.push_async_callback(triton.close)
        address = triton.address
    tokenizers: list[Tokenizer] = []
    for profile in profiles:
        tokenizer = TritonTokenizer(address, profile)
        stack.push_async_callback(tokenizer.close)
        tokenizers.append(tokenizer)
    return tokenizers


async def _start_model(
    settings: Settings,
    prepared: Prepared,
    tokenizer: Tokenizer,
    secret: bytes,
    num_models: int,
    stack: AsyncExitStack,
) -> ServedModel:
    """Start the engine of one profile and warm it up."""
    profile = prepared.profile
    embedder = await _start_embedder(settings, prepared, stack)
    model = ServedModel(
        profile,
        revision=prepared.folder.revision,
        fingerprint=prepared.fingerprint,
        tokenizer=tokenizer,
        embedder=embedder,
        cache=MemoryEmbeddingCache(profile.dimension, settings.cache_bytes // num_models),
        secret=secret,
        gate=WorkGate(settings.max_running_tokens, settings.max_waiting_tokens),
    )
    await model.warm_up()
    logger.info("%s is ready, computing in %s", profile.name, embedder.compute_dtype)
    return model


async def _start_embedder(
    settings: Settings, prepared: Prepared, stack: AsyncExitStack
) -> Embedder:
    if settings.embedder == "fake":
        return FakeEmbedder(prepared.profile.dimension)
    logger.info("starting vLLM for %s", prepared.profile.name)
    embedder = await VllmInProcessEmbedder.start(
        prepared.profile,
        prepared.folder.path,
        dtype=settings.dtype,
        prefix_caching=settings.prefix_caching == "on",
    )
    stack.push_async_callback(embedder.close)
    return embedder


def _limits(settings: Settings) -> GatewayLimits:
    return GatewayLimits(
        max_documents=settings.max_documents,
        max_inputs=settings.max_inputs,
        max_query_bytes=settings.max_query_bytes,
        max_document_bytes=settings.max_document_bytes,
        max_instruction_bytes=settings.max_instruction_bytes,
        max_request_bytes=settings.max_request_bytes,
    )


def check_address(address: str) -> None:
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
            probe.bind(target)
    except OSError as error:
        raise ConfigurationError([f"cannot listen on {address}: {error.strerror}"]) from error


def _write_address(file: Path, address: str) -> None:
    """Appear whole or not at all to whoever waits for the file."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_text(address)
    draft.rename(file)


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
