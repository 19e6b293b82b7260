"""Operators, filters and tests of chat templates: paid for before they are done, and the marks kept.

Filters whose work could not be bounded, or whose answer is random, are left out: a template that uses one is refused by
the filter's name.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from textus.core.errors import UsageError
from textus.tokenizers.provenance import (
    STEP,
    SafeText,
    TrackedText,
    as_tracked,
    change_case,
    check_length,
    derive,
    escape_html,
    mark_safe,
    spend,
    template_text,
    to_tracked,
    weight,
)

NUMBER = 1 << 64
"""Whole numbers a template computes with are smaller."""
LIMITS = {"slice": 10_000, "batch": 10_000, "round": 20}
"""Filters whose work grows with a number they are given, and the largest."""

FILTERS = frozenset(
    re.findall(
        r"\w+",
        """abs attr batch capitalize center count d default dictsort first float format groupby indent int items join
        last length list lower map max min reject rejectattr replace reverse round select selectattr slice sort string
        sum title trim truncate unique upper wordcount""",
    )
)
"""Of jinja2's filters; `e escape forceescape safe tojson` are made here."""
CHARGED_FILTERS = frozenset(re.findall(r"\w+", "dictsort groupby join max min sort string unique int float"))
"""Filters that look into what they are given."""
STRING_FILTERS = frozenset(re.findall(r"\w+", "capitalize center lower title trim upper wordcount"))
"""Filters that make a string of what they are given."""
SAFE_FILTERS = frozenset(
    re.findall(r"\w+", "count d default e escape forceescape length replace safe string trim")
)
SHALLOW_TESTS = frozenset(
    re.findall(
        r"\w+",
        """boolean callable defined divisibleby escaped even false filter float integer iterable mapping none number odd
    sameas sequence string test true undefined""",
    )
)


# ── operators ──────────────────────────────────────────────────────────────────────────────────


def charge(value: Any) -> Any:
    """The value, paid for as what looks at all of it would."""
    spend(weight(value))
    return value


def charge_search(value: Any) -> Any:
    """The right side of `in`, paid for."""
    if isinstance(value, Iterator):
        raise UsageError(
            "template_unsupported",
            "the chat template uses `in` on what a filter goes through once; write `| list` before it",
        )
    return charge(value)


def check_number(value: Any) -> Any:
    if isinstance(value, int) and not -NUMBER < value < NUMBER:
        raise UsageError(
            "template_limit",
            "the chat template computes with a number of more than 64 bits; that is the limit",
        )
    return value


def binary(symbol: str, left: Any, right: Any) -> Any:
    """One of the seven operators, checked before it is done."""
    spend(STEP)
    left, right = as_tracked(left), as_tracked(right)
    if isinstance(left, SafeText) or isinstance(right, SafeText):
        if symbol != "+":
            raise UsageError(
                "template_unsupported",
                f"the chat template uses {symbol} on text escaped for HTML; write ~ '' behind it first",
            )
        return left + right
    if symbol == "%" and isinstance(left, TrackedText):
        return left % right
    if symbol == "*" and (isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)):
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int):
            check_length(len(sequence) * max(0, times))
        return left * right
    if symbol == "+" and isinstance(left, list | tuple):
        check_length(len(left) + (len(right) if isinstance(right, list | tuple) else 0))
        return left + right
    check_number(left), check_number(right)
    if symbol == "**" and isinstance(right, int) and isinstance(left, int) and right > 64:
        raise UsageError("template_limit", f"the chat template computes a power of {right}; the limit is 64")
    return OPERATORS[symbol](left, right)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "**": operator.pow, "%": operator.mod,
}  # fmt: skip


# ── filters and tests ──────────────────────────────────────────────────────────────────────────


def charge_items(values: Iterable[Any]) -> list[Any]:
    """What an iterator gives, counted as it comes; filters hand it on as a new iterator, so that none runs inside
    another.
    """
    items = []
    for value in values:
        spend(STEP)
        items.append(value)
    return items


def bounded_filters(theirs: dict[str, Any]) -> dict[str, Any]:
    """The filters by name: of jinja2's those that are bounded, and ours for those that are not or lose the marks."""
    from jinja2 import pass_environment

    made = {
        "tojson": _json, "safe": _safe, "e": _escape, "escape": _escape, "forceescape": _force_escape,
    }  # fmt: skip
    replaced = {
        "join": pass_environment(_join), "sum": pass_environment(_sum), "title": _title(theirs["title"]),
        "indent": _indent, "string": _string, "format": _format, "replace": _replace, "list": _list,
    }  # fmt: skip
    chosen = {name: theirs[name] for name in FILTERS} | replaced | made
    return {name: _filter(name, function) for name, function in chosen.items()}


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it is given and gives back no lazy iterator."""
    from jinja2.utils import _PassArg

    place = 0 if _PassArg.from_obj(function) is None else 1

    @wraps(function)
    def paid(*arguments: Any, **names: Any) -> Any:
        before, subject, rest = arguments[:place], as_tracked(arguments[place]), arguments[place + 1 :]
        if isinstance(subject, SafeText) and name not in SAFE_FILTERS:
            raise UsageError(
                "template_unsupported",
                f"the chat template uses | {name} on text escaped for HTML; write ~ '' behind it first",
            )
        spend(STEP + operator.length_hint(subject, 0))
        if name in STRING_FILTERS and not isinstance(subject, TrackedText):
            subject = to_tracked(subject)
        if name == "wordcount":
            spend(20 * len(subject))
        looked_at = [subject] if name in CHARGED_FILTERS else []
        for value in looked_at if name in ("d", "default", "map") else [*looked_at, *rest, *names.values()]:
            charge(value)
        if name in LIMITS:
            _check_amount(name, [*rest, *names.values()])
        if name not in ("d", "default"):
            rest = tuple(map(as_tracked, rest))
        result = function(*before, subject, *rest, **names)
        if name == "int":
            check_number(result)
        return iter(charge_items(result)) if isinstance(result, Iterator) else result

    return paid


def _check_amount(name: str, values: list[Any]) -> None:
    """UsageError for a number given to a filter that would make it take too long."""
    for value in values:
        if isinstance(value, int) and abs(value) > LIMITS[name]:
            raise UsageError(
                "template_limit", f"the chat template gives | {name} {value:,}; the limit is {LIMITS[name]:,}"
            )


def bounded_tests(theirs: dict[str, Any]) -> dict[str, Any]:
    """jinja2's tests by name, each paid for."""
    return {name: _test(name, function) for name, function in theirs.items()}


def _test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A test that pays for what it compares."""
    from jinja2.utils import _PassArg

    place = 0 if _PassArg.from_obj(function) is None else 1

    @wraps(function)
    def paid(*arguments: Any, **names: Any) -> Any:
        spend(STEP)
        for value in arguments[place:] if name not in SHALLOW_TESTS else arguments[place + 1 :]:
            charge_search(value) if name == "in" else charge(value)
        for value in arguments[place:] if name in ("odd", "even", "divisibleby") else ():
            check_number(value)
        return function(*arguments, **names)

    return paid


def _list(value: Any) -> list[Any]:
    return charge_items(value)


def _string(value: Any) -> Any:
    return value if isinstance(value, TrackedText) else to_tracked(value)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> TrackedText:
    return to_tracked(value).replace(to_tracked(old), to_tracked(new), -1 if count is None else count)


def _format(value: Any, *arguments: Any, **names: Any) -> TrackedText:
    if arguments and names:
        raise UsageError(
            "template_unsupported", "the chat template gives | format both values and names; give one kind"
        )
    return to_tracked(value) % (names or arguments)


def _join(sandbox: Any, values: Iterable[Any], d: Any = "", attribute: Any = None) -> TrackedText:
    return to_tracked(template_text("") if d == "" else d).join(
        map(to_tracked, _attributes(sandbox, values, attribute))
    )


def _attributes(sandbox: Any, values: Iterable[Any], attribute: Any) -> Iterable[Any]:
    """An attribute of each of the values; without one the values."""
    from jinja2.filters import make_attrgetter

    return values if attribute is None else charge_items(map(make_attrgetter(sandbox, attribute), values))


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> TrackedText:
    margin = as_tracked(width) if isinstance(width, str) else template_text(" ") * width
    newline = template_text("\n")
    lines: list[Any] = (text + newline).splitlines()
    if blank:
        made = (newline + margin).join(lines)
    else:
        made = newline.join([*lines[:1], *(margin + line if line else line for line in lines[1:])])
    return margin + made if first else made


def _title(theirs: Any) -> Any:
    return lambda text: change_case(theirs(text), text, str.upper, str.lower)


def _sum(sandbox: Any, iterable: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    for value in _attributes(sandbox, iterable, attribute):
        start = binary("+", start, value)
    return start


def _safe(value: Any) -> SafeText:
    return mark_safe(to_tracked(value))


def _escape(value: Any) -> SafeText:
    return escape_html(value if isinstance(value, TrackedText) else to_tracked(value))


def _force_escape(value: Any) -> SafeText:
    return escape_html(to_tracked(value))


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> TrackedText:
    """`json.dumps`, every string in it with its marks: it is made with places held, which are filled afterwards."""
    settings = [*(separators or ()), *([indent] if isinstance(indent, str) else [])]
    if any("@" in text or len(text) > 100 for text in settings):
        raise UsageError(
            "template_unsupported",
            "the chat template gives tojson separators or an indent that are not supported",
        )
    if isinstance(indent, int) and indent > 100:
        raise UsageError(
            "template_limit", f"the chat template gives tojson an indent of {indent}; the limit is 100"
        )
    strings: list[TrackedText] = []

    def held(value: Any, depth: int) -> Any:
        spend(STEP + depth * (indent if isinstance(indent, int) else 100 if indent else 0))
        if depth > 100:
            raise UsageError(
                "template_limit", "the chat template gives tojson lists over 100 deep; that is the limit"
            )
        if isinstance(value, str):
            strings.append(as_tracked(value))
            return f"@{len(strings) - 1}@"
        if isinstance(value, dict):
            pairs = sorted(value.items()) if sort_keys else value.items()
            return {held(k, depth) if isinstance(k, str) else k: held(v, depth + 1) for k, v in pairs}
        return [held(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value

    text = json.dumps(held(value, 0), ensure_ascii=ensure_ascii, indent=indent, separators=separators)
    parts = re.split(r"@(\d+)@", text)
    return template_text("").join(
        _json_text(strings[int(part)], ensure_ascii) if place % 2 else template_text(part)
        for place, part in enumerate(parts)
    )


def _json_text(text: TrackedText, ensure_ascii: bool) -> TrackedText:
    """A string as JSON spells it, without its quotes."""
    spend(len(text))
    spelled = json.dumps(str(text), ensure_ascii=ensure_ascii)[1:-1]
    if len(spelled) == len(text):
        return TrackedText(spelled, text._marks)
    if len(set(text._marks)) == 1:
        return derive(spelled, text)
    spend(len(text) * STEP)
    lengths = (len(json.dumps(str(c), ensure_ascii=ensure_ascii)) - 2 for c in str.__iter__(text))
    return TrackedText(spelled, b"".join(text._marks[n : n + 1] * length for n, length in enumerate(lengths)))
