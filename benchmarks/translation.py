"""English to German on Multi30k in thirty minutes: sacrebleu of greedy translations of test 2016.

The encoder–decoder is trained by `textus train --preset 30min` on the official training pairs, of which two in a
hundred choose the weights; nothing of the official validation or test set is seen. BLEU is sacrebleu's own: cased,
detokenised text, its 13a tokenisation, and its bootstrap for the interval. A run that was interrupted is resumed.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, Bench, begin, corpus, show, textus, tokenizer
from textus import api
from textus.core.console import log_notice
from textus.core.io import read_json

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
    path = DATA / "multi30k" / f"{name}.{language}.gz"
    if not path.exists():
        raise SystemExit(f"{path} is not there; set TEXTUS_DATA to the folder of the data sets")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def training_pairs(bench: Bench) -> Path:
    """The training pairs as a table with the columns source and target."""
    path = bench.work / "train.jsonl"
    pairs = list(zip(lines("train", "en"), lines("train", "de"), strict=True))
    rows = [json.dumps({"source": en, "target": de}, ensure_ascii=False) for en, de in pairs]
    path.write_text("\n".join(rows[: 600 if bench.smoke else None]) + "\n", encoding="utf-8")
    return path


def trained(bench: Bench) -> tuple[Path, str]:
    """The run, and the command that made it."""
    built = corpus(bench.work / "corpus", training_pairs(bench), split="hash:0.02")
    size = "500" if bench.smoke else "8000"
    vocabulary = tokenizer(bench.work / f"bpe-{size}", built, "--kind", "bpe", "--vocab-size", size)
    out = bench.work / "run"
    words: list[str | Path] = ["train", built, "--model", "encoder-decoder", "--tokenizer", vocabulary]
    words += ["--steps", "20"] if bench.smoke else ["--preset", BUDGET]
    for setting in TINY if bench.smoke else SETTINGS:
        words += ["--set", setting]
    words += ["--out", out, "--force"]
    begun = (out / "run.json").exists() and not bench.options.again and not bench.smoke
    if begun and read_json(out / "run.json").get("status") == "finished":
        log_notice(f"{out} is trained already")
    else:
        textus(["resume", out] if begun else words, log=bench.work / "log.txt")
    return out, " ".join(["textus", *map(str, words)])


def translations(run: api.Run, sources: list[str]) -> list[str]:
    """Greedy translations, many rows at once."""
    from textus.generation.engine import Engine
    from textus.generation.params import SamplingParams
    from textus.generation.sampling import beginning

    end_id = run.tokenizer.end_id
    run.model.compute_with("float32", "plain", "eager")
    written: list[list[int]] = [[] for _ in sources]
    prompts = [beginning(run.model, end_id)] * len(sources)
    ids = [run.tokenizer.encode(source) for source in sources]
    for event in Engine(run.model, end_id=end_id, max_rows=64).stream(
        prompts, SamplingParams(temperature=0, max_tokens=100), ids
    ):
        if event.id is not None:
            written[event.row].append(event.id)
    return [run.tokenizer.decode(each) for each in written]


def bleu(found: list[str], wanted: list[str]) -> dict[str, Any]:
    """sacrebleu's BLEU with its 95 % interval over resampled sentences, and its signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    score = metric.corpus_score(found, [wanted], n_bootstrap=1000)
    half = score._ci
    figure = {"value": score.score, "low": score._mean - half, "high": score._mean + half, "n": len(found)}
    return {"bleu": figure, "signature": str(metric.get_signature())}


def main() -> None:
    """Train what is not trained, translate the test set, score it."""
    bench = begin("translation", __doc__)
    result = bench.kept()
    if not result:
        out, command = trained(bench)
        run = api.open_run(out)
        count = 20 if bench.smoke else None
        sources, wanted = (lines("test_2016_flickr", language)[:count] for language in ("en", "de"))
        started = time.monotonic()
        found = translations(run, sources)
        record = run.record
        result = {
            **bleu(found, wanted),
            "sentences_a_second": round(len(found) / (time.monotonic() - started), 1),
            "seconds": record["seconds"],
            "cpu_seconds": record["cpu_seconds"],
            "steps": record["steps"],
            "best": record["best"],
            "choices": record["compute"],
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "examples": [list(each) for each in zip(sources, found, wanted, strict=True)][:SHOWN],
            "trained_by": command,
        }
        bench.save(result)
    score = result["bleu"]
    row = [f"{score['value']:.1f} ({score['low']:.1f}–{score['high']:.1f})", score["n"], result["steps"]]
    row += [result["cpu_seconds"], result["seconds"], result["sentences_a_second"]]
    header = ["BLEU (95 %)", "sentences", "steps", "CPU-seconds", "seconds", "translations/s"]
    show("Multi30k, English to German, test 2016, greedy", header, [row])
    for source, found_text, wanted_text in result["examples"]:
        print(f"  {source}\n    {found_text}\n    ({wanted_text})")


if __name__ == "__main__":
    main()
