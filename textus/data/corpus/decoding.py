"""Bytes to characters: which encoding a file is in, detected from the whole file, then decoded in blocks.

Order of trial: byte order mark; the encoding that was given; strict UTF-8; UTF-16 without a mark (it shows by its zero
bytes, or by Chinese that reads well); UTF-8 with broken bytes (more characters whole than broken); what a page
declares; Chinese that reads well; then what `guessing` finds. Where nothing reads well, a few bytes are taken for
broken UTF-8, and a file with more of them is refused.

Broken bytes come out as lone surrogates (U+DC80 to U+DCFF, Python's `surrogateescape`), so that `repair` can count them
in the very document they are in.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from textus.core.errors import UsageError
from textus.data.corpus.documents import UnreadableError, check_encoding
from textus.data.corpus.guessing import guess
from textus.data.corpus.languages import COMMON_CHINESE
from textus.data.corpus.sources import Source
from textus.data.corpus.sources import read_blocks as blocks_of

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE_BYTES = 1 << 18
EVIDENCE_CHARS = 1 << 20
"""So many characters beyond ASCII after the first broken byte are enough to decide."""

MIN_HANZI_RATIO = 0.15
CLEAR_HANZI_RATIO, CLEAR_BYTES = 0.35, 40
"""Such a share of common characters, in so many bytes, is Chinese without further comparison."""

DECLARATION = re.compile(
    rb"<(?:\?xml[^>]{0,200}encoding|meta[^>]{0,200}charset)\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE
)
LEGACY_NAMES = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso8859-1": "cp1252"}
TEXT_CONTROLS = b"\t\n\v\f\r\x1b\x1a\b"
CONTROLS = bytes(set(range(32)) - set(TEXT_CONTROLS)) + b"\x7f"


class Encoding(NamedTuple):
    """The codec of a file and its origin: `given`, a byte order `mark`, `utf-8`, `declared` or `guessed`. `rivals` read
    as well.
    """

    codec: str
    origin: str
    rivals: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """What a document's `steps` record of it: nothing for UTF-8."""
        return () if self.codec == "utf-8" else (f"encoding:{self.codec}",)


def open_text(source: Source, *, encoding: str = "", page: bool = False) -> tuple[Encoding, Iterator[str]]:
    """The encoding of a source and its characters in blocks, broken bytes as lone surrogates (see `repair`).

    A byte order mark wins, then the `encoding` given, then UTF-8, what a `page` declares, and a guess. Raises
    UnreadableError for binary or damaged data, and where the encoding cannot be determined.
    """
    detected = detect_encoding(blocks_of(source), encoding=encoding, page=page)
    source.on_encoding(detected)
    return detected, decode(blocks_of(source), detected.codec)


class Guesses:
    """The encodings that were guessed on the way, for the line that reports them."""

    def __init__(self) -> None:
        self.files: dict[str, list[Any]] = {}
        self.last = ""
        self.rivals: Counter[str] = Counter()

    def add(self, name: str, encoding: Encoding) -> None:
        """Count a file if its encoding was guessed; one that is opened twice in a row counts once."""
        before, self.last = self.last, name
        if encoding.origin == "guessed" and before != name:
            count, first = self.files.get(encoding.codec, [0, name])
            self.files[encoding.codec] = [count + 1, first]
            self.rivals.update({f"{encoding.codec} or {' or '.join(encoding.rivals)}": bool(encoding.rivals)})

    def __str__(self) -> str:
        """One line, or "" where nothing was guessed."""
        if not self.files:
            return ""
        total = sum(count for count, _ in self.files.values())
        read = ", ".join(
            f"{codec} ({count:,}, first {first})" for codec, (count, first) in self.files.items()
        )
        close = "".join(f"; {count:,} could be {codecs}" for codecs, count in self.rivals.items() if count)
        plural = "files are" if total > 1 else "file is"
        remedy = "if that is wrong, name it with --encoding or save the file as UTF-8"
        return f"{total:,} {plural} not UTF-8: read as {read}{close}; {remedy}"


@dataclass
class ByteStatistics:
    """What one pass over the bytes of a file found."""

    head: bytes = b""
    sample: bytes = b""
    n_bytes: int = 0
    n_controls: int = 0
    n_valid: int = 0
    n_broken: int = 0
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("surrogateescape")
    )

    def add(self, block: bytes, *, final: bool = False) -> None:
        if len(self.head) < SAMPLE_BYTES:
            self.head += block[: SAMPLE_BYTES - len(self.head)]
        self.n_bytes += len(block)
        self.n_controls += len(block) - len(block.translate(None, CONTROLS))
        text = self.decoder.decode(block, final)
        if text.isascii():
            return
        broken = len(BROKEN.findall(text))
        self.n_broken += broken
        self.n_valid += len(text) - len(text.encode("ascii", "ignore")) - broken
        if broken and len(self.sample) < SAMPLE_BYTES:
            self.sample += from_first_non_ascii(block)[: SAMPLE_BYTES - len(self.sample)]

    @property
    def has_enough_evidence(self) -> bool:
        return self.n_broken > 0 and self.n_broken + self.n_valid > EVIDENCE_CHARS


BROKEN = re.compile("[\udc80-\udcff]")
BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


def from_first_non_ascii(block: bytes) -> bytes:
    """The block from the line of its first non-ASCII byte on: no character is cut in two there."""
    first = BEYOND_ASCII.search(block)
    start = first.start() if first else 0
    return block[block.rfind(b"\n", 0, start) + 1 :]


def detect_encoding(blocks: Iterable[bytes], *, encoding: str = "", page: bool = False) -> Encoding:
    """How to read a file, from its bytes or the `encoding` given. Raises UnreadableError for binary data."""
    survey = ByteStatistics()
    for block in blocks:
        survey.add(block)
        if survey.n_bytes == len(block) and (codec := from_bom(survey.head)):
            return Encoding(codec, "mark")
        if survey.n_bytes == len(block) and encoding:
            return given_encoding(encoding, survey.head)
        if survey.has_enough_evidence or survey.n_controls > max(SAMPLE_BYTES, survey.n_bytes // 4):
            break
    else:
        survey.add(b"", final=True)
    return guess_encoding(survey, page=page)


def given_encoding(encoding: str, head: bytes) -> Encoding:
    """The encoding that was named; UTF-16 and UTF-32 without a mark in the byte order that fits, else little-endian."""
    codec = check_encoding(encoding)
    if codec in ("utf-16", "utf-32"):
        codec = (codec == "utf-16" and guess_utf16(head)) or f"{codec}-le"
    return Encoding(codec, "given")


def from_bom(head: bytes) -> str:
    """The codec a byte order mark names, or "" (also if plain ASCII follows it: then it is not a mark)."""
    codec = next((codec for mark, codec in BYTE_ORDER_MARKS if head.startswith(mark)), "")
    return "" if codec[:5] in ("utf-1", "utf-3") and is_mostly_ascii(head) else codec


def is_mostly_ascii(head: bytes) -> bool:
    """Whether nearly all bytes are printable ASCII: no UTF-16 of any language looks so."""
    return len(head.translate(None, PRINTABLE_ASCII)) < 0.15 * len(head)


PRINTABLE_ASCII = bytes(range(32, 127)) + b"\n"


def guess_encoding(survey: ByteStatistics, *, page: bool) -> Encoding:
    """The encoding, from the statistics. Raises UnreadableError for binary data or an encoding that cannot be
    determined.
    """
    if survey.n_controls:
        if codec := guess_utf16(survey.head):
            return Encoding(codec, "guessed")
        n_allowed = (
            max(1, survey.n_bytes // 1000) if 0 in survey.head[:8192] else max(4, survey.n_bytes // 100)
        )
        if survey.n_controls > n_allowed or survey.n_bytes < 8 * survey.n_controls:
            if survey.n_broken or 0 in survey.head:
                raise UnreadableError("not_text", "binary")
            raise UnreadableError(
                "not_text", "binary, or a text with many control characters; take them out of it"
            )
    if survey.n_broken == 0:
        return Encoding(guess_iso2022(survey.head) or "utf-8", "utf-8")
    if survey.n_valid > survey.n_broken:
        return Encoding("utf-8", "utf-8")  # with broken bytes
    if page and (codec := declared_codec(survey)):
        return Encoding(codec, "declared")
    if codec := guess_chinese(survey.sample) or guess_utf16(survey.head):
        return Encoding(codec, "guessed")
    if guessed := guess(survey.sample):
        return Encoding(guessed.codec, "guessed", guessed.rivals)
    if survey.n_broken > MAX_BROKEN:
        kind = "binary, or " if survey.n_broken > 0.1 * survey.n_bytes else ""
        raise UnreadableError(
            "unknown_encoding",
            f"{kind}in an encoding that cannot be determined; name it with --encoding, such as cp1250, or save it"
            " as UTF-8",
        )
    return Encoding("utf-8", "utf-8")


MAX_BROKEN = 4
"""So many broken bytes in plain text are damage, not an encoding."""


def guess_iso2022(head: bytes) -> str:
    """The seven-bit encodings of Japanese and Korean, recognised by escape sequences; or ""."""
    for codec, sign in (("iso2022_jp_2", rb"\x1b\$[@B]|\x1b\(J"), ("iso2022_kr", rb"\x1b\$\)C")):
        if b"\x1b" in head and re.search(sign, head):
            try:
                codecs.getincrementaldecoder(codec)("strict").decode(head)
            except UnicodeDecodeError:
                continue
            return codec
    return ""


def declared_codec(survey: ByteStatistics) -> str:
    """The codec a page declares, if its bytes can be read in it."""
    detected = DECLARATION.search(survey.head[:4096])
    if not detected:
        return ""
    try:
        name = check_encoding(detected[1].decode())
        codec = LEGACY_NAMES.get(name, name)
        codecs.getincrementaldecoder(codec)("strict").decode(survey.sample)
    except (UsageError, UnicodeError):
        return ""
    return codec


def common_hanzi_ratio(text: str) -> float:
    """The share of the commonest Chinese characters among non-ASCII ones, without punctuation."""
    beyond = [
        char
        for char in text
        if ord(char) > 0x7F and not 0x3000 <= ord(char) <= 0x303F and char not in FULLWIDTH_PUNCTUATION
    ]
    return sum(char in COMMON_CHINESE for char in beyond) / len(beyond) if beyond else 0.0


FULLWIDTH_PUNCTUATION = frozenset("，。！？；：（）“”‘’…—·、《》「」『』％～")


def guess_chinese(sample: bytes) -> str:
    """gb18030 or big5hkscs, whichever clearly reads as Chinese; else "".

    500 common characters make up 40 to 70 % of Chinese (verse and names 20 %), below 5 % in the wrong codec, about 10 %
    of Korean read as Chinese. EUC-JP's kana coincide with GB 2312's, and with Big5's commonest characters.
    """
    if len(BEYOND_ASCII.findall(sample)) < CLEAR_BYTES:
        return ""
    read = {codec: sample.decode(codec, "replace") for codec in ("gb18030", "big5hkscs")}
    if any(len(KANA.findall(text)) > 0.05 * len(text) for text in read.values()):
        return ""
    scores = {codec: common_hanzi_ratio(text) for codec, text in read.items()}
    best = max(scores, key=lambda codec: scores[codec])
    return best if scores[best] >= CLEAR_HANZI_RATIO else ""


KANA = re.compile("[\u3041-\u30fe]")


def guess_utf16(head: bytes) -> str:
    """UTF-16 without a mark, of the two orders the one that reads better as Latin or Chinese; else ""."""
    if is_mostly_ascii(head):
        return ""
    scores = {codec: score_utf16(head[: len(head) // 2 * 2], codec) for codec in ("utf-16-le", "utf-16-be")}
    best = max(scores, key=lambda codec: scores[codec])
    return best if scores[best] > 0 else ""


def score_utf16(head: bytes, codec: str) -> float:
    """How well bytes read in an order of UTF-16, from 0 to 1; 0 also where they are not UTF-16."""
    text = head.decode(codec, "ignore")
    if len(text) < len(head) // 2 - 1 - sum(char > "\uffff" for char in text) or "\0" in text:
        return 0.0
    plain = sum(" " <= char <= "~" or char in "\t\r\n" for char in text) / max(1, len(text))
    chinese = common_hanzi_ratio(text)
    return max(plain if plain > 0.9 else 0.0, chinese if chinese >= MIN_HANZI_RATIO else 0.0)


def decode(blocks: Iterable[bytes], codec: str) -> Iterator[str]:
    """The characters of a file in blocks. UTF-8 keeps each broken byte; other codecs give one lone surrogate for each
    place.
    """
    exact = codec in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder(codec)("surrogateescape" if exact else "replace")
    for block in chain(blocks, [b""]):
        text = decoder.decode(block, not block)
        if text:
            yield text if exact else text.replace("\ufffd", "\udcff")
