"""What the values of a foreign configuration may be: looked at before anything is made of them.

A damaged or made-up file must end in one line that names the file, the key and the value; and a size that no model
has must be refused before memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError

WIDTH, LAYERS, VOCABULARY, CONTEXT = 1 << 20, 10_000, 1 << 24, 1 << 23
"""More than any model has: widths, layers, entries of a vocabulary, positions (4 million are the most known)."""

SIZES = {
    **dict.fromkeys(("vocab_size",), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), CONTEXT),
    **dict.fromkeys(("original_max_position_embeddings", "relative_attention_max_distance"), CONTEXT),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "d_ff"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), WIDTH),
    **dict.fromkeys(("head_dim", "d_kv", "type_vocab_size", "relative_attention_num_buckets"), WIDTH),
}
"""Key of config.json that is a whole number of at least 1 → the most that is believed."""

NUMBERS = {
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), (0.0, 1.0)),
    **dict.fromkeys(("rope_theta",), (1.0, 1e15)),
    **dict.fromkeys(("factor",), (0.0, 1e6)),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"), (0.0, 1e6)),
    **dict.fromkeys(("attention_factor",), (0.0, 1e3)),
}
"""Key that is a number → what it must be above, and below."""

TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate")
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu-exact"), **dict.fromkeys(TANH, "gelu"), "relu": "relu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}  # fmt: skip
"""Name of an activation in `transformers` → ours; several are one function by other names."""

SHARES = ("hidden_dropout_prob", "resid_pdrop", "dropout_rate")
FLAGS = (
    "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "scale_decoder_outputs",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "is_decoder",
)  # fmt: skip


def check(config: dict[str, Any], where: str) -> None:
    """RunError naming the first value of config.json, or of an object in it, that is invalid; null counts as absent."""
    for key, value in config.items():
        if value is None:
            continue
        if key in SIZES:
            integer(where, key, value, most=SIZES[key])
        elif key in NUMBERS:
            above, below = NUMBERS[key]
            number(where, key, value, above=above, below=below)
        elif key in SHARES and not (is_number(value) and 0 <= value < 1):
            raise invalid_value(where, key, value, "a number from 0 to below 1")
        elif key in FLAGS and not isinstance(value, bool):
            raise invalid_value(where, key, value, "true or false")
        elif key in ("rope_parameters", "rope_scaling"):
            check(json_object(where, key, value), where)


def integer(where: str, key: str, value: Any, *, least: int = 1, most: int = WIDTH) -> int:
    """The value as a whole number in reach; RunError otherwise."""
    if type(value) is not int or not least <= value <= most:
        raise invalid_value(where, key, value, f"a whole number from {least:,} to {most:,}")
    return value


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(where: str, key: str, value: Any, *, above: float, below: float) -> float:
    """The value as a number between these two; RunError otherwise."""
    if not is_number(value) or not above < value < below:
        raise invalid_value(where, key, value, f"a number above {above:g} and below {below:g}")
    return float(value)


def json_object(where: str, key: str, value: Any) -> dict[str, Any]:
    """The value as an object whose values are no objects; RunError otherwise."""
    if not isinstance(value, dict) or any(isinstance(item, dict) for item in value.values()):
        raise invalid_value(where, key, value, "an object of numbers and names, the same for all layers")
    return value


def token(hf: dict[str, Any], key: str, default: int) -> int:
    """An id that config.json names, `default` where it does not; UsageError for what is no id of its vocabulary."""
    value = default if hf.get(key) is None else hf[key]
    if type(value) is not int or not 0 <= value < hf["vocab_size"]:
        raise UsageError(
            "unknown_id",
            f"{key}={short_repr(value)} is no id of a vocabulary of {hf['vocab_size']:,}; correct it",
        )
    return value


def short_repr(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unsupported(what: str, value: Any, known: Iterable[str]) -> UsageError:
    """The error for an unsupported setting of a file: without a hint by spelling, since similar names may
    be quite another model.
    """
    return UsageError(
        "unsupported_setting", f"{what} {short_repr(value)} is not supported; supported: {', '.join(known)}"
    )


def finite(tensor: Tensor, where: str, name: str) -> Tensor:
    """The tensor; RunError where it holds NaN or infinity, of which every answer would be made."""
    if not bool(tensor.isfinite().all()):
        count = int((~tensor.isfinite()).sum())
        raise RunError(
            "invalid_weights",
            f"{where}: the tensor {name} holds {count:,} numbers that are NaN or infinite; the training that wrote it"
            " failed, or it is damaged: fetch it again",
        )
    return tensor


def invalid_value(where: str, key: str, value: Any, wanted: str) -> RunError:
    """The error for a value that cannot be."""
    return RunError(
        "damaged",
        f"{where}: {key}={short_repr(value)} must be {wanted}; the file is damaged or not of this kind: correct it, or"
        " fetch it again",
    )


def eos_ids(where: str, settings: Iterable[tuple[str, Any]], n_ids: int) -> list[int]:
    """The ids that end a text or a turn, from keys whose value is an id, a list of ids or null.

    RunError for what is no id. One beyond the tokenizer's `n_ids` can never be sampled: a notice reports it.
    """
    ids: list[int] = []
    for key, value in settings:
        for id in value if isinstance(value, list) else [] if value is None else [value]:
            if type(id) is not int:
                raise invalid_value(where, key, value, "an id, or a list of ids")
            if 0 <= id < n_ids:
                ids.append(id)
            else:
                log_notice(f"{where}: {key} names id {id}, the tokenizer has {n_ids:,} ids; it ends nothing")
    return list(dict.fromkeys(ids))
