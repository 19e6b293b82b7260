"""The form in which a chat template reads the content of a message: a string, or parts ({"type": "text", "text": …}).

Nothing in a template names its form, so it is tried: a form is read where another text of the same length makes another
prompt. A template that prints a list as Python or JSON writes it does not read parts; the texts are joined for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from textus.core.errors import UsageError
from textus.tokenizers.provenance import TemplateError, TrackedText, message_text, template_text
from textus.tokenizers.sandbox import run_template

Words = tuple[tuple[str, str], ...]
SAMPLES = ("Good day", "Fine hat")
"""Two texts of one length that share no place."""


@dataclass(frozen=True)
class ContentReader:
    """What a template does with each form of content: True, it is read; False, it is dropped; None, it fails."""

    string: bool | None
    part: bool | None
    parts: bool | None
    """More than one part."""

    @property
    def is_lossy(self) -> bool:
        """Whether a text is dropped in every form."""
        return self.string is False and not self.part


def render_messages(
    template: str, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool, words: Words
) -> TrackedText:
    """What the template makes of checked messages as they are."""
    names = {
        **{name: template_text(word) for name, word in words},
        "messages": [_as_text(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return run_template(template, names, _characters(messages))


def fit_content(template: str, message: dict[str, Any], words: Words) -> dict[str, Any]:
    """A checked message with its content in a form that the template reads, of two the one that was given."""
    content = message.get("content")
    if content is None:
        return message
    reads = content_reader(template, words, message["role"])
    if isinstance(content, list):
        if reads.parts:
            return message
        content = join_parts(content)
    if not reads.string and reads.part:
        return {**message, "content": [{"type": "text", "text": content}]}
    return {**message, "content": content}


def join_parts(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a content: the string itself, or that of its parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@lru_cache(maxsize=256)
def content_reader(template: str, words: Words, role: str) -> ContentReader:
    """How a template reads messages of a role; where that cannot be tried, as those of the user.

    Raises UsageError: the template exceeds a limit.
    """
    tried = []
    for before, after in _contexts(template, words, role):
        tried.append(_try_forms(template, words, role, before, after))
        if tried[-1].string or tried[-1].part:
            return tried[-1]
    decided = next((attempt for attempt in tried if (attempt.string, attempt.part) != (None, None)), None)
    if decided is None and role != "user":  # the template takes none of these conversations
        return content_reader(template, words, "user")
    return decided or tried[0]


def _contexts(template: str, words: Words, role: str) -> list[tuple[list[Any], list[Any]]]:
    """Messages before and after one of this role, some of which most templates take."""
    if role == "user":
        systems = [{"role": "system", "content": content} for content in ("Be brief.", _parts("Be brief."))]
        turn = [{"role": "user", "content": "Text"}, {"role": "assistant", "content": "An answer"}]
        return [([], []), *(([system], []) for system in systems), (turn, [])]
    user = fit_content(template, {"role": "user", "content": "Text"}, words)
    return [([], [user])] if role in ("system", "developer") else [([user], []), ([user], [user])]


def _try_forms(template: str, words: Words, role: str, before: list[Any], after: list[Any]) -> ContentReader:
    def prompt(content: Any) -> str | None:
        talk = [*before, {"role": role, "content": content}, *after]
        try:
            return str.__str__(render_messages(template, talk, add_generation_prompt=True, words=words))
        except TemplateError:
            raise
        except UsageError:
            return None

    def differ(one: Any, other: Any) -> bool | None:
        first = prompt(one)
        second = None if first is None else prompt(other)
        return None if second is None else first != second

    text, other = SAMPLES
    string = differ(text, other)
    part = differ(_parts(text), _parts(other))
    if part and differ(_parts(text, note="0"), _parts(text, note="1")):
        part = False  # the list itself is printed
    return ContentReader(string, part, part and differ(_parts("A", text), _parts("A", other)))


def _parts(*texts: str, **more: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text, **more} for text in texts]


def _as_text(value: Any, key: str | None = None) -> Any:
    """A message's strings marked as its own; roles were checked, so they count as the template's."""
    if isinstance(value, str):
        return template_text(value) if key == "role" else message_text(value)
    if isinstance(value, dict):
        return {message_text(str(name)): _as_text(item, name) for name, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list | tuple) else value


def _characters(value: Any) -> int:
    """How long a conversation is, counting everything in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(name)) + _characters(item) for name, item in value.items())
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 1
