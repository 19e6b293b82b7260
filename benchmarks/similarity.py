"""How near two sentences are, and what a search finds by it: MiniLM as it comes and fine-tuned.

STS-B in English: Spearman of the cosine of `textus evaluate --task similarity` on the test set, before and after
`textus finetune --task similarity`, whose rate is chosen on the dev set; the interval is over pairs. XQuAD in English:
its 240 paragraphs as an index, its 1,190 questions as queries, searched by words, by meaning (MiniLM as it comes) and
by both.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._material import data_file, first_lines, minilm, write_jsonl
from benchmarks._runner import Bench, begin, dev_score, show
from textus.data.labeled import stream_records

RATES = (2e-5, 5e-5, 1e-4)
EPOCHS = 4
OPTIONS = {"columns": "0=text,1=text_pair,2=score", "task": "similarity"}
MODES = ("bm25", "dense", "hybrid")


def part(bench: Bench, name: str) -> Path:
    """A part of STS-B; its first rows in a smoke run."""
    return first_lines(bench, data_file("stsb_multi", f"stsb-en-{name}.csv"), 48)


def evaluate(bench: Bench, run: Path) -> dict[str, Any]:
    """Spearman on the test set."""
    scores = bench.scores("evaluate", run, on=part(bench, "test"), **OPTIONS)
    return {"spearman": scores["spearman"], "pearson": scores["pearson"]}


def finetune(bench: Bench, rate: float) -> dict[str, Any]:
    """A fine-tuning, and the dev score of its weights."""
    out = bench.work / f"rate-{rate:g}"
    record = bench.train(
        "finetune", part(bench, "train"), dev=part(bench, "dev"), **OPTIONS, **{"from": minilm(bench)},
        set=f"optim.rate={rate}", epochs=1 if bench.smoke else EPOCHS, out=out,
    )  # fmt: skip
    return {
        "rate": rate, "dev": dev_score(record), "cpu_seconds": record["cpu_seconds"],
        "seconds": record["seconds"], "run": str(out), "command": record["command"],
    }  # fmt: skip


def search(bench: Bench) -> dict[str, Any]:
    """Paragraphs retrieved for questions, by mode."""
    squad, index = data_file("xquad", "xquad.en.json"), bench.work / "index"
    if bench.smoke:
        rows = [record.values for record in islice(stream_records(squad), 12)]
        fields = ("question", "context")
        squad = write_jsonl(
            bench.work / "questions.jsonl", ({name: row[name] for name in fields} for row in rows)
        )
    options = {"columns": "text=context", "run": minilm(bench), "bm25": True, "out": index, "force": True}
    build = bench.textus("index", "build", squad, **options)
    modes = {}
    for mode in MODES:
        columns = "text=question,document=context"
        scores = bench.scores("index", "evaluate", index, on=squad, mode=mode, columns=columns)
        modes[mode] = {name: scores[name] for name in ("recall@1", "recall@5", "mrr@10", "ndcg@10")}
    return {"ways": modes, "build_cpu_seconds": round(build.cpu, 1)}


def main() -> None:
    """As it comes, fine-tuned, searched."""
    bench = begin("similarity", __doc__)
    result, trials = bench.result, bench.part("trials")
    bench.once(result, "as_it_comes", evaluate, bench, minilm(bench))
    for rate in RATES[: 1 if bench.smoke else None]:
        bench.once(trials, f"{rate:g}", finetune, bench, rate)
    best = max(trials.values(), key=lambda trial: trial["dev"])
    if result.get("fine_tuned", {}).get("rate") != best["rate"]:
        result["fine_tuned"] = {**best, **evaluate(bench, Path(best["run"]))}
        bench.save()
    modes = bench.once(result, "search", search, bench)["ways"]
    rows = [[name, *cells(result[name]["spearman"])] for name in ("as_it_comes", "fine_tuned")]
    show("STS-B, Spearman on the test set", ["MiniLM", "value", "low", "high"], rows)
    rows = [[mode, *cells(modes[mode]["recall@5"])] for mode in MODES]
    show("XQuAD, paragraphs retrieved for questions", ["by", "recall@5", "low", "high"], rows)


def cells(figure: dict[str, float]) -> list[str]:
    """Value and interval for the table."""
    return [f"{figure[name]:.4f}" for name in ("value", "low", "high")]


if __name__ == "__main__":
    main()
