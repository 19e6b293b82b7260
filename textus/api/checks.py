"""What callers of this package give, checked before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.core.errors import UsageError

if TYPE_CHECKING:
    from textus.data.read_options import ReadOptions
    from textus.tasks.prediction import Predictor


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


def write_predictions(
    reader: Predictor, given: Any, out: Path, options: ReadOptions, *, force: bool
) -> dict[str, Any]:
    """Answers as a file of rows: where it is, and how many rows it has."""
    from textus.data.inputs import Records, to_items, to_records
    from textus.data.labeled import Record
    from textus.tasks.prediction import predict_to_file

    given = check_text(given)
    if not isinstance(given, Path | Records):
        items, _ = to_items(given)
        fields = ("text", "text_pair")
        rows = [
            item
            if isinstance(item, dict)
            else dict(zip(fields, [item] if isinstance(item, str) else item, strict=False))
            for item in items
        ]
        given = Records(to_records(rows, options.columns) if rows else list[Record]())
    n = predict_to_file(reader, given, out, options=options, force=force)
    return {"out": str(out), "rows": n}


def check_text(given: Any) -> Any:
    """What was given; UsageError for a string that is the name of a file: a string is one text."""
    from textus.core.arguments import SUFFIXES, is_file

    if isinstance(given, str) and (is_file(given) or (given.endswith(SUFFIXES) and " " not in given)):
        raise UsageError(
            "ambiguous_text",
            f"{given!r} is the name of a file, and a string is one text; give Path({given!r}), or [{given!r}] for the"
            " text itself",
        )
    return given


def read_options(config: ReadOptions) -> ReadOptions:
    """The part of a request that decides how files are read."""
    from textus.data.read_options import ReadOptions

    return ReadOptions(config.columns, config.encoding, config.skip_invalid)
