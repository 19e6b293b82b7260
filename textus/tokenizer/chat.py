"""Conversations through a chat template: a jinja2 program that may come from a stranger, over text that does.

The template runs in a sandbox with a budget (`sandbox`), and what it prints knows of every character whether the
template wrote it or a message did (`provenance`). Only special tokens that the template wrote become ids of their own
(`chat_encoding`), so no message can make one, nor can two messages together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from textus.common import UsageError
from textus.tokenizer.provenance import Text, foreign, own
from textus.tokenizer.sandbox import run

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, as https://github.com/openai/openai-python/blob/v0.28.1/chatml.md describes it."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles are printed by the template as its own words, so nothing else is let through."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning goes by; templates read the first, some the second."""


def written(
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    words: Mapping[str, str] = MappingProxyType({}),
) -> Text:
    """What the template makes of the messages, each character with who wrote it.

    `words` are further names the template may use, such as bos_token.

    Raises:
        UsageError: messages of the wrong form, or a template that fails or exceeds a limit; TemplateRefusal where it
        refuses these messages.
    """
    if not messages:
        raise UsageError("the conversation has no messages; give one at least")
    checked_messages = [checked(message, number) for number, message in enumerate(messages)]
    names = {
        **{name: own(word) for name, word in words.items()},
        "messages": [_as_text(message) for message in checked_messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return run(template, names, _characters(checked_messages))


def checked(message: dict[str, Any], number: int) -> dict[str, Any]:
    """A message with a known role and its content as one string, without names that hold nothing; UsageError where it
    has another form.
    """
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise UsageError(f"message {number} is not an object with role and content")
    if message["role"] not in ROLES:
        raise UsageError(f"message {number} has role {message['role']!r}; roles are {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UsageError(f"message {number} has a part that is not text; only text is understood")
        content = "".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise UsageError(f"message {number} has content of type {type(content).__name__}; write a string")
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    more = {} if reasoning is None else {"thinking": message.get("thinking", reasoning)}
    whole = {**more, **message, "content": content}
    if reasoning is not None:
        whole["reasoning_content"] = reasoning
    return {name: value for name, value in whole.items() if value is not None}


def _as_text(value: Any, key: str | None = None) -> Any:
    """A message's strings marked as its own; roles were checked, so they count as the template's."""
    if isinstance(value, str):
        return own(value) if key == "role" else foreign(value)
    if isinstance(value, dict):
        return {foreign(str(name)): _as_text(each, name) for name, each in value.items()}
    return [_as_text(each) for each in value] if isinstance(value, list | tuple) else value


def _characters(value: Any) -> int:
    """How long a conversation is, counting everything in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(name)) + _characters(each) for name, each in value.items())
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 1
