"""How many words the tagger of `textus.models.hmm_tagger` gets right: Brown with the twelve universal tags, and
People's Daily with its own; a tenth of the sentences, by hash, is held out."""

from __future__ import annotations

import hashlib
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measuring import DATA, begin, show
from textus.core.console import cpu_seconds
from textus.metrics.resampling import bootstrap, interval
from textus.models.hmm_tagger import HMMTagger

Sentence = tuple[list[str], list[str]]
Trial = tuple[Path, Callable[[Path], Iterator[Sentence]], Callable[[str], str], Callable[[str], str]]

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
    """A Brown tag without what says title, headline or citation."""
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


def brown(path: Path) -> Iterator[Sentence]:
    """The sentences of the Brown corpus, as many as it has lines, with its own tags."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                for line in archive.read(name).decode().splitlines():
                    if line.strip():
                        pairs = [each.rpartition("/")[::2] for each in line.split()]
                        yield [word for word, _ in pairs], [tag for _, tag in pairs]


def people_daily(path: Path) -> Iterator[Sentence]:
    """The sentences of People's Daily, January 1998: its paragraphs, cut after full stops."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            words: list[str] = []
            tags: list[str] = []
            for each in line.split():
                word, _, tag = each.lstrip("[").rpartition("/")
                words.append(word)
                tags.append(tag.partition("]")[0])
                if word in ("。", "！", "？"):
                    yield words, tags
                    words, tags = [], []
            if words:
                yield words, tags


def held_out(words: list[str]) -> bool:
    """One sentence of ten, by its words: the same sentence is never on both sides."""
    return hashlib.sha256(" ".join(words).encode()).digest()[0] % 10 == 0


def measured(
    sentences: list[Sentence], learnt: Callable[[str], str], coarser: Callable[[str], str]
) -> dict[str, Any]:
    """Accuracy of a tagger that learns tags as `learnt` gives them, where those alike to `coarser` are one."""
    sentences = [(words, [learnt(tag) for tag in tags]) for words, tags in sentences]
    train = [each for each in sentences if not held_out(each[0])]
    test = [each for each in sentences if held_out(each[0])]
    started = cpu_seconds()
    tagger = HMMTagger().fit(train)
    fitted = cpu_seconds()
    answers = [tagger.tag(words) for words, _ in test]
    tagged = cpu_seconds()
    common = most_frequent(train)
    right, plain, known, sizes = [], [], [], []
    for (words, tags), found in zip(test, answers, strict=True):
        gold = [coarser(tag) for tag in tags]
        sizes.append(len(words))
        known += [word in common for word in words]
        right += [coarser(got) == want for got, want in zip(found, gold, strict=True)]
        plain += [
            coarser(common.get(word, common[""])) == want for word, want in zip(words, gold, strict=True)
        ]
    edges = np.cumsum([0, *sizes[:-1]])
    seen, good = np.array(known), np.array(right, dtype=float)
    return {
        "accuracy": shares(good, edges, sizes),
        "known": float(good[seen].mean()),
        "unknown": float(good[~seen].mean()),
        "unknown_share": float(1 - seen.mean()),
        "most_frequent_tag": shares(np.array(plain, dtype=float), edges, sizes),
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
    once = Counter(next(iter(each)) for each in counts.values() if each.total() == 1)
    return {"": once.most_common(1)[0][0]} | {w: each.most_common(1)[0][0] for w, each in counts.items()}


def shares(right: np.ndarray, edges: np.ndarray, sizes: list[int]) -> dict[str, float]:
    """The share of right words, with its interval by bootstrap over sentences."""
    return interval(bootstrap(np.add.reduceat(right, edges), sizes), len(sizes))


def main() -> None:
    """Measure what is not measured yet."""
    bench = begin("hmm_tagging", __doc__)
    english = DATA / "nltk_data" / "corpora" / "brown.zip"
    chinese = DATA / "people_daily_1998" / "199801_pos.txt.xz"
    trials: dict[str, Trial] = {
        "brown_universal": (english, brown, universal, str),
        "brown_own_tags_to_universal": (english, brown, base, universal),
        "people_daily": (chinese, people_daily, str, str),
    }
    result = {name: found for name, found in bench.kept().items() if name in trials}
    for name, (path, read, learnt, coarser) in trials.items():
        if name not in result:
            if not path.exists():
                raise SystemExit(f"{path} is not there; set TEXTUS_DATA to the folder of the data sets")
            sentences = list(read(path))
            result[name] = measured(sentences[:500] if bench.smoke else sentences, learnt, coarser)
            bench.save(result)
    header = ["corpus", "accuracy (95 %)", "known", "unknown", "most frequent tag", "words a CPU-second"]
    show(
        "tagging by hidden Markov model, 10 % held out", header, [row(name, result[name]) for name in trials]
    )


def row(name: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    value = found["accuracy"]
    return [
        name,
        f"{100 * value['value']:.2f} % ({100 * value['low']:.2f}–{100 * value['high']:.2f})",
        f"{100 * found['known']:.2f} %",
        f"{100 * found['unknown']:.2f} % of {100 * found['unknown_share']:.1f} %",
        f"{100 * found['most_frequent_tag']['value']:.2f} %",
        f"{found['words_per_cpu_second']:,}",
    ]


if __name__ == "__main__":
    main()
