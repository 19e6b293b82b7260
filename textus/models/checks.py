"""Checks that the configurations of several families share, and the one of a text's length."""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError


def check_at_least(config: Any, low: float, *names: str) -> None:
    """UsageError for the first of these fields that is below `low`, or not a number."""
    for name in names:
        if not getattr(config, name) >= low:
            raise UsageError("out_of_range", f"{name}={getattr(config, name)}: must be at least {low}")


def check_rate(config: Any, *names: str) -> None:
    """UsageError for the first of these fields that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UsageError(
                "out_of_range", f"{name}={getattr(config, name)}: must be at least 0 and below 1"
            )


def check_end_id(config: Any) -> None:
    """UsageError where `end_id` is outside the vocabulary."""
    if not 0 <= config.end_id < config.vocab_size:
        raise UsageError(
            "unknown_id",
            f"end_id={config.end_id} is not an id of a vocabulary of {config.vocab_size}; give its own",
        )


def check_context(length: int, context_length: int) -> None:
    """UsageError where a text of `length` ids does not fit into the context."""
    if length > context_length:
        raise UsageError(
            "context_exceeded",
            f"{length} ids are more than the context of {context_length}; shorten the text, or"
            f" train with --set model.context_length={length}",
        )
