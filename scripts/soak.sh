#!/usr/bin/env bash
# Half an hour of training under random kills, compared bit for bit with a run that is left alone.
#
#   scripts/soak.sh [MINUTES] [KILLS]      30 and 10 unless given
#
# Both train the demo's model side by side, a thread each. One gets KILLS SIGKILLs at random moments,
# of its data workers too, and the same command again after each. Exit status 0: equal steps,
# losses, weights, moments and averages.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
. scripts/install.sh demo
exec python scripts/soak.py "$@"
