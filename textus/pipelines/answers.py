"""Answers from an index: retrieval with a confidence, the sentence that answers best, and checked citations.

Support of a sentence by passages: the share of its words, weighted by their inverse document frequency, that are in
the passages; a number of the sentence that no passage has makes it 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.scripts import CJK
from textus.data.corpus.pdf_docx import PAGE_BREAK
from textus.data.passages import Passage
from textus.data.sentences import sentence_spans
from textus.pipelines.search_index import FUSION_DEPTH, Index, bm25_tokens, reciprocal_rank_fusion

RANK_WEIGHT = 0.5
"""Weight of the score of a passage, relative to the best one, next to the coverage of a sentence."""
LEAST_SUPPORT = 0.5
"""A sentence with less support is marked as unsupported."""
DEFAULT_THRESHOLD = 0.4
"""Least coverage of a question by the best passage, for an index without calibration."""
MOST_UNKNOWN = 0.5
"""Share of a question's characters that the encoder may not know."""
JUDGED_PASSAGES = 3
"""Passages in which the best sentence is searched for the confidence."""

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\S+",
        "a an the is are was were be been do does did of in on at to for from by with as and or what which who whom "
        "whose when where why how many much it its that this these those there can could may might will would should "
        "has have had i you we they he she my your our their his her s 的 了 是 在 有 和 与 于 被",
    )
)
"""Words that do not show what a question is about."""
QUESTION_CHARACTERS = re.compile("[吗呢么谁哪怎几]|多少|什|为何|如何")
CITATION = re.compile(r"\[(\d+)\]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

REFUSALS = ("The documents do not hold an answer to this question.", "文档中没有这个问题的答案。")
PROMPTS = (
    "Answer the question from the numbered passages only, in one to three sentences. After each sentence cite the"
    f" passage it is from, such as [1]. If the passages do not hold the answer, write: {REFUSALS[0]}",
    "只根据下面带序号的段落回答问题，用一到三句话。每句话后面注明出处段落，例如 [1]。"
    f"如果段落中没有答案，请写：{REFUSALS[1]}",
)
"""System messages of a chat run, English and Chinese."""


@dataclass(frozen=True)
class Retrieval:
    """The best passages of a question: (position, score) as fused, their scores by words and by meaning (None where the
    index has none), and what the confidence is computed from.
    """

    question: str
    results: list[tuple[int, float]]
    by_words: dict[int, float]
    features: list[float]


def check_question(index: Index, question: Any) -> str:
    """A question as one line. Raises UsageError for an empty one."""
    if not isinstance(question, str):
        raise UsageError("wrong_type", f"the question is {type(question).__name__}, not a string")
    text = " ".join(question.split())
    if not bm25_tokens(text):
        raise UsageError("missing_argument", f"the question {question[:60]!r} has no words; give a question")
    return text


def is_chinese(text: str) -> bool:
    """Whether a question is answered in Chinese."""
    return bool(re.search(f"[{CJK}]", text))


def usable_modes(index: Index, question: str) -> list[str]:
    """The modes that can search for a question: without "dense" where the encoder does not know its script. Raises
    UsageError if none is left.
    """
    modes = [name for name, has in (("bm25", index.record["bm25"]), ("dense", index.record["run"])) if has]
    if "dense" in modes:
        tokenizer = index.encoder[2]
        unknown = 0
        if tokenizer.unk_id is not None:
            unknown = sum(tokenizer.unknown_bytes(question, tokenizer.encode(question)))
        if unknown > MOST_UNKNOWN * len(question.encode()):
            if modes == ["dense"]:
                raise UsageError(
                    "cannot_encode",
                    f"the encoder of {index.path} does not know most of {question[:40]!r}; rebuild the index"
                    " with --bm25, or with an encoder of this language",
                )
            log_notice("the encoder does not know most of the question: searched by words only")
            modes.remove("dense")
    return modes


def retrieve(index: Index, question: str, *, left_out: Collection[int] = ()) -> Retrieval:
    """The best passages of a question by all modes of the index, without the documents `left_out`."""
    lists = {}
    for mode in usable_modes(index, question):
        depth = FUSION_DEPTH + sum(passage.number in left_out for passage in index.passages if left_out)
        results = index.search(question, k=depth, mode=mode)
        lists[mode] = [pair for pair in results if index.passages[pair[0]].number not in left_out]
    fused = reciprocal_rank_fusion(list(lists.values())) if len(lists) > 1 else next(iter(lists.values()))
    by_words = dict(lists.get("bm25", []))
    features = confidence_features(index, question, fused, lists) if fused else []
    return Retrieval(question, fused, by_words, features)


def confidence_features(
    index: Index, question: str, fused: list[tuple[int, float]], lists: dict[str, list[tuple[int, float]]]
) -> list[float]:
    """What a retrieval is judged by: the share of the question, by weight, in its best passage, in its best sentence,
    and more of it than in the next passage; for each mode the best score and its lead, the score by words also
    relative to the weight and number of the question's words.
    """
    weights = token_weights(index, question)
    total = sum(weights.values()) or 1.0
    texts = [index.passages[position].text for position, _ in fused[:JUDGED_PASSAGES]]
    coverages = [coverage(weights, text) for text in texts]
    sentences = [coverage(weights, text[a:b]) for text in texts for a, b in sentence_spans(text)]
    features = [coverages[0], max(sentences, default=0.0), coverages[0] - (coverages[1:2] or [0.0])[0]]
    for mode in ("bm25", "dense"):
        if index.record["bm25" if mode == "bm25" else "run"]:
            scores = [score for _, score in lists.get(mode, [])[:2]]
            best, second = (*scores, 0.0, 0.0)[:2]
            lead = (best - second) / (abs(best) or 1.0)
            features += [best / total, lead, best / len(weights)] if mode == "bm25" else [best, lead]
    return features


def token_weights(index: Index, text: str) -> dict[str, float]:
    """The inverse document frequency, as BM25 has it, of each word of a text but function words; of all words if there
    are no others.
    """
    counts = index.document_frequencies
    tokens = bm25_tokens(QUESTION_CHARACTERS.sub(" ", text)) or bm25_tokens(text)
    content = [token for token in tokens if token not in FUNCTION_WORDS] or tokens
    return {
        token: math.log(1 + (index.size - counts[token] + 0.5) / (counts[token] + 0.5))
        for token in dict.fromkeys(content)
    }


def coverage(weights: dict[str, float], text: str) -> float:
    """The share of weighted words that a text has."""
    present = set(bm25_tokens(text))
    total = sum(weights.values())
    return sum(weight for token, weight in weights.items() if token in present) / total if total else 0.0


def best_sentence(index: Index, retrieval: Retrieval, top: int) -> dict[str, Any]:
    """The sentence of the `top` passages with most of the question, its passage's score counting too."""
    weights = token_weights(index, retrieval.question)
    scores = retrieval.by_words or dict(retrieval.results)
    highest = max(scores.values()) or 1.0
    best: tuple[float, int, tuple[int, int]] | None = None
    for rank, (position, _) in enumerate(retrieval.results[:top], 1):
        text = index.passages[position].text
        for span in sentence_spans(text):
            score = coverage(weights, text[slice(*span)]) + RANK_WEIGHT * scores.get(position, 0.0) / highest
            if best is None or score > best[0]:
                best = score, rank, span
    if best is None:
        raise UsageError("out_of_range", f"--top {top}: must be at least 1")
    _, rank, span = best
    return locate(index.passages[retrieval.results[rank - 1][0]], rank, span)


def locate(passage: Passage, rank: int, span: tuple[int, int]) -> dict[str, Any]:
    """A span of a passage as an answer: its text, and its passage, file, page and characters in the document."""
    start, end = span
    page = passage.page and passage.page + passage.text.count(PAGE_BREAK, 0, start)
    return {
        "answer": " ".join(passage.text[start:end].split()),
        "source": {
            "passage": rank, "id": passage.id, "file": passage.file, "where": passage.where, "page": page,
            "start": passage.start + start, "end": passage.start + end,
        },
    }  # fmt: skip


# ── chat ───────────────────────────────────────────────────────────────────────────────────────


def chat_messages(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The conversation that asks a chat run."""
    chinese = is_chinese(question)
    numbered = "\n\n".join(f"[{n}] {passage.text.strip()}" for n, passage in enumerate(passages, 1))
    asks = f"{numbered}\n\n{'问题：' if chinese else 'Question: '}{question}"
    return [{"role": "system", "content": PROMPTS[chinese]}, {"role": "user", "content": asks}]


def fit_passages(
    question: str, passages: Sequence[Passage], n_ids: Callable[[Any], int], limit: int | None
) -> list[Passage]:
    """As many of the best passages as fit into `limit` ids of a prompt, with a notice. Raises UsageError for none."""
    kept = list(passages)
    while limit is not None and kept and n_ids(chat_messages(question, kept)) > limit:
        kept.pop()
    if not kept:
        raise UsageError(
            "context_exceeded",
            f"no passage fits into the {limit:,} ids of the prompt; build the index with a smaller --passage",
        )
    if len(kept) < len(passages):
        log_notice(
            f"{len(passages) - len(kept):,} of {len(passages):,} passages do not fit into the context: left out"
        )
    return kept


def check_citations(index: Index, answer: str, passages: Sequence[Passage]) -> dict[str, Any]:
    """Each sentence of an answer with its citations, its support by the passages it cites (by all if it cites none),
    and whether it is supported; the cited numbers that do not exist.
    """
    sentences, invalid = [], Counter[int]()
    for begin, end in sentence_spans(answer):
        text = answer[begin:end]
        cited = list(dict.fromkeys(map(int, CITATION.findall(text))))
        plain = CITATION.sub("", text).strip()
        if not bm25_tokens(plain):
            continue
        valid = [number for number in cited if 1 <= number <= len(passages)]
        invalid.update(set(cited) - set(valid))
        shown = [passages[number - 1] for number in valid] if cited else passages
        value = support(index, plain, [passage.text for passage in shown])
        sentences.append(
            {
                "text": plain,
                "citations": cited,
                "support": round(value, 4),
                "supported": value >= LEAST_SUPPORT,
            }
        )
    return {"sentences": sentences, "invalid_citations": sorted(invalid)}


def support(index: Index, sentence: str, texts: Sequence[str]) -> float:
    """The support of a sentence by texts, from 0 to 1; see the module."""
    together = "\n".join(texts)
    numbers = set(NUMBER.findall(together))
    if any(number not in numbers for number in NUMBER.findall(sentence)):
        return 0.0
    return coverage(token_weights(index, sentence), together)
