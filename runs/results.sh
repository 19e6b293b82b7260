#!/bin/sh
# Every figure of docs/results.md, measured here; about six hours on two quiet cores. Each step may be repeated alone.
# What is measured already is not trained again: add --again to a step to do it anew.
set -eu
cd "$(dirname "$0")/.."
export TOKENIZERS_PARALLELISM=false
measure() { name=$1; shift; .venv/bin/python -m "benchmarks.$name" "$@"; }

make install

# Start-up first: it is the figure a busy machine spoils most.
measure start_up

# Speed: our step and the peer's best take turns, then our step and its own matrix products.
measure train_speed
measure matmul_share

# What a model of a minute is worth: three seeds, each with empty compile caches.
measure tiny_shakespeare --preset 1min

# How soon ours is where the known recipe ends, both on this machine.
measure to_188

# The count model.
measure ngram

# Never lose work: twenty kills.
measure kill9

# Ten minutes on every core, one seed.
measure tiny_shakespeare --preset 10min

# Taggers, floors, vectors, weights from elsewhere.
measure hmm_tagging
measure linear_floor
measure word_vectors
measure pretrained

# The longer ones: ten minutes to an hour each.
measure lstm
measure translation
measure vae
measure gan
measure encoder_pretraining
measure families
measure small_data

# The page.
measure table
