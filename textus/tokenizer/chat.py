"""Conversations through a chat template: a jinja2 program that may come from a stranger, over text that does.

The template runs in jinja2's immutable sandbox with limits of size, steps and time. Message text goes in
*sealed*: the template sees its words (it can strip, compare, slice it) but what it prints is a mark,
exchanged for the text only after rendering. So special tokens are looked for only in what the template
itself wrote, and no message can make one, nor can two messages together.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import Any

from textus.common import UsageError

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, as https://github.com/openai/openai-python/blob/v0.28.1/chatml.md describes it."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles are printed by the template as its own words, so nothing else is let through."""

TEMPLATE_CHARACTERS = 1 << 16
STRING_CHARACTERS = 1 << 20  # of any string a template makes, its output too; message text counts as marks
STEPS = 200_000  # lines of the compiled template run, so loops cannot run for ever
SECONDS = 5.0  # of this thread's CPU time

FILTERS = re.findall(
    r"\w+",
    """abs capitalize count d default dictsort first int items join last length list lower map max min reject
    rejectattr replace reverse safe select selectattr string title tojson trim unique upper""",
)
METHODS = re.findall(
    r"\w+",
    """capitalize count endswith find get index isalpha isdigit isspace items keys lower lstrip partition
    removeprefix removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith strip title
    upper values""",
)
"""What templates use. Left out on purpose: whatever makes long strings of short ones (center, indent,
format…).
"""


def segments(
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    special: Sequence[str],
    words: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[bool, str]]:
    """What the template makes of the messages, as (is it a special token, its text), in order.

    `words` are further names the template may use, such as bos_token.

    Message text is never a special token, whatever it spells. Text between special tokens comes in one piece.

    Raises:
        UsageError: messages of the wrong form, or a template that fails, exceeds a limit or rewrites message
        text.
    """
    messages = [checked(message, number) for number, message in enumerate(messages)]
    vault = Vault()
    settings = {**words, "add_generation_prompt": add_generation_prompt}
    marked = rendered(template, vault.seal(messages), vault, settings)
    if vault.open(marked) != rendered(template, messages, None, settings):
        raise UsageError("the chat template rewrites message text after joining it; let it do so before")
    pattern = re.compile(
        "|".join(re.escape(each) for each in sorted(special, key=len, reverse=True)) or r"(?!)"
    )
    text = ""
    for sealed, part in vault.parts(marked):
        start = 0
        for match in () if sealed else pattern.finditer(part):
            if text := text + part[start : match.start()]:
                yield False, text
            yield True, match.group()
            text, start = "", match.end()
        text += part[start:]
    if text:
        yield False, text


def checked(message: dict[str, Any], number: int) -> dict[str, Any]:
    """A message with a known role and its content as one string; UsageError otherwise."""
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise UsageError(f"message {number} is not an object with role and content")
    if message["role"] not in ROLES:
        raise UsageError(f"message {number} has role {message['role']!r}; roles are {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UsageError(f"message {number} has a part that is not text; only text is understood")
        content = "".join(part["text"] for part in content)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise UsageError(f"message {number} has content of type {type(content).__name__}; write a string")
    return {**message, "content": content}


# ── message text the template may look at but not touch ────────────────────────────────────────


class Vault:
    """Exchanges message text for marks no one can guess, and back."""

    def __init__(self) -> None:
        self.key = secrets.token_hex(8)
        self.texts: list[str] = []

    def seal(self, value: Any) -> Any:
        """The value with every string in it sealed; roles stay as they are, they were checked."""
        if isinstance(value, str):
            self.texts.append(value)
            return Sealed(f"\x02{self.key}:{len(self.texts) - 1}\x03", self)
        if isinstance(value, dict):
            return {k: v if k == "role" else self.seal(v) for k, v in value.items()}
        return [self.seal(each) for each in value] if isinstance(value, list | tuple) else value

    def parts(self, marked: str) -> Iterator[tuple[bool, str]]:
        """(was it sealed, text) for each piece of a marked text."""
        for number, part in enumerate(re.split(f"\x02{self.key}:(\\d+)\x03", marked)):
            yield (True, self.texts[int(part)]) if number % 2 else (False, part)

    def open(self, marked: str) -> str:
        """The text with its marks exchanged back."""
        return "".join(part for _, part in self.parts(marked))


class Sealed(str):
    """A string that looks like the message's text to those who ask and prints as a mark."""

    vault: Vault

    def __new__(cls, mark: str, vault: Vault) -> Sealed:
        made = super().__new__(cls, mark)
        made.vault = vault
        return made

    @property
    def _text(self) -> str:
        return self.vault.open(str.__str__(self))

    def __eq__(self, other: object) -> bool:
        return self._text == (other._text if isinstance(other, Sealed) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._text)


def _asks(name: str) -> Callable[..., Any]:
    """A method answered by the real text; strings in the answer are sealed again."""

    def method(self: Sealed, *arguments: Any) -> Any:
        real = [each._text if isinstance(each, Sealed) else each for each in arguments]
        return self.vault.seal(getattr(self._text, name)(*real))

    return method


for _name in (*METHODS, "__len__", "__contains__", "__getitem__", "__lt__", "__gt__", "__le__", "__ge__"):
    if hasattr(str, _name):
        setattr(Sealed, _name, _asks(_name))
setattr(Sealed, "__iter__", lambda self: iter(self.vault.seal(list(self._text))))  # noqa: B010


# ── the sandbox ────────────────────────────────────────────────────────────────────────────────


def rendered(template: str, messages: Any, vault: Vault | None, settings: Mapping[str, Any]) -> str:
    """Run a template over messages within the limits; UsageError in one line for whatever goes wrong."""
    if len(template) > TEMPLATE_CHARACTERS:
        raise UsageError(
            f"the chat template has {len(template):,} characters; the limit is {TEMPLATE_CHARACTERS:,}"
        )
    try:
        program = _compile(template, vault)
        with_limits = _Limits()
        return with_limits.run(lambda: program.render(messages=messages, tools=None, **settings))
    except UsageError:
        raise
    except Exception as error:  # a stranger's program may fail in any way; the person gets one line
        line = " ".join(str(error).split())
        raise UsageError(f"the chat template failed: {type(error).__name__}: {line}"[:300]) from error


def _compile(template: str, vault: Vault | None) -> Any:
    """The template compiled in the sandbox, `~` made into `+` so that its size is checked too."""
    from jinja2 import nodes, visitor

    class Plus(visitor.NodeTransformer):
        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
            self.generic_visit(node)
            parts = [nodes.Filter(n, "string", [], [], None, None, lineno=node.lineno) for n in node.nodes]
            whole: nodes.Expr = parts[0]
            for part in parts[1:]:
                whole = nodes.Add(whole, part, lineno=node.lineno)
            return whole

    sandbox = _sandbox(vault)
    program = sandbox.compile(Plus().visit(sandbox.parse(template)))
    return sandbox.template_class.from_code(sandbox, program, sandbox.make_globals(None))


def _sandbox(vault: Vault | None) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "*", "%", "**"])
        concat = staticmethod(_join)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, str | list | dict | tuple | bytes | int | float) and attr not in METHODS:
                return False
            return super().is_safe_attribute(obj, attr, value)

    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    sandbox.filters = {name: sandbox.filters[name] for name in FILTERS}
    sandbox.filters.update(
        join=_join_filter, replace=_replace, tojson=lambda value, indent=None: _json(value, indent, vault)
    )
    sandbox.globals.update(raise_exception=_refuse)
    for name in ("lipsum", "cycler", "joiner"):
        sandbox.globals.pop(name, None)
    return sandbox


def _refuse(message: str) -> None:
    raise UsageError(f"the chat template refuses these messages: {message}")


def _long(length: int) -> None:
    if length > STRING_CHARACTERS:
        raise UsageError(f"the chat template makes {length:,} characters; the limit is {STRING_CHARACTERS:,}")


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be huge, before it is made."""
    if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        _long(len(left) + len(right))
    elif operator == "*" and (hasattr(left, "__len__") or hasattr(right, "__len__")):
        sequence, times = (left, right) if hasattr(left, "__len__") else (right, left)
        _long(len(sequence) * max(0, int(times)))
    elif operator == "%" and isinstance(left, str):
        raise UsageError("the chat template formats with %; write {{ a + b }} instead")
    elif operator == "**" and (abs(left) > 1000 or abs(right) > 10):
        raise UsageError(f"the chat template computes {left} ** {right}; that is beyond the limit")


def _join(parts: Any) -> str:
    texts: list[str] = []
    length = 0
    for part in parts:
        length += str.__len__(part)
        _long(length)
        texts.append(part)
    return "".join(texts)


def _join_filter(value: Any, separator: str = "", attribute: str | None = None) -> str:
    parts = [each[attribute] if attribute else each for each in value]
    parts = [each if isinstance(each, str) else str(each) for each in parts]
    _long(sum(str.__len__(each) for each in parts) + str.__len__(separator) * len(parts))
    return str.join(separator, parts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = text if isinstance(text, str) else str(text)
    _long(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _json(value: Any, indent: int | None, vault: Vault | None) -> Any:
    """JSON of a value, sealed as a whole, for there may be message text in it."""
    text = json.dumps(_opened(value), ensure_ascii=False, indent=min(indent, 8) if indent else None)
    return vault.seal(text) if vault else text


def _opened(value: Any) -> Any:
    if isinstance(value, Sealed):
        return value._text
    if isinstance(value, dict):
        return {key: _opened(each) for key, each in value.items()}
    return [_opened(each) for each in value] if isinstance(value, list | tuple) else value


class _Limits:
    """Counts the lines a template runs, by the thread's trace function: nothing else stops a silent loop."""

    def __init__(self) -> None:
        self.steps = 0
        self.deadline = time.thread_time() + SECONDS

    def run(self, work: Callable[[], str]) -> str:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return work()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename == "<template>" else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.steps += 1
        if self.steps > STEPS or time.thread_time() > self.deadline:
            raise UsageError(
                f"the chat template ran {self.steps:,} steps; limits: {STEPS:,} and {SECONDS:g} s"
            )
        return self._line
