"""Tokenizers of the kinds that the profiles use, trained in a moment on a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and a dog sleeps.",
    "Given a web search query, retrieve relevant passages that answer the query",
    "Given a web search query and some relevant documents, rerank the documents: Documents",
    "Search Query: what is a panda? The giant panda is a bear that lives in China.",
    "user assistant Instruct Query first-stage score 12.5 naïve café résumé",
    "東京は日本の首都です。 привет мир",
]

# Qwen's, from its published tokenizer.json.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_like(folder: Path) -> Path:
    """Byte-level BPE with NFC, Qwen's split, and added tokens that are not marked special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet)
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [
            AddedToken(token, special=False, normalized=False)
            for token in ("<tool_call>", "<think>", "</think>")
        ]
    )
    return _save(tokenizer, folder)


def smollm_like(folder: Path) -> Path:
    """Byte-level BPE whose vocabulary lacks rare bytes, with an end token in their place."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # SmolLM2's lacks, among others, the bytes of \x04 and U+50000: here as the vocabulary
    # spells them.
    alphabet = set(pre_tokenizers.ByteLevel.alphabet()) - {"\u0104", "\u00f1"}
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=sorted(alphabet),
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ),
    )
    return _save(tokenizer, folder)


def minilm_like(folder: Path) -> Path:
    """WordPiece as BERT's, in a file that asks for cutting and padding as MiniLM's does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        [*SENTENCES, "! a b [ ] < > | /"],
        trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        ),
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return _save(tokenizer, folder)


TOKENIZERS: dict[str, Callable[[Path], Path]] = {
    "qwen": qwen_like,
    "smollm": smollm_like,
    "minilm": minilm_like,
}


def _save(tokenizer: Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
