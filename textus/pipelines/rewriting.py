"""Texts written from others by a text2text run: strings, or files line by line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from textus.core.console import log_notice, merge_notices
from textus.core.errors import UsageError
from textus.core.io import fingerprint, sha256
from textus.core.scripts import HAN
from textus.data.inputs import read_lines
from textus.data.output import check_output, content_hash, partial_file
from textus.data.sentences import split_sentences
from textus.data.text_pairs import PairFormat
from textus.models.contract import LanguageModel
from textus.pipelines.config import RewriteConfig
from textus.tasks.base import Example
from textus.tasks.generation import pair_format, write_texts
from textus.tasks.text2text import Text2Text
from textus.tokenizers import Tokenizer

HAN_CHARACTER = re.compile(f"[{HAN}]")
LINES_PER_WRITE = 64
"""Lines of a file that are written together."""
COMMANDS = {"translate": "textus translate", "summarize": "textus summarize"}


@dataclass(frozen=True)
class Rewriter:
    """A text2text run that writes texts from others. A source longer than the model's context is split at sentences,
    and what is written for the parts is joined.
    """

    model: LanguageModel
    task: Text2Text
    tokenizer: Tokenizer
    run: Path

    def write(self, texts: Sequence[str]) -> list[str]:
        """The text for each source; of an empty one an empty text."""
        form = pair_format(self.model, self.tokenizer, self.task.name)
        parts = [self.split(text, form) for text in texts]
        long = sum(len(part) > 1 for part in parts)
        log_notice(
            long, " of ", len(texts), f" texts are longer than the context of {form.context_length} tokens: split at",
            " sentences",
        )  # fmt: skip
        flat = [Example((piece,), None, "the text") for part in parts for piece in part]
        written = iter(write_texts(self.model, self.task, self.tokenizer, flat))
        return [join([next(written) for _ in part]) for part in parts]

    def split(self, text: str, form: PairFormat) -> list[str]:
        """A text in pieces that fit the context, of whole sentences where these fit."""
        limit = self.longest(form)
        if limit is None or self.n_tokens(text) <= limit:
            return [text]
        pieces: list[str] = []
        for sentence in split_sentences(text):
            glue = "" if HAN_CHARACTER.search(sentence) else " "
            joined = f"{pieces[-1]}{glue}{sentence}" if pieces else sentence
            if pieces and self.n_tokens(joined) <= limit:
                pieces[-1] = joined
            else:
                pieces.append(sentence)
        return pieces

    def longest(self, form: PairFormat) -> int | None:
        """Tokens of a source at most, as `tasks.generation.write_texts` cuts it."""
        if form.context_length is None:
            return None
        return form.context_length // 2 if form.is_causal else form.context_length - 1

    def n_tokens(self, text: str) -> int:
        """Tokens of a source as the model reads it."""
        return len(self.tokenizer.encode(self.task.prompt(text)))


def join(pieces: Sequence[str]) -> str:
    """Pieces of a text as one: with blanks between, but for Chinese."""
    chinese = any(HAN_CHARACTER.search(piece) for piece in pieces)
    return ("" if chinese else " ").join(piece for piece in pieces if piece)


def task_for(task: Any, run: Path, goal: str, config: RewriteConfig) -> Text2Text:
    """The task of a run with what `config` sets. UsageError for a run of another task, or trained for another goal than
    the command's.
    """
    if not isinstance(task, Text2Text):
        raise UsageError(
            "wrong_task",
            f"{run} was fine-tuned for {task.name}, not text2text: textus finetune PAIRS --task text2text",
        )
    if task.settings.goal != goal:
        raise UsageError(
            "wrong_task",
            f"{run} was trained with task.goal={task.settings.goal}: {COMMANDS[task.settings.goal]} {run}",
        )
    given = {name: getattr(config, name) for name in ("beams", "length_penalty", "max_tokens")}
    settings = replace(task.settings, **{name: value for name, value in given.items() if value is not None})
    return Text2Text(settings, [])


def one_line(text: str) -> str:
    """A text without line ends, so that each line of a file has one line of output."""
    return " ".join(text.splitlines())


def rewrite_lines(rewriter: Rewriter, lines: Iterable[str]) -> Iterator[str]:
    """The text for each line, in order, some lines at a time."""
    rest = iter(lines)
    with merge_notices():
        while batch := list(islice(rest, LINES_PER_WRITE)):
            yield from map(one_line, rewriter.write(batch))


def rewrite_file(
    rewriter: Rewriter, path: Path, out: Path, *, encoding: str | None = None, force: bool = False
) -> int:
    """Write a text for each line of a plain text file, a line each (empty lines stay), as they are made; the same
    command continues after a kill. Returns how many lines there are. Raises UsageError where `out` exists.
    """
    check_output(out, path, force=force)
    source = fingerprint(
        [sha256(rewriter.run / "run.json"), content_hash(path), vars(rewriter.task.settings), encoding]
    )
    with partial_file(out, source, force=force) as file, merge_notices():
        rest = islice(read_lines(path, encoding), file.n_done, None)
        while batch := list(islice(rest, LINES_PER_WRITE)):
            texts = map(one_line, rewriter.write(batch))
            file.add("".join(f"{text}\n" for text in texts).encode(), len(batch))
        return file.n_done
