#!/bin/sh
# Everything that only a machine with an NVIDIA GPU can show, in one go from a plain checkout: sh bench/gpu.sh
# Needs Node 20, Python 3 with pip, the NVIDIA driver, a network. Extra arguments go to bench/gpu.mjs.
set -eu
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
[ -d node_modules ] || npm ci
npm run --silent build
export STV_DATA_DIR="${STV_DATA_DIR:-$PWD/.gpu-data}"
[ -e "$STV_DATA_DIR/devices/cuda/packages.json" ] || node dist/cli/main.js device install cuda
node dist/cli/main.js device list
for weights in fp32 int8 int4; do node bench/gpu.mjs --weights "$weights" "$@"; done
