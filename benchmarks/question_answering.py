"""Extractive question answering by few rows: XQuAD in English with MiniLM, CMRC 2018 in Chinese with our own encoder.

XQuAD has no rows to learn from: five folds by article, each answered by a model that learnt from the other four, one
article in eight of which chooses the weights. CMRC: learnt from its dev part, answered on its trial part; the encoder
is pre-trained here by `textus train --model encoder` on Chinese news and the contexts (without questions) of the dev
part and of XQuAD in Chinese. Before people's questions both learn from `textus cloze`: questions made of other texts
(English news; Chinese news and the dev part's contexts). Settings were chosen on the development rows of XQuAD's first
fold and of CMRC's dev part. Beside both stand a random span, a window slid over the context (after Richardson, Burges
and Renshaw 2013), and the sentence with most of the question in it; differences are paired, by question. What is
measured is taken.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measuring import DATA, Bench, begin, corpus, show, textus, tokenizer
from benchmarks.classification import minilm
from textus.core.console import log_notice
from textus.data.labeled import read_records
from textus.metrics.resampling import bootstrap, interval, paired_bootstrap
from textus.metrics.spans import answer_style, score_answer

FOLDS = 5
TASK = ("--task", "question-answering", "--set", "train.batch_size=16")
XQUAD = ("--set", "optim.rate=2e-4", "--epochs", "5")
XQUAD_CLOZE = ("--set", "optim.rate=3e-4", "--epochs", "1")
LONG = ("--set", "task.longest_answer=80", "--set", "task.longest=512", "--set", "task.stride=256")
CMRC = (*LONG, "--set", "optim.rate=5e-4", "--set", "task.answer=expected-f1", "--epochs", "3")
CMRC_CLOZE = (*LONG, "--set", "optim.rate=1e-3", "--epochs", "2")
CMRC_QUESTIONS = ("--questions", "3", "--longest", "350", "--verbalizer", "4")
"""Words of `textus finetune`, for people's questions and for those made of plain text before, and of `cloze`."""

ENCODER = (
    "model.n_layer=4",
    "model.d_model=256",
    "model.n_head=4",
    "model.context_length=512",
    "model.segments=3",
    "model.dropout=0",
    "train.batch_size=32",
)
"""Pre-training, as `--set` takes it; the third segment is for what the question has too."""

Rows = list[dict[str, Any]]

UNITS = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？；]|$)", re.S)


# ── who knows less ─────────────────────────────────────────────────────────────────────────────


def units(text: str) -> list[tuple[str, int, int]]:
    """Words and Chinese characters in small letters, and where they stand."""
    return [(found[0].lower(), found.start(), found.end()) for found in UNITS.finditer(text)]


def rarity(context: list[tuple[str, int, int]]) -> Counter[str]:
    """How much finding a unit of the context tells: log(1 + 1 / how often it stands there)."""
    counts = Counter(unit for unit, _, _ in context)
    return Counter({unit: math.log(1 + 1 / n) for unit, n in counts.items()})  # type: ignore[arg-type]


def random_span(question: str, context: str, draw: random.Random, longest: int) -> str:
    """Any span of at most `longest` units."""
    found = units(context)
    first = draw.randrange(len(found))
    last = min(len(found) - 1, first + draw.randrange(longest))
    return context[found[first][1] : found[last][2]]


def sliding_window(question: str, context: str, draw: random.Random, longest: int) -> str:
    """The longest run without a unit of the question in and around the window that has most of the question."""
    found, asked = units(context), {unit for unit, _, _ in units(question)}
    weights, size = rarity(found), max(1, len(units(question)))
    each = [weights[unit] if unit in asked else 0.0 for unit, _, _ in found]
    sums = np.convolve(each, np.ones(min(size, len(each))), "valid")
    start = int(sums.argmax())
    near = found[max(0, start - size // 2) : start + size + size // 2]
    runs: list[list[tuple[str, int, int]]] = [[]]
    for unit in near:
        if unit[0] in asked:
            runs.append([])
        else:
            runs[-1].append(unit)
    best = max(runs, key=len)[:longest] or near[:1]
    return context[best[0][1] : best[-1][2]]


def keyword_sentence(question: str, context: str, draw: random.Random, longest: int) -> str:
    """The sentence with most of the question in it."""
    asked, weights = {unit for unit, _, _ in units(question)}, rarity(units(context))
    sentences = [each.strip() for each in SENTENCE.findall(context) if each.strip()]
    return max(
        sentences, key=lambda each: sum(weights[u] for u in asked & {unit for unit, _, _ in units(each)})
    )


BASELINES = {
    "random span": random_span,
    "sliding window": sliding_window,
    "keyword sentence": keyword_sentence,
}


# ── data ───────────────────────────────────────────────────────────────────────────────────────


def rows_of(path: Path) -> Rows:
    """A SQuAD file's rows that have a question, with all their answers."""
    if not path.exists():
        raise SystemExit(f"{path} is not there; set TEXTUS_DATA to the folder of the data sets")
    return [each.values for each in read_records(path) if each.values["question"].strip()]


def written(path: Path, rows: Rows) -> Path:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def split_by(rows: Rows, name: str, every: int, which: int) -> tuple[Rows, Rows]:
    """Rows whose value of a field is the `which`-th of `every`, in the order of the file; and the others."""
    order = {value: n for n, value in enumerate(dict.fromkeys(row[name] for row in rows))}
    chosen = [row for row in rows if order[row[name]] % every == which]
    return chosen, [row for row in rows if order[row[name]] % every != which]


# ── learning and answering ─────────────────────────────────────────────────────────────────────


def taught(
    bench: Bench, out: Path, parent: Path, words: tuple[str, ...], rows: list[str | Path]
) -> dict[str, Any]:
    """`textus finetune` from `parent` on `rows` (a file, and what follows it); what it took."""
    if bench.smoke:
        words = (*words[: words.index("--epochs")], "--set", "train.steps=2")
    command = ["finetune", *rows, "--from", parent, *TASK, *words, "--out", out, "--force"]
    done = textus(command, log=bench.work / "log.txt")
    return {"command": done.words, "cpu_seconds": round(done.cpu, 1)}


def reader(
    bench: Bench,
    parent: Path,
    built: Path,
    how: tuple[tuple[str, ...], tuple[str, ...]],
    found: dict[str, Any],
) -> Path:
    """The run that learnt from questions made of a corpus, from `parent`; `how` are words of `cloze` and `finetune`.

    What it took goes to `found`; a run that is there is taken.
    """
    out, rows = bench.work / f"{built.name}-reader", bench.work / f"{built.name}.jsonl"
    if "cloze" not in found or not (out / "model.safetensors").exists():
        textus(["cloze", built, "--out", rows, "--force", *how[0]], log=bench.work / "log.txt")
        found["cloze"] = taught(bench, out, parent, how[1], [rows])
        found["cloze"]["rows"] = len(rows.read_text(encoding="utf-8").splitlines())
    return out


def answered(
    bench: Bench, name: str, parent: Path, parts: tuple[Rows, Rows, Rows], how: tuple[str, ...]
) -> dict[str, Any]:
    """`textus finetune` from `parent` on the first part, the second choosing the weights; its answers to the third."""
    folder = bench.work / name
    train, dev, test = (
        written(folder / f"{part}.jsonl", rows)
        for part, rows in zip(("train", "dev", "test"), parts, strict=True)
    )
    took = taught(bench, folder / "run", parent, how, [train, "--dev", dev])
    log = bench.work / "log.txt"
    found = json.loads(textus(["predict", folder / "run", test, "--json"], log=log).output)["answers"]
    return {"answers": [each["answer"] for each in found], **took, "rows": [len(part) for part in parts]}


def compared(rows: Rows, answers: list[str]) -> dict[str, Any]:
    """F1 and exact match of ours and of each baseline, and ours over the best of them, in points."""
    style = answer_style([row["context"] for row in rows])
    draw = random.Random(0)
    longest = 10 if style == "squad" else 30
    said = {"ours": answers}
    for name, baseline in BASELINES.items():
        said[name] = [baseline(row["question"], row["context"], draw, longest) for row in rows]
    n = len(rows)
    pairs = {
        name: 100
        * np.asarray(
            [score_answer(text, row["answers"]["text"], style) for text, row in zip(each, rows, strict=True)]
        )
        for name, each in said.items()
    }
    sides = {
        name: {
            measure: interval(bootstrap(values[:, column], np.ones(n)), n)
            for column, measure in ((1, "f1"), (0, "exact_match"))
        }
        for name, values in pairs.items()
    }
    best = max(BASELINES, key=lambda name: sides[name]["f1"]["value"])
    over = interval(paired_bootstrap(pairs["ours"][:, 1], pairs[best][:, 1], np.ones(n)), n)
    return {"metric_style": style, "sides": sides, "best_baseline": best, "over_best_baseline": over}


def xquad(bench: Bench, data: dict[str, Any]) -> None:
    """Every fold, each kept as soon as it is done; then all questions together."""
    rows = rows_of(DATA / "xquad" / "xquad.en.json")
    found: dict[str, Any] = data.setdefault("xquad_en", {})
    news = corpus(bench.work / "english", DATA / "summaries" / "xsum_test_part.jsonl", column="document")
    parent = reader(bench, minilm(bench), news, ((), XQUAD_CLOZE), found)
    bench.save(data)
    folds: dict[str, Any] = found.setdefault("folds", {})
    asked: Rows = []
    for number in range(1 if bench.smoke else FOLDS):
        test, rest = split_by(rows, "title", FOLDS, number)
        dev, train = split_by(rest, "title", 8, 0)
        if bench.smoke:
            train, dev, test = train[:16], dev[:8], test[:8]
        if str(number) not in folds:
            folds[str(number)] = answered(bench, f"xquad-{number}", parent, (train, dev, test), XQUAD)
            bench.save(data)
        log_notice(f"XQuAD, fold {number}: {compared(test, folds[str(number)]['answers'])['sides']['ours']}")
        asked += test
    found |= compared(asked, [text for number in folds for text in folds[number]["answers"]])
    bench.save(data)


def documents(bench: Bench, name: str, texts: Iterable[str]) -> Path:
    """Texts as a file, a document each."""
    return written(bench.work / "chinese" / f"{name}.jsonl", [{"text": text} for text in sorted(texts)])


def chinese_encoder(bench: Bench) -> Path:
    """The pre-trained run; an unfinished one is gone on with."""
    out, log = bench.work / f"encoder-{bench.options.preset}", bench.work / "log.txt"
    if (out / "run.json").exists() and not bench.options.again:
        textus(["resume", out], log=log)
        return out
    texts = (CMRC_FILES["dev"], DATA / "xquad" / "xquad.zh.json")
    text = documents(bench, "contexts", {row["context"] for path in texts for row in rows_of(path)})
    sources = [text] if bench.smoke else [text, DATA / "people_daily_1998" / "199801_plain.txt"]
    built = corpus(bench.work / "corpus", *sources)
    characters = tokenizer(bench.work / "characters", built, "--kind", "char", "--vocab-size", "8192")
    budget = ["--steps", "5"] if bench.smoke else ["--preset", bench.options.preset]
    smaller = ("model.n_layer=1", "model.d_model=32", "model.n_head=2") if bench.smoke else ()
    words: list[str | Path] = ["train", built, "--model", "encoder", "--tokenizer", characters, *budget]
    words += [word for each in (*ENCODER, *smaller) for word in ("--set", each)]
    textus([*words, "--out", out, "--force"], log=log)
    return out


CMRC_FILES = {part: DATA / "cmrc2018" / f"cmrc2018_{part}.json" for part in ("dev", "trial")}


def cmrc(bench: Bench, data: dict[str, Any]) -> None:
    """One model, from the dev part to the trial part."""
    found: dict[str, Any] = data.setdefault("cmrc2018_trial", {})
    parts = {part: rows_of(path) for part, path in CMRC_FILES.items()}
    dev, train = split_by(parts["dev"], "context", 10, 0)
    test = parts["trial"]
    if bench.smoke:
        train, dev, test = train[:16], dev[:8], test[:8]
    if "run" not in found:
        encoder = chinese_encoder(bench)
        contexts = documents(bench, "dev", {row["context"] for row in train})
        bodies = [
            row.values["body"] for row in read_records(DATA / "people_daily_1998" / "headline_pairs.jsonl")
        ]
        texts = corpus(bench.work / "chinese-texts", contexts, documents(bench, "news", bodies))
        parent = reader(bench, encoder, texts, (CMRC_QUESTIONS, CMRC_CLOZE), found)
        found["run"] = answered(bench, "cmrc", parent, (train, dev, test), CMRC)
        found["pretraining"] = pretraining(encoder)
        bench.save(data)
    found |= compared(test, found["run"]["answers"])
    bench.save(data)


def pretraining(run: Path) -> dict[str, Any]:
    """What the encoder was made of."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("config", "steps", "seconds", "cpu_seconds", "best", "command")}


PARTS = {"xquad_en": xquad, "cmrc2018_trial": cmrc}


def main() -> None:
    """Both languages, and a table."""
    bench = begin(
        "question_answering",
        __doc__,
        preset={"default": "10min", "help": "the budget of pre-training"},
        only={"choices": list(PARTS), "help": "one of the two"},
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    data = bench.kept()
    names = [bench.options.only] if bench.options.only else list(PARTS)
    for name in names:
        PARTS[name](bench, data)
    rows = []
    for name in names:
        for side, figures in data[name]["sides"].items():
            shown = (
                "{value:.1f} [{low:.1f}, {high:.1f}]".format(**figures[each])
                for each in ("f1", "exact_match")
            )
            rows.append([name, side, *shown])
        over = data[name]["over_best_baseline"]
        rows.append(
            [name, "over the best baseline", "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**over), ""]
        )
    show("extractive question answering, %", ["data", "side", "F1", "exact match"], rows)


if __name__ == "__main__":
    main()
