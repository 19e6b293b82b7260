"""Text ⇄ ids: five kinds of tokenizer in Hugging Face's file format, whose special tokens no text can spell.

`tokenizer` holds the tokenizer itself, `training` trains one, `quality` reports on one. `chat_template` renders
conversations: in a `sandbox` with its own `filters`, as text whose `provenance` is known, which `chat_encoding`
encodes. Built on https://github.com/huggingface/tokenizers.
"""

from textus.tokenizers.chat_template import CHAT_TEMPLATE
from textus.tokenizers.quality import report
from textus.tokenizers.sandbox import TemplateRefusal
from textus.tokenizers.tokenizer import (
    END,
    IM_END,
    IM_START,
    PAD,
    UNKNOWN,
    DecodeStream,
    Tokenizer,
    build_tokenizer,
    load,
    read_config,
)
from textus.tokenizers.training import KINDS, train

__all__ = [
    "CHAT_TEMPLATE",
    "END",
    "IM_END",
    "IM_START",
    "KINDS",
    "PAD",
    "UNKNOWN",
    "DecodeStream",
    "TemplateRefusal",
    "Tokenizer",
    "build_tokenizer",
    "load",
    "read_config",
    "report",
    "train",
]
