"""Augmentation keeps what is negated negated (D14): every operation on words of negation in English and Chinese."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from textus.augment import operations
from textus.augment.augmenter import AugmentConfig, make_operations
from textus.augment.negation import is_negation, negated_span, negations
from textus.augment.operations import Operation
from textus.augment.units import Tokens, WordToken, detokenize, tokenize_text
from textus.cli.main import main

ENGLISH = [
    "not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "nowhere", "without", "hardly", "scarcely",
    "barely", "rarely", "seldom", "cannot", "isn't", "wasn't", "don't", "can't", "won't", "ain't", "DIDN’T",
    "couldn`t", "dont", "cant", "Not", "NEVER", "no-one",
]  # fmt: skip
CHINESE = ["不", "没", "没有", "无", "无法", "别", "未", "未必", "非", "莫", "勿", "不是", "毫无", "并非"]
SYNONYMS = {
    "good": ["fine"], "film": ["movie"], "town": ["city"], "not": ["never"], "no": ["zero"], "never": ["ever"],
    "none": ["any"], "without": ["with"], "电影": ["影片"], "好看": ["精彩"], "没有": ["有"], "不": ["很"],
    "now": ["not"], "without doubt": ["sure"],
}  # fmt: skip
NAMES = ["synonyms", "insert", "swap", "delete", "typos", "ocr", "pinyin"]


def operation(name: str) -> Operation:
    """An operation; synonyms come from a small dictionary, which has negations too."""
    known = lambda word: SYNONYMS.get(word.lower(), ["nobody"])  # noqa: E731
    if name in ("synonyms", "insert"):
        return operations.make_synonyms(known) if name == "synonyms" else operations.make_insert(known)
    return make_operations(AugmentConfig(name))[name]


def negated(units: Tokens) -> list[str]:
    """What the words of negation and the next word after each say, in order: what has to stay."""
    places = sorted(negations(units))
    pairs = []
    for place in places:
        after = units[place + 1].text if place + 1 < len(units) and place + 1 in negated_span(units) else ""
        pairs.append(f"{units[place].text} {after}")
    return pairs


def changed_units(name: str, units: Tokens, seed: int) -> Tokens:
    """The units after the operation, or as they were."""
    return operation(name)(units, Random(seed), 1.0) or units


@pytest.mark.promise("Robustness", "Augmentation keeps what is negated negated, in English and Chinese")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", ENGLISH)
def test_english_negations_stay_with_what_they_negate(name: str, word: str) -> None:
    """D14: never deleted, moved away, replaced or broken; and none is made."""
    texts = [f"The old film {word} good town, now a long knot story", f"{word} film here", f"We saw {word}."]
    for text in texts:
        before = tokenize_text(text, [])
        marks = [unit.text for unit in before if negations([unit])]
        for seed in range(12):
            after = changed_units(name, before, seed)
            assert [unit.text for unit in after if negations([unit])] == marks
            exact = name in ("swap", "delete", "insert")
            if exact:
                assert negated(after) == negated(before)
            assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", detokenize(after)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", CHINESE)
def test_chinese_negations_stay_with_what_they_negate(name: str, word: str) -> None:
    """D14 in Chinese, where a word of negation may be a part of another."""
    for text in (f"这部电影{word}好看，步行去那个城市", f"{word}电影", f"我们觉得{word}。"):
        before = tokenize_text(text, [])
        count = sum(text.count(item) for item in "不没无未非莫勿别")
        for seed in range(12):
            after = changed_units(name, before, seed)
            answer = detokenize(after)[0]
            assert word in answer
            assert sum(answer.count(item) for item in "不没无未非莫勿别") == count
            if name in ("swap", "delete", "insert"):
                assert negated(after) == negated(before)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_a_treebank_stay_whole(name: str) -> None:
    """`do n't`, `ca n't`: the word before belongs to the negation; tokens with tags stay as they are."""
    words = ["Anna", "ca", "n't", "like", "old", "films", ",", "Bob", "saw", "it", "now", "here"]
    tags = ["B-PER", *["O"] * 6, "B-PER", *["O"] * 4]
    before = [WordToken(w, " ", is_labelled=t != "O", tag=t) for w, t in zip(words, tags, strict=True)]
    for seed in range(30):
        after = changed_units(name, before, seed)
        texts = [unit.text for unit in after]
        at = texts.index("n't")
        assert texts[at - 1] == "ca"
        assert [unit.text for unit in after if unit.is_labelled] == ["Anna", "Bob"]
        if name in ("swap", "delete", "insert"):
            assert texts[at + 1 : at + 4] == ["like", "old", "films"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("not", True), ("Isn’t", True), ("n't", True), ("no-one", True), ("without", True), ("notable", False),
        ("now", False), ("know", False), ("none", True), ("不", True), ("没有", True), ("不好", True),
        ("非常", False), ("特别", False), ("非常好", True), ("好", False), ("paint", False), ("want", False),
    ],
)  # fmt: skip
def test_negations_are_known(word: str, expected: bool) -> None:
    assert is_negation(word) is expected


def test_other_words_are_still_changed() -> None:
    """The guard leaves something to change: a text in which nothing is negated, and the rest of one in which it is."""
    text = "A very good film about the old town, and it was not long at all, he said"
    for name in ("swap", "delete", "typos"):
        before = tokenize_text(text, [])
        assert all(changed_units(name, before, seed) != before for seed in range(10)), name
    held = negated_span(tokenize_text(text, []))
    assert 0 < len(held) < len(tokenize_text(text, [])) / 2


def test_copies_of_a_file_keep_their_negation(tmp_path: Path) -> None:
    """D14 as it was reported."""
    rows = [{"text": f"Film {n} was not good", "label": "neg"} for n in range(40)]
    data, out = tmp_path / "neg.jsonl", tmp_path / "more.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "augment",
        str(data),
        "--ops",
        "delete,swap,typos",
        "--copies",
        "4",
        "--rate",
        "0.5",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    copies = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(copies) > 80
    assert all(re.search(r"\bnot\b", row["text"]) for row in copies)
    assert all("not good" in row["text"] for row in copies if row.get("augmented") in ("delete", "swap"))
