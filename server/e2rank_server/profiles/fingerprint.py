"""The fingerprint: names the space that a document vector lives in."""

from __future__ import annotations

import hashlib

from e2rank_server.profiles.profile import Profile

_SCHEME = "e2rank-document-vector/1"
"""Changes when this code changes what stands in a document's prompt, or where it is cut."""


def document_fingerprint(profile: Profile, weights_revision: str, tokenizer_json: bytes) -> str:
    """Hash all that changes a document's vector into 32 hexadecimal digits (128 bits).

    `weights_revision` is a digest of the weights or the commit that pins them.
    Left out on purpose: what concerns queries and listwise prompts only, which
    may change while cached documents stay valid, and the compute dtype, whose
    effect (like that of kernels and of what else is in a batch) lies within the
    cosine of .999 to which vectors of one fingerprint agree.
    """
    prompts = profile.prompts
    parts = [
        _SCHEME,
        weights_revision,
        hashlib.blake2b(tokenizer_json, digest_size=32).hexdigest(),
        prompts.document_template,
        prompts.title_separator,
        str(len(prompts.special_tokens)),
        *prompts.special_tokens,
        str(prompts.max_document_tokens),
        str(prompts.max_document_words),
        profile.pooling,
        str(profile.dimension),
    ]
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        content = part.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
