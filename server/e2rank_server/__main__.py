"""Starts the server: `python -m e2rank_server`."""

from __future__ import annotations

import os
import sys

from e2rank_server.errors import ConfigurationError
from e2rank_server.settings import read_settings


def main() -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit status: 2 for wrong settings."""
    try:
        settings = read_settings(sys.argv[1:], os.environ)
        # Children are new programs here and never use gRPC's state: without this, gRPC
        # remarks on every start of Triton that it cannot prepare for the fork.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
        # Only now: `--help` and wrong settings need not wait for the imports.
        import uvloop

        if settings.processes > 1:
            from e2rank_server.processes import run_processes

            uvloop.run(run_processes(settings, sys.argv[1:]))
        else:
            from e2rank_server.app import run

            uvloop.run(run(settings))
    except ConfigurationError as error:
        for problem in error.problems:
            sys.stderr.write(f"e2rank_server: error: {problem}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
