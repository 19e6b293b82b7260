"""Files of llama2.c (github.com/karpathy/llama2.c), its first format: seven sizes, then all weights in float32.

The tokenizer is a file of its own: pieces with scores, blanks written as blanks.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textus.core.config import from_dict
from textus.core.errors import RunError
from textus.core.io import sha256
from textus.interop import llama
from textus.interop.architectures import ImportedModel, checked_config, read_weights
from textus.interop.folder import check_vocabulary
from textus.interop.gguf import interleave_to_halves
from textus.interop.tokenizer_json import bos_post_processor, build_tokenizer, sentencepiece
from textus.models.registry import family as family_of
from textus.tokenizers import Tokenizer
from textus.tokenizers.compat import BLANK

HEADER = struct.Struct("<7i")
UNK, BEGIN, END = "<unk>", "<s>", "</s>"


class Stacked:
    """Concatenated tensors, those of one kind of all layers together."""

    def __init__(self, path: Path, hf: dict[str, Any], shared: bool) -> None:
        self.where = str(path)
        self.data = np.memmap(path, dtype="<f4", mode="r", offset=HEADER.size)
        self.heads = {"q_proj": hf["num_attention_heads"], "k_proj": hf["num_key_value_heads"]}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.begins: dict[str, int] = {}
        at = 0
        for name, shape in layout(hf, shared):
            self.shapes[name], self.begins[name] = shape, at
            at += int(np.prod(shape))
        if at != len(self.data):
            raise RunError(
                "damaged",
                f"{path} holds {len(self.data):,} numbers, its sizes ask for {at:,}; it is cut short or no file of"
                " llama2.c",
            )
        for name in [name for name in self.shapes if name.startswith("angles.")]:
            del self.shapes[name]

    def read(self, name: str) -> Tensor:
        begin, shape = self.begins[name], self.shapes[name]
        tensor = torch.from_numpy(np.array(self.data[begin : begin + int(np.prod(shape))])).view(shape)
        heads = self.heads.get(name.split(".")[-2])
        return tensor if heads is None else interleave_to_halves(tensor, heads)


def layout(hf: dict[str, Any], shared: bool) -> list[tuple[str, tuple[int, ...]]]:
    """(name in transformers, shape) of all tensors in the file's order."""
    width, ff, vocabulary, n = (
        hf[name] for name in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")
    )
    head = width // hf["num_attention_heads"]
    kv = head * hf["num_key_value_heads"]
    stacks = {
        "input_layernorm": (width,), "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width), "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,), "mlp.gate_proj": (ff, width), "mlp.down_proj": (width, ff),
        "mlp.up_proj": (ff, width),
    }  # fmt: skip
    tensors: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocabulary, width))]
    for name, shape in stacks.items():
        tensors += [(f"model.layers.{layer}.{name}.weight", shape) for layer in range(n)]
    tensors.append(("model.norm.weight", (width,)))
    tensors += [(f"angles.{part}", (hf["max_position_embeddings"], head // 2)) for part in ("cos", "sin")]
    return tensors if shared else [*tensors, ("lm_head.weight", (vocabulary, width))]


def read_file(path: Path, tokenizer_path: Path) -> ImportedModel:
    """A llama2.c model and its tokenizer in our terms; RunError for a file that is damaged or another's."""
    path = Path(path)
    with path.open("rb") as file:
        raw = file.read(HEADER.size)
    sizes = HEADER.unpack(raw) if len(raw) == HEADER.size else (0,) * 7
    width, ff, n_layer, n_head, n_kv, vocabulary, context = sizes
    if min(width, ff, n_layer, n_head, n_kv, abs(vocabulary), context) < 1 or width % n_head:
        raise RunError(
            "damaged", f"{path} does not begin with the sizes of a llama2.c model (found {list(sizes)})"
        )
    shared, vocabulary = vocabulary > 0, abs(vocabulary)
    hf = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": width, "intermediate_size": ff,
        "num_hidden_layers": n_layer, "num_attention_heads": n_head, "num_key_value_heads": n_kv,
        "vocab_size": vocabulary, "max_position_embeddings": context, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": shared,
    }  # fmt: skip
    values = checked_config(llama, hf, str(path))
    config: Any = from_dict(family_of(llama.FAMILY)[1], values, "model.")
    tensors = Stacked(path, hf, shared)
    tokenizer = check_vocabulary(read_tokenizer(tokenizer_path, vocabulary), vocabulary, str(path))
    weights = read_weights(llama, config, tensors)
    files = {file.name: sha256(file) for file in (path, Path(tokenizer_path))}
    return ImportedModel(llama.FAMILY, values, weights, tokenizer, {"format": "llama2.c", "files": files})


def read_tokenizer(path: Path, n: int) -> Tokenizer:
    """The pieces of a tokenizer file. A text ends where the next begins, with <s>."""
    data = Path(path).read_bytes()
    at, pieces, scores = 4, [], []  # the first number is the longest piece's length
    try:
        for _ in range(n):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            pieces.append(data[at : at + length].decode())
            scores.append(score)
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise RunError("damaged", f"{path} is no tokenizer of llama2.c with {n} pieces ({error})") from error
    if at != len(data):
        raise RunError(
            "damaged", f"{path} has more data after its {n} pieces; it is another model's tokenizer"
        )
    pieces = [UNK, BEGIN, END, *(piece.replace(" ", BLANK) for piece in pieces[3:])]
    added = {0: True, 1: True, 2: True}
    record = sentencepiece(pieces, scores, unk=UNK, added=added, blank_first=True)
    record["post_processor"] = bos_post_processor(BEGIN, 1)
    return build_tokenizer(
        record, {"bos_token": BEGIN, "eos_token": BEGIN, "unk_token": UNK}, None, str(path)
    )
