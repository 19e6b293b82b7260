"""A conversation in the context of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textus.core.console import log_notice

SYSTEM = ("system", "developer")
"""Roles of the messages that a conversation begins with and always keeps."""

Messages = Sequence[dict[str, Any]]


def fitting_ids(
    messages: Messages, max_tokens: int, context: int | None, encode: Callable[[Messages], list[int]]
) -> list[int]:
    """A conversation as ids, the oldest turns left out until it and the answer fit the context; what is left out is
    reported. At most half of the context is kept for the answer; the last turn stays whatever its length.
    """
    ids = encode(messages)
    if context is None or len(ids) + min(max_tokens, context // 2) <= context:
        return ids
    kept_free = min(max_tokens, context // 2)
    n_system = next((n for n, message in enumerate(messages) if message.get("role") not in SYSTEM), 0)
    starts = [n for n, message in enumerate(messages) if message.get("role") == "user" and n > n_system]
    low, high = 0, len(starts)  # the fewest turns to leave out; all but the last where none is enough
    while low < high:
        middle = (low + high) // 2
        ids = encode([*messages[:n_system], *messages[starts[middle] :]])
        low, high = (low, middle) if len(ids) + kept_free <= context else (middle + 1, high)
    if starts:
        first = starts[min(low, len(starts) - 1)]
        ids = encode([*messages[:n_system], *messages[first:]])
        system = " (the system message is kept)" if n_system else ""
        log_notice(
            f"the context holds {context:,} tokens, of which {kept_free:,} are for the answer: the"
            f" {first - n_system} oldest messages were left out{system}"
        )
    return ids
