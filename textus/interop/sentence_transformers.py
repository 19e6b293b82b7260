"""Folders of sentence-transformers: modules.json describes how a text's states become its vector.

Read are a Transformer, then Pooling, then Dense, Dropout and Normalize; what else there may be is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import read_json, write_json
from textus.interop import packaging
from textus.interop.validate import CONTEXT, finite, unsupported
from textus.models.nn.heads import DENSE_ACTIVATIONS

MODES = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len", "pooling_mode_lasttoken": "last",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # fmt: skip
"""Switches of a Pooling module → `pooling` of the head."""
NAMES = {name.removeprefix("pooling_mode_").removesuffix("_tokens"): ours for name, ours in MODES.items()}
"""Names of `pooling_mode` of newer folders."""
KNOWN = ("Transformer", "Pooling", "Dense", "Dropout", "Normalize")


@dataclass
class Sentences:
    """How a folder makes vectors: the folder of its model, the head and the head's weights."""

    place: Path
    pooling: str = "mean"
    dense: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    longest: int = 0
    """Ids of a text that are read; 0: as many as the context holds."""
    cut: str = "end"
    """Which end of a longer text is not read."""
    lower: bool = False
    prompts: dict[str, str] = field(default_factory=dict)


def read_modules(folder: Path) -> Sentences | None:
    """The modules.json of a folder; None if it has none.

    Raises UsageError for a module or a setting that is not known, RunError for what is missing or damaged.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    listed = read_json(path)
    if not isinstance(listed, list) or not all(
        isinstance(module, dict) and "type" in module for module in listed
    ):
        raise RunError("damaged", f"{path} is no list of modules; it was changed, fetch it again")
    modules = [
        (str(module["type"]).rsplit(".", 1)[-1], folder / str(module.get("path", ""))) for module in listed
    ]
    if odd := [name for name, _ in modules if name not in KNOWN]:
        raise UsageError("unsupported_setting", f"{path}: {unsupported('the module', odd[0], KNOWN)}")
    if [name for name, _ in modules[:2]] != ["Transformer", "Pooling"] or any(
        name in KNOWN[:2] for name, _ in modules[2:]
    ):
        raise UsageError(
            "unsupported_setting",
            f"{path} lists {', '.join(name for name, _ in modules)}; known is Transformer, Pooling, then others",
        )
    sentences = Sentences(modules[0][1])
    for name, place in modules:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise RunError("damaged", f"{path} places a module outside of the folder ({place})")
        if name == "Normalize" and (name, place) != modules[-1]:
            raise UsageError(
                "unsupported_setting",
                f"{path} has a Normalize that is not the last module; only there it is known",
            )
        reading = {"Transformer": read_transformer, "Pooling": read_pooling, "Dense": read_dense}.get(name)
        if reading:
            reading(sentences, place)
    if modules[-1][0] != "Normalize":
        log_notice(
            f"{folder}: its vectors have any length there, here length one; cosines are the same, dot products not"
        )
    read_prompts(sentences, folder)
    return sentences


def read_transformer(sentences: Sentences, place: Path) -> None:
    """`max_seq_length` and `do_lower_case` of sentence_bert_config.json (older names of it begin otherwise); without
    the first, the tokenizer's `model_max_length`, as in sentence-transformers. And where the tokenizer cuts.
    """
    for path in sorted(place.glob("sentence_*_config.json")):
        config = read_settings(path)
        longest = config.get("max_seq_length")
        if longest is not None and (type(longest) is not int or longest < 3):
            raise RunError(
                "damaged", f"{path}: max_seq_length={longest!r} must be a whole number above 2; correct it"
            )
        sentences.longest, sentences.lower = longest or 0, bool(config.get("do_lower_case"))
    path = place / "tokenizer_config.json"
    config = read_settings(path) if path.is_file() else {}
    most: Any = config.get("model_max_length")
    if not sentences.longest and type(most) in (int, float) and 3 <= most <= CONTEXT:  # others are "no limit"
        sentences.longest = int(most)
    if truncates_left(place):
        sentences.cut = "start"


def truncates_left(place: Path) -> bool:
    """Whether a tokenizer truncates longer texts on the left, by its settings or its file."""
    for name in ("tokenizer_config.json", "tokenizer.json"):
        config = read_settings(place / name) if (place / name).is_file() else {}
        truncation = config.get("truncation")
        side = truncation.get("direction") if isinstance(truncation, dict) else config.get("truncation_side")
        if side is not None:
            return str(side).lower() == "left"
    return False


def read_pooling(sentences: Sentences, place: Path) -> None:
    """Which of a text's states are its vector."""
    path = place / "config.json"
    config = read_settings(path)
    modes = [ours for name, ours in MODES.items() if config.get(name)]
    if (mode := config.get("pooling_mode")) is not None:
        modes = [NAMES.get(str(name), str(name)) for name in (mode if isinstance(mode, list) else [mode])]
    odd = [key for key in config if key.startswith("pooling_mode_") and key not in MODES and config[key]]
    if odd or len(modes) != 1 or modes[0] not in ("cls", "mean", "max", "mean_sqrt_len", "last"):
        shown = " and ".join([*modes, *odd]) or "none"
        raise UsageError(
            "unsupported_setting",
            f"{path}: pooling by {shown} is not supported; one of cls, mean, max, mean_sqrt_len, lasttoken is",
        )
    sentences.pooling = modes[0]


def read_dense(sentences: Sentences, place: Path) -> None:
    """A linear map of the vector, and what follows it."""
    config = read_settings(place / "config.json")
    name = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if name not in DENSE_ACTIVATIONS:
        raise UsageError(
            "unsupported_setting",
            f"{place}/config.json: {unsupported('the activation_function', name, DENSE_ACTIVATIONS)}",
        )
    file = place / "model.safetensors"
    if not file.is_file():
        if names := packaging.pickled_weights(place):
            raise RunError(
                "unsafe_file",
                f"{place / names[0]} is a pickle, which can run any program when it is read, and is not opened; save"
                " the model again with sentence-transformers 2.3 or later (SentenceTransformer(PATH).save)",
            )
        raise RunError("incomplete_model", f"{place} has no model.safetensors; fetch it")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError("damaged", f"{file} cannot be read ({error}); fetch it again") from error
    bias, shape = bool(config.get("bias", True)), (config.get("out_features"), config.get("in_features"))
    if set(tensors) != ({"linear.weight", "linear.bias"} if bias else {"linear.weight"}) or (
        tuple(tensors["linear.weight"].shape) != shape
    ):
        raise RunError(
            "weights_mismatch", f"{file} and {place}/config.json are not of one layer; fetch both again"
        )
    number = len(sentences.dense)
    sentences.dense.append({"out": shape[0], "bias": bias, "activation": name})
    for key, tensor in tensors.items():
        sentences.weights[f"dense.{number}.{key.removeprefix('linear.')}"] = finite(
            tensor.float(), str(file), key
        )


def read_prompts(sentences: Sentences, folder: Path) -> None:
    """Texts that are to be set before others: reported, for no command here adds them."""
    path = folder / "config_sentence_transformers.json"
    config = read_settings(path) if path.is_file() else {}
    prompts = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text}
    if not prompts:
        return
    sentences.prompts = prompts
    default = config.get("default_prompt_name")
    first = f" (there {default!r} is set before every text)" if default in prompts else ""
    listed = ", ".join(f"{name}: {text!r}" for name, text in prompts.items())
    log_notice(
        f"{folder}: it was trained with prompts before texts, which are not added here{first}: {listed}"
    )


def read_settings(path: Path) -> dict[str, Any]:
    """An object in a file of JSON; RunError for anything else."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise RunError("damaged", f"{path} holds no object; it was changed, fetch it again")
    return config


# ── out ────────────────────────────────────────────────────────────────────────────────────────


def write_modules(out: Path, spec: dict[str, Any], weights: dict[str, Tensor], width: int) -> None:
    """Write modules.json and its modules next to an exported encoder: Pooling, Dense layers, Normalize."""
    dense = [f"{number}_Dense" for number in range(2, 2 + len(spec.get("dense") or []))]
    places = ["", "1_Pooling", *dense, f"{2 + len(dense)}_Normalize"]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": place,
            "type": f"sentence_transformers.models.{place.partition('_')[2] or 'Transformer'}",
        }
        for number, place in enumerate(places)
    ]
    write_json(out / "modules.json", modules)
    for place in places[1:]:
        (out / place).mkdir()
    modes = {name: ours == spec["pooling"] for name, ours in MODES.items()}
    write_json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    for number, (place, layer) in enumerate(zip(dense, spec.get("dense") or [], strict=True)):
        first = f"dense.{number}."
        tensors = {
            f"linear.{key.removeprefix(first)}": tensor.contiguous()
            for key, tensor in weights.items()
            if key.startswith(first)
        }
        save_file(tensors, out / place / "model.safetensors", metadata={"format": "pt"})
        function = DENSE_ACTIVATIONS[layer["activation"]]
        size = {"in_features": tensors["linear.weight"].shape[1], "out_features": layer["out"]}
        name = f"{function.__module__}.{function.__name__}"
        write_json(out / place / "config.json", {**size, "bias": layer["bias"], "activation_function": name})
