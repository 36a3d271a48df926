#!/usr/bin/env bash
# Builds llama-server, which the tests of remote engines and the benchmarks talk to, from the sources inside the Python source
# package llama-cpp-python. Usage: scripts/build-llama-server.sh FOLDER   -> FOLDER/bin/llama-server, and beside it
# llama-bench, llama-batched-bench and llama-quantize. Some ten minutes on two cores; where it is built already, nothing is done.
# Needs python3 with pip, cmake, ninja and a C++ compiler.
set -euo pipefail

readonly package=llama-cpp-python version=0.3.36
readonly programs=(llama-server llama-bench llama-batched-bench llama-quantize)

if [ $# -ne 1 ]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
mkdir -p "$1/bin"
target=$(cd "$1" && pwd)

# For this very processor; but llama.cpp's AMX kernels ended with an illegal instruction on a virtual machine that announces AMX,
# so where AMX is announced everything else is named.
processor=(-D GGML_NATIVE=ON)
announces() { grep -qw "$1" /proc/cpuinfo; }
if announces amx_tile; then
  processor=(-D GGML_NATIVE=OFF -D GGML_AVX512=ON)
  for extension in avx512_vnni avx512_bf16 avx_vnni; do
    if announces "$extension"; then processor+=(-D "GGML_${extension^^}=ON"); fi
  done
  if announces avx512vbmi; then processor+=(-D GGML_AVX512_VBMI=ON); fi
fi

readonly recipe="$package $version ${processor[*]}"
missing=0
for program in "${programs[@]}"; do
  [ -x "$target/bin/$program" ] || missing=1
done
if [ "$missing" = 0 ] && [ "$(cat "$target/recipe" 2>/dev/null)" = "$recipe" ]; then
  echo "$target/bin"
  exit 0
fi

sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
echo "Fetching the sources of $package $version" >&2
python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$sources" "$package==$version"
tar --extract --gzip --strip-components=1 --directory "$sources" --file "$sources"/*.tar.gz

# no TLS, page, tests or shared libraries: one file that runs where it is copied to
cmake -S "$sources/vendor/llama.cpp" -B "$sources/build" -G Ninja \
  -D CMAKE_BUILD_TYPE=Release -D BUILD_SHARED_LIBS=OFF "${processor[@]}" \
  -D LLAMA_CURL=OFF -D LLAMA_OPENSSL=OFF -D LLAMA_BUILD_UI=OFF \
  -D LLAMA_BUILD_TESTS=OFF -D LLAMA_BUILD_EXAMPLES=OFF >"$target/configure.log" 2>&1 \
  || { tail -n 20 "$target/configure.log" >&2; exit 1; }
echo "Building (log: $target/build.log)" >&2
cmake --build "$sources/build" --target "${programs[@]}" >"$target/build.log" 2>&1 \
  || { tail -n 20 "$target/build.log" >&2; exit 1; }
for program in "${programs[@]}"; do
  install -m 755 "$sources/build/bin/$program" "$target/bin/$program"
done
echo "$recipe" >"$target/recipe"
echo "$target/bin"
