"""Which characters count as Chinese: one definition for each purpose, as the inside of a regex character class."""

from __future__ import annotations

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""What Chinese words are written with: all ideographs of Unicode 15, 々 and 〇. Tokenizers, word starts, tagging."""

HAN_BMP = "\u3400-\u4dbf\u4e00-\u9fff"
"""The ideographs of the Basic Multilingual Plane, without compatibility forms: what augmentation may edit."""

HAN_CMRC = "\u4e00-\u9fa5"
"""The ideographs of Unicode 1.1, as the official script of CMRC 2018 counts them."""

CJK = "\u3040-\u30ff\u3400-\ufaff\U00020000-\U0003ffff"
"""Chinese, kana and Hangul (and what Unicode has between them, such as Yi): search indexes characters and bigrams."""
