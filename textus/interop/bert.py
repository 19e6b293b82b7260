"""BERT (Devlin et al. 2019) and what is built like it, such as MiniLM: post-norm, learned positions, two segments.

`BertModel` has the pooler and no head; `BertForMaskedLM` the head and no pooler; `BertForPreTraining` both, and the
next-sentence map. RoBERTa differs in names and in where positions begin (`roberta`).
"""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError
from textus.interop.architectures import WeightMapping
from textus.interop.config_keys import names_in
from textus.interop.validate import ACTIVATIONS, token, unsupported

ARCHITECTURES = ("BertForMaskedLM", "BertForPreTraining", "BertModel")
MODEL_TYPES = ("bert",)
SHARED_KEYS = names_in(
    """vocab_size max_position_embeddings num_hidden_layers num_attention_heads hidden_size intermediate_size hidden_act
    type_vocab_size layer_norm_eps position_embedding_type is_decoder add_cross_attention directionality"""
)
KEYS = SHARED_KEYS
FAMILY = "encoder"
PREFIX = "bert."
IGNORED = (r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\.seq_relationship\..*")
"""The last two are of `BertForPreTraining`; files that name themselves `BertForMaskedLM` often hold them still, and
`transformers` passes over them too."""

MASK = 103
"""The mask in every vocabulary of the authors; config.json does not have it."""

FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Switches that are known in one position only."""

NEEDED = {"position": "learned", "norm": "layer", "norm_first": False, "bias": True, "tie_head": True}
"""What an encoder of ours must be to have this form."""

LAYER = {
    "attention.out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "feed_forward.up": "intermediate.dense", "feed_forward.down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}  # fmt: skip


def config_from(hf: dict[str, Any]) -> dict[str, Any]:
    """Our encoder's values from config.json."""
    name = hf["architectures"][0]
    values = shared_from(hf, with_head=name != "BertModel", mask_id=MASK)
    paired = name == "BertForPreTraining"
    objective = "mlm+nsp" if paired else "mlm"
    return {**values, "pooler": name == "BertModel" or paired, "objective": objective}


def shared_from(hf: dict[str, Any], *, with_head: bool, mask_id: int) -> dict[str, Any]:
    """What BERT and RoBERTa have in common; `mask_id` is the mask where config.json has none."""
    for name, known in FIXED.items():
        if hf.get(name, known) != known:
            raise UsageError("unsupported_setting", f"{name}={hf[name]}: a BERT here has {name}={known}")
    if with_head and not hf.get("tie_word_embeddings", True):
        raise UsageError(
            "unsupported_setting", "tie_word_embeddings=False: the head of a BERT here is its embedding"
        )
    activation = hf.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise unsupported("hidden_act", activation, ACTIVATIONS)
    if hf.get("mask_token_id") is None and mask_id >= hf["vocab_size"]:
        raise UsageError(
            "unknown_id",
            f"the mask is not id {mask_id} in a vocabulary of {hf['vocab_size']}: add its id to config.json as"
            " mask_token_id",
        )
    return {
        "vocab_size": hf["vocab_size"],
        "context_length": hf["max_position_embeddings"],
        "n_layer": hf["num_hidden_layers"],
        "n_head": hf["num_attention_heads"],
        "d_model": hf["hidden_size"],
        "d_ff": hf["intermediate_size"],
        "segments": hf.get("type_vocab_size", 2),
        "norm_eps": hf.get("layer_norm_eps", 1e-12),
        "activation": ACTIVATIONS[activation],
        "dropout": hf.get("hidden_dropout_prob", 0.1),
        "mlm_transform": with_head,
        "mask_id": token(hf, "mask_token_id", mask_id),
        **NEEDED,
    }


def config_to(config: Any) -> dict[str, Any]:
    """config.json of a BERT with this encoder's parts."""
    shared = shared_to(config)
    if config.position_offset:
        raise UsageError("unsupported_export", f"BERT has position_offset=0, not {config.position_offset}")
    paired = config.objective == "mlm+nsp"
    if config.pooler != (paired or not config.mlm_transform) or (paired and not config.mlm_transform):
        raise UsageError(
            "unsupported_export",
            "BERT has a pooler and no mlm_transform, the other way round, or both with mlm+nsp",
        )
    name = "BertForPreTraining" if paired else "BertForMaskedLM" if config.mlm_transform else "BertModel"
    return {"architectures": [name], "model_type": "bert", "pad_token_id": 0, **shared}


def shared_to(config: Any) -> dict[str, Any]:
    """What BERT and RoBERTa have in common."""
    for field, wanted in NEEDED.items():
        if (value := getattr(config, field)) != wanted:
            raise UsageError("unsupported_export", f"BERT has {field}={wanted!r}, not {value!r}")
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if config.activation not in names:
        raise UsageError("unsupported_export", f"BERT has no activation {config.activation!r}")
    if not config.segments:
        raise UsageError("unsupported_export", "BERT has one segment or more, not segments=0")
    if config.mask_id is None:
        raise UsageError(
            "unsupported_export", "BERT has its mask inside the vocabulary: mask_id must not be None"
        )
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length + config.position_offset,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": names[config.activation],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "mask_token_id": config.mask_id,
        "tie_word_embeddings": True,
    }


def rename(config: Any) -> list[WeightMapping]:
    """Queries, keys and values are apart there; everything else is name for name."""
    parts = body(config, PREFIX)
    if config.mlm_transform:
        parts += both("transform.dense", "cls.predictions.transform.dense")
        parts += both("transform.norm", "cls.predictions.transform.LayerNorm")
        parts.append(WeightMapping("head_bias", "cls.predictions.bias"))
    if config.pooler:
        parts += both("pooler", "bert.pooler.dense")
    if config.objective == "mlm+nsp":
        parts += both("next_sentence", "cls.seq_relationship")
    return parts


def body(config: Any, prefix: str) -> list[WeightMapping]:
    """Embeddings and layers."""
    tables = {
        "embedding": "word_embeddings",
        "position": "position_embeddings",
        "segment": "token_type_embeddings",
    }
    parts = [
        WeightMapping(f"{ours}.weight", f"{prefix}embeddings.{theirs}.weight")
        for ours, theirs in tables.items()
    ]
    parts += both("norm", f"{prefix}embeddings.LayerNorm")
    width = config.d_model
    for n in range(config.n_layer):
        here, there = f"blocks.{n}.", f"{prefix}encoder.layer.{n}."
        for place, name in enumerate(("query", "key", "value")):
            rows = (place * width, (place + 1) * width)
            parts += both(f"{here}attention.qkv", f"{there}attention.self.{name}", rows)
        for ours, theirs in LAYER.items():
            parts += both(here + ours, there + theirs)
    return parts


def both(ours: str, theirs: str, rows: tuple[int, int] | None = None) -> list[WeightMapping]:
    """Weight and bias."""
    return [WeightMapping(f"{ours}.{kind}", f"{theirs}.{kind}", rows) for kind in ("weight", "bias")]


def copies(config: Any) -> dict[str, str]:
    """The head's matrix is the embedding, and its bias has two names."""
    if not config.mlm_transform:
        return {}
    names = {
        "decoder.weight": "bert.embeddings.word_embeddings.weight",
        "decoder.bias": "cls.predictions.bias",
    }
    return {f"cls.predictions.{theirs}": original for theirs, original in names.items()}
