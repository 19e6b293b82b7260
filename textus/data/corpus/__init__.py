"""Raw text in, documents out: repaired, deduplicated, split, each with its source and its steps.

One file a step, in the order the text takes::

    sources    which files there are: folders, archives, suffixes
    decoding   bytes to characters: which encoding, in blocks
    dialects   characters to records: delimiters, quotes, line ends
    tables     files to rows of named fields, for corpora and labelled rows: csv, JSON, parquet
    exports    rows of annotation tools in the usual fields; what a json file holds
    conll      columns of tokens and tags, for labelled rows
    readers    characters to documents: text, pages, the rows of tables
    aligned    two files aligned by line, as pairs
    repair     characters to clean characters: mojibake, line ends, NFC
    builder    documents to a folder: duplicates, the split, fingerprint
    store      the folder, opened again: documents, show, trace, verify
    demo       documents every machine with Python already has
"""

from textus.data.corpus.builder import build, build_from_documents
from textus.data.corpus.demo import demo_documents
from textus.data.corpus.documents import CorpusSettings, Document
from textus.data.corpus.store import Corpus, open_corpus, show, trace_document

__all__ = [
    "Corpus",
    "CorpusSettings",
    "Document",
    "build",
    "build_from_documents",
    "demo_documents",
    "open_corpus",
    "show",
    "trace_document",
]
