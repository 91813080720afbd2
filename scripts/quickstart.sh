#!/usr/bin/env bash
# The main job on the embedded data set: pretrain, convert, probe against random initialisation.
#
#   scripts/quickstart.sh [--steps N]
#
# A second call resumes where the first stopped. --steps makes a shorter (or longer) run of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/quickstart
flags=()
while [ $# -gt 0 ]; do
    case $1 in
        --steps)
            [ $# -ge 2 ] || { echo "error: --steps needs a number" >&2; exit 2; }
            run=runs/quickstart-$2
            flags+=(--optim.steps "$2")
            shift 2
            ;;
        *)
            echo "usage: scripts/quickstart.sh [--steps N]" >&2
            exit 2
            ;;
    esac
done
. scripts/install.sh demo

launch=(accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no
    --dynamo_backend no)
train='data/demo/train-{000000..000003}.tar.gz'
test='data/demo/test-000000.tar.gz'
labelled=(--data.train "$train" --data.test "$test" --data.group group --cache "$run/features")
random=(--weights none --random.like "$run/encoder.safetensors")

echo "== data: rendered emoji artwork"
python -m data.demo check

echo "== pretraining: scripts/recipes/demo.yaml"
"${launch[@]}" pretrain.py scripts/recipes/demo.yaml --run.dir "$run" ${flags[@]+"${flags[@]}"}

echo "== conversion to timm"
python -m fcmae.convert "$run" "$run/encoder.safetensors" --to timm

# probe NAME ARGUMENT...: linear probe and k-NN, unless their results are there already
probe() {
    local name=$1
    shift
    for program in linear_probe knn; do
        local out=$run/$name-$program.json
        if [ -e "$out" ]; then
            echo "$out is there already"
        else
            "${launch[@]}" -m "finetune.$program" "$@" "${labelled[@]}" --out "$out"
        fi
    done
}
echo "== probes of random initialisation"
probe random "${random[@]}"
echo "== probes of the pretrained encoder"
probe pretrained --weights "$run/encoder.safetensors"

echo "== plain baselines"
if [ -e "$run/baselines.json" ]; then
    echo "$run/baselines.json is there already"
else
    python scripts/baselines.py --train "$train" --test "$test" --out "$run/baselines.json"
fi

echo "== report"
python scripts/report.py "$run"
