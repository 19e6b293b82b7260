"""The command `validate`: check labelled rows before a model is trained on them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textus.cli.params import CommandResult, Json, Rows, with_config
from textus.core.requests import as_arguments

if TYPE_CHECKING:
    from textus.tasks.config import ValidateConfig

MOST_LINES = 50
"""Kinds of bad rows, or classes, listed at most; --json has all."""


@with_config("textus.tasks.config")
def validate(data: Rows, /, *, config: ValidateConfig, as_json: Json = False) -> CommandResult:
    """Check labelled rows before a model is trained on them: all bad rows, labels, duplicates, lengths, leakage.

    Example: textus validate reviews.csv --dev dev.csv
    """
    from textus import api

    report = api.validate(data, config=config)
    given = as_arguments(replace(config, task=report["task"], test=None))
    lines = [*page(report), f"next: {next_step(report, given)}"]
    return CommandResult(report, "\n".join(lines), 0 if report["ok"] else 1)


def page(report: dict[str, Any]) -> list[str]:
    """The lines for the terminal; rows that cannot be used for the same reason share one."""
    from textus.data.skipping import BadRow, group_by_reason

    lines = []
    for name, file in report["files"].items():
        lines.append(
            f"{name}: {file['path']}, {file['rows']:,} rows, {file['usable']:,} usable for {report['task']}"
        )
        lines += [f"  left out: {n:,} rows {reason}" for reason, n in file["left_out"].items()]
        if file["columns"]:
            read = ", ".join(f"{field} from {column!r}" for field, column in file["columns"].items())
            rest = f"; not read: {', '.join(map(repr, file['not_read']))}" if file["not_read"] else ""
            lines.append(f"  columns: {read}{rest}")
        lines += [f"  note: {line}" for line in file["warnings"]]
    if classes := report["classes"]:
        listed = ", ".join(f"{name} {n:,}" for name, n in list(classes.items())[:MOST_LINES])
        lines.append(f"classes: {len(classes):,} ({listed}{', …' if len(classes) > MOST_LINES else ''})")
    errors, warnings = report["errors"], report["warnings"]
    reasons = group_by_reason([BadRow(error["where"], error["message"]) for error in errors])
    lines += [f"error: {reason}" for reason in reasons[:MOST_LINES]]
    if len(reasons) > MOST_LINES:
        lines.append(f"and {len(reasons) - MOST_LINES:,} more kinds of error: --json has all")
    lines += [f"warning: {warning['message']}" for warning in warnings]
    lines.append(
        f"errors: {len(errors):,}, warnings: {len(warnings):,}; {'usable' if report['ok'] else 'not usable'}"
    )
    return lines


def next_step(report: dict[str, Any], given: list[str]) -> str:
    """The next command: a `finetune` that reads the rows as they were checked, with the flags that were `given`."""
    remedy, more = remedy_of(report)
    command = ["textus", "finetune", report["data"], *given]
    if not {"--from", "--model"} & set(given):
        command += ["--from", "RUN"]
    return f"{remedy}{shlex.join(command)} --out FOLDER{more}"


def remedy_of(report: dict[str, Any]) -> tuple[str, str]:
    """What to do before training, and the flag that leaves bad rows out if that helps."""
    if report["ok"]:
        return "", ""
    whole_file = any(error["where"] == error["file"] for error in report["errors"])
    if whole_file or not all(file["usable"] for file in report["files"].values()):
        return "correct the errors, then ", ""
    return "correct the rows, or leave them out: ", " --skip-invalid all"
