"""The definitions of "Chinese character" in `core.scripts`: what each covers, over all of Unicode."""

import re
import unicodedata

import pytest

from textus.core import scripts

CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


def members(definition: str) -> set[str]:
    return set(re.findall(f"[{definition}]", "".join(CHARACTERS)))


def test_han_is_every_ideograph_of_unicode_and_two_signs() -> None:
    ideographs = {char for char in CHARACTERS if unicodedata.name(char, "").startswith("CJK ")}
    ideographs = {char for char in ideographs if "IDEOGRAPH-" in unicodedata.name(char)}
    assert ideographs <= members(scripts.HAN)
    others = {char for char in members(scripts.HAN) - ideographs if unicodedata.category(char) != "Cn"}
    assert others == set("々〇")


@pytest.mark.parametrize("name", ["HAN_BMP", "HAN_CMRC"])
def test_narrower_definitions_are_parts_of_han(name: str) -> None:
    assert members(getattr(scripts, name)) < members(scripts.HAN)


def test_search_also_splits_kana_and_hangul() -> None:
    added = members(scripts.CJK) - members(scripts.HAN)
    assert set("あアー가힣") <= added
    assert not set("aé。、Ａ") & added


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("HAN", "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"),
        ("HAN_BMP", "\u3400-\u4dbf\u4e00-\u9fff"),
        ("HAN_CMRC", "\u4e00-\u9fa5"),
        ("CJK", "\u3400-\u9fff\u8c48-\ufaff\U00020000-\U0003ffff\u3040-\u30ff"),
    ],
)
def test_definitions_cover_what_they_covered_where_they_were_written_out(name: str, before: str) -> None:
    assert members(getattr(scripts, name)) == members(before)
