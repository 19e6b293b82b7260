"""Conversations through a chat template: a jinja2 program that may come from a stranger, over text that does.

The template runs in a sandbox with a budget (`sandbox`), and what it prints knows of every character whether the
template wrote it or a message did (`provenance`). Only special tokens that the template wrote become ids of their own
(`chat_encoding`), so no message can make one, nor can two messages together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from textus.core.errors import UsageError
from textus.tokenizers.chat_content import content_reader, fit_content, join_parts, render_messages
from textus.tokenizers.provenance import TrackedText

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, as https://github.com/openai/openai-python/blob/v0.28.1/chatml.md describes it."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles are printed by the template as its own words, so nothing else is let through."""

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning goes by; templates read the first, some the second."""


def render_template(
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    words: Mapping[str, str] = MappingProxyType({}),
) -> TrackedText:
    """What the template makes of the messages, each character with who wrote it.

    `words` are further names the template may use, such as bos_token.

    Raises UsageError: messages of the wrong form, or a template that fails or exceeds a limit; TemplateRefusal where it
    Raises refuses these messages.
    """
    if not messages:
        raise UsageError("invalid_message", "the conversation has no messages; give one at least")
    known = tuple(sorted(words.items()))
    forms = [fit_content(template, check_message(message, n), known) for n, message in enumerate(messages)]
    return render_messages(template, forms, add_generation_prompt=add_generation_prompt, words=known)


def check_template(template: str, words: Mapping[str, str] = MappingProxyType({})) -> None:
    """UsageError for a template whose prompt is the same whatever the user writes."""
    if content_reader(template, tuple(sorted(words.items())), "user").is_lossy:
        raise UsageError(
            "template_unsupported",
            "the chat template drops the text of the user, given as a string and as parts; take the template of another"
            " copy of the model",
        )


def text_of(message: dict[str, Any], number: int) -> str:
    """The text of a message, for a model that reads conversations without a template; UsageError as of `checked`."""
    return join_parts(check_message(message, number).get("content", ""))


def check_message(message: dict[str, Any], number: int) -> dict[str, Any]:
    """A message with a known role and its content a string or parts of text, without names that hold nothing;
    UsageError where it has another form.
    """
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise UsageError("invalid_message", f"message {number} is not an object with role and content")
    if message["role"] not in ROLES:
        raise UsageError(
            "invalid_message", f"message {number} has role {message['role']!r}; roles are {', '.join(ROLES)}"
        )
    content = message["content"]
    if isinstance(content, list):
        if not all(map(_is_text, content)):
            raise UsageError(
                "invalid_message", f"message {number} has a part that is not text; only text is understood"
            )
        content = [{"type": "text", **part} for part in content]
    elif content is not None and not isinstance(content, str):
        raise UsageError(
            "invalid_message",
            f"message {number} has content of type {type(content).__name__}; write a string",
        )
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
    more = {} if reasoning is None else {"thinking": message.get("thinking", reasoning)}
    whole = {**more, **message, "content": content}
    if reasoning is not None:
        whole["reasoning_content"] = reasoning
    return {name: value for name, value in whole.items() if value is not None}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"
