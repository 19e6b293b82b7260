"""Small pdf and docx files for tests, made here: a pdf of pages of lines, also in Chinese; scanned; encrypted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import docx
import pypdf

CMAP = b"""/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /U def /CMapType 2 def
1 begincodespacerange <0000> <FFFF> endcodespacerange
1 beginbfrange <0000> <FFFF> <0000> endbfrange endcmap end end"""


def pdf_bytes(pages: Sequence[Sequence[str]], *, image: bool = False) -> bytes:
    """A pdf with a page for each list of lines; codes are UTF-16. `image`: each page also shows an image."""
    objects: list[bytes] = []

    def add(body: bytes, stream: bytes | None = None) -> int:
        if stream is not None:
            body = body[:-2] + b" /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream)
        objects.append(body)
        return len(objects)

    add(b"<< /Type /Catalog /Pages 2 0 R >>")
    add(b"")
    cmap = add(b"<< >>", CMAP)
    child = add(
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Sans /DW 500"
        b" /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>"
    )
    font = add(
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Sans /Encoding /Identity-H /DescendantFonts [%d 0 R]"
        b" /ToUnicode %d 0 R >>" % (child, cmap)
    )
    picture = add(
        b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 >>",
        b"\0",
    )
    shown = b"/XObject << /I %d 0 R >>" % picture if image else b""
    kids = []
    for lines in pages:
        texts = [b"<%b> Tj T*" % line.encode("utf-16-be").hex().encode() for line in lines]
        content = add(b"<< >>", b"BT /F 12 Tf 14 TL 50 750 Td\n" + b"\n".join(texts) + b"\nET")
        kids.append(
            add(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R"
                b" /Resources << /Font << /F %d 0 R >> %b >> >>" % (content, font, shown)
            )
        )
    listed = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<< /Type /Pages /Kids [%b] /Count %d >>" % (listed, len(kids))
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%b\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    return out.getvalue()


def write_pdf(path: Path, pages: Sequence[Sequence[str]], *, image: bool = False, password: str = "") -> Path:
    """Write a pdf, encrypted if there is a password."""
    data = pdf_bytes(pages, image=image)
    if password:
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
        writer.encrypt(password, algorithm="RC4-128")
        with path.open("wb") as file:
            writer.write(file)
    else:
        path.write_bytes(data)
    return path


def write_docx(path: Path, parts: Sequence[tuple[str, str]]) -> Path:
    """Write a docx of (heading, paragraph); an empty heading is none."""
    document = docx.Document()
    for heading, paragraph in parts:
        if heading:
            document.add_heading(heading, level=1)
        document.add_paragraph(paragraph)
    document.save(str(path))
    return path
