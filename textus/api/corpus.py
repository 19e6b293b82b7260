"""Corpora as functions: `build_corpus`, `show_corpus`, `trace_corpus`, and how a tokenizer fits one."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.core.arguments import to_path
from textus.core.errors import UsageError

if TYPE_CHECKING:
    from textus.data.corpus import Corpus


def build_corpus(
    *sources: str | Path,
    out: str | Path,
    split: str = "auto",
    encoding: str = "",
    columns: str = "",
    delimiter: str = "",
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Corpus:
    """Read files and folders into a corpus folder at `out`.

    `split` is auto, hash:SHARE, tail:SHARE or none; `encoding` that of all text, such as "cp1250", or "" to detect it
    file by file; `columns` names those of tables, as in "text=review" or "source=en,target=de", and `delimiter` what
    separates them, "" to detect it; `overrides` set other fields of `CorpusSettings`, such as "min_chars=20". Raises
    UsageError without sources or where `out` exists, DataError where no text is found.

    Example:
        >>> corpus = textus.build_corpus("books/", out="work/books")
        >>> corpus.n_documents("train") > 0
        True
    """
    from textus.core.config import apply_overrides
    from textus.data.corpus import CorpusSettings, build

    if not sources:
        raise UsageError(
            "missing_argument",
            "no sources given; name files or folders: textus corpus build SRC --out FOLDER",
        )
    if wrong := [source for source in sources if not isinstance(source, str | PathLike)]:
        raise UsageError(
            "wrong_type",
            f"a source is {type(wrong[0]).__name__}, not the path of a file or folder; write texts to a file",
        )
    given = CorpusSettings(split=split, encoding=encoding, columns=columns, delimiter=delimiter)
    settings = apply_overrides(given, list(overrides))
    return build([Path(source) for source in sources], to_path(out, "out"), settings=settings, force=force)


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus folder. Raises RunError where it is none, or damaged.

    Example:
        >>> textus.open_corpus("work/corpus").has_pairs
        False
    """
    from textus.data.corpus import open_corpus as open_folder

    return open_folder(to_path(path, "the path"))


def show_corpus(corpus: str | Path | Corpus) -> dict[str, Any]:
    """Corpus statistics: documents, characters and bytes by split, sources, and dropped documents by reason.

    Example:
        >>> sorted(textus.show_corpus("work/corpus")["validation"])
        ['bytes', 'chars', 'documents', 'parts']
    """
    from textus.data.corpus import show

    return show(open_corpus(to_path(corpus, "corpus")))


def trace_corpus(corpus: str | Path | Corpus, document: str) -> dict[str, Any]:
    """Where a document came from (`document`: its id, or its source as given), what was changed, and why it was
    dropped, as `kept` and `dropped` entries. Raises DataError for an unknown document.

    Example:
        >>> textus.trace_corpus("work/corpus", "books/one.txt")["n_kept"]
        1
    """
    from textus.data.corpus import trace_document

    return trace_document(open_corpus(to_path(corpus, "corpus")), document)


def report_tokenizer(tokenizer: str | Path, corpus: str | Path | Corpus) -> dict[str, Any]:
    """How a tokenizer encodes a corpus' training split: bytes per token, coverage, fertility by script, unused ids.

    Example:
        >>> textus.report_tokenizer("work/run", "work/corpus")["coverage"]
        1.0
    """
    from textus.tokenizers import load, report

    figures = report(
        load(to_path(tokenizer, "tokenizer")), open_corpus(to_path(corpus, "corpus")).texts("train")
    )
    return {"tokenizer": str(tokenizer), "corpus": str(corpus), **figures}
