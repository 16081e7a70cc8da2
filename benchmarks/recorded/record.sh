#!/bin/sh
# Makes fashion_rts.parquet: the same 120 configurations, trained to the end at each T and seed.
# From the repository's root, after make setup; about 15 minutes on 2 cores. Fashion-MNIST's IDX
# files are found where Debian's package dataset-fashion-mnist puts them, or set data.root.
set -e
storage=${1:-sweeps-recorded}
rts=.venv/bin/rts-search
for job in "3 42" "9 42" "27 42" "27 43" "3 43" "9 43" "27 44" "27 45"; do
  set -- $job
  $rts sweep benchmarks/recorded/fashion_rts.yaml --set storage="$storage" \
    --set train.epochs="$1" --set train.seed="$2" --set name="T$1-s$2"
done
$rts replay --storage "$storage" --export benchmarks/recorded/fashion_rts.parquet
