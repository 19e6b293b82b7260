"""Hugging Face folders: config.json, safetensors (in one file or in shards) and a tokenizer.

Nothing in a folder is executed: pickled checkpoints are refused, and code that `auto_map` names is not run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textus import tokenizer as tokenizers
from textus.common import RunError, notice, read_json, sha256, write_json
from textus.config import from_dict
from textus.models import family as family_of
from textus.models.pretrained import (
    Imported,
    architecture,
    checked_config,
    describe,
    foreign_weights,
    read_weights,
)
from textus.models.pretrained.vocabulary import byte_level, made

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class SafeTensors:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self.files = weight_files(folder)
        self.home: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path, names in self.files.items():
            self._open(path, names)

    def _open(self, path: Path, names: set[str] | None) -> None:
        """Note where each tensor of a file lies; the library checks that they fill it without overlap."""
        try:
            file = safe_open(path, framework="pt")
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing; the index of {self.where} lists it") from error
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path} cannot be read ({error}); it is damaged or cut short") from error
        held = set(file.keys())
        if names is not None and names != held:
            wrong = sorted(names ^ held)
            raise RunError(f"{path} and the index of {self.where} disagree about {wrong[0]}")
        for name in held:
            self.home[name] = file
            self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.home[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise RunError(
                f"{self.where}: the tensor {name} holds {tensor.dtype}, which is a quantised format of its own;"
                " import the unquantised model or a GGUF file"
            )
        return tensor.float()


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weights' files, with the tensors that the index says are in each (None where there is no index)."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: None}
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict) or not table:
            raise RunError(f"{folder / INDEX} has no weight_map; it was changed or cut short")
        found: dict[Path, set[str] | None] = {}
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise RunError(f"{folder / INDEX} places {name} in {file!r}, which is no file of this folder")
            found.setdefault(folder / file, set()).add(name)  # type: ignore[union-attr]
        return found
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        raise pickled(folder, pickles[0])
    raise RunError(f"{folder} has neither {WEIGHTS} nor {INDEX}; give a folder with a model's weights")


def pickled(folder: Path, name: str) -> RunError:
    """The error for a checkpoint that runs a program when it is read."""
    named = (
        read_json(folder / "config.json").get("architectures") if (folder / "config.json").exists() else None
    )
    kind = named[0] if named else "AutoModelForCausalLM"
    return RunError(
        f"{folder / name} is a pickle, which can run any program when it is read, and is not opened; convert it on"
        f' a machine where that does not matter: python -c "import transformers as t;'
        f" t.{kind}.from_pretrained('{folder}').save_pretrained('CONVERTED')\", then import CONVERTED"
    )


def read_folder(folder: Path) -> Imported:
    """A model of `transformers` in our terms, in float32.

    Raises UsageError for an architecture or a configuration that is not known, RunError for anything missing,
    damaged, left over or of another shape.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise RunError(
            f"{folder} has no config.json; a Hugging Face folder holds config.json and model.safetensors"
        )
    hf = read_json(folder / "config.json")
    name = class_name(hf, folder)
    module = architecture(name)
    if "auto_map" in hf:
        notice(f"{folder}: the code that auto_map names is not run; it is read as a plain {name}")
    tokenizer = read_tokenizer(folder)
    if (
        tokenizer is not None
        and (mask := tokenizer.special.get(tokenizer.roles.get("mask_token", ""))) is not None
    ):
        hf.setdefault("mask_token_id", mask)  # config.json hardly ever says which it is
    values = checked_config(module, hf, f"{folder}/config.json")
    config: Any = from_dict(family_of(module.FAMILY)[1], values, "model.")
    tensors = SafeTensors(folder)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size, str(folder))
    weights = read_weights(module, config, tensors)
    files = [folder / "config.json", *tensors.files]
    source = {"format": "huggingface", "architecture": name, "files": {f.name: sha256(f) for f in files}}
    return Imported(module.FAMILY, values, weights, tokenizer, source)


def class_name(hf: Any, folder: Path) -> str:
    """The model's class, as config.json names it."""
    named = hf.get("architectures") if isinstance(hf, dict) else None
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise RunError(
            f'{folder}/config.json names no architecture; add "architectures": ["LlamaForCausalLM"] or'
            " whatever class it is"
        )
    return named[0]


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer | None:
    """The folder's tokenizer: tokenizer.json, or GPT-2's older pair of files; None where it has neither."""
    if (folder / "tokenizer.json").exists():
        return tokenizers.load(folder)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return older_tokenizer(folder)
    return None


def older_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """A byte-level BPE from vocab.json and merges.txt, ended by <|endoftext|>."""
    table = read_json(folder / "vocab.json")
    if not isinstance(table, dict) or sorted(table.values()) != list(range(len(table))):
        raise RunError(f"{folder}/vocab.json does not number its entries from 0 without gaps; it is damaged")
    if tokenizers.END not in table:
        raise RunError(
            f"{folder}/vocab.json has no {tokenizers.END}; add a tokenizer.json, which says how texts end"
        )
    pieces = sorted(table, key=lambda piece: table[piece])
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    record = byte_level(pieces, merges, split="gpt-2", added={table[tokenizers.END]: True})
    return made(record, {"eos_token": tokenizers.END}, None, str(folder))


PADDING_SHARE = 0.1
"""Rows of an embedding that may lie beyond the tokenizer's entries: models round their vocabulary up."""


def check_vocabulary(tokenizer: tokenizers.Tokenizer, vocab_size: int, where: str) -> None:
    """RunError where the tokenizer and the weights are not of one model."""
    n = tokenizer.vocab_size
    if n > vocab_size or n < (1 - PADDING_SHARE) * vocab_size:
        raise RunError(
            f"{where}: the tokenizer has {n:,} entries, the weights are for {vocab_size:,}; they are not of one model"
        )


def write_folder(
    out: Path, family: str, config: Any, weights: dict[str, Tensor], tokenizer: tokenizers.Tokenizer | None
) -> str:
    """Write a folder that `transformers` loads; returns its class name. UsageError where it cannot hold the
    model.
    """
    module, hf = describe(family, config)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(out)
        hf = {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id, **hf}
        if family_of(family)[0].can_generate:
            write_json(out / "generation_config.json", generation_config(tokenizer, hf))
    write_json(out / "config.json", {**hf, "dtype": "float32"})
    save_file(foreign_weights(module, config, weights), out / WEIGHTS, metadata={"format": "pt"})
    return str(hf["architectures"][0])


def generation_config(tokenizer: tokenizers.Tokenizer, hf: dict[str, Any]) -> dict[str, Any]:
    """Which ids begin and end a text, or a turn of a conversation; generating reads these, not config.json."""
    ends = [hf["eos_token_id"], tokenizer.special.get(tokenizer.roles.get("eos_token", ""))]
    if tokenizer.chat_template is not None:
        ends.append(tokenizer.special.get(tokenizers.IM_END))
    eos = list(dict.fromkeys(each for each in ends if each is not None))
    start = {name: hf[name] for name in ("decoder_start_token_id",) if name in hf}
    return {
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": eos,
        "pad_token_id": hf["pad_token_id"],
        **start,
    }
