"""Characters to clean ones: broken bytes, mojibake, controls, line ends, NFC. Clean text is unchanged.

Mojibake is mended by `ftfy` (Robyn Speer) with everything off that would touch good text: curly quotes, full-width
letters, ligatures and HTML entities stay as they are. ftfy's own test for mojibake runs at some 15 MB/s, so it is
called only for lines with something suspicious; `tests/test_corpus.py` holds that this skips nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from textus.core.names import import_optional
from textus.data.corpus.documents import PART_CHARS

LONE_SURROGATES = re.compile("[\ud800-\udfff]+")
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc]")
MOJIBAKE_RANGE = "\x80-\u052f\u2010-\u25ff\uf8ff\ufb01\ufb02\ufffd"
SUSPICIOUS = re.compile(f"{CONTROL.pattern}|[{MOJIBAKE_RANGE}]{{2}}|[ŒœÃÂØÙàВГРСΒΓΞΟ]")
FTFY = {
    "unescape_html": False,
    "fix_latin_ligatures": False,
    "fix_character_width": False,
    "uncurl_quotes": False,
    "fix_line_breaks": False,
    "normalization": None,
}


def split_parts(blocks: Iterable[str], limit: int = PART_CHARS) -> Iterator[str]:
    """Blocks of a document as parts of at most `limit` characters, cut at line ends where there are any."""
    held: list[str] = []
    n_held = 0
    for block in blocks:
        held.append(block)
        n_held += len(block)
        if n_held > limit:
            text = "".join(held)
            start = 0
            while len(text) - start > limit:
                end = cut_position(text, start, limit)
                yield text[start:end]
                start = end
            held, n_held = [text[start:]], len(text) - start
    if text := "".join(held):
        yield text


def cut_position(text: str, start: int, limit: int) -> int:
    """Where to end a part that begins at `start`: after a line, else a space, else before an ASCII or Chinese
    character, so that no combining mark or `\\r\\n` is split.
    """
    end = start + limit
    if line := text.rfind("\n", start + limit // 2, end) + 1:
        return line
    if space := text.rfind(" ", end - limit // 100, end) + 1:
        return space
    for place in range(end, end - limit // 100, -1):
        if " " <= text[place] <= "~" or "\u4e00" <= text[place] <= "\u9fff":
            return place
    return end


def repair(text: str, *, normalise: bool = True) -> tuple[str, tuple[str, ...]]:
    """The text repaired, and the steps that changed it. Broken bytes are replaced even without `normalise`: UTF-8
    cannot hold them.
    """
    if text.isascii() and not ("\r" in text or CONTROL.search(text)):
        return text, ()
    steps = []
    text, n_replaced = replace_surrogates(text)
    if n_replaced:
        steps.append(f"replaced:{n_replaced}")
    for name, step in NORMALISING.items() if normalise else ():
        before, text = text, step(text)
        if text != before:
            steps.append(name)
    return text, tuple(steps)


def replace_surrogates(text: str) -> tuple[str, int]:
    """The text with each run of broken bytes (lone surrogates) as one U+FFFD, and how many those were."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode(
            "utf-16-le", "surrogatepass"
        )  # pairs become one
        n_lone = sum(len(run) for run in LONE_SURROGATES.findall(text))
        return LONE_SURROGATES.sub("\ufffd", text), n_lone
    return text, 0


def fix_text(text: str) -> str:
    """Mojibake and control characters fixed, line by line; only suspicious lines are touched."""
    if not SUSPICIOUS.search(text):
        return text
    ftfy = import_optional("ftfy", "text")
    config = ftfy.TextFixerConfig(**FTFY, explain=False)
    lines = text.split("\n")
    return "\n".join(ftfy.fix_text(line, config) if SUSPICIOUS.search(line) else line for line in lines)


def normalize_newlines(text: str) -> str:
    """Line ends as \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def to_nfc(text: str) -> str:
    """Unicode normalisation form C: an accent and its letter are one character."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


NORMALISING = {"newlines": normalize_newlines, "ftfy": fix_text, "nfc": to_nfc}
