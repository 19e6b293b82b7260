"""What the tests of the corpus room share: small folders of text, and the corpora made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import textus
from textus.data.corpus import Corpus, CorpusSettings, build

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("TEXTUS_DATA", REPOSITORY / ".." / "shared" / "data"))

SIMPLIFIED = (
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
    "人人有资格享有本宣言所载的一切权利和自由，不分种族、肤色、性别、语言、宗教、政治或其他见解。\n"
)
TRADITIONAL = (
    "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。\n"
    "人人有資格享受本宣言所載的一切權利和自由，不分種族、膚色、性別、語言、宗教、政治或其他見解。\n"
)


def made(tmp_path: Path, files: dict[str, str | bytes], name: str = "in", **options: object) -> Corpus:
    """A corpus of a folder with these files; everything in train unless told otherwise."""
    folder = write(tmp_path / name, files)
    options.setdefault("split", "none")
    return build([folder], tmp_path / f"{name}.corpus", settings=CorpusSettings(**options))  # type: ignore[arg-type]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def texts(corpus: Corpus, split: str = "train") -> list[str]:
    """Whole documents of a split, parts joined."""
    results: list[str] = []
    for document in corpus.documents(split):
        if document.part == 0:
            results.append("")
        results[-1] += document.text
    return results


def sentences(folder: Path) -> dict[str, Path]:
    """640 sentences of one pattern as `corpus`, and a word tokenizer of them as `tokenizer`: arguments of `train`."""
    lines = [
        {"text": f"{who} {does} the {what} ."}
        for who in "abcdefgh"
        for does in "pqrstuvw"
        for what in "0123456789"
    ]
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    textus.build_corpus(folder / "texts.jsonl", out=folder / "corpus")
    textus.train_tokenizer(folder / "corpus", kind="word", vocab_size=40, out=folder / "tokenizer")
    return {"corpus": folder / "corpus", "tokenizer": folder / "tokenizer"}
