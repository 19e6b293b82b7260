"""Three tasks learnt at once by one MiniLM with three heads, beside each learnt alone in as many steps of its own.

Sentiment (SST-2, accuracy), similarity (STS-B in English, Spearman) and entities (CoNLL-2003, F1), of each every k-th
row, so that all of it takes a few CPU-minutes. Rate, epochs and mixing are those of `textus finetune` without a word,
chosen beforehand and the same on both sides; weights are chosen on dev rows. Both sides answer the whole test sets.
Whatever was measured already is taken.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._measuring import DATA, Bench, begin, show, textus
from benchmarks.classification import minilm
from textus.core.console import log_notice
from textus.core.io import read_json

TASKS: dict[str, tuple[str, str | None, str, dict[str, tuple[str, int]]]] = {
    "classification": (
        "accuracy", "0=text,1=label", "sst2",
        {"train": ("train.tsv", 1600), "dev": ("dev.tsv", 400), "test": ("test.tsv", 1821)},
    ),
    "similarity": (
        "spearman", "0=text,1=text_pair,2=score", "stsb_multi",
        {"train": ("stsb-en-train.csv", 800), "dev": ("stsb-en-dev.csv", 400), "test": ("stsb-en-test.csv", 1379)},
    ),
    "tagging": (
        "f1", None, "conll2003",
        {"train": ("train.txt", 1600), "dev": ("valid.txt", 400), "test": ("test.txt", 3684)},
    ),
}  # fmt: skip
"""Task → its figure, its columns, its folder, and of each part the file and how many rows are taken."""
FEW = 24
SAME = ("--set", "train.batch_size=16", "--set", "train.log_every=1")


def part(bench: Bench, task: str, name: str) -> Path:
    """Every k-th row of a part of a data set, from its beginning to its end, as they are written."""
    _, _, folder, files = TASKS[task]
    file, most = files[name]
    source, out = DATA / folder / file, bench.work / f"{folder}-{file}"
    if not source.exists():
        raise SystemExit(f"{source} is not there; set TEXTUS_DATA to the folder of the data sets")
    between = "\n\n" if source.suffix == ".txt" else "\n"
    with source.open(encoding="utf-8", newline="") as text:
        rows = [row for row in text.read().replace("\r\n", "\n").split(between) if row.strip()]
    wanted = FEW if bench.smoke else most
    kept = rows if len(rows) <= wanted else [rows[number * len(rows) // wanted] for number in range(wanted)]
    out.write_text(between.join(kept) + "\n", encoding="utf-8", newline="")
    return out


def trained(bench: Bench, out: Path, words: list[str | Path]) -> dict[str, Any]:
    """A fine-tuning of MiniLM: how many steps each task had, how good its weights to use are on dev rows, its cost."""
    how = [*SAME, "--epochs", "4"] if bench.smoke and "train.steps" not in str(words) else list(SAME)
    command = ["finetune", *words, "--from", minilm(bench), *how, "--out", out, "--force"]
    textus(command, log=bench.work / "log.txt")
    record = read_json(out / "run.json")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    used = next(
        each for each in reversed(lines) if "criterion" in each and each["step"] == record["weights"]["step"]
    )
    steps = Counter(name.partition("/")[2] for line in lines for name in line if name.startswith("loss/"))
    return {
        "steps": dict(steps) or {record["task"]: record["steps"]},
        "dev": {
            task: used.get(f"{task}/{figure}", used.get(figure) if record["task"] == task else None)
            for task, (figure, *_) in TASKS.items()
        },
        **{name: record[name] for name in ("cpu_seconds", "seconds", "command")},
    }  # fmt: skip


def tested(bench: Bench, run: Path, task: str) -> dict[str, Any]:
    """The task's figure on the whole test set."""
    figure, columns, *_ = TASKS[task]
    words: list[str | Path] = ["evaluate", run, "--on", part(bench, task, "test"), "--task", task]
    words += ["--columns", columns] if columns else []
    found: dict[str, Any] = json.loads(textus([*words, "--no-baselines", "--json"]).output)
    return {figure: found[figure], "rows": found["rows"]}


def together(bench: Bench) -> dict[str, Any]:
    """All tasks at once."""
    first, *others = TASKS
    words: list[str | Path] = [
        part(bench, first, "train"),
        "--dev",
        part(bench, first, "dev"),
        "--task",
        first,
    ]
    words += ["--columns", str(TASKS[first][1])]
    for task in others:
        words += ["--extra-task", f"{task}={part(bench, task, 'train')}"]
        words += ["--extra-dev", f"{task}={part(bench, task, 'dev')}"]
        words += ["--extra-columns", f"{task}:{columns}"] if (columns := TASKS[task][1]) else []
    out = bench.work / "together"
    found = trained(bench, out, words)
    return {**found, "test": {task: tested(bench, out, task) for task in TASKS}}


def alone(bench: Bench, task: str, steps: int) -> dict[str, Any]:
    """One task in as many steps as it had beside the others, evaluated as often."""
    words: list[str | Path] = [part(bench, task, "train"), "--dev", part(bench, task, "dev"), "--task", task]
    words += ["--columns", columns] if (columns := TASKS[task][1]) else []
    words += ["--set", f"train.steps={steps}", "--set", f"train.evaluate_every={max(1, -(-steps // 3))}"]
    out = bench.work / f"alone-{task}"
    return {**trained(bench, out, words), "test": {task: tested(bench, out, task)}}


def main() -> None:
    """Together, then each alone; each run is kept as soon as it is measured."""
    bench = begin("several_tasks", __doc__)
    data = bench.kept()
    if "together" not in data:
        data["together"] = together(bench)
        bench.save(data)
    beside: dict[str, Any] = data.setdefault("alone", {})
    for task in TASKS:
        if task not in beside:
            beside[task] = alone(bench, task, data["together"]["steps"][task])
            log_notice(f"{task} alone is measured")
            bench.save(data)
    rows = []
    for task, (figure, *_) in TASKS.items():
        both = [side["test"][task][figure] for side in (data["together"], beside[task])]
        shown = [f"{each['value']:.4f} [{each['low']:.4f}, {each['high']:.4f}]" for each in both]
        dev = [side["dev"][task] for side in (data["together"], beside[task])]
        rows.append(
            [f"{task}, {figure}", data["together"]["steps"][task], *shown, *(f"{each:.4f}" for each in dev)]
        )
    show("on test rows, and on dev rows", ["task", "steps", "together", "alone", "dev", "dev alone"], rows)
    cost = [data["together"]["cpu_seconds"], sum(each["cpu_seconds"] for each in beside.values())]
    show("CPU-seconds of training", ["together", "alone, all three"], [[f"{each:.0f}" for each in cost]])


if __name__ == "__main__":
    main()
