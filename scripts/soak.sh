#!/usr/bin/env bash
# Runs under random kills, each compared bit for bit with one that is left alone.
#
#   scripts/soak.sh [--kills N] [--modes one two ...] [--seed S] [--dir runs/soak]
#
# Short runs of the demo's model, two modes side by side, a thread a process, get SIGKILLs at random
# moments: in a start, a step, a save, a removal; all processes at once, or one rank or one data
# worker first. The same command goes on after each, until the run ends. 1,000 kills take some 40
# minutes on two cores, and may come in pieces: the same command goes on after an interruption.
# Exit status 0: equal steps, losses, weights, moments and averages.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
. scripts/install.sh demo
exec python scripts/soak.py "$@"
