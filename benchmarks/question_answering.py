"""Extractive question answering by few rows: XQuAD in English with MiniLM, CMRC 2018 in Chinese with our own encoder.

XQuAD has no training rows: five folds by article, each answered by a model trained on the other four, one article in
eight of which chooses the weights. CMRC: trained on its dev part, answered on its trial part; the encoder is pre-
trained here by `textus train --model encoder` on Chinese news and the contexts (without questions) of the dev part and
of XQuAD in Chinese. Before people's questions both are trained on `textus cloze`: questions made of other texts
(English news; Chinese news and the dev part's contexts). Settings were chosen on the development rows of XQuAD's first
fold and of CMRC's dev part. The baselines are a random span, a window slid over the context (after Richardson, Burges
and Renshaw 2013), and the sentence with most of the question in it; differences are paired, by question.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._material import corpus, data_file, minilm, pretrained_encoder, tokenizer, write_jsonl
from benchmarks._runner import Bench, begin, over_rows, show, with_interval
from textus.core.io import read_json
from textus.data.labeled import stream_records
from textus.metrics.resampling import bootstrap, interval
from textus.metrics.spans import answer_style, score_answer

FOLDS = 5
XQUAD = {"set": ["optim.rate=2e-4"], "epochs": 5}
XQUAD_CLOZE = {"set": ["optim.rate=3e-4"], "epochs": 1}
LONG = ["task.longest_answer=80", "task.longest=512", "task.stride=256"]
CMRC = {"set": [*LONG, "optim.rate=5e-4", "task.answer=expected-f1"], "epochs": 3}
CMRC_CLOZE = {"set": [*LONG, "optim.rate=1e-3"], "epochs": 2}
"""Options of `textus finetune`, for people's questions and for those made of plain text before."""
CMRC_QUESTIONS = {"questions": 3, "longest": 350, "verbalizer": 4}
"""Options of `cloze`."""

ENCODER = (
    "model.n_layer=4", "model.d_model=256", "model.n_head=4", "model.context_length=512", "model.segments=3",
    "model.dropout=0", "train.batch_size=32",
)  # fmt: skip
"""Pre-training, as `--set` takes it; the third segment is for what the question has too."""

Rows = list[dict[str, Any]]

UNITS = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？；]|$)", re.S)


# ── baselines ─────────────────────────────────────────────────────────────────────────────


def units(text: str) -> list[tuple[str, int, int]]:
    """Words and Chinese characters in small letters, and where they are."""
    return [(match[0].lower(), match.start(), match.end()) for match in UNITS.finditer(text)]


def rarity(context: list[tuple[str, int, int]]) -> Counter[str]:
    """How much a unit of the context is worth: log(1 + 1 / how often it occurs in it)."""
    counts = Counter(unit for unit, _, _ in context)
    return Counter({unit: math.log(1 + 1 / n) for unit, n in counts.items()})  # type: ignore[arg-type]


def random_span(question: str, context: str, draw: random.Random, longest: int) -> str:
    """Any span of at most `longest` units."""
    spans = units(context)
    first = draw.randrange(len(spans))
    last = min(len(spans) - 1, first + draw.randrange(longest))
    return context[spans[first][1] : spans[last][2]]


def sliding_window(question: str, context: str, draw: random.Random, longest: int) -> str:
    """The longest run without a unit of the question in and around the window that has most of the question."""
    spans, wanted = units(context), {unit for unit, _, _ in units(question)}
    weights, size = rarity(spans), max(1, len(units(question)))
    values = [weights[unit] if unit in wanted else 0.0 for unit, _, _ in spans]
    sums = np.convolve(values, np.ones(min(size, len(values))), "valid")
    start = int(sums.argmax())
    near = spans[max(0, start - size // 2) : start + size + size // 2]
    runs: list[list[tuple[str, int, int]]] = [[]]
    for span in near:
        if span[0] in wanted:
            runs.append([])
        else:
            runs[-1].append(span)
    best = max(runs, key=len)[:longest] or near[:1]
    return context[best[0][1] : best[-1][2]]


def keyword_sentence(question: str, context: str, draw: random.Random, longest: int) -> str:
    """The sentence with most of the question in it."""
    wanted, weights = {unit for unit, _, _ in units(question)}, rarity(units(context))
    sentences = [sentence.strip() for sentence in SENTENCE.findall(context) if sentence.strip()]
    return max(
        sentences,
        key=lambda sentence: sum(weights[u] for u in wanted & {unit for unit, _, _ in units(sentence)}),
    )


BASELINES = {
    "random span": random_span,
    "sliding window": sliding_window,
    "keyword sentence": keyword_sentence,
}


# ── data ───────────────────────────────────────────────────────────────────────────────────────


def rows_of(path: Path) -> Rows:
    """A SQuAD file's rows that have a question, with all their answers."""
    return [record.values for record in stream_records(path) if record.values["question"].strip()]


def split_by(rows: Rows, name: str, every: int, which: int) -> tuple[Rows, Rows]:
    """Rows whose value of a field is the `which`-th of `every`, in the order of the file; and the others."""
    order = {value: n for n, value in enumerate(dict.fromkeys(row[name] for row in rows))}
    chosen = [row for row in rows if order[row[name]] % every == which]
    return chosen, [row for row in rows if order[row[name]] % every != which]


# ── training and answering ─────────────────────────────────────────────────────────────────────


def finetune(
    bench: Bench, out: Path, parent: Path, options: dict[str, Any], train: Path, dev: Path | None = None
) -> dict[str, Any]:
    """`textus finetune` from `parent`; its cost."""
    settings = ["train.batch_size=16", *options["set"], *(["train.steps=2"] if bench.smoke else [])]
    options = {**options, "set": settings, "epochs": None if bench.smoke else options["epochs"]}
    command = bench.textus(
        "finetune",
        train,
        dev=dev,
        **{"from": parent},
        task="question-answering",
        **options,
        out=out,
        force=True,
    )
    return {"command": command.command, "cpu_seconds": round(command.cpu, 1)}


def reader(
    bench: Bench, parent: Path, built: Path, cloze: dict[str, Any], options: dict[str, Any], scores: dict[str, Any]
) -> Path:  # fmt: skip
    """A run trained on questions made of a corpus, from `parent`; its cost goes to `scores`."""
    out, rows = bench.work / f"{built.name}-reader", bench.work / f"{built.name}.jsonl"
    if "cloze" not in scores or not (out / "model.safetensors").exists():
        bench.textus("cloze", built, out=rows, force=True, **cloze)
        cost = finetune(bench, out, parent, options, rows)
        scores["cloze"] = {**cost, "rows": len(rows.read_text(encoding="utf-8").splitlines())}
        bench.save()
    return out


def answer(
    bench: Bench, name: str, parent: Path, parts: tuple[Rows, Rows, Rows], options: dict[str, Any]
) -> dict[str, Any]:
    """`textus finetune` from `parent` on the first part, the second choosing the weights; its answers to the third."""
    folder, names = bench.work / name, ("train", "dev", "test")
    if bench.smoke:
        parts = parts[0][:16], parts[1][:8], parts[2]
    train, dev, test = (
        write_jsonl(folder / f"{part}.jsonl", rows) for part, rows in zip(names, parts, strict=True)
    )
    cost = finetune(bench, folder / "run", parent, options, train, dev)
    answers = bench.scores("predict", folder / "run", test)["answers"]
    return {"answers": [row["answer"] for row in answers], **cost, "rows": [len(part) for part in parts]}


def compare(rows: Rows, answers: list[str]) -> dict[str, Any]:
    """F1 and exact match of ours and of each baseline, and ours over the best of them, in points."""
    style = answer_style([row["context"] for row in rows])
    draw, n = random.Random(0), len(rows)
    longest = 10 if style == "squad" else 30
    texts = {"ours": answers}
    for name, baseline in BASELINES.items():
        texts[name] = [baseline(row["question"], row["context"], draw, longest) for row in rows]
    points = {
        name: 100
        * np.asarray(
            [score_answer(text, row["answers"]["text"], style) for text, row in zip(side, rows, strict=True)]
        )
        for name, side in texts.items()
    }
    sides = {
        name: {
            measure: interval(bootstrap(values[:, column], np.ones(n)), n)
            for column, measure in ((1, "f1"), (0, "exact_match"))
        }
        for name, values in points.items()
    }
    best = max(BASELINES, key=lambda name: sides[name]["f1"]["value"])
    over = over_rows(points["ours"][:, 1], points[best][:, 1])
    return {"metric_style": style, "sides": sides, "best_baseline": best, "over_best_baseline": over}


def xquad(bench: Bench, scores: dict[str, Any]) -> None:
    """Every fold, then all questions together."""
    rows = rows_of(data_file("xquad", "xquad.en.json"))
    source = data_file("summaries", "xsum_test_part.jsonl")
    news = corpus(bench, bench.work / "english", source, column="document")
    parent = reader(bench, minilm(bench), news, {}, XQUAD_CLOZE, scores)
    folds, questions = scores.setdefault("folds", {}), []
    for number in range(1 if bench.smoke else FOLDS):
        test, rest = split_by(rows, "title", FOLDS, number)
        test = test[: 8 if bench.smoke else None]
        dev, train = split_by(rest, "title", 8, 0)
        bench.once(folds, str(number), answer, bench, f"xquad-{number}", parent, (train, dev, test), XQUAD)
        questions += test
    scores |= compare(questions, [text for fold in folds.values() for text in fold["answers"]])


def documents(bench: Bench, name: str, texts: Iterable[str]) -> Path:
    """Texts as a file, a document each."""
    return write_jsonl(bench.work / "chinese" / f"{name}.jsonl", ({"text": text} for text in sorted(texts)))


CMRC_FILES = {part: ("cmrc2018", f"cmrc2018_{part}.json") for part in ("dev", "trial")}


def chinese_encoder(bench: Bench) -> Path:
    """The pre-trained run; an interrupted one is resumed."""
    out = bench.work / f"encoder-{bench.options.preset}"
    if (out / "run.json").exists() and not bench.options.again:
        bench.textus("resume", out)
        return out
    texts = (data_file(*CMRC_FILES["dev"]), data_file("xquad", "xquad.zh.json"))
    text = documents(bench, "contexts", {row["context"] for path in texts for row in rows_of(path)})
    news = [] if bench.smoke else [data_file("people_daily_1998", "199801_plain.txt")]
    built = corpus(bench, bench.work / "corpus", text, *news)
    characters = tokenizer(bench, bench.work / "characters", built, "char", 8192)
    return pretrained_encoder(bench, out, built, characters, ENCODER)


def cmrc(bench: Bench, scores: dict[str, Any]) -> None:
    """One model, from the dev part to the trial part."""
    parts = {part: rows_of(data_file(*names)) for part, names in CMRC_FILES.items()}
    dev, train = split_by(parts["dev"], "context", 10, 0)
    test = parts["trial"][: 8 if bench.smoke else None]
    if "run" not in scores:
        encoder = chinese_encoder(bench)
        contexts = documents(bench, "dev", {row["context"] for row in train[: 16 if bench.smoke else None]})
        pairs = data_file("people_daily_1998", "headline_pairs.jsonl")
        news = documents(bench, "news", [record.values["body"] for record in stream_records(pairs)])
        texts = corpus(bench, bench.work / "chinese-texts", contexts, news)
        parent = reader(bench, encoder, texts, CMRC_QUESTIONS, CMRC_CLOZE, scores)
        record = read_json(encoder / "run.json")
        names = ("config", "steps", "seconds", "cpu_seconds", "best", "command")
        scores["pretraining"] = {name: record[name] for name in names}
        bench.once(scores, "run", answer, bench, "cmrc", parent, (train, dev, test), CMRC)
    scores |= compare(test, scores["run"]["answers"])


PARTS = {"xquad_en": xquad, "cmrc2018_trial": cmrc}


def main() -> None:
    """Both languages, and a table."""
    budget = {"default": "10min", "help": "the budget of pre-training"}
    bench = begin("question_answering", __doc__, only=PARTS, preset=budget)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rows = []
    for name in bench.chosen(PARTS):
        scores = bench.part(name)
        PARTS[name](bench, scores)
        bench.save()
        for side, figures in scores["sides"].items():
            rows.append([name, side, *(with_interval(figures[key], ".1f") for key in ("f1", "exact_match"))])
        rows.append([name, "over the best baseline", with_interval(scores["over_best_baseline"], "+.1f"), ""])
    show("extractive question answering, %", ["data", "side", "F1", "exact match"], rows)


if __name__ == "__main__":
    main()
