"""Three tasks trained at once by one MiniLM with three heads, compared with each alone in as many steps of its own.

Sentiment (SST-2, accuracy), similarity (STS-B in English, Spearman) and entities (CoNLL-2003, F1), of each every k-th
row, so that all of it takes a few CPU-minutes. Rate, epochs and mixing are the defaults of `textus finetune`, chosen
beforehand and the same on both sides; weights are chosen on dev rows. Both sides answer the whole test sets.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._material import data_file, minilm
from benchmarks._runner import Bench, begin, show

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


def part(bench: Bench, task: str, name: str) -> Path:
    """Every k-th row of a part of a data set, from its beginning to its end, as they are written."""
    _, _, folder, files = TASKS[task]
    file, most = files[name]
    source, out = data_file(folder, file), bench.work / f"{folder}-{file}"
    separator = "\n\n" if source.suffix == ".txt" else "\n"
    with source.open(encoding="utf-8", newline="") as text:
        rows = [row for row in text.read().replace("\r\n", "\n").split(separator) if row.strip()]
    n = min(FEW if bench.smoke else most, len(rows))
    kept = [rows[number * len(rows) // n] for number in range(n)]
    out.write_text(separator.join(kept) + "\n", encoding="utf-8", newline="")
    return out


def finetune(bench: Bench, out: Path, tasks: list[str], **options: Any) -> dict[str, Any]:
    """A fine-tuning of MiniLM: the steps of each task, the dev scores of its weights, its cost, its test scores."""
    first, *others = tasks
    columns = [f"{task}:{TASKS[task][1]}" for task in others if TASKS[task][1]]
    settings = ["train.batch_size=16", "train.log_every=1", *options.pop("set", [])]
    record = bench.train(
        "finetune", part(bench, first, "train"), dev=part(bench, first, "dev"), task=first, columns=TASKS[first][1],
        extra_task=[f"{task}={part(bench, task, 'train')}" for task in others],
        extra_dev=[f"{task}={part(bench, task, 'dev')}" for task in others], extra_columns=columns,
        set=settings, **{"from": minilm(bench)}, **options, out=out,
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    step = record["weights"]["step"]
    used = next(line for line in reversed(lines) if "criterion" in line and line["step"] == step)
    steps = Counter(name.partition("/")[2] for line in lines for name in line if name.startswith("loss/"))
    return {
        "steps": dict(steps) or {record["task"]: record["steps"]},
        "dev": {
            task: used.get(f"{task}/{figure}", used.get(figure) if record["task"] == task else None)
            for task, (figure, *_) in TASKS.items()
        },
        **{name: record[name] for name in ("cpu_seconds", "seconds", "command")},
        "test": {task: evaluate(bench, out, task) for task in tasks},
    }


def evaluate(bench: Bench, run: Path, task: str) -> dict[str, Any]:
    """The task's figure on the whole test set."""
    figure, columns, *_ = TASKS[task]
    test = part(bench, task, "test")
    scores = bench.scores("evaluate", run, on=test, task=task, columns=columns, no_baselines=True)
    return {figure: scores[figure], "rows": scores["rows"]}


def together(bench: Bench) -> dict[str, Any]:
    """All tasks at once."""
    return finetune(bench, bench.work / "together", list(TASKS), epochs=4 if bench.smoke else None)


def alone(bench: Bench, task: str, steps: int) -> dict[str, Any]:
    """One task in as many steps as it had with the others, evaluated as often."""
    settings = [f"train.steps={steps}", f"train.evaluate_every={max(1, -(-steps // 3))}"]
    return finetune(bench, bench.work / f"alone-{task}", [task], set=settings)


def main() -> None:
    """Together, then each alone."""
    bench = begin("several_tasks", __doc__)
    joint = bench.once(bench.result, "together", together, bench)
    single: dict[str, Any] = bench.part("alone")
    rows = []
    for task, (figure, *_) in TASKS.items():
        sides = [joint, bench.once(single, task, alone, bench, task, joint["steps"][task])]
        tests = [side["test"][task][figure] for side in sides]
        shown = [f"{test['value']:.4f} [{test['low']:.4f}, {test['high']:.4f}]" for test in tests]
        dev = [f"{side['dev'][task]:.4f}" for side in sides]
        rows.append([f"{task}, {figure}", joint["steps"][task], *shown, *dev])
    show("on test rows, and on dev rows", ["task", "steps", "together", "alone", "dev", "dev alone"], rows)
    cost = [joint["cpu_seconds"], sum(run["cpu_seconds"] for run in single.values())]
    show("CPU-seconds of training", ["together", "alone, all three"], [[f"{value:.0f}" for value in cost]])


if __name__ == "__main__":
    main()
