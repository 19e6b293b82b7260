"""GPT-2 (Radford et al. 2019). Its linear maps keep their weights as (inputs, outputs), and queries, keys and
values as one product already."""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError
from textus.interop.architectures import WeightMapping
from textus.interop.config_keys import names_in
from textus.interop.validate import ACTIVATIONS, unsupported

ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
MODEL_TYPES = ("gpt2",)
KEYS = names_in(
    """vocab_size n_positions n_ctx n_layer n_head n_embd n_inner activation_function layer_norm_epsilon
    scale_attn_weights scale_attn_by_inverse_layer_idx add_cross_attention reorder_and_upcast_attn n_special
    predict_special_tokens afn is_decoder"""
)
"""`is_decoder` only matters together with another model; upcasting changes rounding."""
FAMILY = "decoder"
PREFIX = "transformer."
IGNORED = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",)

FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
"""Switches that are known in one position only."""


def config_from(hf: dict[str, Any]) -> dict[str, Any]:
    """Our decoder's values from config.json."""
    for name, known in FIXED.items():
        if hf.get(name, known) != known:
            raise UsageError("unsupported_setting", f"{name}={hf[name]}: a GPT-2 here has {name}={known}")
    activation = hf.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise unsupported("activation_function", activation, ACTIVATIONS)
    return {
        "vocab_size": hf["vocab_size"],
        "context_length": hf["n_positions"],
        "n_layer": hf["n_layer"],
        "n_head": hf["n_head"],
        "d_model": hf["n_embd"],
        "d_ff": hf.get("n_inner") or 4 * hf["n_embd"],
        "position": "learned",
        "norm": "layer",
        "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
        "activation": ACTIVATIONS[activation],
        "qk_norm": False,
        "bias": True,
        "tie_head": hf.get("tie_word_embeddings", True),
        "dropout": hf.get("resid_pdrop", 0.1),
    }


def config_to(config: Any) -> dict[str, Any]:
    """config.json of a GPT-2 with this decoder's parts."""
    needed = {"position": "learned", "norm": "layer", "qk_norm": False, "bias": True, "window": None}
    for field, wanted in {**needed, "n_kv_head": config.n_head}.items():
        if (value := getattr(config, field)) != wanted:
            raise UsageError("unsupported_export", f"GPT-2 has {field}={wanted!r}, not {value!r}")
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if config.activation not in names:
        raise UsageError("unsupported_export", f"GPT-2 has no activation {config.activation!r}")
    if config.d_head * config.n_head != config.d_model:
        raise UsageError(
            "unsupported_export", f"GPT-2 has heads of d_model / n_head, not d_head={config.d_head}"
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.d_model,
        "n_inner": config.d_ff,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": names[config.activation],
        "tie_word_embeddings": config.tie_head,
        "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0,
    }  # fmt: skip


def rename(config: Any) -> list[WeightMapping]:
    """Name for name, but for the fused queries, keys and values, which are fused in GPT-2 too."""
    parts = [
        WeightMapping("embedding.weight", "transformer.wte.weight"),
        WeightMapping("position.weight", "transformer.wpe.weight"),
    ]
    parts += [WeightMapping(f"norm.{kind}", f"transformer.ln_f.{kind}") for kind in ("weight", "bias")]
    if not config.tie_head:
        parts.append(WeightMapping("head.weight", "lm_head.weight"))
    names = {
        "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "feed_forward_norm": "ln_2", "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj",
    }  # fmt: skip
    for n in range(config.n_layer):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                turned = kind == "weight" and "c_" in theirs
                here, there = f"blocks.{n}.{ours}.{kind}", f"transformer.h.{n}.{theirs}.{kind}"
                parts.append(WeightMapping(here, there, transposed=turned))
    return parts


def copies(config: Any) -> dict[str, str]:
    """The head is the embedding in every GPT-2 of OpenAI's; a file may hold it twice."""
    return {"lm_head.weight": "transformer.wte.weight"} if config.tie_head else {}
