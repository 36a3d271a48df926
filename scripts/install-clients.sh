#!/usr/bin/env bash
# Installs what the suite `clients` starts: Node clients beside their tests, Python ones in environments under $STV_CI_CACHE
# (two, because the LiteLLM proxy fixes versions of its own). Does nothing where the pinned versions are already there.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${STV_CI_CACHE:-$HOME/.cache/stv-ci}
mkdir -p "$cache"
exec 9>"$cache/clients.lock"
flock 9

# install STAMP PINS COMMAND...: runs the command unless it was run with these pins before.
install() {
  local stamp=$1 pins=$2
  shift 2
  cmp -s "$pins" "$stamp" && return
  "$@"
  cp "$pins" "$stamp"
}

node_clients() { npm ci --prefix tests/clients --ignore-scripts --no-audit; }
python_clients() {
  rm -rf "$1"
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
}

install tests/clients/node_modules/.pins tests/clients/package-lock.json node_clients
install "$cache/clients-venv/pins.txt" tests/clients/requirements.txt \
  python_clients "$cache/clients-venv" tests/clients/requirements.txt
install "$cache/litellm-venv/pins.txt" tests/clients/requirements-litellm.txt \
  python_clients "$cache/litellm-venv" tests/clients/requirements-litellm.txt
