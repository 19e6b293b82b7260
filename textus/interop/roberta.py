"""RoBERTa (Liu et al. 2019): BERT under other names, its positions counted from the padding's id + 1.

XLM-R and CamemBERT are RoBERTas of other languages, and name their tensors as it does.
"""

from __future__ import annotations

from typing import Any

from textus.core.errors import UsageError
from textus.interop.architectures import WeightMapping
from textus.interop.bert import SHARED_KEYS, body, both, shared_from, shared_to
from textus.interop.validate import token

ARCHITECTURES = tuple(
    f"{name}{part}" for name in ("Roberta", "XLMRoberta", "Camembert") for part in ("ForMaskedLM", "Model")
)
MODEL_TYPES = ("roberta", "xlm-roberta", "camembert")
KEYS = SHARED_KEYS
FAMILY = "encoder"
PREFIX = "roberta."
IGNORED = (r"roberta\.embeddings\.position_ids", r"roberta\.pooler\..*")
"""Files that name themselves `RobertaForMaskedLM` often hold a pooler, which `transformers` passes over too."""


def config_from(hf: dict[str, Any]) -> dict[str, Any]:
    """Our encoder's values from config.json; the mask is the last id, as in the authors' vocabulary."""
    with_head = hf["architectures"][0].endswith("ForMaskedLM")
    values = shared_from(hf, with_head=with_head, mask_id=hf["vocab_size"] - 1)
    if with_head and values["activation"] != "gelu-exact":
        raise UsageError(
            "unsupported_setting",
            f"hidden_act={hf['hidden_act']}: the head of a RoBERTa has gelu, and so have its layers here",
        )
    first = token(hf, "pad_token_id", 1) + 1
    length = hf["max_position_embeddings"] - first
    return {**values, "context_length": length, "position_offset": first, "pooler": not with_head}


def config_to(config: Any) -> dict[str, Any]:
    """config.json of a RoBERTa with this encoder's parts."""
    shared = shared_to(config)
    if not config.position_offset:
        raise UsageError("unsupported_export", "RoBERTa has position_offset=2, not 0")
    if config.pooler == config.mlm_transform or config.objective != "mlm":
        raise UsageError(
            "unsupported_export",
            "RoBERTa has a pooler and no mlm_transform, or the other way round, and no mlm+nsp",
        )
    if config.mlm_transform and config.activation != "gelu-exact":
        raise UsageError(
            "unsupported_export",
            f"the head of a RoBERTa has activation 'gelu-exact', not {config.activation!r}",
        )
    name = "RobertaForMaskedLM" if config.mlm_transform else "RobertaModel"
    values = {"architectures": [name], "model_type": "roberta", **shared}
    return {**values, "pad_token_id": config.position_offset - 1}


def rename(config: Any) -> list[WeightMapping]:
    """As BERT's."""
    parts = body(config, PREFIX)
    if config.mlm_transform:
        parts += both("transform.dense", "lm_head.dense") + both("transform.norm", "lm_head.layer_norm")
        parts.append(WeightMapping("head_bias", "lm_head.bias"))
    if config.pooler:
        parts += both("pooler", "roberta.pooler.dense")
    return parts


def copies(config: Any) -> dict[str, str]:
    """As BERT's."""
    if not config.mlm_transform:
        return {}
    matrix = "roberta.embeddings.word_embeddings.weight"
    return {"lm_head.decoder.weight": matrix, "lm_head.decoder.bias": "lm_head.bias"}
