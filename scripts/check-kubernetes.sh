#!/usr/bin/env bash
# Checks deploy/kubernetes against the published schemas of Kubernetes, strictly: an unknown field is an error. The schemas come
# with the Python package kubernetes-validate. keda.yaml is an object of KEDA, which those schemas do not have.
# Usage: scripts/check-kubernetes.sh [FOLDER]   FOLDER keeps the Python environment for the next time.
set -euo pipefail

readonly package=kubernetes-validate version=1.37.0
repository=$(cd "$(dirname "$0")/.." && pwd)

if [ $# -gt 0 ]; then
  environment=$1
else
  environment=$(mktemp -d)
  trap 'rm -rf "$environment"' EXIT
fi
if [ ! -x "$environment/bin/kubernetes-validate" ]; then
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check "$package==$version"
fi
cd "$repository/deploy/kubernetes"
"$environment/bin/kubernetes-validate" --strict stv-server.yaml vllm.yaml
