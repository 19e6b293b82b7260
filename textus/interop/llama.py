"""Llama and its kin: Llama, Mistral, Qwen2, Qwen3 (SmolLM and SmolLM2 are Llamas).

They differ in little: Qwen2 adds biases to queries, keys and values, Qwen3 norms queries and keys and chooses
the width of a head, Mistral looks back a window only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from textus.core.config import to_dict
from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.interop.architectures import WeightMapping
from textus.interop.config_keys import check_model_type, is_switched_off, names_in
from textus.interop.tokenizer_json import SPLITS
from textus.interop.validate import CONTEXT, short_repr, unsupported

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
KEYS = names_in(
    """vocab_size max_position_embeddings num_hidden_layers num_attention_heads num_key_value_heads hidden_size head_dim
    intermediate_size hidden_act rms_norm_eps rope_theta rope_scaling rope_parameters attention_bias mlp_bias
    sliding_window use_sliding_window max_window_layers layer_types"""
)
FAMILY = "decoder"
PREFIX = "model."
IGNORED = (r".*rotary_emb\.inv_freq",)

DEFAULTS: dict[str, dict[str, Any]] = {
    "MistralForCausalLM": {"num_key_value_heads": 8, "sliding_window": 4096},
    "Qwen2ForCausalLM": {"num_key_value_heads": 32, "sliding_window": 4096},
    "Qwen3ForCausalLM": {"num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
}
"""What a class of `transformers` takes for a key that config.json leaves out, where not every one takes the same."""

THETA = 10_000.0
"""The default base of rotary angles."""


def config_from(hf: dict[str, Any]) -> dict[str, Any]:
    """Our decoder's values from config.json, of transformers 4 or 5."""
    name = hf["architectures"][0]
    hf = DEFAULTS.get(name, {}) | hf
    if (activation := hf.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UsageError(
            "unsupported_export", f"hidden_act={activation!r}: a {name} here is gated by silu only"
        )
    check_kind(name, hf)
    theta, scaling = rope_scaling_from(hf)
    return {
        "vocab_size": hf["vocab_size"],
        "context_length": hf["max_position_embeddings"],
        "n_layer": hf["num_hidden_layers"],
        "n_head": hf["num_attention_heads"],
        "n_kv_head": hf.get("num_key_value_heads") or hf["num_attention_heads"],
        "d_model": hf["hidden_size"],
        "d_head": hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        "d_ff": hf["intermediate_size"],
        "qk_norm": name == "Qwen3ForCausalLM",
        "tie_head": hf.get("tie_word_embeddings", False),
        "bias": biases(name, hf),
        "norm_eps": hf.get("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "window": window(name, hf),
        "dropout": 0.0,
    }


def check_kind(name: str, hf: dict[str, Any]) -> None:
    """UsageError where config.json has the `model_type` of one class and the name of another; a notice names keys that
    others of these classes read and this one does not, in `transformers` as here.
    """
    check_model_type(hf, [name.removesuffix("ForCausalLM").lower()])
    window = ("sliding_window", "use_sliding_window", "layer_types")
    biases = ("attention_bias", "mlp_bias")
    others: dict[str, tuple[str, ...]] = {
        "LlamaForCausalLM": window,
        "MistralForCausalLM": ("use_sliding_window", *biases),
    }
    keys = others.get(name, ("mlp_bias",))
    if hf.get("use_sliding_window") is False:
        keys = tuple(key for key in keys if key not in window)
    if more := [
        f"{key}={short_repr(hf[key])}" for key in keys if key in hf and not is_switched_off(key, hf[key])
    ]:
        log_notice(
            f"config.json: a {name} does not read {', '.join(more)}; it is ignored, as in transformers"
        )


def biases(name: str, hf: dict[str, Any]) -> bool | str:
    """Where biases are: Qwen2 always has them on queries, keys and values, Mistral never; the others configure it."""
    if name in ("Qwen2ForCausalLM", "MistralForCausalLM"):
        return "qkv" if name == "Qwen2ForCausalLM" else False
    attention = bool(hf.get("attention_bias"))
    feed_forward = name == "LlamaForCausalLM" and bool(hf.get("mlp_bias"))
    if attention and feed_forward:
        return True
    return "attention" if attention else "feed_forward" if feed_forward else False


def window(name: str, hf: dict[str, Any]) -> int | None:
    """How far back every layer looks; UsageError where some layers look further than others."""
    length = hf.get("sliding_window")
    on = hf.get("use_sliding_window") if name.startswith("Qwen") else name == "MistralForCausalLM"
    if not on or length is None:
        return None
    if type(length) is not int or not 1 <= length <= CONTEXT:
        raise UsageError(
            "damaged",
            f"sliding_window={short_repr(length)} must be a whole number from 1 to {CONTEXT:,}, or null; correct it",
        )
    default = "sliding_attention" if name == "MistralForCausalLM" else None
    layers = hf.get("layer_types") or [
        default or ("sliding_attention" if n >= hf.get("max_window_layers", 28) else "full_attention")
        for n in range(hf["num_hidden_layers"])
    ]
    if set(layers) == {"full_attention"}:
        return None
    if set(layers) != {"sliding_attention"}:
        raise UsageError(
            "unsupported_setting",
            f"layer_types mixes {', '.join(sorted(set(layers)))}; one kind for all layers is known here",
        )
    return length


def rope_scaling_from(hf: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary angles and their scaling: transformers 5 keeps both in `rope_parameters`."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    theta = rope.get("rope_theta", hf.get("rope_theta", THETA))
    if (share := hf.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))) != 1.0:
        raise UsageError(
            "unsupported_setting", f"partial_rotary_factor={share}: here all of a head is turned"
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if more := [key for key in rope if key not in ROTARY and rope[key] is not None]:
        raise UsageError(
            "unsupported_setting",
            f"{more[0]}={short_repr(rope[more[0]])} of the rope parameters is not supported",
        )
    if kind == "default":
        return theta, None
    if kind not in SCALING:
        raise unsupported("the rope scaling", kind, ["default", *SCALING])
    if rope.get("factor") is None:
        raise UsageError(
            "unsupported_setting", f"rope scaling of kind {kind!r} has no factor; add it next to rope_type"
        )
    names = {"factor": "factor", **SCALING[kind]}
    scaling = {ours: rope[theirs] for ours, theirs in names.items() if rope.get(theirs) is not None}
    if kind == "yarn":
        if rope.get("mscale") or rope.get("mscale_all_dim") or rope.get("truncate") is False:
            raise UsageError(
                "unsupported_setting", "yarn with mscale, mscale_all_dim or truncate=false is not known here"
            )
        scaling.setdefault("original_context", hf["max_position_embeddings"])
    return theta, {"kind": kind, **scaling}


ROTARY = names_in(
    """rope_theta rope_type type partial_rotary_factor factor low_freq_factor high_freq_factor beta_slow beta_fast
    original_max_position_embeddings attention_factor mscale mscale_all_dim truncate finetuned"""
)
"""Keys of the rope parameters that are looked at; `finetuned` only describes the training."""

SCALING: dict[str, dict[str, str]] = {
    "linear": {},
    "llama3": {
        "low_frequency": "low_freq_factor", "high_frequency": "high_freq_factor",
        "original_context": "original_max_position_embeddings",
    },
    "yarn": {
        "low_frequency": "beta_slow", "high_frequency": "beta_fast",
        "original_context": "original_max_position_embeddings", "attention_factor": "attention_factor",
    },
}  # fmt: skip
"""Kind of rope scaling → our field → theirs."""


def rope_scaling_to(config: Any) -> dict[str, Any]:
    """`rope_parameters` from our config."""
    if config.rope_scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    ours = to_dict(config.rope_scaling)
    names = {"factor": "factor", **SCALING[config.rope_scaling.kind]}
    scaling = {theirs: ours[name] for name, theirs in names.items() if ours[name] is not None}
    return {"rope_type": config.rope_scaling.kind, "rope_theta": config.rope_theta, **scaling}


def config_to(config: Any) -> dict[str, Any]:
    """config.json of the class that can hold this decoder."""
    for field, wanted in {"position": "rotary", "norm": "rms", "activation": "swiglu"}.items():
        if (value := getattr(config, field)) != wanted:
            raise UsageError(
                "unsupported_export", f"Llama and its kin have {field}={wanted!r}, not {value!r}"
            )
    name = class_for(config)
    hf = {
        "architectures": [name],
        "model_type": name.removesuffix("ForCausalLM").lower(),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "hidden_size": config.d_model,
        "head_dim": config.d_head,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_head,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope_scaling_to(config),
        "attention_bias": config.bias in (True, "attention"),
    }
    if name == "LlamaForCausalLM":
        hf["mlp_bias"] = config.bias in (True, "feed_forward")
    if config.window is not None:
        hf["sliding_window"] = config.window
    if name.startswith("Qwen"):
        hf |= {"use_sliding_window": config.window is not None, "max_window_layers": 0}
    return hf


def class_for(config: Any) -> str:
    """The class that has what this decoder has; UsageError for a combination that none has."""
    has = f"qk_norm={config.qk_norm}, bias={config.bias!r}, window={config.window}"
    square = config.d_head * config.n_head == config.d_model
    if config.qk_norm and config.bias in (False, "attention"):
        return "Qwen3ForCausalLM"
    if not config.qk_norm and config.bias == "qkv" and square:
        return "Qwen2ForCausalLM"
    if not config.qk_norm and config.window is None and config.bias != "qkv":
        return "LlamaForCausalLM"
    if not config.qk_norm and config.bias is False:
        return "MistralForCausalLM"
    raise UsageError("unsupported_export", f"no kin of Llama has {has}")


def opened_as_qwen2(tokenizer_json: dict[str, Any]) -> bool:
    """Whether this tokenizer.json splits texts as Qwen2's does. AutoTokenizer makes a Qwen2Tokenizer of every folder of
    that model, which takes the vocabulary alone from the file.
    """
    before = tokenizer_json.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [])
    patterns = [(step.get("pattern") or {}).get("Regex") for step in steps]
    return (
        tokenizer_json["model"]["type"] == "BPE"
        and tokenizer_json.get("normalizer") == {"type": "NFC"}
        and patterns == [*SPLITS["qwen2"], None]
        and steps[-1]["type"] == "ByteLevel"
        and not steps[-1]["add_prefix_space"]
    )


def as_llama(hf: dict[str, Any], config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json of a Llama that computes what this Qwen2 does, and the tensors that it has besides: a Llama with
    biases has them after attention too, which are zero here. UsageError for a window, which no Llama has.
    """
    if config.window is not None and config.window < config.context_length:
        raise UsageError(
            "unsupported_export",
            f"a Qwen2 with window={config.window} has no form that AutoTokenizer opens with this tokenizer: it makes a"
            " Qwen2Tokenizer of it, whose ids are others",
        )
    kept = {key: value for key, value in hf.items() if key not in ("use_sliding_window", "sliding_window")}
    kept.pop("max_window_layers", None)
    zeros = {
        f"model.layers.{n}.self_attn.o_proj.bias": torch.zeros(config.d_model) for n in range(config.n_layer)
    }
    named = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": False,
    }
    return {**kept, **named}, zeros


def rename(config: Any) -> list[WeightMapping]:
    """Queries, keys and values are rows of one product here, gate and up of another."""
    parts = [
        WeightMapping("embedding.weight", "model.embed_tokens.weight"),
        WeightMapping("norm.weight", "model.norm.weight"),
    ]
    if not config.tie_head:
        parts.append(WeightMapping("head.weight", "lm_head.weight"))
    for n in range(config.n_layer):
        parts += block(config, f"blocks.{n}.", f"model.layers.{n}.")
    return parts


def block(config: Any, ours: str, theirs: str) -> list[WeightMapping]:
    """The parts of one block."""
    q, kv, ff = config.n_head * config.d_head, config.n_kv_head * config.d_head, config.d_ff
    attention, feed = ours + "attention.", ours + "feed_forward."
    fused = [
        (attention + "qkv", "self_attn.q_proj", (0, q)),
        (attention + "qkv", "self_attn.k_proj", (q, q + kv)),
        (attention + "qkv", "self_attn.v_proj", (q + kv, q + 2 * kv)),
        (attention + "out", "self_attn.o_proj", None),
        (feed + "gate_up", "mlp.gate_proj", (0, ff)),
        (feed + "gate_up", "mlp.up_proj", (ff, 2 * ff)),
        (feed + "down", "mlp.down_proj", None),
    ]
    with_bias = {attention + "qkv": config.has_bias("qkv"), attention + "out": config.has_bias("out")}
    parts = [
        WeightMapping(f"{ours}attention_norm.weight", theirs + "input_layernorm.weight"),
        WeightMapping(f"{ours}feed_forward_norm.weight", theirs + "post_attention_layernorm.weight"),
    ]
    for mine, name, rows in fused:
        kinds = ["weight", "bias"] if with_bias.get(mine, config.has_bias("feed_forward")) else ["weight"]
        parts += [WeightMapping(f"{mine}.{kind}", f"{theirs}{name}.{kind}", rows) for kind in kinds]
    if config.qk_norm:
        parts += [
            WeightMapping(f"{attention}{x}_norm.weight", f"{theirs}self_attn.{x}_norm.weight") for x in "qk"
        ]
    return parts


def copies(config: Any) -> dict[str, str]:
    """A tied head may be written twice."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_head else {}
