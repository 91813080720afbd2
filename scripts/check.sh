#!/usr/bin/env bash
# Install, lint, type-check, test. `scripts/check.sh --all` runs the tests marked slow too.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh dev
tests=(-m "not slow")
share=4 # processes for two cores
[ "${1:-}" != "--all" ] || { tests=(); share=5; }
echo "== ruff"
ruff format --check --quiet .
ruff check --quiet .
# Types are checked in one thread, beside the tests, which wait for disks and each other at times.
told=$(mktemp -d)
basedpyright >"$told/types" 2>&1 &
checking=$!
trap 'kill "$checking" 2>/dev/null || true; rm -rf "$told"' EXIT
echo "== pytest"
# More processes than cores, each with one thread: many tests wait for programs and servers, the slow
# ones most of all.
# Tests of a file stay together: they share its runs; their order is that of tests/conftest.py.
# A process that dies is not replaced: pytest-xdist would wait for it for good.
# Hundreds of programs read what the first one of them compiled, wherever this is switched off.
unset PYTHONDONTWRITEBYTECODE
status=0
cores=$(python -c "from fcmae.run.threads import cores; print(cores())")
OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -q -n "$((share * cores / 2))" --dist loadfile \
    --no-loadscope-reorder --max-worker-restart=0 ${tests[@]+"${tests[@]}"} | tee "$told/tests" || status=$?
echo "== basedpyright"
wait "$checking" || status=$?
cat "$told/types"
tail -n 1 "$told/tests" # how the tests ended, once more, as the last line
exit "$status"
