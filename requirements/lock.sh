#!/bin/sh
# Resolves the pinned lists anew. cpu.txt leaves out what dev.txt has, and torch.
set -eu
cd "$(dirname "$0")"
options="--quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header"
uv pip compile $options dev.in -o dev.txt
uv pip compile $options cpu.in --override overrides.txt \
    --find-links https://download.pytorch.org/whl/cpu/torch/ -o cpu.all
grep -vxFf dev.txt cpu.all | grep -v -e '^torch==' -e '^--' > cpu.txt
rm cpu.all
