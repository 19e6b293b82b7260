"""Questions made from plain text, to train on before scarce data of one's own: a span of a sentence is the answer to
the words around it.

Of a document's sentence a few words become the answer, a question word represents them, and words around it are the
question, some left out; the context is the passage of the sentence. A reader that learns from such rows first
has found out where in a context the words of a question are, before it meets a real one. After Lewis, Denoyer and
Riedel 2019 (cloze translation), simplified; see also Ram et al. 2021.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from textus.augment.config import ClozeConfig
from textus.augment.operations import GRAMMAR
from textus.augment.units import iter_words, starts_with_han
from textus.core.io import fingerprint
from textus.core.rng import derive_seed

SENTENCE = re.compile(r"[^.!?。！？；\n]+(?:[.!?](?!\s)[^.!?。！？；\n]*)*[.!?。！？；]*")
"""A full stop within a number or a name does not end one."""
LEAST_WORDS, LEAST_SENTENCES = 8, 3
CONTEXT_WORDS = 14
"""Words on each side of the answer that a question may contain."""
NAME_SHARE = 0.5
"""Share of questions for a name or a number, where a sentence has some: what people mostly ask for."""
QUESTION_WORDS = {
    "number": (["how many", "when", "what"], ["多少", "几", "何时", "哪年"]),
    "name": (["who", "which", "what", "where"], ["谁", "哪里", "什么", "哪个"]),
    "other": (["what", "what", "how", "why"], ["什么", "什么", "如何", "为何"]),
}
COMMON = frozenset(GRAMMAR.split())

Words = Sequence[tuple[int, str]]


def make_clozes(texts: Iterable[str], settings: ClozeConfig) -> Iterator[dict[str, Any]]:
    """Rows of `tasks.question_answering`; each follows from the seed and its passage alone."""
    for text in texts:
        for passage in split_passages(text, settings.longest):
            random = Random(derive_seed(settings.seed, "cloze", fingerprint([passage])))
            sentences = [(match.start(), match[0]) for match in SENTENCE.finditer(passage)]
            if len(sentences) < LEAST_SENTENCES:
                continue
            for start, sentence in random.sample(sentences, min(settings.questions, len(sentences))):
                if row := make_question(sentence, random, settings):
                    question, at, answer = row
                    answers = [{"text": answer, "start": start + at}]
                    yield {"question": question, "context": passage, "answers": answers}


def split_passages(text: str, longest: int) -> Iterator[str]:
    """Consecutive whole sentences of at most `longest` characters; a longer sentence is left out."""
    begin = end = 0
    for match in SENTENCE.finditer(text):
        if match.end() - begin > longest:
            if end > begin:
                yield text[begin:end].strip()
            begin = match.start()
        if match.end() - match.start() > longest:
            begin = match.end()
        end = match.end()
    if end > begin:
        yield text[begin:end].strip()


def make_question(sentence: str, random: Random, settings: ClozeConfig) -> tuple[str, int, str] | None:
    """A question for some words of the sentence, where they begin in it, and they; None where it has too few words."""
    words = list(iter_words(sentence))
    if sum(word[0].isalnum() for _, word in words) < LEAST_WORDS:
        return None
    span = pick_answer(words, random, 1 - 1 / settings.words)
    if span is None:
        return None
    first, last = span
    begin, end = words[first][0], words[last][0] + len(words[last][1])
    answer = sentence[begin:end]
    in_chinese = starts_with_han(answer) or starts_with_han(words[0][1])
    asking = random.choice(QUESTION_WORDS[answer_kind(answer, first)][in_chinese])
    before, after = (
        [word for _, word in part if word[0].isalnum() and random.random() >= settings.dropped]
        for part in (words[max(0, first - CONTEXT_WORDS) : first], words[last + 1 : last + 1 + CONTEXT_WORDS])
    )
    if not before and not after:
        return None
    if in_chinese:
        return "".join([*before, asking, *after]) + "？", begin, answer
    parts = [*before, asking, *after] if random.random() < 0.5 else [asking, *before, *after]
    return " ".join(parts) + "?", begin, answer


def pick_answer(words: Words, random: Random, more: float) -> tuple[int, int] | None:
    """The first and last word of an answer: a name, a number, or any words, with `more` the probability of another."""
    free = [at for at, (_, word) in enumerate(words) if word[0].isalnum() and word.lower() not in COMMON]
    if not free:
        return None
    named = [at for at in free if at and answer_kind(words[at][1], at) != "other"]
    first = last = random.choice(named if named and random.random() < NAME_SHARE else free)
    if first in named:
        while first - 1 in named:
            first -= 1
        while last + 1 in named:
            last += 1
        return first, last
    while random.random() < more and last + 1 < len(words):
        last += 1
    while last > first and last not in free:
        last -= 1
    return first, last


def answer_kind(answer: str, first: int) -> str:
    """What an answer looks like; the first word of a sentence is capital for another reason."""
    if any(character.isdigit() for character in answer):
        return "number"
    return "name" if first and answer[0].isupper() else "other"
