"""Words of negation and what they negate: a copy without them, or with them elsewhere, would have the wrong label."""

from __future__ import annotations

import re
from functools import cache

from textus.augment.units import Tokens, starts_with_han

ENGLISH = """ain aint arent barely cannot cant couldnt darent didnt doesnt dont except hadnt hardly hasnt havent isnt
lack lacked lacking lacks mightnt mustnt nay neednt neither never no nobody non none nope nor not nothing nowhere nt
oughtnt rarely scarcely seldom shant shouldnt unless wasnt werent without wont wouldnt"""
"""Apostrophes left out; a word with hyphens counts by its parts."""
CHINESE = "不没沒無无未非莫勿毋別别否甭弗休勿"
HARMLESS = """非常 特别 特別 别人 別人 区别 分别 分別 级别 性别 性別 个别 類別 类别 识别 告别 别墅 别名 非洲 未来 未來
无锡 休息 退休 休闲 不仅 不但 不过 莫非 莫名 无论"""
"""Chinese words with such a character that negate nothing. Others are kept as they are, which does no harm."""
APOSTROPHE = "['\u2019\u2018`\u00b4\uff07]"
SCOPE = 3
"""Words after a negation that keep their places, up to the next mark (cf. Das and Chen 2001)."""


@cache
def english() -> frozenset[str]:
    """The English words, for looking up."""
    return frozenset(ENGLISH.split())


@cache
def is_negation(word: str) -> bool:
    """Whether a word negates, in English or Chinese: not, never, n't, isn't, cannot, no-one; 不, 没有, 无法, 别."""
    if any(character in CHINESE for character in word):
        return word not in HARMLESS.split()
    parts = re.split("[-\u2010\u2011]", re.sub(APOSTROPHE, "", word.lower()))
    apostrophe = re.search(f"n{APOSTROPHE}t$", word.lower())
    return bool(apostrophe) or any(part in english() for part in parts)


def is_suffix(word: str) -> bool:
    """Whether a token is the negation of the one before: treebanks write do and n't apart."""
    return re.fullmatch(f"n{APOSTROPHE}?t|{APOSTROPHE}t", word.lower()) is not None


def negations(units: Tokens) -> set[int]:
    """Places of the words that negate, and of those that n't is a part of."""
    negated = {place for place, unit in enumerate(units) if is_negation(unit.text) or is_suffix(unit.text)}
    return negated | {place - 1 for place in negated if place and is_suffix(units[place].text)}


def negated_span(units: Tokens) -> set[int]:
    """`negations`, and places of the words they negate: those that follow, up to a mark."""
    places = negations(units)
    span = set(places)
    for place in places:
        left = SCOPE
        for after in range(place + 1, len(units)):
            text = units[after].text
            if not left or not (text[:1].isalnum() or starts_with_han(text) or is_suffix(text)):
                break
            span.add(after)
            left -= 1
    return span
