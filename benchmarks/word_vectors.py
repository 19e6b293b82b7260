"""Word vectors from 17 Gutenberg books and Brown: WordSim-353, SimLex-999, analogies, and a classifier with them.

Settings are chosen by MTurk-771; WordSim-353 is looked at last. A pair with a word that has no vector counts as a
cosine of 0, an analogy question as wrong.
"""

from __future__ import annotations

import csv
import os
import re
import zipfile
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np

from benchmarks._measuring import DATA, Bench, begin, show
from textus.core.console import cpu_seconds
from textus.models.linear import LinearClassifier, LinearConfig
from textus.models.word_vectors import (
    VectorSettings,
    WordVectors,
    analogy_accuracy,
    cosines,
    rank_correlation,
    read,
    train_vectors,
)

CANDIDATES = {
    "skip-gram, window 10": VectorSettings(window=10, negative=10, epochs=10, both=True),
    "cbow, window 10": VectorSettings(method="cbow", window=10, negative=10, epochs=10, both=True),
    "skip-gram, window 5": VectorSettings(window=5, negative=5, epochs=5, both=True),
}
WORD = re.compile(r"[a-z]+")
PAIRS = {
    "MTurk-771": ("MTURK-771.csv", ","),
    "SimLex-999": ("simlex999.txt", "\t"),
    "WordSim-353": ("wordsim353_combined.csv", ","),
}
BOOTSTRAP = 2000


def texts() -> list[list[str]]:
    """Books and Brown's documents as words in small letters."""
    books = sorted(path for path in (DATA / "gutenberg_prose").glob("*.txt") if path.name != "SOURCE.txt")
    if not books:
        raise SystemExit(
            f"{DATA}: gutenberg_prose is not there; set TEXTUS_DATA to the folder of the data sets"
        )
    found = [WORD.findall(path.read_text(encoding="utf-8").lower()) for path in books]
    with zipfile.ZipFile(DATA / "nltk_data" / "corpora" / "brown.zip") as brown:
        for name in sorted(each for each in brown.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", each)):
            tagged = brown.read(name).decode().lower().split()
            found.append(WORD.findall(" ".join(token.rsplit("/", 1)[0] for token in tagged)))
    return found


def pairs(name: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs of a similarity set and what people said."""
    file, separator = PAIRS[name]
    lines = (DATA / "wordvec_eval" / file).read_text(encoding="utf-8").splitlines()
    rows = [line.split(separator) for line in lines if line and not line.startswith(("#", "Word 1"))]
    return [(row[0].lower(), row[1].lower()) for row in rows], np.array([float(row[2]) for row in rows])


def similarity(vectors: WordVectors, name: str) -> dict[str, Any]:
    """Spearman's correlation over all pairs, its interval by bootstrap over pairs, and the coverage."""
    asked, said = pairs(name)
    found, coverage = cosines(vectors, asked)
    draw = np.random.default_rng(0)
    samples = [draw.integers(0, len(said), len(said)) for _ in range(BOOTSTRAP)]
    spread = np.quantile([rank_correlation(found[rows], said[rows]) for rows in samples], [0.025, 0.975])
    low, high = (round(float(each), 4) for each in spread)
    value = round(rank_correlation(found, said), 4)
    return {"value": value, "low": low, "high": high, "n": len(said), "with_both_words": coverage.n_found}


def analogies(vectors: WordVectors) -> dict[str, Any]:
    """Share of questions answered, by kind; what has no vector is wrong."""
    kinds: dict[str, list[Any]] = {"semantic": [], "syntactic": []}
    kind = ""
    for line in (DATA / "wordvec_eval" / "questions-words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(":"):
            kind = "syntactic" if line.startswith(": gram") else "semantic"
        else:
            kinds[kind].append(tuple(line.lower().split()))
    found = {}
    for name, questions in kinds.items():
        right, coverage = analogy_accuracy(vectors, questions)
        share = {"value": round(right / len(questions), 4), "n": len(questions)}
        found[name] = {**share, "with_all_words": coverage.n_found, "right": right}
    return found


def classified(vectors: WordVectors, smoke: bool) -> dict[str, float]:
    """Accuracy on SST-2's test set of logistic regression: on words, on averaged vectors, on both."""
    sets = {}
    for part in ("train", "test"):
        with (DATA / "sst2" / f"{part}.tsv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        sets[part] = list(zip(*(rows[:300] if smoke else rows), strict=True))
    drawn = np.random.default_rng(0).normal(size=vectors.matrix.shape).astype(np.float32)
    random = WordVectors(vectors.words, drawn)
    ways = {
        "mean of random vectors": (LinearConfig(words=(0, 0), average="words"), random),
        "mean of these vectors": (LinearConfig(words=(0, 0), average="words"), vectors),
        "tf-idf": (LinearConfig(l2=0.5), None),
        "tf-idf and mean of these vectors": (LinearConfig(l2=0.5, average="words"), vectors),
    }
    accuracy = {}
    for name, (config, used) in ways.items():
        predicted = LinearClassifier(config, used).fit(*sets["train"]).predict(sets["test"][0])
        right = sum(a == b for a, b in zip(predicted, sets["test"][1], strict=True))
        accuracy[name] = round(100 * right / len(predicted), 2)
    return accuracy


def learnt(bench: Bench, name: str, settings: VectorSettings, result: dict[str, Any]) -> WordVectors:
    """The vectors of one candidate: learnt, or taken from where an earlier run left them."""
    path = bench.work / f"{re.sub(r'[^a-z0-9]+', '-', name)}.safetensors"
    if name not in result or result[name]["settings"] != vars(settings) or not path.exists():
        given = texts()[:3] if bench.smoke else texts()
        started = cpu_seconds()
        vectors = train_vectors(given, replace(settings, epochs=1) if bench.smoke else settings)
        seconds = round(cpu_seconds() - started, 1)
        vectors.save(path)
        figures = {each: similarity(vectors, each) for each in ("MTurk-771", "SimLex-999")}
        size = {"words_read": sum(map(len, given)), "words": len(vectors)}
        result[name] = {"settings": vars(settings), "cpu_seconds": seconds, **size, **figures}
    return read(path)


def main() -> None:
    """Learn every candidate, choose by MTurk-771, and measure the chosen one."""
    bench = begin("word_vectors", __doc__)
    result: dict[str, Any] = {"candidates": bench.kept().get("candidates", {})}
    for name, settings in CANDIDATES.items():
        learnt(bench, name, settings, result["candidates"])
        bench.save(result)
    candidates = result["candidates"]
    chosen = max(CANDIDATES, key=lambda name: float(candidates[name]["MTurk-771"]["value"]))
    vectors = learnt(bench, chosen, CANDIDATES[chosen], candidates)
    result |= {"chosen": chosen, "chosen_by": "MTurk-771", "coverage_words": len(vectors)}
    result |= {"WordSim-353": similarity(vectors, "WordSim-353"), "analogies": analogies(vectors)}
    result["sst2_accuracy"] = classified(vectors, bench.smoke)
    bench.save(result)
    rows = [
        [name, each["cpu_seconds"], *(f"{each[k]['value']:.3f}" for k in ("MTurk-771", "SimLex-999"))]
        for name, each in candidates.items()
    ]
    show("candidates", ["settings", "CPU-seconds", "MTurk-771", "SimLex-999"], rows)
    figure = result["WordSim-353"]
    told = f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})"
    told += f", {figure['with_both_words']} of {figure['n']} pairs"
    show(f"chosen: {chosen}", ["what", "figure"], [["WordSim-353", told], *result["sst2_accuracy"].items()])
    print(f"  analogies: {result['analogies']}")


if __name__ == "__main__":
    main()
