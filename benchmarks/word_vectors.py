"""Word vectors from 17 Gutenberg books and Brown: WordSim-353, SimLex-999, analogies, and a classifier with them.

Settings are chosen by MTurk-771; WordSim-353 is read last. A pair with a word that has no vector counts as a
cosine of 0, an analogy question as wrong.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported anywhere

import numpy as np

from benchmarks._material import books, brown, data_file, sst2
from benchmarks._runner import Bench, begin, show, with_interval
from textus.core.console import cpu_seconds
from textus.metrics.resampling import interval
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
    prose = [path.read_text(encoding="utf-8") for path in books()]
    tagged = [" ".join(token.rsplit("/", 1)[0] for token in text.split()) for _, text in brown()]
    return [WORD.findall(text.lower()) for text in [*prose, *tagged]]


def pairs(name: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs of a similarity set and people's judgments."""
    file, separator = PAIRS[name]
    lines = data_file("wordvec_eval", file).read_text(encoding="utf-8").splitlines()
    rows = [line.split(separator) for line in lines if line and not line.startswith(("#", "Word 1"))]
    return [(row[0].lower(), row[1].lower()) for row in rows], np.array([float(row[2]) for row in rows])


def similarity(vectors: WordVectors, name: str) -> dict[str, Any]:
    """Spearman's correlation over all pairs, its interval by bootstrap over pairs, and the coverage."""
    word_pairs, judgments = pairs(name)
    cosine, coverage = cosines(vectors, word_pairs)
    draw, n = np.random.default_rng(0), len(judgments)
    samples = [draw.integers(0, n, n) for _ in range(BOOTSTRAP)]
    ends = np.quantile([rank_correlation(cosine[rows], judgments[rows]) for rows in samples], [0.025, 0.975])
    figure = interval((rank_correlation(cosine, judgments), *ends.tolist()), n)
    return {key: round(value, 4) for key, value in figure.items()} | {"with_both_words": coverage.n_found}


def analogies(vectors: WordVectors) -> dict[str, Any]:
    """Share of questions answered, by kind; what has no vector is wrong."""
    kinds: dict[str, list[Any]] = {"semantic": [], "syntactic": []}
    kind = ""
    questions_file = data_file("wordvec_eval", "questions-words.txt")
    for line in questions_file.read_text(encoding="utf-8").splitlines():
        if line.startswith(":"):
            kind = "syntactic" if line.startswith(": gram") else "semantic"
        else:
            kinds[kind].append(tuple(line.lower().split()))
    scores = {}
    for name, questions in kinds.items():
        right, coverage = analogy_accuracy(vectors, questions)
        share = {"value": round(right / len(questions), 4), "n": len(questions)}
        scores[name] = {**share, "with_all_words": coverage.n_found, "right": right}
    return scores


def classified(vectors: WordVectors, smoke: bool) -> dict[str, float]:
    """Accuracy on SST-2's test set of logistic regression: on words, on averaged vectors, on both."""
    sets = {}
    for part in ("train", "test"):
        rows = sst2(part, 300 if smoke else None)
        sets[part] = [row["text"] for row in rows], [row["label"] for row in rows]
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


def trained(bench: Bench, name: str) -> WordVectors:
    """The vectors of one candidate: trained, or taken from where an earlier run left them."""
    candidates, settings = bench.part("candidates"), CANDIDATES[name]
    path = bench.work / f"{re.sub(r'[^a-z0-9]+', '-', name)}.safetensors"
    if name not in candidates or candidates[name]["settings"] != vars(settings) or not path.exists():
        words = texts()[: 3 if bench.smoke else None]
        started = cpu_seconds()
        vectors = train_vectors(words, replace(settings, epochs=1) if bench.smoke else settings)
        seconds = round(cpu_seconds() - started, 1)
        vectors.save(path)
        figures = {part: similarity(vectors, part) for part in ("MTurk-771", "SimLex-999")}
        size = {"words_read": sum(map(len, words)), "words": len(vectors)}
        candidates[name] = {"settings": vars(settings), "cpu_seconds": seconds, **size, **figures}
        bench.save()
    return read(path)


def main() -> None:
    """Train every candidate, choose by MTurk-771, and measure the chosen one."""
    bench = begin("word_vectors", __doc__)
    vectors_by_name = {name: trained(bench, name) for name in CANDIDATES}
    result, candidates = bench.result, bench.result["candidates"]
    chosen = max(CANDIDATES, key=lambda name: float(candidates[name]["MTurk-771"]["value"]))
    vectors = vectors_by_name[chosen]
    result |= {"chosen": chosen, "chosen_by": "MTurk-771", "coverage_words": len(vectors)}
    result |= {"WordSim-353": similarity(vectors, "WordSim-353"), "analogies": analogies(vectors)}
    result["sst2_accuracy"] = classified(vectors, bench.smoke)
    bench.save()
    rows = [
        [name, scores["cpu_seconds"], *(f"{scores[k]['value']:.3f}" for k in ("MTurk-771", "SimLex-999"))]
        for name, scores in candidates.items()
    ]
    show("candidates", ["settings", "CPU-seconds", "MTurk-771", "SimLex-999"], rows)
    figure = result["WordSim-353"]
    shown = f"{with_interval(figure, '.3f')}, {figure['with_both_words']} of {figure['n']} pairs"
    show(f"chosen: {chosen}", ["what", "figure"], [["WordSim-353", shown], *result["sst2_accuracy"].items()])
    print(f"  analogies: {result['analogies']}")


if __name__ == "__main__":
    main()
