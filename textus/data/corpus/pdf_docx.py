"""The text of pdf and docx files. Pages of a pdf are separated by form feeds, as `pdftotext` does; headings of a docx
begin with `#`, as in Markdown.
"""

from __future__ import annotations

import io
import logging
import re
import zipfile
from typing import Any

from textus.core.console import log_notice
from textus.core.names import import_optional
from textus.core.scripts import CJK
from textus.data.corpus.documents import UnreadableError
from textus.data.corpus.sources import Source, read_blocks

PAGE_BREAK = "\f"
WRAPPED_SHARE = 0.6
"""A line of at least this share of a page's longest line that ends within a sentence continues on the next line."""
SENTENCE_END = re.compile(r"[.!?:;。！？：；][\"'”’）)]*$")
LIST_ITEM = re.compile(r"[-•*·]|\d+[.)]|第[一二三四五六七八九十百\d]+[章节条]")
OLE_MAGIC = b"\xd0\xcf\x11\xe0"
"""How an encrypted docx begins, and a .doc of before 2007."""


def read_pdf_or_docx(source: Source) -> str:
    """The text of a pdf or docx. Raises UnreadableError with one of a few fixed reasons: encrypted, scanned, no text,
    or damaged.
    """
    data = b"".join(read_blocks(source))
    text = read_pdf(data, source.name) if source.kind == "pdf" else read_docx(data)
    if not text.strip():
        raise UnreadableError("unreadable_file", "the document has no text")
    return text


def read_pdf(data: bytes, name: str) -> str:
    """The pages of a pdf, its wrapped lines joined."""
    pypdf = import_optional("pypdf", "documents")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs each repair of a file
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("unreadable_file", ENCRYPTED)
        pages = [page.extract_text() for page in reader.pages]
        is_scanned = not any(page.strip() for page in pages) and any(map(has_image, reader.pages))
    except UnreadableError:
        raise
    except pypdf.errors.DependencyError as error:  # its cipher needs another package
        raise UnreadableError("unreadable_file", ENCRYPTED) from error
    except Exception as error:
        raise UnreadableError("unreadable_file", "damaged pdf: export it anew") from error
    if is_scanned:
        raise UnreadableError("unreadable_file", "scanned pdf without text: recognize its text (OCR) first")
    empty = [number for number, page in enumerate(pages, 1) if not page.strip()]
    if empty and len(empty) < len(pages):
        log_notice(
            f"{name}: {len(empty):,} of {len(pages):,} pages have no text (scanned?), the first page {empty[0]}"
        )
    return join_pages(pages)


ENCRYPTED = "encrypted: save it without a password first"


def has_image(page: Any) -> bool:
    """Whether a page of a pdf shows an image."""
    resources = page.get("/Resources")
    objects: Any = resources.get_object().get("/XObject") if resources else None
    return bool(objects) and any(
        item.get_object().get("/Subtype") == "/Image" for item in objects.get_object().values()
    )


def join_pages(pages: list[str]) -> str:
    """Pages with a form feed between them. Lines that were wrapped within a sentence are joined, also over pages."""
    pieces: list[str] = []
    for number, page in enumerate(pages):
        lines = [line.strip() for line in page.splitlines()]
        longest = max(map(len, lines), default=0)
        for place, line in enumerate(lines):
            pieces.append(line)
            following = lines[place + 1] if place + 1 < len(lines) else ""
            if place + 1 < len(lines):
                if is_wrapped(line, following, longest):
                    pieces.append("" if between_chinese(line, following) else " ")
                else:
                    pieces.append("\n")
        if number + 1 < len(pages):
            is_open = bool(lines) and len(lines[-1]) >= WRAPPED_SHARE * longest
            pieces.append(PAGE_BREAK if is_open and not SENTENCE_END.search(lines[-1]) else "\n" + PAGE_BREAK)
    return "".join(pieces)


def is_wrapped(line: str, following: str, longest: int) -> bool:
    """Whether a line of a page continues on the next one."""
    if not line or not following or SENTENCE_END.search(line) or LIST_ITEM.match(following):
        return False
    return len(line) >= WRAPPED_SHARE * longest


def between_chinese(line: str, following: str) -> bool:
    """Whether no blank belongs between two lines."""
    return bool(re.match(f"[{CJK}，。、；：！？“”（）《》]{{2}}", line[-1] + following[0]))


def read_docx(data: bytes) -> str:
    """The paragraphs and tables of a docx in order, one line each, cells separated by tabs."""
    docx = import_optional("docx", "documents")
    if data.startswith(OLE_MAGIC):
        raise UnreadableError("unreadable_file", ENCRYPTED)
    try:
        document = docx.Document(io.BytesIO(data))
        lines = [line for item in document.iter_inner_content() for line in docx_lines(item)]
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, OSError) as error:
        raise UnreadableError("unreadable_file", "damaged docx: save it anew") from error
    except docx.opc.exceptions.PackageNotFoundError as error:
        raise UnreadableError("unreadable_file", "damaged docx: save it anew") from error
    return "\n".join(lines)


def docx_lines(item: Any) -> list[str]:
    """The lines of a paragraph or table of `python-docx`."""
    if hasattr(item, "rows"):
        return ["\t".join(cell.text.replace("\n", " ").strip() for cell in row.cells) for row in item.rows]
    style = (item.style.name or "") if item.style is not None else ""
    level = 1 if style == "Title" else int(style[8:]) if re.fullmatch(r"Heading \d", style) else 0
    text = item.text.strip()
    return [f"{'#' * level} {text}" if level and text else text]
