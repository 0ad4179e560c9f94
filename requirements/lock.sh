#!/bin/sh
# Resolves the pinned lists anew. None repeats what is installed before it, nor torch.
set -eu
cd "$(dirname "$0")"
options="--quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header"
torch="--find-links https://download.pytorch.org/whl/cpu/torch/"
trap 'rm -f -- *.tmp' EXIT
# Elsewhere sentence-transformers is left out; here it is what is wanted.
grep -v '^sentence-transformers' overrides.txt > overrides.tmp

uv pip compile $options dev.in -o dev.txt
uv pip compile $options $torch cpu.in --override overrides.txt -o cpu.tmp
grep -vxFf dev.txt cpu.tmp | grep -v -e '^torch==' -e '^--' > cpu.txt
uv pip compile $options $torch bench.in --override overrides.tmp -o bench.tmp
grep -vxF -f dev.txt -f cpu.txt bench.tmp | grep -v -e '^torch==' -e '^--' > bench.txt
uv pip compile $options $torch peers.in --override overrides.tmp -o peers.tmp
grep -v -e '^torch==' -e '^--' peers.tmp > peers.txt
