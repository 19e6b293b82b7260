"""What a folder or file of elsewhere is, where it is none that can be read: named, with the way to one that can."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from textus.core.errors import RunError
from textus.core.io import read_json

GGUF = b"GGUF"
LFS = b"version https://git-lfs.github.com/spec/"
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of `torch.save` and `pickle.dump` begin."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
OTHER_WEIGHTS = {
    "*.h5": "TensorFlow", "*.msgpack": "Flax", "*.onnx": "ONNX", "onnx/*.onnx": "ONNX", "*.tflite": "TFLite",
    "*.mlmodel": "Core ML",
}  # fmt: skip
"""Files of weights that no part of this package reads → the program they are of."""
QUANTIZED = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8", "mxfp4": "MXFP4",
    "compressed-tensors": "compressed-tensors", "hqq": "HQQ", "aqlm": "AQLM", "quanto": "Quanto", "eetq": "EETQ",
    "torchao": "torchao",
}  # fmt: skip
"""`quant_method` of config.json → how it is written."""
QUANTIZATION_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
"""Files that older quantized folders have next to config.json."""


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file; none for what is no regular file, such as a pipe, which could block."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(64)


def package_kind(path: Path) -> str | None:
    """A description of a path that is no run but that `import` knows; else None."""
    if path.is_dir():
        if (path / "config.json").is_file() or (path / "modules.json").is_file():
            return "a Hugging Face folder"
        if (path / "adapter_config.json").is_file():
            return "a folder of PEFT adapters"
        if any(path.glob("*.gguf")):
            return "a folder with a GGUF file"
        return "a folder of PyTorch checkpoints" if pickled_weights(path) else None
    first = first_bytes(path)
    if first.startswith(GGUF):
        return "a GGUF file"
    if first.startswith(PICKLE_STARTS):
        return "a PyTorch checkpoint"
    return "a safetensors file" if first[8:9] == b"{" else None


def pickled_weights(folder: Path) -> list[str]:
    """Names of the pickled checkpoints in a folder."""
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def check_folder(folder: Path) -> None:
    """RunError for a folder that is no model of `transformers`: what it is instead, and what to do with it."""
    check_pointers(folder)
    if (folder / "config.json").is_file():
        return
    if (folder / "run.json").is_file():
        raise RunError("unsupported_format", f"{folder} is a run already; use it as it is")
    if (folder / "adapter_config.json").is_file():
        raise adapters(folder)
    if files := sorted(folder.glob("*.gguf")):
        raise RunError(
            "unsupported_format",
            f"{folder} holds GGUF files; give one of them: textus import {files[0]} --out RUN",
        )
    if (folder / "params.json").is_file() and list(folder.glob("consolidated.*")):
        raise RunError(
            "unsupported_format",
            f"{folder} is a Llama in the format of its authors (params.json, consolidated.*); take the folder of the"
            " same model in the format of transformers",
        )
    if names := pickled_weights(folder):
        raise checkpoint(folder / names[0])
    raise RunError(
        "incomplete_model",
        f"{folder} has no config.json; a Hugging Face folder holds config.json and model.safetensors",
    )


def check_pointers(folder: Path) -> None:
    """RunError where files of the folder are pointers of Git LFS: the repository was cloned without its large files."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.stat().st_size < 1024]
    if names := [file.name for file in files if first_bytes(file).startswith(LFS)]:
        raise lfs_pointer(folder, names)


def lfs_pointer(folder: Path, names: list[str]) -> RunError:
    """The error for files that are only pointers to themselves."""
    more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
    return RunError(
        "incomplete_model",
        f"{folder / names[0]}{more}: a pointer of Git LFS, not the file itself; fetch it with"
        f" `git -C {folder} lfs pull`, or download it again",
    )


def adapters(folder: Path) -> RunError:
    """The error for adapters without their model."""
    config = read_json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    of = f" of {base}" if base else ""
    return RunError(
        "unsupported_format",
        f'{folder} holds PEFT adapters{of}, not a model; add them to its weights first: python -c "import peft;'
        f" peft.AutoPeftModelForCausalLM.from_pretrained('{folder}').merge_and_unload().save_pretrained('MERGED')\","
        " copy the tokenizer of the model into MERGED, then import MERGED",
    )


def checkpoint(path: Path) -> RunError:
    """The error for a pickled checkpoint without a config.json."""
    if is_nanogpt(path):
        return RunError(
            "unsafe_file",
            f"{path} is a checkpoint of nanoGPT, a pickle, which can run any program when it is read, and is not"
            " opened; in nanoGPT copy its weights into a transformers.GPT2LMHeadModel (its from_pretrained does the"
            " reverse),"
            " save_pretrained('CONVERTED') with a tokenizer, then import CONVERTED",
        )
    return RunError(
        "unsafe_file",
        f"{path} is a checkpoint of PyTorch, a pickle, which can run any program when it is read, and is not opened; it"
        " has no config.json, so convert it with the program that wrote it: save_pretrained('CONVERTED') of"
        " transformers, then import CONVERTED",
    )


def is_nanogpt(path: Path) -> bool:
    """Whether the names inside a checkpoint are those nanoGPT writes; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as opened:
            name = next(name for name in opened.namelist() if name.endswith("data.pkl"))
            with opened.open(name) as file:
                names = file.read(1 << 20)
    except (OSError, zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError):
        return False
    return b"model_args" in names and b"transformer.wte" in names


def check_quantized(hf: dict[str, Any], folder: Path) -> None:
    """RunError for a model whose weights are packed in a quantized format of its own, by its name."""
    quantization = hf.get("quantization_config") or hf.get("compression_config") or hf.get("quantization")
    name = None
    if isinstance(quantization, dict) and quantization:
        method = quantization.get("quant_method")
        if method is None and (quantization.get("load_in_8bit") or quantization.get("load_in_4bit")):
            method = "bitsandbytes"
        if method is None and "group_size" in quantization and "quantization" in hf:
            method = "MLX"
        name = QUANTIZED.get(str(method).lower(), str(method or "a method it does not name"))
        bits = (
            quantization.get("bits")
            or (quantization.get("load_in_8bit") and 8)
            or (quantization.get("load_in_4bit") and 4)
        )
        name += f" ({bits} bits)" if bits else ""
    elif quantization:
        name = "a method it does not name"
    listed = next((kind for file, kind in QUANTIZATION_FILES.items() if (folder / file).is_file()), None)
    if name := name or listed:
        raise RunError(
            "unsupported_format",
            f"{folder} is quantized by {name}, which is not read; import the model it was made of, or a GGUF file",
        )


def no_weights(folder: Path) -> RunError:
    """The error for a folder with a configuration and no safetensors."""
    for pattern, program in OTHER_WEIGHTS.items():
        if files := sorted(folder.glob(pattern)):
            return RunError(
                "unsupported_format",
                f"{folder} has its weights for {program} only ({files[0].name}), which is not read; take"
                " model.safetensors of the same model, or convert it with transformers' save_pretrained",
            )
    return RunError(
        "incomplete_model",
        f"{folder} has neither model.safetensors nor model.safetensors.index.json;"
        " give a folder with a model's weights",
    )
