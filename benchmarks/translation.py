"""English to German on Multi30k in thirty minutes: sacrebleu of greedy translations of test 2016.

The encoder–decoder is trained by `textus train --preset 30min` on the official training pairs, of which two in a
hundred choose the weights; nothing of the official validation or test set is seen. BLEU is sacrebleu's own: cased,
detokenised text, its 13a tokenisation, and its bootstrap for the interval. A run that was interrupted is resumed.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

from benchmarks._material import corpus, data_file, tokenizer, write_jsonl
from benchmarks._runner import Bench, begin, flags, show, with_interval
from textus import api

SETTINGS = [
    "model.n_layer=3", "model.d_model=256", "model.d_ff=1024", "model.n_head=4", "model.dropout=0.3",
    "model.context_length=128", "train.batch_size=256",
]  # fmt: skip
TINY = [
    "model.n_layer=1",
    "model.d_model=64",
    "model.n_head=2",
    "model.context_length=128",
    "train.batch_size=32",
]
BUDGET = "30min"
SHOWN = 3


def lines(name: str, language: str) -> list[str]:
    """The sentences of one side of a part of Multi30k."""
    with gzip.open(data_file("multi30k", f"{name}.{language}.gz"), "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def train(bench: Bench) -> tuple[Path, str]:
    """The run, and the command that made it."""
    pairs = list(zip(lines("train", "en"), lines("train", "de"), strict=True))[: 600 if bench.smoke else None]
    table = write_jsonl(bench.work / "train.jsonl", ({"source": en, "target": de} for en, de in pairs))
    built = corpus(bench, bench.work / "corpus", table, split="hash:0.02")
    size, out = 500 if bench.smoke else 8000, bench.work / "run"
    vocabulary = tokenizer(bench, bench.work / f"bpe-{size}", built, "bpe", size)
    budget = {"steps": 20} if bench.smoke else {"preset": BUDGET}
    options = flags(
        model="encoder-decoder", tokenizer=vocabulary, **budget, set=TINY if bench.smoke else SETTINGS, out=out,
        force=True,
    )  # fmt: skip
    command = ["train", str(built), *options]
    resumed = (out / "run.json").exists() and not bench.options.again and not bench.smoke
    if not (resumed and bench.finished(out)):
        bench.textus(*(["resume", out] if resumed else command))
    return out, " ".join(["textus", *command])


def translations(run: api.Run, sources: list[str]) -> list[str]:
    """Greedy translations, many rows at once."""
    from textus.generation.engine import Engine
    from textus.generation.params import SamplingParams
    from textus.generation.sampling import bos_ids

    end_id = run.tokenizer.end_id
    run.model.set_compute("float32", "plain", "eager")
    written: list[list[int]] = [[] for _ in sources]
    prompts = [bos_ids(run.model, end_id)] * len(sources)
    ids = [run.tokenizer.encode(source) for source in sources]
    for event in Engine(run.model, end_id=end_id, max_rows=64).stream(
        prompts, SamplingParams(temperature=0, max_tokens=100), ids
    ):
        if event.id is not None:
            written[event.row].append(event.id)
    return [run.tokenizer.decode(row) for row in written]


def bleu(translated: list[str], references: list[str]) -> dict[str, Any]:
    """sacrebleu's BLEU with its 95 % interval over resampled sentences, and its signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    score = metric.corpus_score(translated, [references], n_bootstrap=1000)
    low, high = score._mean - score._ci, score._mean + score._ci
    figure = {"value": score.score, "low": low, "high": high, "n": len(translated)}
    return {"bleu": figure, "signature": str(metric.get_signature())}


def measure(bench: Bench) -> dict[str, Any]:
    """Train if needed, translate the test set, score it."""
    out, command = train(bench)
    run, count = api.open_run(out), 20 if bench.smoke else None
    sources, references = (lines("test_2016_flickr", language)[:count] for language in ("en", "de"))
    started = time.monotonic()
    translated = translations(run, sources)
    seconds = time.monotonic() - started
    return {
        **bleu(translated, references),
        "sentences_a_second": round(len(translated) / seconds, 1),
        **{name: run.record[name] for name in ("seconds", "cpu_seconds", "steps", "best")},
        "choices": run.record["compute"],
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "examples": [list(example) for example in zip(sources, translated, references, strict=True)][:SHOWN],
        "trained_by": command,
    }


def main() -> None:
    """Measure, or show the kept result."""
    bench = begin("translation", __doc__)
    if not bench.result:
        bench.result = measure(bench)
        bench.save()
    result = bench.result
    score = result["bleu"]
    row = [with_interval(score, ".1f"), score["n"], result["steps"]]
    row += [result["cpu_seconds"], result["seconds"], result["sentences_a_second"]]
    header = ["BLEU (95 %)", "sentences", "steps", "CPU-seconds", "seconds", "translations/s"]
    show("Multi30k, English to German, test 2016, greedy", header, [row])
    for source, translated, reference in result["examples"]:
        print(f"  {source}\n    {translated}\n    ({reference})")


if __name__ == "__main__":
    main()
