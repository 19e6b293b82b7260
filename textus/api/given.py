"""What the functions of this package are given, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textus.core.errors import UsageError


def is_texts(on: Any) -> bool:
    """Whether these are texts themselves, not the path of a file: a list, a DataFrame, …"""
    return on is not None and not isinstance(on, str | Path)


def check_string(text: Any, name: str) -> None:
    """UsageError for what is no string."""
    if not isinstance(text, str):
        raise UsageError(
            "wrong_type", f"the {name} is {type(text).__name__} ({str(text)[:60]!r}); give one string"
        )


def check_messages(messages: Any) -> None:
    """UsageError for what is no list of messages."""
    if not isinstance(messages, list | tuple) or not messages:
        raise UsageError(
            "wrong_type",
            f"the messages are {type(messages).__name__} ({str(messages)[:60]!r}); give a list such as"
            ' [{"role": "user", "content": "…"}]',
        )
