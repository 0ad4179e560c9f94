"""Documents named by id, through the engine on fakes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.embedding_cache.keys import text_digest
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import (
    InvalidRequestError,
    UnavailableError,
    UnknownDocumentsError,
)
from e2rank_server.types import (
    CacheTier,
    CosineOptions,
    Document,
    E2RankOptions,
    EmbedRequest,
    InputType,
    PromptOrder,
    RerankRequest,
    TextInput,
)
from tests.unit.engine_rig import EngineRig, documents, settle

SECRET = b"s" * 32


def stored(name: str, text: str, title: str | None = None) -> StoredDocument:
    return StoredDocument(name, text, title, text_digest(SECRET, title, text))


def named(*names: str) -> list[Document]:
    return [Document(id=name) for name in names]


@pytest.fixture
async def rig() -> EngineRig:
    rig = EngineRig()
    await rig.store.put("", [stored("a", "apple pie"), stored("b", "bread", "a loaf")])
    return rig


@pytest.mark.parametrize(
    "options",
    [
        CosineOptions(),
        E2RankOptions(prompt_order=PromptOrder.FIRST_STAGE),
        E2RankOptions(prompt_order=PromptOrder.COSINE),
    ],
)
async def test_by_id_and_by_text_score_the_same(
    rig: EngineRig, options: CosineOptions | E2RankOptions
) -> None:
    by_id = await rig.model.rerank(RerankRequest("pie", named("a", "b"), options=options))
    texts = [Document(text="apple pie"), Document(text="bread", title="a loaf")]
    by_text = await rig.model.rerank(RerankRequest("pie", texts, options=options))
    assert [(r.index, r.relevance_score) for r in by_id.results] == [
        (r.index, r.relevance_score) for r in by_text.results
    ]
    assert (by_id.usage.documents_stored, by_text.usage.documents_stored) == (2, 0)
    # The same text is the same entry, however it is named.
    assert {r.cache_tier for r in by_text.results} == {CacheTier.MEMORY}
    assert by_id.timings.store_seconds > 0


async def test_names_and_texts_and_vectors_mix(rig: EngineRig) -> None:
    vector = np.zeros(384, np.float32)
    vector[0] = 1
    mixed = [Document(id="b"), Document(id="t", text="apple"), Document(id="v", vector=vector)]
    outcome = await rig.model.rerank(RerankRequest("apple", mixed, options=CosineOptions()))
    assert sorted(r.index for r in outcome.results) == [0, 1, 2]
    assert outcome.usage.documents_stored == 1


async def test_what_is_cached_is_reranked_without_its_text(rig: EngineRig) -> None:
    request = RerankRequest("pie", named("a", "b"), options=CosineOptions())
    await rig.model.rerank(request)
    reads = rig.store.num_reads
    await rig.model.rerank(request)
    assert rig.store.num_reads == reads


async def test_texts_come_back_if_they_are_asked_for(rig: EngineRig) -> None:
    outcome = await rig.model.rerank(
        RerankRequest(
            "pie", named("b", "a"), top_n=1, options=CosineOptions(), return_documents=True
        )
    )
    assert (outcome.results[0].index, outcome.results[0].document.text) == (1, "apple pie")


async def test_unknown_ids_fail_the_request_naming_each(rig: EngineRig) -> None:
    with pytest.raises(UnknownDocumentsError) as caught:
        await rig.model.rerank(RerankRequest("q", named("a", "x", "b", "y")))
    assert [v.field for v in caught.value.violations] == ["documents[1].id", "documents[3].id"]
    assert not rig.embedder.calls


async def test_unknown_ids_are_left_out_if_that_is_asked_for(rig: EngineRig) -> None:
    request = RerankRequest("pie", named("x", "b", "y", "a"), drop_unknown=True)
    outcome = await rig.model.rerank(request)
    assert [r.index for r in outcome.results] == [3, 1]
    assert list(outcome.unknown) == [0, 2]
    assert outcome.usage.documents_stored == 2


async def test_if_all_are_unknown_nothing_is_computed(rig: EngineRig) -> None:
    outcome = await rig.model.rerank(RerankRequest("pie", named("x"), drop_unknown=True))
    assert (list(outcome.results), list(outcome.unknown)) == ([], [0])
    assert not rig.embedder.calls


async def test_positions_in_errors_are_those_of_the_request(rig: EngineRig) -> None:
    vector = np.ones(384, np.float32) / 384**0.5
    mixed = [Document(id="x"), Document(id="a"), Document(vector=vector)]
    request = RerankRequest("q", mixed, drop_unknown=True, options=E2RankOptions())
    with pytest.raises(InvalidRequestError, match=r"documents\[2\].text"):
        await rig.model.rerank(request)


async def test_embed_takes_names_and_says_which_are_unknown(rig: EngineRig) -> None:
    inputs = [TextInput("", id=f"x{n}") for n in range(70)] + [
        TextInput("", id="b"),
        TextInput("apple pie"),
        TextInput("", id="y"),
    ]
    with pytest.raises(UnknownDocumentsError, match=r"inputs\[0\].id.*inputs\[63\].id"):
        await rig.model.embed(EmbedRequest(InputType.DOCUMENT, inputs))
    outcome = await rig.model.embed(EmbedRequest(InputType.DOCUMENT, inputs, drop_unknown=True))
    assert list(outcome.unknown) == [*range(70), 72]
    plain = await rig.model.embed(
        EmbedRequest(InputType.DOCUMENT, [TextInput("bread", "a loaf"), TextInput("apple pie")])
    )
    np.testing.assert_array_equal(outcome.vectors, plain.vectors)
    assert outcome.usage.inputs_embedded == 2


async def test_a_replaced_text_is_never_ranked_by_the_old_ones_vector(rig: EngineRig) -> None:
    request = RerankRequest("cherry", named("a", "b"), options=CosineOptions())
    before = await rig.model.rerank(request)
    await rig.store.put("", [stored("a", "cherry")])
    after = await rig.model.rerank(request)
    assert after.results[0].index == 0
    assert after.results[0].relevance_score > before.results[0].relevance_score


async def test_a_text_that_changes_while_it_is_read_begins_the_request_anew(
    rig: EngineRig,
) -> None:
    async def replace() -> None:
        rig.store.before_get = None
        await rig.store.put("", [stored("a", "cherry")])

    rig.store.before_get = replace
    outcome = await rig.model.rerank(RerankRequest("cherry", named("a"), options=CosineOptions()))
    alone = await rig.model.rerank(
        RerankRequest("cherry", documents("cherry"), options=CosineOptions())
    )
    assert outcome.results[0].relevance_score == alone.results[0].relevance_score


async def test_texts_that_always_change_are_read_at_once_with_their_digests(
    rig: EngineRig,
) -> None:
    versions = iter(range(100))
    last = ""

    async def replace() -> None:
        nonlocal last
        last = f"version {next(versions)}"
        await rig.store.put("", [stored("a", last)])

    rig.store.before_get = replace
    request = RerankRequest("version", named("a"), options=E2RankOptions(), return_documents=True)
    [result] = (await rig.model.rerank(request)).results
    assert result.document.text == last
    alone = RerankRequest("version", documents(last), options=E2RankOptions())
    assert result.relevance_score == (await rig.model.rerank(alone)).results[0].relevance_score
    assert rig.gate.running_tokens == 0


async def test_a_store_that_is_away_fails_names_and_nothing_else(rig: EngineRig) -> None:
    rig.store.is_available = False
    with pytest.raises(UnavailableError, match="document_store"):
        await rig.model.rerank(RerankRequest("q", named("a")))
    assert (await rig.model.rerank(RerankRequest("q", documents("apple pie")))).results


async def test_without_a_store_names_are_an_error() -> None:
    none = StoredDocuments(None, 1)
    with pytest.raises(InvalidRequestError, match=r"documents\[1\]: .* stores none"):
        await none.resolve("", [*documents("x"), *named("a")], drop_unknown=True, at_once=False)


async def test_texts_to_read_are_bounded(rig: EngineRig) -> None:
    await rig.store.put("", [stored(f"big{n}", f"{n}" * (1 << 18)) for n in range(5)])
    names = named(*(f"big{n}" for n in range(5)))
    with pytest.raises(InvalidRequestError, match="more than the limit of 1048576 bytes"):
        await rig.model.rerank(RerankRequest("q", names, options=CosineOptions()))


async def test_namespaces_keep_their_documents_apart(rig: EngineRig) -> None:
    with pytest.raises(UnknownDocumentsError):
        await rig.model.rerank(RerankRequest("q", named("a"), namespace="other"))


async def test_what_is_embedded_for_a_namespace_that_is_deleted_meanwhile_is_not_kept(
    rig: EngineRig,
) -> None:
    rig.embedder.hold()
    task = asyncio.create_task(
        rig.model.rerank(RerankRequest("q", documents("old"), namespace="n"))
    )
    await settle()
    rig.epochs["n"] = 1
    rig.embedder.release()
    assert (await task).results
    assert rig.cache.statistics().entries == 0
