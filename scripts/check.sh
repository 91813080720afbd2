#!/usr/bin/env bash
# Install, lint, type-check, test. `scripts/check.sh --all` runs the tests marked slow too.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh dev
tests=(-m "not slow")
[ "${1:-}" != "--all" ] || tests=()
echo "== ruff"
ruff format --check --quiet .
ruff check --quiet .
echo "== basedpyright"
basedpyright
echo "== pytest"
python -m pytest -q ${tests[@]+"${tests[@]}"}
