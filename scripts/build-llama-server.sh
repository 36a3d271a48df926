#!/usr/bin/env bash
# Builds llama.cpp's server and quantizer, the peer of our benchmarks, from the source that the llama-cpp-python source
# package carries. Usage: scripts/build-llama-server.sh DIR   (prints the folder with the programs; a second call returns at once)
# About 8 minutes on 2 cores; needs python3 with pip, cmake, ninja and a C++ compiler.
set -euo pipefail
version=0.3.36
target=${1:?usage: build-llama-server.sh DIR}
mkdir -p "$target/bin"
bin=$(cd "$target/bin" && pwd)
if [ -x "$bin/llama-server" ]; then
  echo "$bin"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$version"
tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
source=$work/llama_cpp_python-$version/vendor/llama.cpp
options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF)
cmake -S "$source" -B "$work/build" -G Ninja "${options[@]}" >"$target/build.log" 2>&1
ninja -C "$work/build" llama-server llama-bench llama-quantize >>"$target/build.log" 2>&1
cp "$work"/build/bin/llama-{server,bench,quantize} "$bin/"
echo "$bin"
