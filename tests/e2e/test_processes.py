"""Several gateway processes that share an address, Triton and one vLLM server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import grpc
import psutil
import pytest

from e2rank.v1 import rerank_pb2, rerank_pb2_grpc, types_pb2
from e2rank_client import E2RankClient
from tests.e2e.server_process import ServerProcess

pytestmark = pytest.mark.e2e

DOCUMENTS = ["Leaves turn light into sugar.", "Trains run late.", "Beet is a root."]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("processes")
    process = ServerProcess(folder, "--processes=2", "--tokenizer=triton")
    try:
        process.wait_until_serving()
        yield process
    finally:
        process.kill()


def gateways(server: ServerProcess) -> list[psutil.Process]:
    """Return the processes that listen at the server's address."""
    port = int(server.address.rpartition(":")[2])
    found = []
    for pid in server.descendants():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            process = psutil.Process(pid)
            if any(
                c.status == psutil.CONN_LISTEN and c.laddr.port == port
                for c in process.net_connections("tcp")
            ):
                found.append(process)
    return found


def test_processes_share_the_connections_and_one_engine(server: ServerProcess) -> None:
    request = rerank_pb2.RerankRequest(
        query="sugar",
        documents=[rerank_pb2.Document(text=text) for text in DOCUMENTS],
        e2rank=rerank_pb2.E2RankOptions(),
    )
    with ExitStack() as stack:
        # Channels of one process to one target share a connection, unless told not to.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(16)
        ]
        stubs = [rerank_pb2_grpc.RerankServiceStub(channel) for channel in channels]
        answers = [stub.Rerank(request) for stub in stubs]
        connections = [
            sum(c.status == psutil.CONN_ESTABLISHED for c in each.net_connections("tcp"))
            for each in gateways(server)
        ]
    assert len(connections) == 2
    # Sixteen connections all dealt to one of the two: once in 32,768 runs.
    assert min(connections) > 0
    for answer in answers:
        assert answer.model.embedder_backend == types_pb2.EMBEDDER_BACKEND_VLLM_REMOTE
        assert answer.model.tokenizer_backend == types_pb2.TOKENIZER_BACKEND_TRITON
    order = [result.index for result in answers[0].results]
    assert all([result.index for result in answer.results] == order for answer in answers)
    # Each process embeds a document once.
    tiers = [answer.results[0].cache_tier for answer in answers]
    assert tiers.count(types_pb2.CACHE_TIER_COMPUTED) == 2


def test_a_gateway_that_is_killed_is_replaced_while_the_other_answers(
    server: ServerProcess,
) -> None:
    victim, survivor = gateways(server)
    victim.kill()
    while len(gateways(server)) < 2 or victim.pid in {each.pid for each in gateways(server)}:
        # Reconnecting, it is dealt to the one that lives.
        with E2RankClient(server.address) as client:
            assert len(client.rerank("sugar", DOCUMENTS).results) == 3
    assert survivor.pid in {each.pid for each in gateways(server)}


def test_nothing_is_left_when_the_first_process_is_killed(server: ServerProcess) -> None:
    below = [psutil.Process(pid) for pid in server.descendants()]
    assert len(below) >= 5  # two gateways, Triton, vLLM's server and its engine
    os.kill(server.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
