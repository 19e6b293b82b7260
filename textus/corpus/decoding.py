"""Bytes to characters: which encoding a file is in, told from the whole file, then decoded in blocks.

Order of trial: byte order mark; strict UTF-8; UTF-16 without a mark (it shows by its zero bytes, or by
Chinese that reads well); UTF-8 with broken bytes (more characters whole than broken); GB18030 and Big5 by
how many of the decoded characters are among the commonest of Chinese — the same bytes read in the wrong one
of the two give rare characters; what a page declares; then `charset-normalizer`. Where nothing reads well
the file is taken for broken UTF-8, or for binary where most of it is broken.

Broken bytes come out as lone surrogates (U+DC80 to U+DCFF, Python's `surrogateescape`), so that `repair` can
count them in the very document they are in.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from textus.common import extra
from textus.corpus.documents import Unreadable, checked_encoding
from textus.corpus.sources import Source
from textus.corpus.sources import blocks as blocks_of

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE_BYTES = 1 << 18
EVIDENCE = 1 << 20
"""So many characters beyond ASCII after the first broken byte are enough to tell."""

COMMON_ENOUGH = 0.15

COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机"
    "十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西"
    "斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女"
    "变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基"
    "眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今"
    "切院让识候带导争运笔這個們來為國時說會對過發後裡裏種經學現當沒動還進樣開從實軍與長機無點關業將兩間問應戰體見產"
    "給門員論處義認條係氣題爾總電數報結務場計資統區隊許書則聽卻達強難權據邊張該規領確傳師觀讓識帶導爭運於麼幾變"
)
WORD_LETTERS = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüýßœšžÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÚÜŒŠŽ")
ALONE = frozenset("àÀ‘’“”–—…«»°£€§©®·¿¡\xa0•™´")
DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{2,40})", re.IGNORECASE)
LEGACY_NAMES = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso8859-1": "cp1252"}
TEXT_CONTROLS = b"\t\n\v\f\r\x1b\x1a\b"
CONTROLS = bytes(set(range(32)) - set(TEXT_CONTROLS)) + b"\x7f"


class Encoding(NamedTuple):
    """The codec of a file and how it is known: `given`, a byte order `mark`, `utf-8`, `declared` or `guessed`."""

    codec: str
    origin: str

    @property
    def steps(self) -> tuple[str, ...]:
        """What a document's `steps` record of it: nothing for UTF-8."""
        return () if self.codec == "utf-8" else (f"encoding:{self.codec}",)


def open_text(source: Source, *, encoding: str = "", page: bool = False) -> tuple[Encoding, Iterator[str]]:
    """The encoding of a source and its characters in blocks, broken bytes as lone surrogates (see `repair`).

    A byte order mark wins, then the `encoding` given, then UTF-8, what a `page` declares, what the bytes tell.
    Raises Unreadable for binary data, for damage, and where the encoding cannot be determined.
    """
    found = detect_encoding(blocks_of(source), encoding=encoding, page=page)
    return found, decode(blocks_of(source), found.codec)


@dataclass
class Survey:
    """What one pass over the bytes of a file found."""

    head: bytes = b""
    sample: bytes = b""
    n_bytes: int = 0
    n_controls: int = 0
    n_whole: int = 0
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
        self.n_whole += len(text) - len(text.encode("ascii", "ignore")) - broken
        if broken and len(self.sample) < SAMPLE_BYTES:
            self.sample += telling(block)[: SAMPLE_BYTES - len(self.sample)]

    @property
    def enough(self) -> bool:
        return self.n_broken > 0 and self.n_broken + self.n_whole > EVIDENCE


BROKEN = re.compile("[\udc80-\udcff]")
BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


def telling(block: bytes) -> bytes:
    """The block from the line of its first byte beyond ASCII on: there no character is cut in two."""
    first = BEYOND_ASCII.search(block)
    start = first.start() if first else 0
    return block[block.rfind(b"\n", 0, start) + 1 :]


def detect(blocks: Iterable[bytes], *, page: bool = False) -> str:
    """The codec of a file from its bytes. A `page` may declare its own. Raises Unreadable for binary data."""
    return detect_encoding(blocks, page=page).codec


def detect_encoding(blocks: Iterable[bytes], *, encoding: str = "", page: bool = False) -> Encoding:
    """How to read a file, from its bytes or the `encoding` given. Raises Unreadable for binary data."""
    survey = Survey()
    for block in blocks:
        survey.add(block)
        if survey.n_bytes == len(block) and (codec := marked(survey.head)):
            return Encoding(codec, "mark")
        if survey.n_bytes == len(block) and encoding:
            return given(encoding, survey.head)
        if survey.enough or survey.n_controls > max(SAMPLE_BYTES, survey.n_bytes // 4):
            break
    else:
        survey.add(b"", final=True)
    codec = judge(survey, page=page)
    return Encoding(codec, "utf-8" if codec == "utf-8" else "guessed")


def given(encoding: str, head: bytes) -> Encoding:
    """The encoding that was named; UTF-16 and UTF-32 without a mark in the order that fits, or Intel's."""
    codec = checked_encoding(encoding)
    if codec in ("utf-16", "utf-32"):
        codec = (codec == "utf-16" and wide(head)) or f"{codec}-le"
    return Encoding(codec, "given")


def marked(head: bytes) -> str:
    """The codec a byte order mark names, or "" (also where plain ASCII follows it: then it is none)."""
    codec = next((codec for mark, codec in MARKS if head.startswith(mark)), "")
    return "" if codec[:5] in ("utf-1", "utf-3") and plainly_ascii(head) else codec


def plainly_ascii(head: bytes) -> bool:
    """Whether nearly all bytes are printable ASCII: no UTF-16 of any language looks so."""
    return len(head.translate(None, PLAIN)) < 0.15 * len(head)


PLAIN = bytes(range(32, 127)) + b"\n"


def judge(survey: Survey, *, page: bool) -> str:
    """The codec, from what the survey found."""
    if survey.head.count(0) or survey.n_controls:
        if codec := wide(survey.head):
            return codec
        if b"\0" in survey.head[:8192] or survey.n_controls > max(4, 0.01 * survey.n_bytes):
            raise Unreadable("binary")
    if survey.n_broken == 0:
        return "utf-8"
    if survey.n_whole > survey.n_broken:
        return "utf-8"  # with broken bytes
    sample = survey.sample
    codec = (page and declared(survey)) or western(sample) or chinese(sample)
    if codec := codec or wide(survey.head) or other(sample):
        return codec
    if survey.n_broken > max(16, 0.1 * survey.n_bytes):
        raise Unreadable("binary, or in an encoding that cannot be told")
    return "utf-8"


def declared(survey: Survey) -> str:
    """The codec a page declares, if its bytes can be read in it."""
    found = DECLARED.search(survey.head[:4096])
    if not found:
        return ""
    try:
        name = codecs.lookup(found[1].decode()).name
        codec = LEGACY_NAMES.get(name, name)
        survey.sample.decode(codec, "strict" if len(survey.sample) < SAMPLE_BYTES else "ignore")
    except (LookupError, UnicodeDecodeError):
        return ""
    return codec


def reads_well(text: str) -> float:
    """The share of the commonest Chinese characters among those beyond ASCII, punctuation left out."""
    beyond = [
        char
        for char in text
        if ord(char) > 0x7F and not 0x3000 <= ord(char) <= 0x303F and char not in WIDE_MARKS
    ]
    return sum(char in COMMON_CHINESE for char in beyond) / len(beyond) if beyond else 0.0


WIDE_MARKS = frozenset("，。！？；：（）“”‘’…—·、《》「」『』％～")


def chinese(sample: bytes) -> str:
    """gb18030 or big5hkscs, whichever reads well as Chinese; euc_jp where it reads as kana instead; or "".

    Real Chinese is 40 to 70 % among the 500 or so commonest characters, verse and names down to 20 %; the
    wrong codec gives below 5 %, Korean read as Chinese about 10 %. The kana of EUC-JP lie where GB 2312 has
    them too, and where Big5 has its commonest characters.
    """
    read = {codec: sample.decode(codec, "replace") for codec in ("gb18030", "big5hkscs")}
    japanese = sample.decode("euc_jp", "replace")
    kana = len(KANA.findall(japanese)) / max(1, len(BEYOND_ASCII.findall(sample)))  # two bytes each
    if kana > 0.1 and japanese.count("\ufffd") <= 1:
        return "euc_jp"
    scores = {codec: reads_well(text) for codec, text in read.items()}
    best = max(scores, key=lambda codec: scores[codec])
    return best if scores[best] >= COMMON_ENOUGH else ""


KANA = re.compile("[\u3041-\u30fe]")


def wide(head: bytes) -> str:
    """UTF-16 without a mark, of the two orders the one that reads better as Latin or Chinese; else ""."""
    if plainly_ascii(head):
        return ""
    scores = {codec: reads_wide(head[: len(head) // 2 * 2], codec) for codec in ("utf-16-le", "utf-16-be")}
    best = max(scores, key=lambda codec: scores[codec])
    return best if scores[best] > 0 else ""


def reads_wide(head: bytes, codec: str) -> float:
    """How well bytes read in an order of UTF-16, from 0 to 1; 0 also where they are not UTF-16."""
    text = head.decode(codec, "ignore")
    if len(text) < len(head) // 2 - 1 - sum(char > "\uffff" for char in text) or "\0" in text:
        return 0.0
    plain = sum(" " <= char <= "~" or char in "\t\r\n" for char in text) / max(1, len(text))
    chinese = reads_well(text)
    return max(plain if plain > 0.9 else 0.0, chinese if chinese >= COMMON_ENOUGH else 0.0)


def other(sample: bytes) -> str:
    """Any other encoding, as charset-normalizer finds it; "" where there is too little to tell."""
    n_beyond = len(BEYOND_ASCII.findall(sample))
    if n_beyond < 64 and (codec := few(sample)):
        return codec
    if n_beyond < 24:
        return ""
    best = extra("charset_normalizer", "text").from_bytes(sample[: SAMPLE_BYTES // 4]).best()
    if best is None or not letters(str(best)):
        return ""
    return LEGACY_NAMES.get(best.encoding, best.encoding)


def few(sample: bytes) -> str:
    """An encoding for a handful of bytes, where statistics prove nothing: Chinese if all are common.

    Common by the standards themselves: the first levels of GB 2312 (3,755 characters) and Big5 (5,401).
    """
    for codec, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            beyond = [char.encode(codec)[0] for char in sample.decode(codec) if char > "\x7f"]
        except UnicodeDecodeError:
            continue
        if beyond and all(first <= lead <= last or lead in (0xA1, 0xA3) for lead in beyond):
            return LEGACY_NAMES.get(codec, codec)
    return ""


def western(sample: bytes) -> str:
    """cp1252 where the bytes beyond ASCII are accented letters in plain words, and quotes; else ""."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    text = f" {text} "
    beyond = [(char, text[at - 1] + text[at + 1]) for at, char in enumerate(text) if char > "\x7f"]
    good = sum(char in ALONE or bool(char in WORD_LETTERS and ASCII_LETTER.search(by)) for char, by in beyond)
    return "cp1252" if beyond and good >= 0.9 * len(beyond) else ""


ASCII_LETTER = re.compile("[a-zA-Z]")


def letters(text: str) -> bool:
    """Whether what is beyond ASCII is nearly all letters and punctuation, not signs and boxes."""
    beyond = [char for char in text if ord(char) > 0x7F]
    good = sum(unicodedata.category(char)[0] in "LMP" for char in beyond)
    return good >= 0.9 * len(beyond)


def decode(blocks: Iterable[bytes], codec: str) -> Iterator[str]:
    """The characters of a file in blocks; broken bytes as lone surrogates.

    Only UTF-8 keeps which byte was broken: elsewhere one lone surrogate stands for each broken place.
    """
    exact = codec in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder(codec)("surrogateescape" if exact else "replace")
    for block in chain(blocks, [b""]):
        text = decoder.decode(block, not block)
        if text:
            yield text if exact else text.replace("\ufffd", "\udcff")
