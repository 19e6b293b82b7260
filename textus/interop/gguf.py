"""GGUF files: a model of Llama's kin with its tokenizer and chat template, weights dequantised to float32.

The file's own names become those of `transformers`, so that `llama` reads both; files of the architecture
"llama" keep the rows of queries and keys in the order of Meta's code, two neighbours to an angle, and are put
back into halves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textus.core.config import from_dict
from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import sha256
from textus.interop import llama, validate
from textus.interop.architectures import ImportedModel, checked_config, read_weights
from textus.interop.config_keys import check_keys, names_in
from textus.interop.folder import check_vocabulary
from textus.interop.gguf_reader import Container
from textus.interop.tokenizer_json import (
    ADDED,
    CONTROL,
    UNKNOWN,
    WHOLE_WORDS,
    bos_post_processor,
    build_tokenizer,
    byte_level,
    sentencepiece,
)
from textus.models.nn.rope import RopeScaling
from textus.models.registry import family as family_of
from textus.tokenizers import Tokenizer

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""`general.architecture` → class of `transformers`. Mistral is a llama here too."""

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Of a text, of a turn, of a message that calls a tool: generating ends at each."""
STRETCHING = "rope_freqs.weight"
"""What each rotary frequency is divided by: Llama 3's files have it instead of a setting."""
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class Renamed:
    """A container's tensors under the names, and with the order of rows, of `transformers`."""

    def __init__(self, container: Container, heads: tuple[int, int], in_pairs: bool) -> None:
        self.container, self.where = container, container.where
        self.heads = {"q_proj": heads[0], "k_proj": heads[1]} if in_pairs else {}
        self.names = {hugging_face_name(name): name for name in container.shapes if name != STRETCHING}
        self.shapes = {name: container.shapes[theirs] for name, theirs in self.names.items()}

    def read(self, name: str) -> Tensor:
        tensor = self.container.read(self.names[name])
        heads = self.heads.get(name.split(".")[-2])
        return tensor if heads is None else interleave_to_halves(tensor, heads)


def hugging_face_name(name: str) -> str:
    """The name of a tensor in `transformers`; one that has none there stays as it is."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in NAMES:
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{parts[3]}"
    return f"{OUTER[parts[0]]}.{parts[1]}" if parts[0] in OUTER and len(parts) == 2 else name


def interleave_to_halves(tensor: Tensor, n_head: int) -> Tensor:
    """Rows of each head from pairs (0, 1), (2, 3) … to halves: first all even rows, then all odd ones."""
    return tensor.unflatten(0, (n_head, -1, 2)).transpose(1, 2).flatten(0, 2)


def read_file(path: Path) -> ImportedModel:
    """A GGUF file in our terms. UsageError for an architecture, a tensor type or a split of texts that is not
    known; RunError for a file that is damaged or does not fit itself."""
    container = Container(Path(path))
    check_whole(container)
    kind = Values(container, "general").text("architecture")
    if kind not in CLASSES:
        raise validate.unsupported(f"{container.where}: the architecture", kind, CLASSES)
    hf = hugging_face_config(container, kind)
    values = checked_config(llama, hf, container.where)
    config: Any = from_dict(family_of(llama.FAMILY)[1], values, "model.")
    tokenizer = check_vocabulary(read_tokenizer(container), config.vocab_size, container.where)
    tensors = Renamed(container, (config.n_head, config.n_kv_head), in_pairs=kind == "llama")
    weights = read_weights(llama, config, tensors)
    source = {"format": "gguf", "architecture": kind, "files": {Path(path).name: sha256(Path(path))}}
    return ImportedModel(llama.FAMILY, values, weights, tokenizer, source)


def check_whole(container: Container) -> None:
    """UsageError for one of several files that only together hold a model."""
    number, count = (container.metadata.get(f"split.{name}", 0) for name in ("no", "count"))
    if type(count) is int and count > 1:
        raise UsageError(
            "incomplete_model",
            f"{container.where} is shard {number + 1} of {count} of a model: join them with llama-gguf-split --merge"
            " FIRST_SHARD OUT.gguf, then import OUT.gguf",
        )


KEYS = names_in(
    """context_length embedding_length block_count feed_forward_length vocab_size attention.head_count
    attention.head_count_kv attention.key_length attention.value_length attention.layer_norm_rms_epsilon
    attention.sliding_window attention.causal rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor
    rope.scaling.original_context_length rope.scaling.finetuned tensor_data_layout"""
)
"""Metadata of the architecture that are read, or follow from the tensors."""


def check_metadata(container: Container, kind: str) -> None:
    """UsageError for metadata that change what is computed and are not read, a notice for others that are not known."""
    prefix = f"{kind}."
    own = {key.removeprefix(prefix): v for key, v in container.metadata.items() if key.startswith(prefix)}
    if own.get("attention.causal") is False:
        raise UsageError(
            "unsupported_setting",
            f"{container.where}: attention.causal=False: a {CLASSES[kind]} looks back only",
        )
    widths = {own[key] for key in ("attention.key_length", "attention.value_length") if key in own}
    if len(widths) > 1 and all(isinstance(width, int) and width > 0 for width in widths):
        raise UsageError(
            "unsupported_setting", f"{container.where}: keys and values of different widths are not supported"
        )
    try:
        check_keys({**own, "architectures": [f"the architecture {kind}"]}, KEYS, container.where)
    except UsageError as error:
        raise UsageError(error.code, f"{container.where}: {error}") from error


def hugging_face_config(container: Container, kind: str) -> dict[str, Any]:
    """The metadata as config.json."""
    values = Values(container, kind)
    check_metadata(container, kind)
    if "token_embd.weight" not in container.shapes:
        raise RunError(
            "tensor_missing", f"{container.where} has no tensor token_embd.weight; it is not a whole model"
        )
    n_head, width = values.count("attention.head_count"), values.count("embedding_length")
    head = values.count("attention.key_length", width // n_head)
    if (turned := values.count("rope.dimension_count", head)) != head:
        raise UsageError(
            "unsupported_setting",
            f"{container.where} turns {turned} of a head's {head} numbers; here all are turned",
        )
    hf = {
        "architectures": [CLASSES[kind]],
        "vocab_size": container.shapes["token_embd.weight"][0],
        "max_position_embeddings": values.count("context_length", most=validate.CONTEXT),
        "num_hidden_layers": values.count("block_count", most=validate.LAYERS),
        "num_attention_heads": n_head,
        "num_key_value_heads": values.count("attention.head_count_kv", n_head),
        "hidden_size": width,
        "head_dim": head,
        "intermediate_size": values.count("feed_forward_length"),
        "rms_norm_eps": round_decimal(values.number("attention.layer_norm_rms_epsilon", above=0, below=1)),
        "tie_word_embeddings": "output.weight" not in container.shapes,
        "attention_bias": "blk.0.attn_output.bias" in container.shapes,
        "rope_parameters": rope(values, head),
    }
    window = values.count("attention.sliding_window", 0, least=0, most=validate.CONTEXT)
    if window and kind == "llama":
        hf |= {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    return hf


def rope(values: Values, head: int) -> dict[str, Any]:
    """`rope_parameters` from the metadata, or from the tensor that encodes Llama 3's."""
    theta = values.number("rope.freq_base", llama.THETA, above=1, below=1e15)
    scaling: dict[str, Any] = {"rope_theta": round_decimal(theta)}
    if STRETCHING in values.container.shapes:
        return scaling | llama3(values.container, scaling["rope_theta"], head)
    if (kind := values.text("rope.scaling.type", "none")) != "none":
        scaling |= {"rope_type": kind, "factor": values.number("rope.scaling.factor", above=0, below=1e6)}
        name = "rope.scaling.original_context_length"
        if original := values.count(name, 0, least=0, most=validate.CONTEXT):
            scaling["original_max_position_embeddings"] = original
    return scaling


def llama3(container: Container, theta: float, head: int) -> dict[str, Any]:
    """Llama 3's rope scaling, recognised by the tensor it makes; UsageError for another one."""
    divisors = container.read(STRETCHING).double()
    scaling = RopeScaling("llama3", max(1.0, float(divisors.max())), original_context=8192)
    frequency = theta ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    expected = frequency / scaling.scaled_frequencies(frequency, theta)
    if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-3):
        raise UsageError(
            "unsupported_setting",
            f"{container.where}: {STRETCHING} is not Llama 3's stretching, the only one known here",
        )
    return {
        "rope_type": "llama3", "factor": scaling.factor, "original_max_position_embeddings": 8192,
        "low_freq_factor": scaling.low_frequency, "high_freq_factor": scaling.high_frequency,
    }  # fmt: skip


class Values:
    """Metadata of one part by its short name; RunError for what is needed and missing, or of the wrong kind."""

    def __init__(self, container: Container, kind: str) -> None:
        self.container, self.kind = container, kind

    def __call__(self, name: str, default: Any = None) -> Any:
        value = self.container.metadata.get(f"{self.kind}.{name}", default)
        if value is None:
            raise RunError(
                "damaged", f"{self.container.where} has no {self.kind}.{name} in its metadata; it is damaged"
            )
        return value

    def count(
        self, name: str, default: int | None = None, *, least: int = 1, most: int = validate.WIDTH
    ) -> int:
        """A whole number."""
        key = f"{self.kind}.{name}"
        value = self(name, default)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            if len(set(value)) > 1:  # one for each layer
                raise UsageError(
                    "unsupported_setting",
                    f"{self.container.where}: {key}={validate.short_repr(value)} differs from layer to layer; one for"
                    " all layers is supported",
                )
            value = value[0]
        return validate.integer(self.container.where, key, value, least=least, most=most)

    def number(self, name: str, default: float | None = None, *, above: float, below: float) -> float:
        """A number between these two."""
        key = f"{self.kind}.{name}"
        return validate.number(self.container.where, key, self(name, default), above=above, below=below)

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._of(name, default, str, "a text"))

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._of(name, default, bool, "true or false"))

    def entries(self, name: str, kind: type, n: int | None = None) -> list[Any]:
        """A list of values of this type; RunError where it has not `n`."""
        values = self(name)
        if not isinstance(values, list) or not values or not all(type(entry) is kind for entry in values):
            raise validate.invalid_value(
                self.container.where, f"{self.kind}.{name}", values, f"a list of {kind.__name__}"
            )
        if n is not None and len(values) != n:
            raise RunError(
                "damaged",
                f"{self.container.where}: {self.kind}.{name} has {len(values):,} entries for {n:,} tokens; it is"
                " damaged, fetch it again",
            )
        return values

    def _of(self, name: str, default: Any, kind: type, wanted: str) -> Any:
        if not isinstance(value := self(name, default), kind):
            raise validate.invalid_value(self.container.where, f"{self.kind}.{name}", value, wanted)
        return value


def round_decimal(value: float) -> float:
    """A number that was stored in float32 as it was written: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


# ── the tokenizer ──────────────────────────────────────────────────────────────────────────────


def read_tokenizer(container: Container) -> Tokenizer:
    """The tokenizer and chat template of a file."""
    values = Values(container, "tokenizer.ggml")
    pieces, kind = values.entries("tokens", str), values.text("model")
    types, split = values.entries("token_type", int, len(pieces)), values.text("pre", "default")
    ended = [(f"{values.kind}.{name}", container.metadata.get(f"{values.kind}.{name}")) for name in ENDS]
    ids = validate.eos_ids(container.where, ended, len(pieces))
    roles = special_tokens(values, pieces)
    if "eos_token" not in roles:
        raise RunError("damaged", f"{container.where} names no token that ends a text; it is damaged")
    added = {
        n: type_ in (CONTROL, UNKNOWN) for n, type_ in enumerate(types) if type_ in (CONTROL, UNKNOWN, ADDED)
    } | dict.fromkeys(ids, True)  # what ends a text is no text, whatever its type
    if kind == "gpt2":
        if split == "default":
            log_notice(
                f"{container.where} has no tokenizer.ggml.pre, which names how texts are split; they are split as"
                " llama.cpp does then, which may differ from the model's own way; a newer file has it"
            )
        record = byte_level(pieces, values.entries("merges", str), split=split, added=added)
    elif kind == "llama":
        roles.setdefault("unk_token", pieces[0])
        record = sentencepiece(
            pieces, values.entries("scores", float, len(pieces)), unk=roles["unk_token"], added=added,
            blank_first=values.flag("add_space_prefix", True),
        )  # fmt: skip
    else:
        raise validate.unsupported(f"{container.where}: the tokenizer", kind, ["gpt2", "llama"])
    llama3 = "bos_token" in roles and split in WHOLE_WORDS  # such files leave the flag out
    if values.flag("add_bos_token", kind == "llama" or llama3):
        if "bos_token" not in roles:
            raise RunError("damaged", f"{container.where} names no token that begins a text; it is damaged")
        record["post_processor"] = bos_post_processor(roles["bos_token"], pieces.index(roles["bos_token"]))
    template = Values(container, "tokenizer").text("chat_template", "") or None
    tokenizer = build_tokenizer(record, roles, template, container.where)
    tokenizer.add_eos_ids(ids)
    return tokenizer


def special_tokens(values: Values, pieces: list[str]) -> dict[str, str]:
    """Role → token, of those that the metadata name; an id beyond the vocabulary names none."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {
        role: values.count(f"{name}_token_id", -1, least=-1, most=1 << 32) for role, name in names.items()
    }
    return {f"{role}_token": pieces[n] for role, n in numbers.items() if 0 <= n < len(pieces)}
