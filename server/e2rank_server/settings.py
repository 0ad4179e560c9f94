"""The server's settings: one frozen object, read once from flags and the environment.

Each field is one setting: flag `--listen`, environment variable
`E2RANK_LISTEN`; the flag wins. An unknown one is an error, and all errors are
reported together.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from e2rank_server.errors import ConfigurationError

ENVIRONMENT_PREFIX = "E2RANK_"
_SECONDS_IN_A_YEAR = 365 * 24 * 3600
_SIZE_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(KiB|MiB|GiB|)", text.strip())
    if match is None:
        raise ValueError("a size in bytes such as 4096, 512KiB, 16MiB or 2GiB")
    return _at_least_one(int(match[1]) * _SIZE_UNITS[match[2]], "a size of at least 1 byte")


def _count(text: str) -> int:
    if re.fullmatch(r"\d{1,9}", text.strip()) is None:
        raise ValueError("a whole number from 1 to 999999999")
    return _at_least_one(int(text), "a whole number from 1 to 999999999")


def _at_least_one(value: int, expected: str) -> int:
    if value < 1:
        raise ValueError(expected)
    return value


def _seconds(text: str) -> float:
    expected = "a number of seconds from 0 to 86400"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(expected) from None
    if not 0 <= value <= 86400:
        raise ValueError(expected)
    return value


def _whole_seconds(text: str) -> int:
    if re.fullmatch(r"\d{1,8}", text.strip()) is None or int(text) > _SECONDS_IN_A_YEAR:
        raise ValueError(f"a whole number of seconds from 0 to {_SECONDS_IN_A_YEAR}")
    return int(text)


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text

    return parse


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) <= 65535):
        raise ValueError("HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:50051")
    return text


def _optional_address(text: str) -> str | None:
    return _address(text) if text else None


def _optional_target(text: str) -> str | None:
    if not text:
        return None
    if re.fullmatch(r"unix:/.+", text):
        return text
    try:
        return _address(text)
    except ValueError as error:
        raise ValueError(f"{error}, or unix:/PATH") from None


def _urls_by_profile(text: str) -> Mapping[str, tuple[str, ...]]:
    urls: dict[str, tuple[str, ...]] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(?:([^=:/]+)=)?((?:https?://|unix:/).+)", item)
        if match is None:
            raise ValueError(
                "URLs such as http://HOST:PORT or unix:/PATH, separated by commas, each with "
                "PROFILE= before it where several profiles are served"
            )
        profile, url = match[1] or "", match[2]
        urls[profile] = (*urls.get(profile, ()), url)
    return urls


def _optional_http_url(text: str) -> str | None:
    if text and re.fullmatch(r"https?://[^\s@]+", text) is None:
        raise ValueError("a URL such as http://HOST:PORT/v1, without a password")
    return text or None


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("a name")
    return text.strip()


def _optional_count(text: str) -> int | None:
    return _count(text) if text else None


def _optional_path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _optional_text(text: str) -> str | None:
    return text or None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ValueError("one or more profile names or .toml paths, separated by commas")
    return names


def _optional_key(text: str) -> str | None:
    if text and not (text.isascii() and text.isprintable() and len(text) <= 4096):
        raise ValueError("a key of at most 4096 printable ASCII characters")
    return text or None


def _kept_in(text: str) -> str:
    if text in ("disk", "off") or re.match(r"(valkeys?|rediss?|unix)://", text):
        return text
    raise ValueError("disk, off, or a URL such as valkey://HOST:PORT (also valkeys, redis, rediss)")


def _secret(text: str) -> bytes | None:
    if text and not 16 <= len(text.encode()) <= 64:
        raise ValueError("16 to 64 bytes of text")
    return text.encode() or None


def _default_data_directory() -> str:
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(home).expanduser() / "e2rank")


def _setting(parse: Callable[[str], Any], default: str, help_text: str) -> Any:  # noqa: ANN401 - stands for the field's own type, as dataclasses.field does
    metadata = {"parse": parse, "default": default, "help": help_text}
    return field(default_factory=lambda: parse(default), metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. `python -m e2rank_server --help` prints the same."""

    listen: str = _setting(
        _address, "127.0.0.1:50051", "address to serve gRPC on; port 0 takes a free one"
    )
    processes: int = _setting(
        _count,
        "1",
        "gateway processes; more than one share the address, Triton and one vLLM server a model, "
        "and each has its part of --cache-bytes",
    )
    reuse_port: Literal["on", "off"] = _setting(
        _choice("on", "off"),
        "off",
        "whether other servers may listen on the same address, the kernel sharing out the "
        "connections; each listens only once its models are ready",
    )
    address_file: Path | None = _setting(
        _optional_path, "", "file to write the address to once the server answers"
    )
    metrics_listen: str | None = _setting(
        _optional_address,
        "",
        "address to serve Prometheus metrics on, such as 0.0.0.0:9090; of several processes each "
        "has its own, at this port and those above; unset records nothing",
    )
    profile: tuple[str, ...] = _setting(
        _names,
        "all-minilm-l6-v2",
        "models to serve: names of shipped profiles or paths of .toml files, separated by "
        "commas; the first is the default model",
    )
    listwise_template: str | None = _setting(
        _optional_text,
        "",
        "use this listwise template instead of each profile's own choice, for example readme",
    )
    data_directory: Path = _setting(
        lambda text: Path(text).expanduser(),
        _default_data_directory(),
        "folder for prepared models, the cache secret and Triton's log",
    )
    tokenizer: str = _setting(
        _choice("auto", "triton", "in-process"),
        "auto",
        "what tokenizes: triton starts or uses a Triton server; auto falls back to in-process, "
        "and says so, only where Triton cannot run",
    )
    triton_url: str | None = _setting(
        _optional_target,
        "",
        "use the Triton server at HOST:PORT or unix:/PATH (gRPC) instead of starting one",
    )
    triton_environment: Path = _setting(
        lambda text: Path(text).expanduser(),
        str(Path(sys.prefix).parent / ".venv-triton"),
        "virtual environment that has Triton (numpy < 2)",
    )
    embedder: str = _setting(
        _choice("vllm", "fake"),
        "vllm",
        "what embeds: vllm in this process tree, or fake vectors for testing clients",
    )
    vllm_urls: Mapping[str, tuple[str, ...]] = _setting(
        _urls_by_profile,
        "",
        "use these vLLM servers instead of starting vLLM: http://HOST:PORT, https://HOST:PORT or "
        "unix:/PATH, separated by commas, each with PROFILE= before it where several profiles "
        "are served; python -m e2rank_server.vllm_server starts one",
    )
    vllm_api_key: str | None = _setting(
        _optional_key, "", "key that the vLLM servers ask for (vLLM's --api-key)"
    )
    vllm_timeout_seconds: float = _setting(
        _seconds, "120", "how long a vLLM server may take for one request before it counts as sick"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = _setting(
        _choice("auto", "bfloat16", "float32"),
        "auto",
        "element type the model computes in; auto takes bfloat16 where the hardware has it",
    )
    prefix_caching: str = _setting(
        _choice("on", "off"),
        "on",
        "vLLM's prefix cache, for decoders; it helps when the same documents in the same order "
        "come again",
    )
    generator_model: str | None = _setting(
        _optional_text,
        "",
        "LLM for the method LLM_LISTWISE, run by vLLM in this process tree: a profile, a model "
        "folder or a repository on the hub; with --generator-url the model's name there; unset "
        "there is no LLM",
    )
    generator_url: str | None = _setting(
        _optional_http_url,
        "",
        "use the LLM at this OpenAI-compatible endpoint, such as http://HOST:PORT/v1",
    )
    generator_api_key: str | None = _setting(
        _optional_key, "", "key that the endpoint of the LLM asks for"
    )
    generator_api: Literal["vllm", "openai"] = _setting(
        _choice("vllm", "openai"),
        "vllm",
        "what the endpoint understands: vllm, as SGLang, too, also takes an output's exact length, "
        "a switch for thinking and a begun answer; openai is the standard alone",
    )
    generator_timeout_seconds: float = _setting(
        _seconds, "120", "how long the LLM may take for one window"
    )
    generator_max_tokens: int | None = _setting(
        _optional_count,
        "",
        "tokens of the LLM's context, prompt and output together; unset means the model's own, "
        "on a CPU at most 8192; at an endpoint it is unknown unless set",
    )
    generator_template: str = _setting(
        _name, "rankzephyr", "prompt template of LLM_LISTWISE for requests that name none"
    )
    generator_score_template: str = _setting(
        _name,
        "insertrank",
        "the same for requests with first-stage scores in the prompt (InsertRank)",
    )
    cache_bytes: int = _setting(
        _size, "512MiB", "memory for document embeddings, shared out evenly between the models"
    )
    cache_element_type: Literal["float16", "float32", "int8"] = _setting(
        _choice("float16", "float32", "int8"),
        "float16",
        "element type of cached vectors; make bench-cache measures what each costs in ranking",
    )
    second_tier: str = _setting(
        _kept_in,
        "disk",
        "where embeddings are cached beyond memory: disk is the data folder, a valkey:// URL is "
        "shared by all replicas; either may be lost without harm",
    )
    second_tier_bytes: int = _setting(
        _size,
        "8GiB",
        "disk that the second tier takes; the same for all processes of a data folder",
    )
    second_tier_ttl_seconds: int = _setting(
        _whole_seconds, "0", "how long a shared second tier keeps an embedding; 0 has no limit"
    )
    second_tier_cluster: Literal["on", "off"] = _setting(
        _choice("on", "off"), "off", "whether the shared second tier is a cluster"
    )
    second_tier_timeout_seconds: float = _setting(
        _seconds, "0.02", "how long a request waits for the second tier"
    )
    document_store: str = _setting(
        _kept_in,
        "disk",
        "where documents named by id are kept: disk is the data folder, or the valkey:// URL of a "
        "durable Valkey; off has no DocumentService",
    )
    document_store_bytes: int = _setting(
        _size, "64GiB", "disk for the document store; the file grows as it is needed"
    )
    max_namespace_bytes: int = _setting(_size, "10GiB", "quota of stored documents of a namespace")
    cache_secret: bytes | None = _setting(
        _secret,
        "",
        "key of the cache keys, the same for all replicas; made once in the data folder if unset",
    )
    max_request_bytes: int = _setting(_size, "32MiB", "largest request message")
    max_documents: int = _setting(_count, "1000", "most documents in a Rerank")
    max_inputs: int = _setting(_count, "2048", "most texts in an Embed")
    max_query_bytes: int = _setting(_size, "32KiB", "longest query, in UTF-8")
    max_document_bytes: int = _setting(_size, "1MiB", "longest document with its title, in UTF-8")
    max_instruction_bytes: int = _setting(_size, "4KiB", "longest instruction, in UTF-8")
    max_concurrent_requests: int = _setting(
        _count, "256", "requests in progress; one more is RESOURCE_EXHAUSTED"
    )
    max_running_tokens: int = _setting(
        _count, "65536", "estimated tokens of work handed to a model at once; the rest waits"
    )
    max_waiting_tokens: int = _setting(
        _count, "1048576", "estimated tokens of waiting work; more is RESOURCE_EXHAUSTED"
    )
    health_interval_seconds: float = _setting(
        _seconds, "2", "how often the backends' health is checked"
    )
    max_connection_age_seconds: float = _setting(
        _seconds,
        "600",
        "after so long a client is asked to connect again, so that it finds new replicas; calls in "
        "progress go on, and 0 never asks",
    )
    drain_seconds: float = _setting(
        _seconds, "10", "how long requests in progress may finish after SIGTERM or Ctrl-C"
    )
    log_level: str = _setting(
        _choice("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "least severe messages to log"
    )


# URLs may have a password in them.
_SECRETS = frozenset(
    {"cache_secret", "vllm_api_key", "generator_api_key", "second_tier", "document_store"}
)


def flag(setting: Field[Any]) -> str:
    """Return the command-line flag of a setting."""
    return "--" + setting.name.replace("_", "-")


def variable(setting: Field[Any]) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + setting.name.upper()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2rank_server",
        description="Serve embedding and E2Rank reranking over gRPC. Every flag can also be "
        f"given as an environment variable: --listen is {ENVIRONMENT_PREFIX}LISTEN.",
        allow_abbrev=False,
    )
    for setting in fields(Settings):
        default = setting.metadata["default"]
        shown = f" (default: {default})" if default else ""
        parser.add_argument(
            flag(setting),
            dest=setting.name,
            metavar="VALUE",
            help=(setting.metadata["help"] + shown).replace("%", "%%"),
        )
    return parser


def read_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read flags and environment.

    Raises:
        ConfigurationError: with one line for every setting that is unknown or wrong,
            naming it, its value and what was expected.
    """
    known = {variable(setting) for setting in fields(Settings)}
    problems = [
        f"environment variable {name}: no such setting"
        for name in sorted(environ)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]
    given, unknown = _parser().parse_known_args(list(arguments))
    # A value after an unknown flag is unknown to the parser, too, and needs no line of its own.
    problems += [f"{argument}: no such setting" for argument in unknown if argument[:1] == "-"]
    if unknown and unknown[0][:1] != "-":
        problems.append(f"{unknown[0]!r}: settings are given as --name value")
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        source, text = flag(setting), getattr(given, setting.name)
        if text is None:
            source, text = variable(setting), environ.get(variable(setting))
        if text is None:
            continue
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            shown = "(not shown)" if setting.name in _SECRETS else repr(text)
            problems.append(f"{source}: {shown} is not {error}")
    if problems:
        raise ConfigurationError(problems)
    return Settings(**values)
