"""Which encoding bytes are in that are neither marked, nor UTF-8, nor declared: candidates read and compared.

`charset-normalizer` comes first; what it proposes counts for something, but its measure of disorder cannot separate
Hungarian in cp1250 from the same bytes in cp1252, nor `5µm` from a Chinese character. So every candidate is read as
text, and the one that reads best as some language is taken (see `languages`). Of the 385 legacy files of chardet's
tests charset-normalizer alone reads 349 as named, this way 380.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from textus.core.names import import_optional
from textus.data.corpus.languages import LanguageScore, score_text

USUAL = (
    "cp1252 gb18030 cp1250 iso8859-2 cp1251 koi8-r big5hkscs cp950 cp932 euc_jp cp949 cp1253 iso8859-7 cp1254 cp1257 "
    "cp1255 cp1256 koi8-u iso8859-5 iso8859-15 iso8859-6 cp874"
)
RARE = (
    "iso8859-3 iso8859-4 iso8859-10 iso8859-13 iso8859-14 iso8859-16 cp437 cp737 cp775 cp850 cp852 cp855 cp857 cp862 "
    "cp866 cp869 mac_roman mac_latin2 mac_cyrillic mac_greek mac_turkish johab euc_jis_2004 cp1258"
)
SAFE = "cp1252 gb18030 cp1250 big5hkscs cp950 cp932 euc_jp cp949 cp1257 iso8859-2"
FEW_BYTES = 6
"""Fewer bytes than this read as anything in some Cyrillic or DOS encoding: only these are considered."""

RARE_PENALTY = 3.0
"""So many nats better must a codec of the second list read."""

PROPOSAL_BONUS = 1.0
"""So many nats charset-normalizer's best proposal counts for."""

RIVAL_MARGIN = 2.0
"""Readings nearer than this are equally good."""

MIN_EXPLAINED = 0.6
"""The least share of characters beyond ASCII that the best reading must account for; foreign letters count half."""

MAX_PIECE_BYTES = 8192
"""Longer pieces are passed over where there are others: cut, they would end in half a character."""

MIN_MEAN, MIN_MEAN_IDEOGRAPHS = -6.0, -9.6
"""The least mean log-likelihood. Latin and Cyrillic have -2 to -4 (by chance -7), Chinese -7 to -9 (-10 to -12)."""

NON_ASCII = re.compile(rb"[\x80-\xff]")
PIECE = re.compile(rb"[^\n]{0,60}[^\n ,.;<>\t]*[\n ,.;<>\t]?")
"""A line, or a stretch of a long one that ends where no encoding has half a character."""


@dataclass(frozen=True)
class Guess:
    """The codec that reads best, and others that read as well but give another text."""

    codec: str
    rivals: tuple[str, ...] = ()


def guess(data: bytes) -> Guess | None:
    """The encoding of bytes some of which are beyond ASCII; None where none of them reads as any language."""
    if not NON_ASCII.search(data):
        return None
    proposed = charset_normalizer_guesses(data)
    candidates = list(dict.fromkeys([*USUAL.split(), *RARE.split(), *proposed]))
    if len(NON_ASCII.findall(data)) < FEW_BYTES:
        proposed, candidates = [], SAFE.split()
        if b"\xff" in data:
            return None  # the sign of damage, and of no word
    few = sample_non_ascii(data, 120)
    ranked = rank(few, candidates, proposed)
    many = sample_non_ascii(data, 1500)
    if many != few:
        ranked = rank(many, [codec for _, codec in ranked[:6]], proposed)
    best, codec = ranked[0]
    least = MIN_MEAN_IDEOGRAPHS if best.language in ("zh", "ja", "ko") else MIN_MEAN
    if best.explained < MIN_EXPLAINED or best.mean < least:
        return None
    rivals = [other for read, other in ranked[1:] if best.score - read.score < RIVAL_MARGIN]
    return Guess(codec, tuple(rivals[:2]))


def charset_normalizer_guesses(data: bytes) -> list[str]:
    """What charset-normalizer takes the bytes for, the best first."""
    matches = import_optional("charset_normalizer", "text").from_bytes(
        data[:65536], preemptive_behaviour=False
    )
    return [match.encoding.replace("iso8859_", "iso8859-").replace("koi8_", "koi8-") for match in matches]


def sample_non_ascii(data: bytes, n_high: int) -> bytes:
    """Lines with bytes beyond ASCII: enough to hold `n_high` of them, and every value that occurs."""
    pieces = [piece for piece in PIECE.findall(data) if not piece.isascii()]
    pieces = [piece for piece in pieces if len(piece) < MAX_PIECE_BYTES] or [pieces[0][:MAX_PIECE_BYTES]]
    step = len(NON_ASCII.findall(data)) // n_high + 1
    seen: Counter[bytes] = Counter()
    chosen = []
    for number, piece in enumerate(pieces):
        high = NON_ASCII.findall(piece)
        if number % step == 0 or any(not seen[byte] for byte in high):
            seen.update(high)
            chosen.append(piece)
    return b"".join(chosen)


def rank(data: bytes, candidates: list[str], proposed: list[str]) -> list[tuple[LanguageScore, str]]:
    """The readings of the candidates, the best first; of those that give the same text only the first."""
    texts: dict[str, str] = {}
    for codec in candidates:
        texts.setdefault(data.decode(codec, "replace"), codec)
    readings = []
    for text, codec in texts.items():
        read = score_text(text)
        bonus = PROPOSAL_BONUS * (codec in proposed[:1]) - RARE_PENALTY * rareness(codec)
        readings.append((read._replace(score=read.score + bonus), codec))
    return sorted(readings, key=lambda pair: -pair[0].score)


def rareness(codec: str) -> int:
    """0 for the usual encodings, 1 for the rare ones, 2 for what only charset-normalizer thinks of."""
    return 0 if codec in USUAL.split() else 1 if codec in RARE.split() else 2
