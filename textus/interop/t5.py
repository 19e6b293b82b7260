"""T5 and its later forms (T5 v1.1, Flan-T5): encoder–decoders with relative positions.

The first T5 has a relu feed-forward and a tied head that reads states scaled by D^-0.5; v1.1 has a gated one and a
head of its own.
"""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError
from textus.interop.architectures import WeightMapping
from textus.interop.config_keys import names_in
from textus.interop.validate import ACTIVATIONS as ACTIVATION_NAMES
from textus.interop.validate import TANH, short_repr, token, unsupported

ARCHITECTURES = ("T5ForConditionalGeneration",)
MODEL_TYPES = ("t5",)
KEYS = names_in(
    """vocab_size n_positions num_layers num_decoder_layers num_heads d_model d_kv d_ff relative_attention_num_buckets
    relative_attention_max_distance layer_norm_epsilon feed_forward_proj is_gated_act dense_act_fn scale_decoder_outputs
    is_encoder_decoder is_decoder"""
)
FAMILY = "encoder-decoder"
PREFIX = ""
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)

ACTIVATIONS = {
    "relu": "relu", **dict.fromkeys(("silu", "swish"), "silu"), **dict.fromkeys(TANH, "gelu"),
    **dict.fromkeys(("gated-gelu", *(f"gated-{name}" for name in TANH)), "geglu"),
    **dict.fromkeys(("gated-silu", "gated-swish"), "swiglu"),
}  # fmt: skip
"""Their name → ours."""


def config_from(hf: dict[str, Any]) -> dict[str, Any]:
    """Our encoder–decoder's values from config.json, of transformers 4 or 5."""
    if (activation := hf.get("feed_forward_proj", "relu")) not in ACTIVATIONS:
        raise unsupported("feed_forward_proj", activation, ACTIVATIONS)
    check_switches(hf, activation)
    tied = hf.get("tie_word_embeddings", True)
    end = hf.get("eos_token_id")
    hf = {**hf, "eos_token_id": end[0] if isinstance(end, list) and end else end}
    pad = token(hf, "pad_token_id", 0)
    return {
        "vocab_size": hf["vocab_size"],
        "context_length": hf.get("n_positions", 512),
        "n_layer": hf["num_layers"],
        "n_decoder_layer": hf.get("num_decoder_layers") or hf["num_layers"],
        "n_head": hf["num_heads"],
        "d_model": hf["d_model"],
        "d_head": hf["d_kv"],
        "d_ff": hf["d_ff"],
        "position": "relative",
        "n_buckets": hf.get("relative_attention_num_buckets", 32),
        "max_distance": hf.get("relative_attention_max_distance", 128),
        "norm_eps": hf.get("layer_norm_epsilon", 1e-6),
        "activation": ACTIVATIONS[activation],
        "tie_head": tied,
        "scale_head": hf.get("scale_decoder_outputs", tied),
        "scale_scores": False,
        "dropout": hf.get("dropout_rate", 0.1),
        "label_smoothing": 0.0,
        "end_id": token(hf, "eos_token_id", 1),
        "start_id": token(hf, "decoder_start_token_id", pad),
    }


def check_switches(hf: dict[str, Any], activation: str) -> None:
    """UsageError for keys that turn a T5 into another model; `transformers` lets `dense_act_fn` and `is_gated_act` win
    over the one name that covers both.
    """
    gated = activation.startswith("gated-")
    act = "gelu_new" if activation == "gated-gelu" else activation.removeprefix("gated-")
    same = [name for name, ours in ACTIVATION_NAMES.items() if ours == ACTIVATION_NAMES[act]]
    known: dict[str, list[Any]] = {
        "is_encoder_decoder": [True],
        "is_gated_act": [gated],
        "dense_act_fn": same,
    }
    for key, supported in known.items():
        if hf.get(key) is not None and hf[key] not in supported:
            raise UsageError(
                "unsupported_setting",
                f"{key}={short_repr(hf[key])}: a T5 with feed_forward_proj={activation!r} has {supported[0]!r}",
            )


def config_to(config: Any) -> dict[str, Any]:
    """config.json of a T5 that holds this encoder–decoder."""
    needed = {"position": "relative", "norm": "rms", "bias": False, "scale_scores": False}
    for field, wanted in needed.items():
        if (value := getattr(config, field)) != wanted:
            raise UsageError("unsupported_export", f"a T5 has {field}={wanted!r}, not {value!r}")
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    if config.activation not in theirs:
        raise UsageError("unsupported_export", f"T5 has no activation {config.activation!r}")
    return {
        "architectures": list(ARCHITECTURES),
        "model_type": "t5",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "num_layers": config.n_layer,
        "num_decoder_layers": config.n_decoder_layer,
        "num_heads": config.n_head,
        "d_model": config.d_model,
        "d_kv": config.d_head,
        "d_ff": config.d_ff,
        "relative_attention_num_buckets": config.n_buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": theirs[config.activation],
        "tie_word_embeddings": config.tie_head,
        "scale_decoder_outputs": config.tie_head and config.scale_head,
        "dropout_rate": config.dropout,
        "eos_token_id": config.end_id,
        "decoder_start_token_id": config.end_id if config.start_id is None else config.start_id,
        "is_encoder_decoder": True,
    }


def rename(config: Any) -> list[WeightMapping]:
    """Queries, keys and values of a self-attention are rows of one product here, as are keys and values of a
    look at the source, and gate and up of a gated feed-forward.
    """
    parts = [WeightMapping("embedding.weight", "shared.weight")]
    if not config.tie_head:
        parts.append(WeightMapping("head.weight", "lm_head.weight"))
    for side, n_blocks in (("encoder", config.n_layer), ("decoder", config.n_decoder_layer)):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        parts += [
            WeightMapping(f"{side}_bias.weight", first),
            WeightMapping(f"{side}_norm.weight", f"{side}.final_layer_norm.weight"),
        ]
        for n in range(n_blocks):
            parts += block(config, f"{side}.{n}.", f"{side}.block.{n}.layer.", decodes=side == "decoder")
    return parts


def block(config: Any, ours: str, theirs: str, *, decodes: bool) -> list[WeightMapping]:
    """The parts of one block: its layers are numbered, and a decoder's look at the source comes between."""
    width, ff, last = config.n_head * config.d_head, config.d_ff, 2 if decodes else 1
    parts = attention(ours + "attention.", theirs + "0.SelfAttention.", ("qkv",), width)
    parts.append(WeightMapping(f"{ours}attention_norm.weight", f"{theirs}0.layer_norm.weight"))
    if decodes:
        parts += attention(ours + "cross.", theirs + "1.EncDecAttention.", ("q", "kv"), width)
        parts.append(WeightMapping(f"{ours}cross_norm.weight", f"{theirs}1.layer_norm.weight"))
    feed, dense = f"{ours}feed_forward.", f"{theirs}{last}.DenseReluDense."
    if config.activation in ("geglu", "swiglu"):
        parts.append(WeightMapping(feed + "gate_up.weight", dense + "wi_0.weight", (0, ff)))
        parts.append(WeightMapping(feed + "gate_up.weight", dense + "wi_1.weight", (ff, 2 * ff)))
    else:
        parts.append(WeightMapping(feed + "up.weight", dense + "wi.weight"))
    parts.append(WeightMapping(feed + "down.weight", dense + "wo.weight"))
    return [*parts, WeightMapping(f"{ours}feed_forward_norm.weight", f"{theirs}{last}.layer_norm.weight")]


def attention(ours: str, theirs: str, products: tuple[str, ...], width: int) -> list[WeightMapping]:
    """The parts of an attention whose `products` join these letters' matrices, `width` rows each."""
    parts = [WeightMapping(ours + "out.weight", theirs + "o.weight")]
    for letters in products:
        for place, letter in enumerate(letters):
            rows = (place * width, (place + 1) * width) if len(letters) > 1 else None
            parts.append(WeightMapping(f"{ours}{letters}.weight", f"{theirs}{letter}.weight", rows))
    return parts


def copies(config: Any) -> dict[str, str]:
    """The one embedding may be written several times."""
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return dict.fromkeys([*names, "lm_head.weight"] if config.tie_head else names, "shared.weight")
