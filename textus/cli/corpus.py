"""Verbs on text: `corpus build|show|trace` and `tokenizer train|report`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.params import Assignments, CommandResult, CorpusFolder, Force, Json, Out, option

Sources = Annotated[
    Path,
    Parameter(
        name="SRC",
        help="Files and folders: txt, md, html, jsonl, json, csv, tsv, parquet, plain or in gz or zip.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class TableFlags:
    """How text and tables are read where it is not to be detected."""

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
    tables: TableFlags = TableFlags(),
    settings: Assignments = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Read text of any kind into a corpus: repaired, deduplicated, split.

    Example: textus corpus build books/ notes.md --out work/corpus
    """
    from textus.api import build_corpus

    flags = asdict(tables)
    corpus = build_corpus(*sources, out=out, split=split, settings=settings or [], force=force, **flags)
    answer = shown(out)
    model = " --model encoder-decoder" if corpus.has_pairs else ""
    return CommandResult(
        answer.data, f"{answer.text}\nnext: textus train {out}{model} --preset 1min --out work/run"
    )


def shown(corpus: Path) -> CommandResult:
    """What a corpus holds."""
    from textus.api import open_corpus
    from textus.cli import render
    from textus.data.corpus import show

    data = show(open_corpus(corpus))
    return CommandResult(data, render.corpus(data))


def corpus_show(corpus: CorpusFolder, /, *, as_json: Json = False) -> CommandResult:
    """Tell what a corpus holds, and what was dropped and why.

    Example: textus corpus show work/corpus
    """
    return shown(corpus)


def corpus_trace(
    corpus: CorpusFolder,
    document: Annotated[str, Parameter(name="DOC", help="A document's id, or its source as given.")],
    /,
    *,
    as_json: Json = False,
) -> CommandResult:
    """Tell where a document came from, what was done to it, why it was dropped.

    Example: textus corpus trace work/corpus books/notes.md
    """
    from textus.api import open_corpus
    from textus.cli import render
    from textus.data.corpus import trace_document

    data = trace_document(open_corpus(corpus), document)
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
    return reported(out, corpus)


def reported(tokenizer: Path, corpus: Path) -> CommandResult:
    """How a tokenizer cuts a corpus."""
    from textus.api import load_tokenizer, open_corpus
    from textus.cli import render
    from textus.tokenizers import report

    found = report(load_tokenizer(tokenizer), open_corpus(corpus).texts("train"))
    data = {"tokenizer": str(tokenizer), "corpus": str(corpus), **found}
    return CommandResult(data, render.figures(f"tokenizer {tokenizer}", found))


def tokenizer_report(
    tokenizer: Annotated[Path, Parameter(name="TOKENIZER", help="A tokenizer's folder or tokenizer.json.")],
    corpus: CorpusFolder,
    /,
    *,
    as_json: Json = False,
) -> CommandResult:
    """Tell how a tokenizer cuts a corpus: bytes a token, coverage, fertility.

    Example: textus tokenizer report work/tokenizer work/corpus
    """
    return reported(tokenizer, corpus)
