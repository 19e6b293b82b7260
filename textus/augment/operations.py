"""Ways to change the words of a text and keep its meaning: one function per operation, on the units of a text.

Swap, deletion, insertion and replacement by synonyms are EDA's (Wei and Zou 2019); slips of the keyboard and of
scanners, and Chinese characters of like sound, are what people and machines do to texts. Words with labels and words
of negation are never touched, what is negated keeps its place, and no operation makes a word of negation. Each takes
the units, a source of chance and the share of words to change, and gives None where it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random

from textus.augment.negation import is_negation, negated_span, negations
from textus.augment.units import Tokens, WordToken, is_between_labels, remove_token, starts_with_han
from textus.core.names import import_optional

Synonyms = Callable[[str], Sequence[str]]
Operation = Callable[[Tokens, Random, float], Tokens | None]

GRAMMAR = """a an and any are as at be been but by can could did do does for from had has have he her here his how i if
in into is it its may me might more most must my no nor not of on or our out over she should so some such than that the
their them then there these they this those to too under up us was we were what when where which who why will with
would you your 的 了 在 是 我 你 他 她 它 们 和 也 就 都 而 及 与 或 不 没 没有 很 这 那 有 到 说 要 会 着"""
"""Words whose synonyms would change the grammar, or turn the sense round."""

KEYBOARD_ROWS = ("1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./")
OCR_CONFUSIONS = (
    "0:o 1:l l:i 5:s 8:b 2:z rn:m cl:d vv:w e:c h:b u:v 6:g q:g t:f 己:已 未:末 土:士 人:入 日:曰 大:太 千:干"
    " 天:夫 王:玉 木:本 力:刀 贝:见 间:问 今:令 侯:候 住:往 晴:睛 折:拆"
)
"""What scanners take for one another, both ways."""


def editable_positions(units: Tokens) -> list[int]:
    """Places of the words that may be changed."""
    kept = negations(units)
    return [place for place, unit in enumerate(units) if unit.is_editable and place not in kept]


def movable_positions(units: Tokens) -> list[int]:
    """Places of the words that may be moved or left out: those that nothing negates."""
    kept = negated_span(units)
    return [place for place in editable_positions(units) if place not in kept]


def n_edits(units: Tokens, rate: float) -> int:
    """How many words to change: a share of them, at least one."""
    return max(1, round(rate * len(editable_positions(units))))


# ── words ──────────────────────────────────────────────────────────────────────────────────────


def swap(units: Tokens, random: Random, rate: float) -> Tokens | None:
    """Two words change places, again and again."""
    places, changed = movable_positions(units), list(units)
    if len({units[place].text for place in places}) < 2:
        return None
    for _ in range(n_edits(units, rate)):
        a, b = random.sample(places, 2)
        first, second = changed[a], changed[b]
        changed[a] = replace(first, text=second.text, tag=second.tag)
        changed[b] = replace(second, text=first.text, tag=first.tag)
    return changed


def delete(units: Tokens, random: Random, rate: float) -> Tokens | None:
    """Words are left out; one is always kept, and whatever keeps two labels apart."""
    changed = list(units)
    for _ in range(n_edits(units, rate)):
        places = [place for place in movable_positions(changed) if not is_between_labels(changed, place)]
        if not places or sum(unit.text != "" for unit in changed) < 2:
            break
        changed = remove_token(changed, random.choice(places))
    return changed if len(changed) < len(units) else None


def make_insert(synonyms: Synonyms) -> Operation:
    """Synonyms of words of the text at any place of it, but for between two labels."""

    def operation(units: Tokens, random: Random, rate: float) -> Tokens | None:
        known = [
            others
            for place in movable_positions(units)
            if (others := replacements(units[place].text, synonyms))
        ]
        changed = list(units)
        for _ in range(n_edits(units, rate) if known else 0):
            word = random.choice(random.choice(known))
            kept = negated_span(changed)
            gaps = [
                n for n in range(1, len(changed))
                if not (changed[n - 1].is_labelled and changed[n].is_labelled) and not {n - 1, n} <= kept
            ] + [len(changed)]  # fmt: skip
            changed = insert_word(changed, random.choice(gaps), word)
        return changed if known else None

    return operation


def insert_word(units: Tokens, place: int, word: str) -> Tokens:
    """Units with one more word before `place`, set apart as its neighbours are."""
    before, blank = units[place - 1], "" if starts_with_han(word) else " "
    kept = replace(before, trailing_space=before.trailing_space or blank)
    new = WordToken(
        word, before.trailing_space if place == len(units) else blank, tag=None if before.tag is None else "O"
    )
    return [*units[: place - 1], kept, new, *units[place:]]


def make_synonyms(known: Synonyms) -> Operation:
    """Words are replaced by others of the same sense."""

    def change(word: str, random: Random) -> str:
        others = replacements(word, known)
        return random.choice(others) if others else word

    return make_word_operation(change)


def replacements(word: str, known: Synonyms) -> list[str]:
    """Synonyms of a word, written as it is: small, Capital or CAPITALS."""
    if word.lower() in GRAMMAR.split():
        return []
    write = str.upper if word.isupper() and len(word) > 1 else str.title if word.istitle() else str
    return [
        write(synonym)
        for synonym in known(word)
        if synonym.lower() != word.lower() and not is_negation(synonym)
    ]


# ── letters ────────────────────────────────────────────────────────────────────────────────────


@cache
def neighbours() -> dict[str, str]:
    """Key → the keys around it."""
    by_key = {}
    for y, row in enumerate(KEYBOARD_ROWS):
        for x, key in enumerate(row):
            near = [(y, x - 1), (y, x + 1), (y - 1, x), (y - 1, x + 1), (y + 1, x - 1), (y + 1, x)]
            keys = [
                KEYBOARD_ROWS[b][a]
                for b, a in near
                if 0 <= b < len(KEYBOARD_ROWS) and 0 <= a < len(KEYBOARD_ROWS[b])
            ]
            by_key[key] = "".join(character for character in keys if character.isalnum())
    return by_key


def keyboard_typo(word: str, random: Random) -> str:
    """One slip of the keyboard: a neighbour's key, a letter left out, twice, or before the one it follows."""
    place = random.randrange(len(word))
    kinds = ["neighbour", "twice"] + (["out", "turned"] if len(word) > 2 else [])
    kind = random.choice(kinds)
    letter, rest = word[place], word[place + 1 :]
    if kind == "twice":
        return word[:place] + letter * 2 + rest
    if kind == "out":
        return word[:place] + rest
    if kind == "turned":
        place = random.randrange(len(word) - 1)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if not (near := neighbours().get(letter.lower(), "")):
        return word
    other = random.choice(near)
    return word[:place] + (other.upper() if letter.isupper() else other) + rest


def ocr_error(word: str, random: Random) -> str:
    """One piece of a word taken for another that looks like it."""
    known = [pair.partition(":") for pair in OCR_CONFUSIONS.split()]
    pairs = [pair for a, _, b in known for pair in ((a, b), (b, a)) if pair[0] in word.lower()]
    if not pairs:
        return word
    seen, read = random.choice(pairs)
    at = word.lower().index(seen)
    return (
        word[:at] + (read.upper() if word[at : at + len(seen)].isupper() else read) + word[at + len(seen) :]
    )


@cache
def sounds() -> tuple[dict[str, str], dict[str, str]]:
    """The sound of each common Chinese character (GB 2312, level 1), without its tone; and the characters of each."""
    lazy_pinyin = import_optional("pypinyin", "augment").lazy_pinyin
    common = [bytes((a, b)).decode("gb2312", "ignore") for a in range(0xB0, 0xD8) for b in range(0xA1, 0xFF)]
    sound = {character: lazy_pinyin(character)[0] for character in common if character}
    alike: dict[str, str] = {}
    for character, syllable in sound.items():
        alike[syllable] = alike.get(syllable, "") + character
    return sound, alike


def homophone(word: str, random: Random) -> str:
    """One Chinese character of a word written as another that sounds the same."""
    sound, alike = sounds()
    places = [n for n, character in enumerate(word) if len(alike.get(sound.get(character, ""), "")) > 1]
    if not places:
        return word
    place = random.choice(places)
    others = alike[sound[word[place]]].replace(word[place], "")
    return word[:place] + random.choice(others) + word[place + 1 :]


def make_word_operation(change: Callable[[str, Random], str]) -> Operation:
    """An operation that changes words one by one."""

    def operation(units: Tokens, random: Random, rate: float) -> Tokens | None:
        changed, places = list(units), editable_positions(units)
        random.shuffle(places)
        left = n_edits(units, rate)
        for place in places:
            if not left:
                break
            if (other := change(units[place].text, random)) != units[place].text and not is_negation(other):
                changed[place] = replace(units[place], text=other)
                left -= 1
        return changed if left < n_edits(units, rate) else None

    return operation


def make_typo(word: str, random: Random) -> str:
    """What a hurried hand makes of a word: a slip of the keys, or in Chinese a character of the same sound."""
    return homophone(word, random) if starts_with_han(word) else keyboard_typo(word, random)
