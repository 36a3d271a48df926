#!/usr/bin/env bash
# schemathesis over the whole contract. Its environment is made once below ~/.cache; STV_SCHEMATHESIS names another program.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${STV_SCHEMATHESIS:-}" ]; then
  environment="${XDG_CACHE_HOME:-$HOME/.cache}/stv-ci/schemathesis"
  [ -x "$environment/bin/schemathesis" ] || { python3 -m venv "$environment"; "$environment/bin/pip" install -q schemathesis==4.32.5; }
  export STV_SCHEMATHESIS="$environment/bin/schemathesis"
fi
exec npx vitest run --project http tests/fuzz/schemathesis.test.ts
