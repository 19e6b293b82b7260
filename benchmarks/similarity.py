"""How near two sentences are, and what is found by it: MiniLM as it comes and fine-tuned.

STS-B in English: Spearman of the cosine of `textus evaluate --task similarity` on the test set, before and after
`textus finetune --task similarity`, whose rate is chosen on the dev set; the interval is over pairs. XQuAD in English:
its 240 paragraphs as an index, its 1,190 questions as queries, found by words, by meaning (MiniLM as it comes) and by
both. Whatever was measured already is taken.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, WORK, Bench, begin, show, textus
from textus.core.console import log_notice
from textus.core.io import read_json
from textus.data.labeled import read_records

RATES = (2e-5, 5e-5, 1e-4)
EPOCHS = 4
COLUMNS = ("--columns", "0=text,1=text_pair,2=score")
WAYS = ("bm25", "dense", "hybrid")


def pretrained(bench: Bench) -> Path:
    """MiniLM as a run; one pulled before is taken."""
    out = WORK / "pretrained" / "minilm"
    if not (out / "run.json").exists():
        textus(["pull", "minilm", "--out", out, "--force"], log=bench.work / "log.txt")
    return out


def part(bench: Bench, name: str) -> Path:
    """A part of STS-B; the first rows of it for a smoke run."""
    source = DATA / "stsb_multi" / f"stsb-en-{name}.csv"
    if not source.exists():
        raise SystemExit(f"{source} is not there; set TEXTUS_DATA to the folder of the data sets")
    if not bench.smoke:
        return source
    few = bench.work / f"{name}.csv"
    with source.open(encoding="utf-8", newline="") as lines:
        few.write_text("".join(islice(lines, 48)), encoding="utf-8", newline="")
    return few


def tested(bench: Bench, run: Path) -> dict[str, Any]:
    """Spearman on the test set."""
    words = ["evaluate", run, "--on", part(bench, "test"), *COLUMNS, "--task", "similarity", "--json"]
    found: dict[str, Any] = json.loads(textus(words, log=bench.work / "log.txt").output)
    return {"spearman": found["spearman"], "pearson": found["pearson"]}


def taught(bench: Bench, start: Path, rate: float) -> dict[str, Any]:
    """A fine-tuning, and how good its weights to use are on the dev set."""
    out, log = bench.work / f"rate-{rate:g}", bench.work / "log.txt"
    words: list[str | Path] = ["finetune", part(bench, "train"), "--dev", part(bench, "dev"), *COLUMNS]
    words += ["--task", "similarity", "--from", start, "--set", f"optim.rate={rate}", "--out", out, "--force"]
    textus([*words, "--epochs", "1" if bench.smoke else str(EPOCHS)], log=log)
    record = read_json(out / "run.json")
    return {
        "rate": rate, "dev": -record["best"]["criterion"], "cpu_seconds": record["cpu_seconds"],
        "seconds": record["seconds"], "run": str(out), "command": record["command"],
    }  # fmt: skip


def searched(bench: Bench, start: Path) -> dict[str, Any]:
    """Paragraphs found for questions, by each way."""
    squad, log = DATA / "xquad" / "xquad.en.json", bench.work / "log.txt"
    if bench.smoke:
        rows = islice(read_records(squad), 12)
        lines = (json.dumps({name: each.values[name] for name in ("question", "context")}) for each in rows)
        squad = bench.work / "questions.jsonl"
        squad.write_text("\n".join(lines), encoding="utf-8")
    index = bench.work / "index"
    build: list[str | Path] = ["index", "build", squad, "--columns", "text=context", "--run", start, "--bm25"]
    made = textus([*build, "--out", index, "--force"], log=log)
    found = {}
    for way in WAYS:
        asked: list[str | Path] = ["index", "evaluate", index, "--on", squad, "--mode", way, "--json"]
        told = json.loads(textus([*asked, "--columns", "text=question,document=context"], log=log).output)
        found[way] = {name: told[name] for name in ("recall@1", "recall@5", "mrr@10", "ndcg@10")}
    return {"ways": found, "build_cpu_seconds": round(made.cpu, 1)}


def main() -> None:
    """As it comes, fine-tuned, searched; each part is kept as soon as it is measured."""
    bench = begin("similarity", __doc__)
    start, data = pretrained(bench), bench.kept()
    if "as_it_comes" not in data:
        data["as_it_comes"] = tested(bench, start)
        bench.save(data)
    trials: dict[str, Any] = data.setdefault("trials", {})
    for rate in RATES[: 1 if bench.smoke else None]:
        if f"{rate:g}" not in trials:
            trials[f"{rate:g}"] = taught(bench, start, rate)
            log_notice(f"rate {rate:g}: dev {trials[f'{rate:g}']['dev']:.4f}")
            bench.save(data)
    best = max(trials.values(), key=lambda each: each["dev"])
    if data.get("fine_tuned", {}).get("rate") != best["rate"]:
        data["fine_tuned"] = {**best, **tested(bench, Path(best["run"]))}
        bench.save(data)
    if "search" not in data:
        data["search"] = searched(bench, start)
        bench.save(data)
    rows = [[name, *ranged(data[name]["spearman"])] for name in ("as_it_comes", "fine_tuned")]
    show("STS-B, Spearman on the test set", ["MiniLM", "value", "low", "high"], rows)
    ways = data["search"]["ways"]
    show(
        "XQuAD, paragraphs found for questions", ["by", "recall@5", "low", "high"],
        [[way, *ranged(ways[way]["recall@5"])] for way in WAYS],
    )  # fmt: skip


def ranged(figure: dict[str, float]) -> list[str]:
    """Value and interval for people."""
    return [f"{figure[name]:.4f}" for name in ("value", "low", "high")]


if __name__ == "__main__":
    main()
