"""Hugging Face folders: config.json, safetensors (in one file or in shards) and a tokenizer.

Nothing in a folder is executed: pickled checkpoints are refused, and code that `auto_map` names is not run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from textus import tokenizers
from textus.core.config import from_dict
from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import fingerprint, is_plain_name, read_json, sha256, write_atomic, write_json
from textus.interop import legacy_tokenizers, llama, packaging, task_heads
from textus.interop.architectures import (
    ImportedModel,
    checked_config,
    foreign_weights,
    read_weights,
)
from textus.interop.registry import (
    architecture,
    describe,
)
from textus.interop.sentence_transformers import Sentences, read_modules, truncates_left, write_modules
from textus.interop.validate import eos_ids
from textus.models.registry import family as family_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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
        """Record the tensors of a file; the library checks that they fill it without overlap."""
        try:
            file = safe_open(path, framework="pt")
        except FileNotFoundError as error:
            raise RunError(
                "incomplete_model", f"{path} is missing; the index of {self.where} lists it"
            ) from error
        except (SafetensorError, OSError) as error:
            raise RunError(
                "damaged", f"{path} cannot be read ({error}); it is damaged or cut short"
            ) from error
        held = set(file.keys())
        if names is not None and names != held:
            wrong = sorted(names ^ held)
            raise RunError("damaged", f"{path} and the index of {self.where} disagree about {wrong[0]}")
        for name in held:
            self.home[name] = file
            self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.home[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise RunError(
                "unsupported_format",
                f"{self.where}: the tensor {name} holds {tensor.dtype}, which is a quantised format of its own;"
                " import the unquantised model or a GGUF file",
            )
        return tensor.float()


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weights' files, with the tensors that the index lists for each (None without an index)."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: None}
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict) or not table:
            raise RunError("damaged", f"{folder / INDEX} has no weight_map; it was changed or cut short")
        files: dict[Path, set[str] | None] = {}
        for name, file in table.items():
            if not is_plain_name(file):
                raise RunError(
                    "damaged", f"{folder / INDEX} places {name} in {file!r}, which is no file of this folder"
                )
            files.setdefault(folder / file, set()).add(name)  # type: ignore[union-attr]
        return files
    if names := packaging.pickled_weights(folder):
        raise read_pickle(folder, names[0])
    raise packaging.no_weights(folder)


def read_pickle(folder: Path, name: str) -> RunError:
    """The error for a checkpoint that runs a program when it is read."""
    if not (folder / "config.json").is_file():
        return packaging.checkpoint(folder / name)
    hf = read_json(folder / "config.json")
    named = hf.get("architectures") if isinstance(hf, dict) else None
    kind = named[0] if named else "AutoModelForCausalLM"
    return RunError(
        "unsafe_file",
        f"{folder / name} is a pickle, which can run any program when it is read, and is not opened; convert it on"
        f' a machine where that does not matter: python -c "import transformers as t;'
        f" t.{kind}.from_pretrained('{folder}').save_pretrained('CONVERTED')\", then import CONVERTED",
    )


def read_folder(folder: Path) -> ImportedModel:
    """A model of `transformers` in our terms, in float32.

    Raises UsageError for an architecture or a configuration that is not known, RunError for anything missing,
    damaged, left over or of another shape.
    """
    folder = Path(folder)
    packaging.check_pointers(folder)
    if sentences := read_modules(folder):
        return with_pooling(sentences, read_model(sentences.place), folder)
    imported = read_model(folder)
    if imported.family == "encoder" and truncates_left(folder):
        log_notice(
            f"{folder}: its tokenizer cuts a longer text at its start (truncation_side=left), here the end is cut"
        )
    return imported


def with_pooling(sentences: Sentences, imported: ImportedModel, folder: Path) -> ImportedModel:
    """A model with the similarity head that its folder describes."""
    tokenizer = imported.tokenizer
    if sentences.lower and tokenizer is not None and tokenizer.encode("AB") != tokenizer.encode("ab"):
        raise UsageError(
            "unsupported_setting",
            f"{folder}: do_lower_case=true of its sentence_bert_config.json is not supported",
        )
    if tokenizer is not None and (framed := tokenizer.backend.encode("a").ids) != [
        *tokenizer.bos_ids, *tokenizer.encode("a"), tokenizer.end_id
    ]:  # fmt: skip
        raise UsageError(
            "unsupported_tokenizer",
            f"{folder}: its tokenizer makes {framed} of a text; one that begins and ends it with a token is supported",
        )
    head = {"kind": "similarity", "pooling": sentences.pooling, "dense": sentences.dense}
    weights = {f"heads.similarity.{name}": tensor for name, tensor in sentences.weights.items()}
    source = {**imported.source, "prompts": sentences.prompts} if sentences.prompts else imported.source
    settings = {"pooling": sentences.pooling, "longest": sentences.longest, "cut": sentences.cut}
    return replace(
        imported,
        weights=imported.weights | weights,
        source=source,
        heads={"similarity": head},
        task_settings=settings,
    )


def read_model(folder: Path) -> ImportedModel:
    """The model itself; see `read_folder`."""
    packaging.check_folder(folder)
    hf = read_json(folder / "config.json")
    name, where = class_name(hf, folder), f"{folder}/config.json"
    packaging.check_quantized(hf, folder)
    headed = task_heads.split(name)
    module = headed[0] if headed else architecture(name)
    if "auto_map" in hf:
        log_notice(f"{folder}: the code that auto_map names is not run; it is read as a plain {name}")
    tokenizer = read_tokenizer(folder, hf)
    if (
        tokenizer is not None
        and (mask := tokenizer.special.get(tokenizer.roles.get("mask_token", ""))) is not None
    ):
        hf.setdefault("mask_token_id", mask)  # config.json rarely has it
    tensors = SafeTensors(folder)
    if "scale_decoder_outputs" in hf:  # a T5 of transformers 5, which marks every head as tied
        hf["tie_word_embeddings"] = not is_untied(tensors, "lm_head.weight", "shared.weight")
    if headed:
        values = {**checked_config(module, {**hf, "architectures": [headed[1]]}, where), "pooler": False}
    else:
        values = checked_config(module, hf, where)
    config: Any = from_dict(family_of(module.FAMILY)[1], values, "model.")
    if tokenizer is not None:
        tokenizer = check_vocabulary(tokenizer, config.vocab_size, str(folder))
        if family_of(module.FAMILY)[0].capabilities.can_generate:
            tokenizer.add_eos_ids(eos_ids_from_config(folder, hf, tokenizer.vocab_size))
    if headed:
        parts = task_heads.read_head(module, headed[2], hf, tensors)
        parts["weights"] |= read_weights(
            module, config, task_heads.Body(tensors, task_heads.parts(module, headed[2]))
        )
    else:
        parts = {"weights": read_weights(module, config, tensors)}
    files = [folder / "config.json", *tensors.files]
    source = {"format": "huggingface", "architecture": name, "files": {f.name: sha256(f) for f in files}}
    return ImportedModel(module.FAMILY, values, tokenizer=tokenizer, source=source, **parts)


def is_untied(tensors: SafeTensors, first: str, second: str) -> bool:
    """Whether the file holds these two tensors, and they differ."""
    if first not in tensors.shapes or second not in tensors.shapes:
        return False
    return not torch.equal(tensors.read(first), tensors.read(second))


def eos_ids_from_config(folder: Path, hf: dict[str, Any], n_ids: int) -> list[int]:
    """The ids that end a text or a turn: `eos_token_id` of generation_config.json and of config.json."""
    ids = eos_ids(f"{folder}/config.json", [("eos_token_id", hf.get("eos_token_id"))], n_ids)
    path = folder / "generation_config.json"
    if not path.exists():
        return ids
    generation = read_json(path)
    if not isinstance(generation, dict):
        raise RunError("damaged", f"{path} is no object; it was changed or cut short, fetch it again")
    return [*eos_ids(str(path), [("eos_token_id", generation.get("eos_token_id"))], n_ids), *ids]


def class_name(hf: Any, folder: Path) -> str:
    """The model's class, as config.json names it."""
    named = hf.get("architectures") if isinstance(hf, dict) else None
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise RunError(
            "unsupported_architecture",
            f'{folder}/config.json names no architecture; add "architectures": ["LlamaForCausalLM"] or'
            " whatever class it is",
        )
    return named[0]


def read_tokenizer(folder: Path, hf: dict[str, Any]) -> tokenizers.Tokenizer | None:
    """The folder's tokenizer: tokenizer.json, or the files of an older one; None where it has neither."""
    if (folder / "tokenizer.json").exists():
        usual = hf.get("tokenizer_class") or legacy_tokenizers.USUAL.get(str(hf.get("model_type")))
        tokenizer = tokenizers.load(folder, usual)
        named = tokenizers.read_config(folder / "tokenizer.json").get("tokenizer_class") or usual
        if str(named).removesuffix("Fast") == "Qwen2Tokenizer" and not llama.opened_as_qwen2(
            tokenizer.record
        ):
            log_notice(
                f"{folder}: its tokenizer.json does not split texts as a Qwen2Tokenizer does; the file is followed, the"
                " ids of AutoTokenizer may differ"
            )
        return tokenizer
    return legacy_tokenizers.read(folder, hf)


PADDING_SHARE = 0.1
"""Rows of an embedding that may exceed the tokenizer's entries: models round their vocabulary up."""
ROUND, ROUNDED = 64, 512
"""Or fewer than this many, where the rows are a multiple of that."""


def check_vocabulary(tokenizer: tokenizers.Tokenizer, vocab_size: int, where: str) -> tokenizers.Tokenizer:
    """The tokenizer for weights of so many rows; RunError where the two are not of one model.

    Special tokens that were added without a row, as a [PAD] often is, are left out with a notice. Rows beyond the
    tokenizer's vocabulary count in likelihoods and are never sampled (`generation.sampling.mask_unused_ids`).
    """
    n = tokenizer.vocab_size
    few = n >= (1 - PADDING_SHARE) * vocab_size or (vocab_size % ROUND == 0 and vocab_size - n < ROUNDED)
    if (
        n > vocab_size
        and n <= (1 + PADDING_SHARE) * vocab_size
        and (fits := tokenizer.without_ids_from(vocab_size))
    ):
        names = ", ".join(name for name, number in tokenizer.special.items() if number >= vocab_size)
        log_notice(
            f"{where}: the tokenizer has {n:,} entries, the weights {vocab_size:,} rows: {names} can never be read and"
            f" {'is' if n == vocab_size + 1 else 'are'} left out"
        )
        return fits
    if n > vocab_size or not few:
        raise RunError(
            "weights_mismatch",
            f"{where}: the tokenizer has {n:,} entries, the weights are for {vocab_size:,}; they are not of one model",
        )
    if n < vocab_size:
        log_notice(
            f"{where}: {vocab_size - n:,} of its {vocab_size:,} rows have no token; they can never be chosen"
        )
    return tokenizer


def write_folder(
    out: Path, family: str, config: Any, weights: dict[str, Tensor], tokenizer: tokenizers.Tokenizer | None
) -> str:
    """Write a folder that `transformers` loads; returns its class name. UsageError where it cannot hold the
    model.
    """
    module, hf = describe(family, config)
    tensors = foreign_weights(module, config, weights)
    if (
        tokenizer is not None
        and hf["architectures"] == ["Qwen2ForCausalLM"]
        and not llama.opened_as_qwen2(tokenizer.record)
    ):
        hf, zeros = llama.as_llama(hf, config)
        tensors |= zeros
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(out)
        finish_tokenizer(out, family, config, tokenizer)
        hf = {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id, **hf}
        if family_of(family)[0].capabilities.can_generate:
            write_json(out / "generation_config.json", generation_config(tokenizer, hf))
    write_json(out / "config.json", {**hf, "dtype": "float32"})
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    return str(hf["architectures"][0])


def write_head(
    out: Path, model: Any, tokenizer: tokenizers.Tokenizer, spec: dict[str, Any], task: Headed
) -> str:
    """Write an encoder with its one head for `transformers`; returns its class name. UsageError where no class holds
    them, and why.
    """
    config = model.config
    body, hf = task_heads.describe_head(config, spec, task.labels, argmax=task.argmax)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    finish_tokenizer(out, "encoder", config, tokenizer)
    frame_tokenizer(out, tokenizer, longest=task.longest)
    write_json(out / "config.json", {"eos_token_id": tokenizer.end_id, **hf, "dtype": "float32"})
    tensors = task_heads.head_weights(body, config, model.state_dict(), task.name, spec["kind"])
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    return str(hf["architectures"][0])


def write_sentences(
    out: Path, model: Any, tokenizer: tokenizers.Tokenizer, spec: dict[str, Any], task: Headed
) -> str:
    """Write an encoder with what makes vectors of its states, as sentence-transformers reads it; returns its class
    name.
    """
    weights = model.state_dict()
    name = write_folder(out, "encoder", model.config, weights, tokenizer)
    frame_tokenizer(out, tokenizer, longest=task.longest)
    path = out / "tokenizer_config.json"
    write_json(path, {**read_json(path), "truncation_side": "left" if task.cut == "start" else "right"})
    first = f"heads.{task.name}."
    own = {key.removeprefix(first): tensor for key, tensor in weights.items() if key.startswith(first)}
    write_modules(out, spec, own, model.config.d_model)
    return name


@dataclass(frozen=True)
class Headed:
    """The task of a head that is exported: its name, its labels, ids of a text that are read (0: all), whether a CRF
    may be left out, and which end of a longer text is not read.
    """

    name: str
    labels: list[str]
    longest: int = 0
    argmax: bool = False
    cut: str = "end"


def frame_tokenizer(out: Path, tokenizer: tokenizers.Tokenizer, *, longest: int) -> None:
    """Let an exported tokenizer set around texts what a task's rows have around them here, and cut them as long."""
    names = {number: name for name, number in tokenizer.special.items()}
    begin = [names[number] for number in tokenizer.bos_ids or [tokenizer.end_id]]
    end = names[tokenizer.end_id]
    backend = Backend.from_str(tokenizer.backend.to_str())
    first = " ".join([*begin, "$A", end])
    backend.post_processor = TemplateProcessing(
        single=first, pair=" ".join([first, *[end] * (tokenizer.n_pair_separators - 1), f"$B:1 {end}:1"]),
        special_tokens=[(name, tokenizer.special[name]) for name in dict.fromkeys([*begin, end])],
    )  # fmt: skip
    write_atomic(out / "tokenizer.json", backend.to_str(pretty=True))
    path = out / "tokenizer_config.json"
    settings = read_json(path)
    length = min(settings["model_max_length"], longest or settings["model_max_length"])
    changed = fingerprint(json.loads(backend.to_str()))
    write_json(path, {**settings, "textus_fingerprint": changed, "model_max_length": length})


def finish_tokenizer(out: Path, family: str, config: Any, tokenizer: tokenizers.Tokenizer) -> None:
    """What `transformers` takes from the tokenizer and we from the model: the end of a source, the mask's name."""
    names = {number: name for name, number in tokenizer.special.items()}
    path = out / "tokenizer_config.json"
    if family == "encoder-decoder" and tokenizer.backend.encode("a").ids[-1:] != [tokenizer.end_id]:
        end = names[tokenizer.end_id]
        backend = Backend.from_str(tokenizer.backend.to_str())
        backend.post_processor = TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.end_id)]
        )
        write_atomic(out / "tokenizer.json", backend.to_str(pretty=True))
        changed = fingerprint(json.loads(backend.to_str()))
        write_json(path, {**read_json(path), "textus_fingerprint": changed})
    segments = ["token_type_ids"] if getattr(config, "segments", 0) > 1 else []
    more = {
        "model_max_length": config.context_length,  # or texts are never cut, and the model fails
        "model_input_names": ["input_ids", *segments, "attention_mask"],
    }
    if family == "encoder" and config.mask_id in names:
        more["mask_token"] = names[config.mask_id]
    write_json(path, {**read_json(path), **more})


def generation_config(tokenizer: tokenizers.Tokenizer, hf: dict[str, Any]) -> dict[str, Any]:
    """Which ids begin and end a text, or a turn of a conversation; generating reads these, not config.json."""
    ended = tokenizer.end_ids if tokenizer.chat_template is None else tokenizer.turn_end_ids
    eos = list(dict.fromkeys([hf["eos_token_id"], *ended]))
    start = {name: hf[name] for name in ("decoder_start_token_id",) if name in hf}
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos,
        "pad_token_id": hf["pad_token_id"],
        **start,
    }
