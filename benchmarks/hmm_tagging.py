"""How many words the tagger of `textus.models.hmm_tagger` gets right: Brown with the twelve universal tags, and
People's Daily with its own; a tenth of the sentences, by hash, is held out."""

from __future__ import annotations

import hashlib
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from benchmarks._material import brown, data_file
from benchmarks._runner import Bench, begin, show, with_interval
from textus.core.console import cpu_seconds
from textus.metrics.resampling import bootstrap, interval
from textus.models.hmm_tagger import HMMTagger

Sentence = tuple[list[str], list[str]]

CLASSES = {
    "NOUN": "NN NN$ NNS NNS$ NP NP$ NPS NPS$ NR NR$ NRS PN PN$ CD$",
    "VERB": "BE BED BEDZ BEG BEM BEN BER BEZ DO DOD DOZ HV HVD HVG HVN HVZ MD VB VBD VBG VBN VBZ",
    "ADJ": "JJ JJ$ JJR JJS JJT AP OD",
    "ADV": "RB RB$ RBR RBT RN QL QLP WQL WRB *",
    "PRON": "PPL PPLS PPO PPS PPSS PP$$ WPO WPS",
    "DET": "AT ABX DT DT$ DTI DTS DTX PP$ WDT WP$",
    "ADP": "IN CS",
    "CONJ": "CC",
    "NUM": "CD",
    "PRT": "ABN ABL AP$ EX RP TO UH",
    "X": "NIL",
    ".": ". , : ( ) ' '' `` --",
}
"""Petrov, Das & McDonald, "A Universal Part-of-Speech Tagset" (2012): Brown's base tags by class."""

UNIVERSAL = {tag: name for name, tags in CLASSES.items() for tag in tags.split()}


def base(tag: str) -> str:
    """A Brown tag without the marks of title, headline or citation."""
    return re.sub(r"(-(TL|HL|NC|T|N))+$", "", tag.upper())


def universal(tag: str) -> str:
    """The class of a Brown tag. Of contractions, verbs count as verbs (`gotta`, `don't`), others as particles."""
    tag = base(tag)
    if tag.startswith("FW-"):
        return "X"
    if tag in UNIVERSAL:
        return UNIVERSAL[tag]
    if "+" in tag:
        return "VERB" if UNIVERSAL.get(tag.partition("+")[0]) == "VERB" else "PRT"
    return UNIVERSAL[tag.removesuffix("*")]  # a negated verb


def brown_sentences() -> Iterator[Sentence]:
    """The sentences of the Brown corpus, as many as it has lines, with its own tags."""
    for _, text in brown():
        for line in text.splitlines():
            if line.strip():
                pairs = [token.rpartition("/")[::2] for token in line.split()]
                yield [word for word, _ in pairs], [tag for _, tag in pairs]


def people_daily() -> Iterator[Sentence]:
    """The sentences of People's Daily, January 1998: its paragraphs, cut after full stops."""
    with lzma.open(data_file("people_daily_1998", "199801_pos.txt.xz"), "rt", encoding="utf-8") as file:
        for line in file:
            words: list[str] = []
            tags: list[str] = []
            for token in line.split():
                word, _, tag = token.lstrip("[").rpartition("/")
                words.append(word)
                tags.append(tag.partition("]")[0])
                if word in ("。", "！", "？"):
                    yield words, tags
                    words, tags = [], []
            if words:
                yield words, tags


TRIALS: dict[str, tuple[Callable[[], Iterator[Sentence]], Callable[[str], str], Callable[[str], str]]] = {
    "brown_universal": (brown_sentences, universal, str),
    "brown_own_tags_to_universal": (brown_sentences, base, universal),
    "people_daily": (people_daily, str, str),
}
"""Sentences, the tags to train on, and the coarser tags to score."""


def held_out(words: list[str]) -> bool:
    """One sentence of ten, by its words: the same sentence is never on both sides."""
    return hashlib.sha256(" ".join(words).encode()).digest()[0] % 10 == 0


def measure(name: str, bench: Bench) -> dict[str, Any]:
    """Accuracy of a tagger."""
    read, fine, coarse = TRIALS[name]
    sentences = list(
        islice(((words, list(map(fine, tags))) for words, tags in read()), 500 if bench.smoke else None)
    )
    train, test = ([s for s in sentences if held_out(s[0]) == is_test] for is_test in (False, True))
    started = cpu_seconds()
    tagger = HMMTagger().fit(train)
    fitted = cpu_seconds()
    answers = [tag for words, _ in test for tag in tagger.tag(words)]
    tagged = cpu_seconds()
    common, sizes = most_frequent(train), [len(words) for words, _ in test]
    words = [word for sentence, _ in test for word in sentence]
    gold = np.array([coarse(tag) for _, tags in test for tag in tags])
    known = np.array([word in common for word in words])
    right = np.array(list(map(coarse, answers))) == gold
    baseline = np.array([coarse(common.get(word, common[""])) for word in words]) == gold
    return {
        "accuracy": share(right, sizes),
        "known": float(right[known].mean()),
        "unknown": float(right[~known].mean()),
        "unknown_share": float(1 - known.mean()),
        "most_frequent_tag": share(baseline, sizes),
        "tags": len(tagger.tags),
        "train_sentences": len(train),
        "test_sentences": len(test),
        "test_words": len(right),
        "fit_cpu_seconds": round(fitted - started, 2),
        "words_per_cpu_second": round(len(right) / (tagged - fitted)),
    }


def most_frequent(train: list[Sentence]) -> dict[str, str]:
    """Each word's most frequent tag; under "" that of words seen once, for unknown ones."""
    counts: dict[str, Counter[str]] = {}
    for words, tags in train:
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    once = Counter(next(iter(tags)) for tags in counts.values() if tags.total() == 1)
    return {"": once.most_common(1)[0][0]} | {w: tags.most_common(1)[0][0] for w, tags in counts.items()}


def share(right: np.ndarray, sizes: list[int]) -> dict[str, float]:
    """The share of right words, with its interval by bootstrap over sentences."""
    edges = np.cumsum([0, *sizes[:-1]])
    return interval(bootstrap(np.add.reduceat(right.astype(float), edges), sizes), len(sizes))


def main() -> None:
    """Measure every corpus."""
    bench = begin("hmm_tagging", __doc__)
    rows = []
    for name in TRIALS:
        scores = bench.once(bench.result, name, measure, name, bench)
        accuracy, unknown = with_interval(scores["accuracy"], ".2f", 100), 100 * scores["unknown_share"]
        shares = [f"{100 * scores['known']:.2f} %", f"{100 * scores['unknown']:.2f} % of {unknown:.1f} %"]
        baseline = f"{100 * scores['most_frequent_tag']['value']:.2f} %"
        rows.append([name, accuracy, *shares, baseline, f"{scores['words_per_cpu_second']:,}"])
    header = ["corpus", "accuracy, % (95 %)", "known", "unknown", "most frequent tag", "words a CPU-second"]
    show("tagging by hidden Markov model, 10 % held out", header, rows)


if __name__ == "__main__":
    main()
