"""Many prompts at once: each continued, or each source made into its target, as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from textus.core.errors import DataError, UsageError
from textus.core.io import fingerprint, sha256
from textus.data.inputs import is_plain_text, record_location, row_reader
from textus.data.labeled import Record
from textus.data.output import (
    OutputLayout,
    check_output,
    content_hash,
    output_format,
    partial_file,
    write_rows,
)
from textus.data.read_options import AUTODETECT, ReadOptions
from textus.generation.beam import beam_search
from textus.generation.engine import Engine, check_request
from textus.generation.params import SamplingParams
from textus.generation.sampling import bos_ids
from textus.generation.streaming import DecodedStream, TextStream
from textus.models.contract import LanguageModel
from textus.tokenizers import Tokenizer

Encoded = list[tuple[list[int], list[int] | None]]
"""Ids and source of every prompt."""
AT_ONCE = 16
"""Prompts that are continued together."""
FIELDS = ("prompt", "source", "text")
"""What the column of the prompts may be called."""


def read_prompts(path: Path, options: ReadOptions, *, source: bool) -> Callable[[], Iterator[Record]]:
    """The prompts of a file (of a model that makes a text from another, its `source` texts): the lines of a plain text,
    else its column `prompt`, `source` or `text`.
    """
    name = "source" if source else "prompt"
    read = row_reader(path, options)
    if is_plain_text(path) and not options.columns:
        return lambda: (Record({name: record.values["text"]}, record.where) for record in read())
    return read


def prompt_of(record: Record) -> str:
    """The prompt of a row. Raises DataError where it has none."""
    for name in FIELDS:
        if isinstance(value := record.values.get(name), str):
            return value
    shown = ", ".join(map(repr, list(record.values)[:30]))
    raise DataError(
        "column_not_found",
        f"{record.where} has no text under {', '.join(FIELDS)}; it has {shown}: name its column with --columns"
        " prompt=COLUMN",
    )


def encode_prompt(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str
) -> tuple[list[int], list[int] | None]:
    """The ids a model begins with, and those of its source, where it needs one."""
    ids = [*tokenizer.bos_ids, *tokenizer.encode(prompt)]
    if model.capabilities.needs_source:
        return bos_ids(model, tokenizer.end_id), ids
    return ids or [tokenizer.end_id], None


def check_prompts(
    model: LanguageModel, tokenizer: Tokenizer, records: Iterable[Record], sampling: SamplingParams
) -> Iterator[Record]:
    """Records as they are. UsageError naming a prompt that the model cannot read: before hours of work, not after."""
    for record in records:
        encode_checked(model, tokenizer, record, sampling)
        yield record


def encode_checked(
    model: LanguageModel, tokenizer: Tokenizer, record: Record, sampling: SamplingParams
) -> tuple[list[int], list[int] | None]:
    """The ids of a prompt, and of its source. UsageError naming a prompt that the model cannot read."""
    ids, source = encode_prompt(model, tokenizer, prompt_of(record))
    try:
        check_request(model, ids, sampling, source)
    except UsageError as error:
        raise UsageError(error.code, f"{record.where}: {error}") from error
    return ids, source


def complete_batch(
    model: LanguageModel, tokenizer: Tokenizer, records: Sequence[Record], sampling: SamplingParams
) -> list[str]:
    """The text that follows each prompt. Raises UsageError naming a prompt that cannot be read."""
    encoded = [encode_checked(model, tokenizer, record, sampling) for record in records]
    if sampling.searches:
        return search_batch_texts(model, tokenizer, encoded, sampling)
    engine = Engine(model, end_id=tokenizer.end_ids, n_ids=tokenizer.vocab_size)
    texts = [TextStream(tokenizer, sampling.stop) for _ in records]
    written, rows = [""] * len(records), dict[int, int]()
    for number, (ids, source) in enumerate(encoded):
        rows[engine.submit(ids, sampling, source)] = number
    while engine.has_work:
        for event in engine.step():
            row = rows[event.row]
            if event.id is not None:
                written[row] += texts[row].push(event.id)
            if texts[row].stopped and event.reason is None:
                engine.cancel(event.row)
    return [text + stream.flush() for text, stream in zip(written, texts, strict=True)]


def search_batch_texts(
    model: LanguageModel, tokenizer: Tokenizer, encoded: Encoded, sampling: SamplingParams
) -> list[str]:
    """The likeliest text that beams find after each prompt."""
    prompts = [ids for ids, _ in encoded]
    sources = [source for _, source in encoded if source is not None]
    searched = beam_search(
        model, prompts, sampling, sources=sources or None, ends=tokenizer.end_ids, n_ids=tokenizer.vocab_size
    )
    streams = [
        DecodedStream(hypotheses[0].events(), TextStream(tokenizer, sampling.stop)) for hypotheses in searched
    ]
    return ["".join(stream) for stream in streams]


def complete(
    model: LanguageModel, tokenizer: Tokenizer, records: Iterable[Record], sampling: SamplingParams
) -> Iterator[tuple[Record, str]]:
    """Each prompt and what follows it, in order, `AT_ONCE` of them together."""
    held: list[Record] = []
    for record in records:
        held.append(record)
        if len(held) == AT_ONCE:
            yield from zip(held, complete_batch(model, tokenizer, held, sampling), strict=True)
            held = []
    yield from zip(held, complete_batch(model, tokenizer, held, sampling), strict=True)


def complete_to(
    model: LanguageModel,
    tokenizer: Tokenizer,
    given: Path | Sequence[Record],
    out: Path,
    sampling: SamplingParams,
    *,
    run: Path,
    options: ReadOptions = AUTODETECT,
    force: bool = False,
) -> int:
    """The prompts of a file (or records) and what follows each, as rows of the file at `out`, written as they come; the
    same command continues after a kill. Returns how many there are.
    """
    form, of = output_format(out), None
    check_output(out, given, force=force)
    records: Callable[[], Iterable[Record]] = lambda: given  # type: ignore[assignment, return-value]  # noqa: E731
    if isinstance(given, Path):
        records = read_prompts(given, options, source=model.capabilities.needs_source)
        of = fingerprint(
            [sha256(run / "run.json"), content_hash(given), astuple(options), form, asdict(sampling)]
        )
    layout = OutputLayout(["text"], options.columns, check_prompts(model, tokenizer, records(), sampling))

    def answer(batch: list[Any]) -> list[dict[str, Any]]:
        return [
            layout.row(record, {"text": text}) for record, text in complete(model, tokenizer, batch, sampling)
        ]

    with partial_file(out, of, force=force) as file:
        return write_rows(file, records(), answer, layout.names, at_once=AT_ONCE)


def to_json(record: Record, text: str) -> dict[str, Any]:
    """A prompt and what follows as JSON values."""
    return record_location(record) | {"prompt": prompt_of(record), "text": text}
