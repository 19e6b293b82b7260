"""Commands on text: `corpus build|show|trace` and `tokenizer train|report`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.params import CommandResult, CorpusFolder, Force, Json, Out, Overrides, option

Sources = Annotated[
    Path,
    Parameter(
        name="SRC",
        help="Files and folders: txt, md, html, jsonl, json, csv, tsv, parquet, plain or in gz or zip.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class TableOptions:
    """How text and tables are read; what is not given is detected."""

    columns: Annotated[
        str,
        option(
            "Which columns are the text: text=review, pairs source=en,target=de, without a header 0=text."
        ),
    ] = ""
    delimiter: Annotated[
        str,
        option(
            "What separates the columns: comma, semicolon, tab, bar or a character; detected if left out."
        ),
    ] = ""
    encoding: Annotated[
        str,
        option("The encoding of all the text, such as cp1250 or gb18030; detected file by file if left out."),
    ] = ""


def corpus_build(
    *sources: Sources,
    out: Out,
    split: Annotated[
        str, option("auto, hash:SHARE by document, tail:SHARE of the characters of each, or none.")
    ] = "auto",
    tables: TableOptions = TableOptions(),
    overrides: Overrides = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Read text of any kind into a corpus: repaired, deduplicated, split.

    Example: textus corpus build books/ notes.md --out work/corpus
    """
    from textus.api import build_corpus

    flags = asdict(tables)
    corpus = build_corpus(*sources, out=out, split=split, overrides=overrides or [], force=force, **flags)
    summary = corpus_summary(out)
    model = " --model encoder-decoder" if corpus.has_pairs else ""
    return CommandResult(
        summary.data, f"{summary.text}\nnext: textus train {out}{model} --preset 1min --out work/run"
    )


def corpus_summary(corpus: Path) -> CommandResult:
    """Statistics of a corpus."""
    from textus.api import show_corpus
    from textus.cli import render

    data = show_corpus(corpus)
    return CommandResult(data, render.corpus(data))


def corpus_show(corpus: CorpusFolder, /, *, as_json: Json = False) -> CommandResult:
    """Show corpus statistics and dropped documents.

    Example: textus corpus show work/corpus
    """
    return corpus_summary(corpus)


def corpus_trace(
    corpus: CorpusFolder,
    document: Annotated[str, Parameter(name="DOC", help="A document's id, or its source as given.")],
    /,
    *,
    as_json: Json = False,
) -> CommandResult:
    """Show where a document came from, what was changed in it, why it was dropped.

    Example: textus corpus trace work/corpus books/notes.md
    """
    from textus.api import trace_corpus
    from textus.cli import render

    data = trace_corpus(corpus, document)
    return CommandResult(data, render.render_trace(data))


def tokenizer_train(
    corpus: CorpusFolder,
    /,
    *,
    out: Out,
    kind: Annotated[str, option("char, word, bpe, wordpiece or unigram.")] = "bpe",
    vocab_size: Annotated[int, option("Entries in the vocabulary, special tokens included.")] = 4096,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Train a tokenizer on a corpus' training split.

    Example: textus tokenizer train work/corpus --kind bpe --vocab-size 4096 --out work/tokenizer
    """
    from textus.api import train_tokenizer

    train_tokenizer(corpus, out=out, kind=kind, vocab_size=vocab_size, force=force)
    return tokenizer_summary(out, corpus)


def tokenizer_summary(tokenizer: Path, corpus: Path) -> CommandResult:
    """How a tokenizer encodes a corpus."""
    from textus.api import report_tokenizer
    from textus.cli import render

    data = report_tokenizer(tokenizer, corpus)
    figures = {name: value for name, value in data.items() if name not in ("tokenizer", "corpus")}
    return CommandResult(data, render.figures(f"tokenizer {tokenizer}", figures))


def tokenizer_report(
    tokenizer: Annotated[Path, Parameter(name="TOKENIZER", help="A tokenizer's folder or tokenizer.json.")],
    corpus: CorpusFolder,
    /,
    *,
    as_json: Json = False,
) -> CommandResult:
    """Show how a tokenizer encodes a corpus: bytes per token, coverage, fertility.

    Example: textus tokenizer report work/tokenizer work/corpus
    """
    return tokenizer_summary(tokenizer, corpus)
