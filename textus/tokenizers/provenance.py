"""Strings that know who wrote each character, and the budget that pays for everything made of them.

A chat template mixes its own text with messages. A `TrackedText` has one mark for each character, and every string
method moves the marks along, so that the template's special tokens can be distinguished from those a message spells.
What loses the marks is a plain `str` of unknown origin, never the template's own.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, SupportsIndex

from textus.core.errors import UsageError

TEMPLATE, MESSAGE, UNKNOWN = b"T", b"M", b"?"

STRING_CHARACTERS = 1 << 20
"""Of any string a template makes, and items of any list; a conversation adds four times its own length."""
WORK = 30_000_000
"""What a render may cost, in characters touched; a conversation adds 64 for each of its characters."""
STEP = 200
"""What one step of a template costs next to the characters it touches: a step takes about as long as these."""
SECONDS = 2.0
"""Of this thread's CPU time, where the budget misjudges a machine."""


# ── the budget ─────────────────────────────────────────────────────────────────────────────────


class TemplateError(UsageError):
    """A template that cannot be compiled, or takes more than there is of time or memory."""


class RenderBudget:
    """What one render may still spend; in force for this thread while it is entered."""

    def __init__(self, characters: int) -> None:
        self.longest = STRING_CHARACTERS + 4 * characters
        self.left = WORK + 64 * characters
        self.next_check = self.left  # where the clock is looked at next
        self.deadline = time.thread_time() + SECONDS

    def __enter__(self) -> RenderBudget:
        self.before = getattr(_in_force, "budget", None)
        _in_force.budget = self
        return self

    def __exit__(self, *_: object) -> None:
        _in_force.budget = self.before

    def spend(self, amount: int) -> None:
        """Pay for work before it is done; UsageError where the budget or the time is used up."""
        self.left -= amount
        if self.left < self.next_check:
            self.next_check = self.left - WORK // 64
            if self.left < 0 or time.thread_time() > self.deadline:
                raise TemplateError(
                    "template_limit",
                    f"the chat template does too much work; the limit is {WORK // STEP:,} steps or {SECONDS:g} s:"
                    " it is hostile or broken, use another",
                )

    def check_length(self, length: int) -> None:
        """UsageError for a string or list that would be too long."""
        if length > self.longest:
            raise TemplateError(
                "template_limit",
                f"the chat template makes {length:,} characters or items; the limit is {self.longest:,}",
            )


_in_force = threading.local()


def budget() -> RenderBudget:
    """The budget in force in this thread; outside of a render a fresh one."""
    return getattr(_in_force, "budget", None) or RenderBudget(0)


def spend(amount: int) -> None:
    """Pay for work from the budget in force."""
    budget().spend(amount)


def check_length(length: int) -> None:
    """Pay for a string or list of this length before it is made; UsageError where it is too long."""
    now = budget()
    now.check_length(length)
    now.spend(length >> 3)  # copying is cheap


# ── strings with marks ─────────────────────────────────────────────────────────────────────────


class TrackedText(str):
    """A string and who wrote each of its characters: `_marks`, one byte a character."""

    __slots__ = ("_marks",)
    _marks: bytes

    def __new__(cls, text: str, marks: bytes) -> TrackedText:
        made = super().__new__(cls, text)
        assert len(marks) == len(made), "one mark a character"
        made._marks = marks
        return made

    def __str__(self) -> str:
        return self

    def _part(self, start: int, end: int) -> TrackedText:
        return TrackedText(str.__getitem__(self, slice(start, end)), self._marks[start:end])

    # ── putting together ──

    def __add__(self, other: str) -> TrackedText:
        if not isinstance(other, str):
            return NotImplemented
        check_length(len(self) + len(other))
        return TrackedText(str.__add__(self, other), self._marks + marks_of(other))

    def __radd__(self, other: str) -> TrackedText:
        return as_tracked(other) + self

    def __mul__(self, times: SupportsIndex) -> TrackedText:
        times = max(0, int(times.__index__()))
        check_length(len(self) * times)
        return TrackedText(str.__mul__(self, times), self._marks * times)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> TrackedText:
        return format_percent(self, values)

    def join(self, parts: Iterable[str]) -> TrackedText:
        parts = list(parts)
        check_length(sum(len(part) for part in parts if isinstance(part, str)) + len(self) * len(parts))
        joined = str.join(self, parts)  # raises where a part is no string
        return TrackedText(joined, self._marks.join(map(marks_of, parts)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> TrackedText:
        n = str.count(self, old)
        n = n if int(count) < 0 else min(n, int(count))
        check_length(len(self) + n * max(0, len(new) - len(old)))
        spend(n * STEP // 4)
        moved, start = [], 0
        for _ in range(n):
            place = start if old == "" else str.find(self, old, start)
            moved += [self._marks[start:place], marks_of(new)]
            if old == "":
                moved.append(self._marks[start : start + 1])
            start = place + max(1, len(old))
        moved.append(self._marks[start:])
        return TrackedText(str.replace(self, old, new, count), b"".join(moved))

    # ── taking apart ──

    def __getitem__(self, key: Any) -> TrackedText:
        taken = str.__getitem__(self, key)
        spend(len(taken))
        if isinstance(key, slice):
            return TrackedText(taken, self._marks[key])
        place = key.__index__()
        return TrackedText(taken, self._marks[place : place + 1 or None])

    def __iter__(self) -> Iterator[str]:
        for place in range(len(self)):
            spend(STEP)
            yield self._part(place, place + 1)

    def lstrip(self, characters: str | None = None) -> TrackedText:
        return self._part(len(self) - len(str.lstrip(self, characters)), len(self))

    def rstrip(self, characters: str | None = None) -> TrackedText:
        return self._part(0, len(str.rstrip(self, characters)))

    def strip(self, characters: str | None = None) -> TrackedText:
        return self.lstrip(characters).rstrip(characters)

    def removeprefix(self, prefix: str, /) -> TrackedText:
        return self._part(len(prefix) if str.startswith(self, prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> TrackedText:
        kept = len(str.removesuffix(self, suffix))
        return self._part(0, kept)

    def partition(self, separator: str, /) -> tuple[str, str, str]:
        return tuple(self._consecutive(str.partition(self, separator)))  # type: ignore[return-value]

    def rpartition(self, separator: str, /) -> tuple[str, str, str]:
        return tuple(self._consecutive(str.rpartition(self, separator)))  # type: ignore[return-value]

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = str.splitlines(self, True)
        spend(len(whole) * STEP)
        lengths = map(len, str.splitlines(self, bool(keepends)))
        return [part._part(0, length) for part, length in zip(self._consecutive(whole), lengths, strict=True)]

    def _consecutive(self, parts: Iterable[str]) -> Iterator[TrackedText]:
        """Parts that make up the whole, in order."""
        start = 0
        for part in parts:
            yield self._part(start, start + len(part))
            start += len(part)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        parts = str.split(self, sep, maxsplit)
        spend(len(parts) * STEP)
        pieces, start = [], 0
        for part in parts:
            if sep is None:
                start = len(self) - len(str.lstrip(str.__getitem__(self, slice(start, None))))
            pieces.append(self._part(start, start + len(part)))
            start += len(part) + len(sep or "")
        return pieces  # type: ignore[return-value]

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        parts = str.rsplit(self, sep, maxsplit)
        spend(len(parts) * STEP)
        pieces, end = [], len(self)
        for part in reversed(parts):
            if sep is None:
                end = len(str.rstrip(str.__getitem__(self, slice(0, end))))
            pieces.append(self._part(end - len(part), end))
            end -= len(part) + len(sep or "")
        return pieces[::-1]  # type: ignore[return-value]

    # ── changing characters ──

    def center(self, width: SupportsIndex, fill: str | None = None, /) -> TrackedText:
        lack = max(0, int(width) - len(self))
        left = lack // 2 + (lack & int(width) & 1)
        return self._pad(left, lack - left, fill)

    def ljust(self, width: SupportsIndex, fill: str | None = None, /) -> TrackedText:
        return self._pad(0, max(0, int(width) - len(self)), fill)

    def rjust(self, width: SupportsIndex, fill: str | None = None, /) -> TrackedText:
        return self._pad(max(0, int(width) - len(self)), 0, fill)

    def _pad(self, left: int, right: int, fill: str | None) -> TrackedText:
        filler = template_text(" ") if fill is None else as_tracked(fill)
        if len(filler) != 1:
            raise TypeError("The fill character must be exactly one character long")
        return filler * left + self + filler * right

    def zfill(self, width: SupportsIndex, /) -> TrackedText:
        check_length(int(width))
        return derive(str.zfill(self, width), self)

    def expandtabs(self, tabsize: SupportsIndex = 8) -> TrackedText:
        check_length(len(self) + str.count(self, "\t") * max(0, int(tabsize)))
        return derive(str.expandtabs(self, tabsize), self)


def _cased(name: str, *cases: Callable[[str], str]) -> Callable[[TrackedText], TrackedText]:
    """A method that changes the case of each character by one of `cases`."""

    def method(self: TrackedText) -> TrackedText:
        spend(len(self))
        return change_case(getattr(str, name)(self), self, *cases)

    method.__name__ = name
    return method


for _name, *_cases in (
    ("upper", str.upper),
    ("lower", str.lower),
    ("casefold", str.casefold),
    ("title", str.title, str.lower),
    ("capitalize", str.title, str.lower),
    ("swapcase", str.upper, str.lower),
):
    setattr(TrackedText, _name, _cased(_name, *_cases))


def template_text(text: str) -> TrackedText:
    """Text that the template wrote."""
    return TrackedText(text, TEMPLATE * len(text))


def message_text(text: str) -> TrackedText:
    """Text of a message."""
    return TrackedText(text, MESSAGE * len(text))


def as_tracked(value: Any) -> Any:
    """A plain string as a `TrackedText` of unknown origin; anything else as it is."""
    return TrackedText(value, UNKNOWN * len(value)) if type(value) is str else value


def marks_of(text: str) -> bytes:
    """The mark of each character."""
    return text._marks if isinstance(text, TrackedText) else UNKNOWN * len(text)


def change_case(changed: str, text: TrackedText, *cases: Callable[[str], str]) -> TrackedText:
    """`text` with its characters' case changed, each by one of `cases`; some become two or three characters."""
    if len(changed) == len(text):
        return TrackedText(changed, text._marks)
    spend(len(text) * STEP // 4)
    moved, place = [], 0
    for number, character in enumerate(str.__iter__(text)):
        spelled = next((s for case in cases if changed.startswith(s := case(character), place)), "")
        moved.append(text._marks[number : number + 1] * len(spelled))
        place += len(spelled)
    aligned = b"".join(moved)
    return TrackedText(changed, aligned) if len(aligned) == len(changed) else derive(changed, text)


def derive(result: str, *sources: str) -> TrackedText:
    """A string made of others in a way that is not followed: of one origin where all of them are, else unknown."""
    origins = {mark for source in sources for mark in set(marks_of(source))}
    origin = bytes(origins) if len(origins) == 1 else UNKNOWN
    return TrackedText(result, origin * len(result))


class SafeText(TrackedText):
    """Text that `e` or `safe` made: what is added to it is escaped for HTML first, as markupsafe does it."""

    __slots__ = ()

    def __str__(self) -> str:
        return TrackedText(str.__str__(self), self._marks)

    def __add__(self, other: str) -> TrackedText:
        return (
            mark_safe(TrackedText.__add__(self, escape_html(other)))
            if isinstance(other, str)
            else NotImplemented
        )

    def __radd__(self, other: str) -> TrackedText:
        return mark_safe(TrackedText.__add__(escape_html(other), self))


def mark_safe(text: TrackedText) -> SafeText:
    """The text, not to be escaped any more."""
    made = SafeText(text, text._marks)
    assert isinstance(made, SafeText)
    return made


def escape_html(text: str) -> SafeText:
    """The text with HTML's five characters escaped, unless that was done."""
    if isinstance(text, SafeText):
        return text
    changed = as_tracked(text)
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
        changed = changed.replace(character, template_text(name))
    return mark_safe(changed)


# ── printing ───────────────────────────────────────────────────────────────────────────────────


def to_tracked(value: Any) -> TrackedText:
    """What a value prints as: `str` with the marks kept."""
    if isinstance(value, TrackedText):
        return value if type(value) is TrackedText else TrackedText(str.__str__(value), value._marks)
    spend(weight(value))
    shown = str(value)
    check_length(len(shown))
    return as_tracked(shown)


def weight(value: Any) -> int:
    """How much there is in a value, everything inside counted as often as printing or comparing would meet it.

    Raises UsageError as soon as that exceeds the budget: a list can hold itself sixty times doubled.
    """
    from jinja2.utils import Namespace

    total, stack, left = 0, [value], budget().left
    while stack:
        value = stack.pop()
        total += STEP // 2
        if isinstance(value, str | bytes):
            total += len(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            total += value.bit_length()
        elif isinstance(value, dict):
            stack += value.keys()
            stack += value.values()
        elif isinstance(value, list | tuple | KeysView | ValuesView | ItemsView):
            stack += value
        elif isinstance(value, Namespace):
            stack.append(value._Namespace__attrs)
        elif isinstance(value, range):
            total += len(value)
        elif isinstance(value, FunctionType | MethodType | BuiltinMethodType):
            raise UsageError(
                "template_unsupported",
                f"the chat template uses {value.__name__} without calling it; write {value.__name__}()",
            )
        if total > left:
            spend(total)
            return total
    return total


_SPEC = re.compile(r"%(?:\(([^()]*)\))?([#0\- +]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.)", re.DOTALL)


def format_percent(template: TrackedText, values: Any) -> TrackedText:
    """`template % values`: %s keeps the marks of what it prints."""
    arguments = list(values) if isinstance(values, tuple) else [values]
    pieces: list[TrackedText] = []
    start = used = 0
    for match in _SPEC.finditer(template):
        if str.find(template, "%", start, match.start()) >= 0:
            break
        key, flags, width, precision, kind = match.groups()
        pieces.append(template._part(start, match.start()))
        start = match.end()
        if kind == "%":
            pieces.append(template._part(match.end() - 1, match.end()))
            continue
        if "*" in (width, precision):
            raise UsageError(
                "template_unsupported",
                "the chat template formats with %*, whose width is not known; write the width",
            )
        if key is not None:
            value = values[key]
        elif used < len(arguments):
            value, used = arguments[used], used + 1
        else:
            raise TypeError("not enough arguments for format string")
        pieces.append(_format_value(value, "%" + flags, width, precision, kind))
    if str.find(template, "%", start) >= 0:
        raise ValueError("incomplete format")
    if used < len(arguments) and not isinstance(values, dict):
        raise TypeError("not all arguments converted during string formatting")
    return template_text("").join([*pieces, template._part(start, len(template))])


def _format_value(
    value: Any, before: str, width: str | None, precision: str | None, kind: str
) -> TrackedText:
    if kind == "s" and before == "%" and not width and precision is None:
        return to_tracked(value)
    for number in (width, precision):
        check_length(_number(number))
    spend(weight(value))
    spec = before + (width or "") + ("" if precision is None else f".{precision}") + kind
    result = spec % (value,)
    check_length(len(result))
    return derive(result, value) if isinstance(value, str) else as_tracked(result)


def _number(digits: str | None) -> int:
    return int(digits[:18]) if digits else 0


def check_widths(spec: str) -> None:
    """UsageError for a number in a format's specification that would make too long a string."""
    for digits in re.findall(r"\d+", spec):
        check_length(_number(digits))
