"""A document store that replicas share: a Valkey of its own, with durable settings.

    e2rank:documents:{n:NAME}:records     hash, id → record (see `records.py`)
    e2rank:documents:{n:NAME}:heads       hash, id → the record's head
    e2rank:documents:{n:NAME}:statistics  hash, documents and stored_bytes
    e2rank:documents:{epochs}:raised      how often any epoch was raised
    e2rank:documents:{epochs}:epochs      hash, namespace → epoch
    e2rank:documents:{format}             number of this layout
    e2rank:documents:{sync}               nothing (see `valkey_client.py`)

NAME is percent-encoded; what stands in braces places all keys of a namespace on
one node of a cluster. Each write is one script, which Valkey runs whole or not
at all. A namespace's epoch is raised before its keys are dropped, which is one
step, too: cut short between the two, the deletion was not acknowledged, nothing
is lost, and what was cached of the namespace is not used any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from e2rank_server.document_store.protocol import (
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.document_store.records import (
    HEAD_BYTES,
    UNCOUNTED_BYTES,
    RecordCodec,
    encode_records,
)
from e2rank_server.document_store.valkey_client import DurableValkey
from e2rank_server.errors import QuotaExceededError

_RAISED_KEY = "e2rank:documents:{epochs}:raised"
_EPOCHS_KEY = "e2rank:documents:{epochs}:epochs"

_OUTCOMES = (PutOutcome.NEW, PutOutcome.UNCHANGED, PutOutcome.REPLACED)
_REFUSED = -1

# KEYS: records, heads, statistics
# ARGV: quota, bytes counted beside id and record, bytes of a head, then each id and its record
_PUT = f"""
local outcomes, new, needed = {{}}, 0, 0
for i = 4, #ARGV, 2 do
    local id, record = ARGV[i], ARGV[i + 1]
    local old = redis.call('HGET', KEYS[1], id)
    local outcome = {_OUTCOMES.index(PutOutcome.NEW)}
    if not old then
        new = new + 1
        needed = needed + #id + #record + ARGV[2]
    elseif old == record
            and redis.call('HGET', KEYS[2], id) == string.sub(record, 1, ARGV[3]) then
        outcome = {_OUTCOMES.index(PutOutcome.UNCHANGED)}
    else
        outcome = {_OUTCOMES.index(PutOutcome.REPLACED)}
        needed = needed + #record - #old
    end
    outcomes[#outcomes + 1] = outcome
end
local stored = tonumber(redis.call('HGET', KEYS[3], 'stored_bytes') or 0)
if needed > 0 and stored + needed > tonumber(ARGV[1]) then
    return {{{_REFUSED}, stored, needed}}
end
for i, outcome in ipairs(outcomes) do
    if outcome ~= {_OUTCOMES.index(PutOutcome.UNCHANGED)} then
        local id, record = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
        redis.call('HSET', KEYS[1], id, record)
        redis.call('HSET', KEYS[2], id, string.sub(record, 1, ARGV[3]))
    end
end
redis.call('HINCRBY', KEYS[3], 'documents', new)
redis.call('HINCRBY', KEYS[3], 'stored_bytes', needed)
return outcomes
"""

# What deletes is let in when memory is full.

# KEYS: records, heads, statistics. ARGV: bytes counted beside id and record, then the ids
_DELETE = """#!lua flags=allow-oom
local existed, deleted, freed = {}, 0, 0
for i = 2, #ARGV do
    local length = redis.call('HSTRLEN', KEYS[1], ARGV[i])
    existed[#existed + 1] = length > 0 and 1 or 0
    if length > 0 then
        redis.call('HDEL', KEYS[1], ARGV[i])
        redis.call('HDEL', KEYS[2], ARGV[i])
        deleted = deleted + 1
        freed = freed + #ARGV[i] + length + ARGV[1]
    end
end
if deleted > 0 then
    redis.call('HINCRBY', KEYS[3], 'stored_bytes', -freed)
    if redis.call('HINCRBY', KEYS[3], 'documents', -deleted) == 0 then
        redis.call('DEL', KEYS[3])
    end
end
return existed
"""

_RAISE_EPOCH = """#!lua flags=allow-oom
redis.call('INCR', KEYS[1])
return redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
"""

# UNLINK frees the memory of large hashes beside the server's other work.
_DROP = """#!lua flags=allow-oom
local held = redis.call('HMGET', KEYS[3], 'documents', 'stored_bytes')
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return held
"""


class ValkeyDocumentStore:
    """See `DocumentStore`, and `valkey_client` for what its acknowledgement means."""

    def __init__(self, valkey: DurableValkey, max_namespace_bytes: int) -> None:
        self._valkey = valkey
        self._max_namespace_bytes = max_namespace_bytes
        self._epochs: tuple[int, Mapping[str, int]] = (0, {})

    @classmethod
    async def open(
        cls, url: str, *, max_namespace_bytes: int, timeout_seconds: float = 5.0
    ) -> ValkeyDocumentStore:
        """Connect to a server or a cluster.

        If it is away, calls raise UnavailableError until it is back.

        Raises:
            ConfigurationError: its settings could lose documents, or a newer
                version has written it; says what to do.
        """
        valkey = DurableValkey(url, timeout_seconds)
        try:
            await valkey.start()
        except BaseException:
            await valkey.close()
            raise
        return cls(valkey, max_namespace_bytes)

    async def put(
        self, namespace: str, documents: Sequence[StoredDocument]
    ) -> Sequence[PutOutcome]:
        """See `DocumentStore.put`."""
        records = await asyncio.to_thread(encode_records, namespace, documents)
        limit = self._max_namespace_bytes
        answer = await self._valkey.write(
            _PUT,
            _keys(namespace),
            [
                limit,
                UNCOUNTED_BYTES,
                HEAD_BYTES,
                *(part for item in records.items() for part in item),
            ],
        )
        if answer[:1] == [_REFUSED]:
            _, stored, needed = answer
            raise QuotaExceededError(namespace, stored, needed, limit)
        return [_OUTCOMES[number] for number in answer]

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        """See `DocumentStore.get`."""
        if not ids:
            return []
        codec = RecordCodec(namespace)
        records, _, _ = _keys(namespace)
        found = await self._valkey.read("HMGET", records, *ids)
        return [
            None if record is None else codec.decode(document_id, record)
            for document_id, record in zip(ids, found, strict=True)
        ]

    async def digests(self, namespace: str, ids: Sequence[str]) -> Sequence[bytes | None]:
        """See `DocumentStore.digests`."""
        if not ids:
            return []
        codec = RecordCodec(namespace)
        _, heads, _ = _keys(namespace)
        found = await self._valkey.read("HMGET", heads, *ids)
        return [
            None if head is None else codec.decode_head(document_id, head)
            for document_id, head in zip(ids, found, strict=True)
        ]

    async def delete(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        """See `DocumentStore.delete`."""
        answer = await self._valkey.write(_DELETE, _keys(namespace), [UNCOUNTED_BYTES, *ids])
        return [bool(existed) for existed in answer]

    async def delete_namespace(self, namespace: str) -> NamespaceStatistics:
        """See `DocumentStore.delete_namespace`."""
        await self._valkey.write(_RAISE_EPOCH, [_RAISED_KEY, _EPOCHS_KEY], [namespace])
        return self._statistics_of(await self._valkey.write(_DROP, _keys(namespace), []))

    async def statistics(self, namespace: str) -> NamespaceStatistics:
        """See `DocumentStore.statistics`."""
        _, _, statistics = _keys(namespace)
        return self._statistics_of(
            await self._valkey.read("HMGET", statistics, "documents", "stored_bytes")
        )

    async def epochs(self) -> Mapping[str, int]:
        """See `DocumentStore.epochs`; reads one number unless an epoch was raised."""
        raised = int(await self._valkey.read("GET", _RAISED_KEY) or 0)
        if raised != self._epochs[0]:
            # Read after the number: at worst newer than it says, and read again next time.
            fields = await self._valkey.read("HGETALL", _EPOCHS_KEY)
            epochs = {name.decode(): int(epoch) for name, epoch in fields.items()}
            self._epochs = (raised, epochs)
        return self._epochs[1]

    async def check_health(self) -> None:
        """See `DocumentStore.check_health`; checks the settings again."""
        await self._valkey.check_health()

    async def close(self) -> None:
        """Close all connections."""
        await self._valkey.close()

    def _statistics_of(self, counts: Sequence[bytes | None]) -> NamespaceStatistics:
        documents, stored_bytes = (int(count or 0) for count in counts)
        return NamespaceStatistics(documents, stored_bytes, self._max_namespace_bytes)


def _keys(namespace: str) -> tuple[str, str, str]:
    """Return the keys of a namespace's records, heads and statistics."""
    prefix = "e2rank:documents:{n:" + quote(namespace, safe="") + "}"
    return f"{prefix}:records", f"{prefix}:heads", f"{prefix}:statistics"
