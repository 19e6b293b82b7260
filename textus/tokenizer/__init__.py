"""Text ⇄ ids: five kinds of tokenizer in Hugging Face's file format, special tokens out of reach of any text.

`encoding` holds the tokenizer itself, `learning` trains one, `quality` reports on one. `chat` renders conversations: in
a `sandbox` with its own `filters`, as text whose `provenance` is known, which `chat_encoding` makes ids of. Built on https://github.com/huggingface/tokenizers.
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
from textus.tokenizer.sandbox import TemplateRefusal

__all__ = [
    "CHAT_TEMPLATE",
    "END",
    "IM_END",
    "IM_START",
    "KINDS",
    "PAD",
    "UNKNOWN",
    "Stream",
    "TemplateRefusal",
    "Tokenizer",
    "load",
    "made",
    "report",
    "settings_beside",
    "train",
]
