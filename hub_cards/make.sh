#!/usr/bin/env bash
# Make the repositories that lie here, as far as git keeps them: the card, its figures and the results.
#   hub_cards/make.sh demo                  the cluster model of `st-cluster-batches demo`, of your own docstrings
#   hub_cards/make.sh static DATA MINILM    a static model of recipes/many_sources/collections; DATA is as recipes/README.md
#                                           says, MINILM the path of all-MiniLM-L6-v2
#   hub_cards/make.sh pairs DATA MINILM     the pairs of DATA with ten clusters of each source, to show the page that such
#                                           a repository gets: these texts are of several licences, publish your own
# Afterwards the model, or the data, is there too, and with a token it is one command to
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
    st-cluster-batches train recipes/many_sources/collections/cluster.yaml --data_dir "$2" \
        --model_name_or_path "static:$3" --encoder "static:$3" --output_dir "$runs/static"
    st-cluster-batches build "$runs/static" --output hub_cards/static \
        --comparison recipes/many_sources/collections/results --language en
    ;;
pairs)
    st-cluster-batches attach "$2/train" "$runs/pairs" --encoder "static:$3" --n_clusters 10
    st-cluster-batches build "$runs/pairs" --output hub_cards/pairs --language en
    ;;
*)
    sed -n '2,9s/^# //p' "$0" >&2
    exit 2
    ;;
esac
