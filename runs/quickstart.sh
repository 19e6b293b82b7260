#!/bin/bash
# The whole story of Textus in one script: from raw text to a language model, a classifier, a search index and a server.
# About five minutes on two cores with the default budget; no network. Run it from a clone after `make install`:
#
#     bash runs/quickstart.sh
#
# OUT=folder SIZE="--preset 1h" bash runs/quickstart.sh   writes elsewhere and trains longer.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

OUT=${OUT:-work}        # everything is written below this folder, which must not exist yet
SIZE=${SIZE:---preset 1min}  # of the language model: a time to train (1min, 10min, 1h, overnight, …) or --depth N --steps N
PORT=${PORT:-8000}
[ ! -e "$OUT" ] || { echo "$OUT exists; write elsewhere with OUT=folder bash $0" >&2; exit 2; }
mkdir -p "$OUT"

# ---------------------------------------------------------------------------------------------------------------------
# Text. The language reference of Python, which every Python installation has. Replace it by any text of yours: files or
# folders of txt, md, html, json, jsonl, csv, tsv, parquet, plain or compressed.
python -c "from pydoc_data.topics import topics; print(*topics.values(), sep='\n\n')" > "$OUT/text.txt"

# Corpus: encodings detected, text repaired, duplicates dropped, a tenth held out for validation.
textus corpus build "$OUT/text.txt" --out "$OUT/corpus"
textus corpus trace "$OUT/corpus" "$OUT/text.txt"  # where a document came from and what happened to it

# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer. Byte-level BPE: any text can be encoded. 2,048 entries suit half a megabyte; use 4,096 or more for more text.
textus tokenizer train "$OUT/corpus" --kind bpe --vocab-size 2048 --out "$OUT/tokenizer"
textus tokenizer report "$OUT/tokenizer" "$OUT/corpus"  # bytes per token, coverage, unused entries

# ---------------------------------------------------------------------------------------------------------------------
# Language models. First a baseline: an n-gram with Kneser-Ney smoothing, trained in seconds by counting.
textus train "$OUT/corpus" --model ngram --tokenizer "$OUT/tokenizer" --out "$OUT/ngram"

# Then a Transformer decoder (rotary positions, RMSNorm, SwiGLU). Textus benchmarks how this machine computes a step
# fastest, and picks width, depth, learning rate and number of steps for the time budget. Ctrl-C saves; `textus resume` continues.
textus train "$OUT/corpus" --tokenizer "$OUT/tokenizer" $SIZE --out "$OUT/decoder"

# Is the network better than counting? Bits per byte on the same held-out text, with confidence intervals.
textus compare "$OUT/decoder" "$OUT/ngram" --out "$OUT/comparison"

# What does it write?
textus generate "$OUT/decoder" "The statement" --max-tokens 60 --seed 1
echo "What is a class?" | textus chat "$OUT/decoder" --max-tokens 40  # not trained on chats: it continues the text

# ---------------------------------------------------------------------------------------------------------------------
# A classifier. Labelled rows first (text, label): sentences about files, the network or numbers. Check them before training.
(cd "$OUT" && python "$OLDPWD/runs/docstring_rows.py")
textus validate "$OUT/train.csv" --test "$OUT/test.csv"

# Fine-tune the language model. A tenth of the rows is held out to choose the best weights.
textus finetune "$OUT/train.csv" --from "$OUT/decoder" --out "$OUT/areas"

# Evaluate next to two baselines trained on the same rows: the most frequent class, and TF-IDF with a linear model. The
# page in report/ has the confusion matrix, calibration and the most confident mistakes.
textus evaluate "$OUT/areas" --on "$OUT/test.csv" --slice length --out "$OUT/report"

# How much does it lose when the text has typos or other case?
textus robustness "$OUT/areas" --on "$OUT/test.csv"

# Use it: one text, or a file.
textus predict "$OUT/areas" "Open the archive and read its members."
textus predict "$OUT/areas" "$OUT/test.csv" --out "$OUT/predictions.csv"

# ---------------------------------------------------------------------------------------------------------------------
# Search the same sentences by keywords (BM25); `--run RUN` adds the vectors of a model.
textus index build "$OUT/test.csv" --bm25 --out "$OUT/index"
textus search "$OUT/index" "open a compressed file" --top 3

# ---------------------------------------------------------------------------------------------------------------------
# Trust nothing: every file of a run has its hash, and the record has the command that made it.
textus verify "$OUT/decoder"
textus show "$OUT/areas" | head -12

# Take it elsewhere: a folder that `transformers` loads.
textus export "$OUT/decoder" --to hf --out "$OUT/exported"

# ---------------------------------------------------------------------------------------------------------------------
# Serve: an OpenAI-compatible API, and a page in English and Chinese to try the models. Here it is stopped after one request;
# run the first line by itself to keep it.
textus serve "$OUT/decoder" "$OUT/ngram" --port "$PORT" &
trap 'kill %1' EXIT
curl -s --retry 60 --retry-delay 1 --retry-connrefused "http://127.0.0.1:$PORT/v1/completions" \
  -H "Content-Type: application/json" -d '{"model": "decoder", "prompt": "The statement", "max_tokens": 20}'
