"""What the tests of the corpus room share: small folders of text, and the corpora made of them."""

from __future__ import annotations

import os
from pathlib import Path

from textus.corpus import Corpus, CorpusSettings, build

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
    found: list[str] = []
    for document in corpus.documents(split):
        if document.part == 0:
            found.append("")
        found[-1] += document.text
    return found
