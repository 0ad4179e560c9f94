"""Generates the Python code of the contract beside its .proto files.

python protos/generate.py           write it
python protos/generate.py --check   fail if what is there is not what would be written
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(output: Path) -> list[Path]:
    """Write the generated modules below `output`; return them, relative to it."""
    sources = sorted(PROTOS.glob("e2rank/**/*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{well_known}",
        f"--python_out={output}",
        f"--pyi_out={output}",
        f"--grpc_python_out={output}",
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    return sorted(path.relative_to(output) for path in output.rglob("*_pb2*.py*"))


def main() -> int:
    """Generate, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if not parser.parse_args().check:
        generate(PROTOS)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        expected = generate(fresh)
        present = sorted(
            path.relative_to(PROTOS)
            for path in PROTOS.rglob("*_pb2*.py*")
            if path.suffix in {".py", ".pyi"}
        )
        stale = [
            path
            for path in expected
            if path not in present or (fresh / path).read_bytes() != (PROTOS / path).read_bytes()
        ]
        stale += [path for path in present if path not in expected]
    if stale:
        print("stale generated code, run `make protos`:", *stale, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
