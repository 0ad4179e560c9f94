"""Starts a vLLM server for gateways elsewhere: `python -m e2rank_server.vllm_server`.

It is vLLM's own OpenAI-compatible server with the arguments that the gateway
would give its own engine, so that both compute the same. This program prepares
the model's files and then becomes that server; `--print` prints the command
instead, for containers and unit files.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2rank_server.embedder.vllm_arguments import engine_arguments
from e2rank_server.embedder.vllm_span_route import SpanRoute
from e2rank_server.errors import ConfigurationError
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.settings import Settings
from e2rank_server.vllm_process.environment import engine_variables
from e2rank_server.vllm_process.hardware import choose_dtype, runs_on_cpu
from e2rank_server.vllm_process.worker import GATEWAY_PID_VARIABLE, WORKER_EXTENSION

# vLLM's command does not run from every build of it; this module is what it starts.
SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"
# vLLM closes idle connections after 5 s, and a gateway checks who is there on each new one.
_KEEP_ALIVE_SECONDS = 3600
_MAX_KEY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Command:
    """A program's arguments and the variables to add to its environment."""

    arguments: list[str]
    variables: dict[str, str]


def server_command(profile: Profile, options: argparse.Namespace) -> Command:
    """Make the command of a profile's server; prepares its files, which may take minutes."""
    folder = prepare_model_folder(profile, options.data_directory / "models")
    engine = engine_arguments(
        profile,
        folder.path,
        dtype=choose_dtype(options.dtype),
        prefix_caching=options.prefix_caching == "on",
        is_cpu=runs_on_cpu(),
    )
    arguments = [sys.executable, "-m", SERVER_MODULE, *flags(engine)]
    arguments += flags({"served_model_name": profile.name, "disable_uvicorn_access_log": True})
    if options.uds is None:
        arguments += flags({"host": options.host, "port": options.port})
    else:
        arguments += flags({"uds": options.uds})
    if profile.listwise_pooling is Pooling.QUERY_TOKENS:
        arguments += flags({"middleware": f"{SpanRoute.__module__}.{SpanRoute.__qualname__}"})
    variables = engine_variables() | {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(_KEEP_ALIVE_SECONDS)}
    if options.end_with_parent:
        arguments += flags({"worker_extension_cls": WORKER_EXTENSION})
        variables[GATEWAY_PID_VARIABLE] = str(os.getppid())
    return Command([*arguments, *options.vllm_arguments], variables)


def flags(arguments: dict[str, Any]) -> list[str]:
    """Write named arguments as vLLM's command-line flags."""
    result = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            result.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict):
            result += [flag, json.dumps(value)]
        else:
            result += [flag, str(value)]
    return result


def read_api_key(file: Path) -> str:
    """Read a key from a file.

    Raises:
        ConfigurationError: there is none in it.
    """
    try:
        with file.open("rb") as opened:
            key = opened.read(_MAX_KEY_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError([f"--api-key-file: {file} cannot be read: {error}"]) from error
    if not key or len(key) > _MAX_KEY_BYTES or not key.isprintable():
        raise ConfigurationError(
            [f"--api-key-file: {file} is not a key of 1 to {_MAX_KEY_BYTES} characters"]
        )
    return key


def remove_stale_socket(path: Path) -> None:
    """Remove a socket that a server left behind which was killed: vLLM would not start over it.

    Raises:
        ConfigurationError: a server listens there, or it is no socket.
    """
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigurationError([f"--uds: {path} is in the way and no socket"])
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
    except OSError as error:
        raise ConfigurationError([f"--uds: {path} is in the way: {error}"]) from error
    else:
        raise ConfigurationError([f"--uds: a server listens on {path} already"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the server, or print its command; returns the exit status, 2 for wrong settings."""
    options = _parser().parse_args(arguments)
    try:
        key = None if options.api_key_file is None else read_api_key(options.api_key_file)
        if options.uds is not None and not options.print:
            remove_stale_socket(Path(options.uds))
        command = server_command(load_profile(options.profile), options)
    except ConfigurationError as error:
        for problem in error.problems:
            sys.stderr.write(f"vllm_server: error: {problem}\n")
        return 2
    if options.print:
        sys.stdout.write(_shell_line(command, options.api_key_file))
        return 0
    # In the environment, since every user of the machine can read a command line.
    keys = {} if key is None else {"VLLM_API_KEY": key}
    os.execve(sys.executable, command.arguments, os.environ | command.variables | keys)  # noqa: S606 - it becomes the server, so that signals reach that
    return 0


def _shell_line(command: Command, key_file: Path | None) -> str:
    parts = [f"{name}={shlex.quote(value)}" for name, value in command.variables.items()]
    if key_file is not None:
        parts.append(f'VLLM_API_KEY="$(cat {shlex.quote(str(key_file))})"')
    return " ".join([*parts, shlex.join(command.arguments)]) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2rank_server.vllm_server",
        description="Serve a profile's model with vLLM over HTTP, for gateways started with "
        "--vllm-urls.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--profile", default="all-minilm-l6-v2", help="a shipped profile's name or a .toml file")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    add("--uds", help="listen on this Unix socket instead")
    add("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    add("--prefix-caching", choices=["on", "off"], default="on")
    add("--api-key-file", type=Path, help="file with the key that clients must send")
    add(
        "--data-directory",
        type=lambda text: Path(text).expanduser(),
        default=Settings().data_directory,
        help="folder for prepared models (default: %(default)s)",
    )
    add("--end-with-parent", action="store_true", help="end when the process that started it ends")
    add("--print", action="store_true", help="print the command instead of running it")
    add("vllm_arguments", nargs="*", metavar="-- VLLM_ARGUMENTS", help="added to vLLM's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
