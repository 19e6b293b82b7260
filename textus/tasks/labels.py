"""Labels as names of classes: equal numbers or truth values are one class, however they are written.

A former number column has both `1.0` and `1`, a boolean one both `True` and `true`. Names that differ in case, width,
blanks or one letter stay different classes, but are reported: only a person knows whether they are one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import DataError

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
"""A number as programs write it; 007 is a code."""
TRUTH = {"true": True, "false": False}
MISSING = ("nan", "null", "none", "n/a", "#n/a", "na", "undefined", "missing", "-", "?")
"""Usual spellings of a missing label."""
SEPARATORS = ("|", ";", "；", ",", "，", "、")
"""Separators of the labels of a text, in the order in which they are tried."""
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
ITEM = rf"(?:{QUOTED}|[^\s,'\"\[\]]+)"
LIST = re.compile(rf"\[\s*(?:{ITEM}(?:\s*,\s*|\s+))*(?:{ITEM})?\s*\]")
"""A list written as text, by JSON, Python or numpy."""
SHOWN = 5
RARE = 10
"""A name may be a typo of another that is so many times as frequent."""

Key = tuple[str, Any]


# ── one name ───────────────────────────────────────────────────────────────────────────────────


def label_name(value: Any, where: str) -> str:
    """A label as text: strings, numbers and dates are names. Raises DataError for an empty one, or no name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float) and value == value:
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, date):
        return value.isoformat()
    raise DataError(
        "invalid_row",
        f"{where}: the label is {value!r}, which names no class; give it one, or leave the row out of the file",
    )


def common_type(values: Iterable[Any]) -> str:
    """The common type of labels: bool, int or float; "" for others and mixtures."""
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return kinds.pop().__name__
    return "float" if kinds == {int, float} else ""


def cast_label(name: str, kind: str) -> Any:
    """The name of a class as a value of the rows' type, see `common_type`."""
    if kind == "bool":
        return name == "true"
    return {"int": int, "float": float}.get(kind, str)(name)


def value_key(name: str) -> Key | None:
    """The number or truth value that a name spells; None for other names."""
    if name.lower() in TRUTH:
        return "truth", TRUTH[name.lower()]
    if NUMBER.fullmatch(name):
        return "number", Decimal(name)
    return None


def as_number(key: Key | None) -> Key | None:
    """A truth value as 1 or 0."""
    return ("number", Decimal(int(key[1]))) if key and key[0] == "truth" else key


def are_booleans(keys: Iterable[Key | None]) -> bool:
    """Whether all names are truth values, 1 and 0 included."""
    return all(as_number(key) in (("number", 0), ("number", 1)) for key in keys)


def merge_spellings(counts: Counter[str]) -> dict[str, str]:
    """Name → class: names of one number or truth value are one class, named by its shortest spelling. 1 and 0 are true
    and false where the column has only these.
    """
    both = are_booleans(value_key(name) for name in counts)
    groups: dict[Key, list[str]] = {}
    for name in counts:
        if (key := value_key(name)) is not None:
            groups.setdefault((as_number(key) if both else key) or key, []).append(name)
    classes = {name: name for name in counts}
    for names in groups.values():
        if len(names) > 1:
            plain = [name for name in names if name.lower() not in TRUTH]
            best = min(plain or names, key=lambda name: ("e" in name.lower(), len(name), -counts[name], name))
            classes |= dict.fromkeys(names, best if plain else best.lower())
    return classes


class Classes:
    """Looks up classes by name, else by the number or truth value of the name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)
        self.keys = {key: name for name in names if (key := value_key(name)) is not None}
        if are_booleans(map(value_key, names)):
            self.keys |= {("truth", bool(truth)): name for (_, truth), name in self.keys.items()}
            self.keys |= {("number", Decimal(int(truth))): name for (_, truth), name in self.keys.items()}

    def lookup(self, name: str) -> str:
        """The class of a label; the label itself if there is no such class."""
        return name if name in self.names else self.keys.get(value_key(name) or ("", None), name)


def report_spellings(spelled: Counter[tuple[str, str]]) -> None:
    """Report classes with several spellings; `spelled` counts (class, value in the file)."""
    ways: dict[str, list[str]] = {}
    for (name, value), n in spelled.most_common():
        ways.setdefault(name, []).append(f"{value} {n:,} times")
    several = {name: spellings for name, spellings in ways.items() if len(spellings) > 1}
    if several:
        listed = [f"{name}: {', '.join(spellings)}" for name, spellings in several.items()]
        more = f"; and {len(several) - SHOWN:,} more classes" if len(several) > SHOWN else ""
        log_notice(
            f"labels written in several ways are read as one class ({'; '.join(listed[:SHOWN])}{more})"
        )


# ── several labels a text ──────────────────────────────────────────────────────────────────────


def parse_list(text: str, *, quoted: bool = False) -> list[Any] | None:
    """The values of a list written as text, such as "['neg', 'en']"; None for other texts. `quoted`: the first value
    must be in quotes.
    """
    text = text.strip()
    if not LIST.fullmatch(text) or (quoted and text[1:].lstrip()[:1] not in ("'", '"')):
        return None
    try:
        return list(json.loads(text))
    except ValueError:
        items = re.findall(ITEM, text[1:-1])
        return [re.sub(r"\\(.)", r"\1", item[1:-1]) if item[0] in "'\"" else item for item in items]


def find_separator(values: Sequence[str]) -> str | None:
    """The separator of labels: a bar where any value has it; `;` or a comma where most have it, or where the parts
    recur.
    """
    wholes = Counter(values)
    for sign in SEPARATORS:
        having = [value for value in values if sign in value]
        if not having:
            continue
        if sign == "|" or len(having) * 2 >= len(values):
            return sign
        pieces = Counter(piece for whole in wholes for piece in split_labels(whole, sign))
        several = [piece for whole in set(having) for piece in split_labels(whole, sign)]
        if len(pieces) < len(wholes) and sum(pieces[piece] > 1 for piece in several) >= 0.9 * len(several):
            return sign
    return None


def split_labels(value: str, separator: str) -> list[str]:
    """The labels between separators."""
    return [piece.strip() for piece in value.split(separator) if piece.strip()]


# ── names that look like one ───────────────────────────────────────────────────────────────────


def normalize_name(name: str) -> str:
    """A name without differences of case, width, blanks, hyphens between words and characters without width."""
    composed = unicodedata.normalize("NFKC", name)
    visible = "".join(character for character in composed if unicodedata.category(character) != "Cf")
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", visible.strip().casefold())


def similar_names(counts: Counter[str]) -> list[list[str]]:
    """Groups of names that differ in case, width, blanks or hyphens alone, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        groups.setdefault(normalize_name(name), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def likely_typos(counts: Counter[str]) -> list[tuple[str, str]]:
    """(rare, frequent) names of four letters or more that are one edit apart, see `is_one_edit`."""
    near: dict[str, list[str]] = {}
    words = [name for name in counts if len(name) > 3 and name.isprintable()]
    for name in words:
        for shorter in {name[:at] + name[at + 1 :] for at in range(len(name))} | {name}:
            near.setdefault(shorter, []).append(name)
    pairs: dict[tuple[str, str], None] = {}
    for names in near.values():
        for rare in names:
            for frequent in names:
                if counts[frequent] >= RARE * counts[rare] and is_one_edit(rare, frequent):
                    pairs[rare, frequent] = None
    return list(pairs)


def is_one_edit(one: str, other: str) -> bool:
    """Whether a letter is missing, added, replaced, or exchanged with its neighbour; digits and names of one
    `normalize_name` do not count.
    """
    if normalize_name(one) == normalize_name(other) or abs(len(one) - len(other)) > 1:
        return False
    different = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    start = next(different, min(len(one), len(other)))
    a, b = one[start:], other[start:]
    if any(character.isdigit() for character in (*a[:1], *b[:1])):
        return False
    exchanged = a[:2] == b[:2][::-1] and a[2:] == b[2:]
    return exchanged or a[1:] == b[1:] or a[1:] == b or a == b[1:]


def missing_names(counts: Counter[str]) -> list[str]:
    """Names that usually mean a missing label."""
    return [name for name in counts if name.lower() in MISSING]
