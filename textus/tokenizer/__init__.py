"""Text ⇄ ids: five kinds of tokenizer in Hugging Face's file format, special tokens out of reach of any text.

`encoding` holds the tokenizer itself, `learning` trains one, `chat` renders conversations, `quality`
reports on one. Built on https://github.com/huggingface/tokenizers.
"""

from textus.tokenizer.chat import CHAT_TEMPLATE
from textus.tokenizer.encoding import (
    END,
    IM_END,
    IM_START,
    PAD,
    UNKNOWN,
    Stream,
    Tokenizer,
    load,
    made,
    settings_beside,
)
from textus.tokenizer.learning import KINDS, train
from textus.tokenizer.quality import report

__all__ = [
    "CHAT_TEMPLATE",
    "END",
    "IM_END",
    "IM_START",
    "KINDS",
    "PAD",
    "UNKNOWN",
    "Stream",
    "Tokenizer",
    "load",
    "made",
    "report",
    "settings_beside",
    "train",
]
