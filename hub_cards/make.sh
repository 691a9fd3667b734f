#!/usr/bin/env bash
# Make the repositories that lie here, as far as git keeps them: the card, its figures and the results.
#   hub_cards/make.sh demo                  the cluster model of `st-cluster-batches demo`, of your own docstrings
#   hub_cards/make.sh static DATA MINILM    the best model of recipes/real_pairs/static; see recipes/README.md for both
# Afterwards the model is there too, and with a token it is one command to
#   st-cluster-batches publish hub_cards/demo USER/NAME
set -euo pipefail
cd "$(dirname "$0")/.."
runs=runs/hub_cards

case ${1:-} in
demo)
    st-cluster-batches demo --output "$runs/demo"
    st-cluster-batches build "$runs/demo" --output hub_cards/demo --comparison "$runs/demo" --language en
    ;;
static)
    st-cluster-batches train recipes/real_pairs/static/source.yaml --data_dir "$2" --model_name_or_path "$3" \
        --encoder "static:$3" --output_dir "$runs/static"
    st-cluster-batches build "$runs/static" --output hub_cards/static \
        --comparison recipes/real_pairs/static/results --language en
    ;;
*)
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
    ;;
esac
