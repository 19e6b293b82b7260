"""What folders and files of elsewhere are, with the remedy; runs that appear whole or not at all (M16, M17, R10)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from raising import raises
from safetensors.torch import save_file

from textus.api import import_model
from textus.cli.main import main
from textus.core.errors import RunError, TextusError
from textus.interop.folder import read_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"


def llama(folder: Path, **values: Any) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def refused(source: Path, *parts: str) -> str:
    with pytest.raises(TextusError) as caught:
        import_model(source, out=source.parent / "never")
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert not (source.parent / "never").exists()
    return message


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ (4 bits)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ (4 bits)"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes (8 bits)"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes (4 bits)"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX (4 bits)"),
    ],
)  # fmt: skip
def test_quantized_folders_are_named(values: dict[str, Any], name: str, tmp_path: Path) -> None:
    """M16: they ended in a word about tensors."""
    refused(llama(tmp_path / "m", **values), f"is quantized by {name}", "a GGUF file")


def test_settings_of_a_quantizer_next_to_the_model_name_it(tmp_path: Path) -> None:
    """M16: the first GPTQ folders say so in a file of their own."""
    (llama(tmp_path / "m") / "quantize_config.json").write_text('{"bits": 4}')
    refused(tmp_path / "m", "is quantized by GPTQ")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer.model", "config.json"])
def test_pointers_of_git_lfs_are_named(name: str, tmp_path: Path) -> None:
    """M16: a repository that was cloned without its large files."""
    (llama(tmp_path / "m") / name).write_text(POINTER)
    refused(tmp_path / "m", name, "a pointer of Git LFS", "lfs pull")
    (tmp_path / "x.gguf").write_text(POINTER)
    refused(tmp_path / "x.gguf", "x.gguf: a pointer of Git LFS")


def test_adapters_without_their_model_are_named(tmp_path: Path) -> None:
    """M16."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/base", "peft_type": "LORA"}'
    )
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    refused(folder, "holds PEFT adapters of org/base", "merge_and_unload")


def test_checkpoints_of_pytorch_are_named_and_never_opened(tmp_path: Path) -> None:
    """M16: nanoGPT's ckpt.pt got advice that cannot work; nothing is unpickled."""
    folder = tmp_path / "out"
    folder.mkdir()
    state = {"transformer.wte.weight": torch.zeros(2, 2)}
    torch.save({"model": state, "model_args": {"n_layer": 1}, "iter_num": 5}, folder / "ckpt.pt")
    for source in (folder, folder / "ckpt.pt"):
        refused(source, "ckpt.pt is a checkpoint of nanoGPT", "GPT2LMHeadModel")
    torch.save({"weights": state}, folder / "ckpt.pt")
    message = refused(folder, "ckpt.pt is a checkpoint of PyTorch", "not opened")
    assert "nanoGPT" not in message


@pytest.mark.parametrize(
    ("files", "part"),
    [
        (["tf_model.h5"], "for TensorFlow only (tf_model.h5)"),
        (["flax_model.msgpack"], "for Flax only"),
        (["model.onnx"], "for ONNX only"),
        (["pytorch_model.bin"], "from_pretrained("),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "from_pretrained("),
        ([], "has neither model.safetensors nor"),
    ],
)
def test_folders_without_safetensors_show_what_they_hold(files: list[str], part: str, tmp_path: Path) -> None:
    """M16: .bin-only folders and those of other programs."""
    (llama(tmp_path / "m") / "model.safetensors").unlink()
    for name in files:
        (tmp_path / "m" / name).write_bytes(b"PK\x03\x04 something")
    refused(tmp_path / "m", part)


def test_other_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    refused(folder, "has no config.json")
    (folder / "x.gguf").write_bytes(b"GGUF")
    refused(folder, "holds GGUF files", f"textus import {folder}/x.gguf")
    (folder / "x.gguf").unlink()
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.00.pth").write_bytes(b"PK\x03\x04")
    refused(folder, "Llama in the format of its authors")


# ── given where a run is expected ──────────────────────────────────────────────────────────────

COMMANDS = [
    ["generate", "RUN", "x"], ["show", "RUN"], ["evaluate", "RUN", "--on", "TEXT"], ["export", "RUN", "--out", "OUT"],
    ["finetune", "TEXT", "--from", "RUN", "--task", "classification", "--out", "OUT"], ["serve", "RUN"],
    ["embed", "RUN", "TEXT", "--out", "OUT"], ["predict", "RUN", "x"], ["resume", "RUN"], ["verify", "RUN"],
    ["index", "build", "TEXT", "--run", "RUN", "--out", "OUT"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
def test_a_model_of_elsewhere_is_no_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """M17: they advised to train a corpus into that folder."""
    rows = [json.dumps({"text": f"text {n}", "label": "xy"[n % 2]}) for n in range(100)]
    (tmp_path / "text.jsonl").write_text("\n".join(rows))
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(60))
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    for source, what in ((folder, "a Hugging Face folder"), (tmp_path / "m.gguf", "a GGUF file")):
        places = {"RUN": str(source), "TEXT": str(tmp_path / "text.jsonl"), "OUT": str(tmp_path / "out")}
        assert main([places.get(word, word) for word in words]) != 0
        message = capsys.readouterr().err
        assert f"{source} is {what}, not a run; make one of it: textus import {source} --out RUN" in message


# ── whole or not at all ────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Robustness", "An import that is killed leaves nothing to see; `pull` runs no foreign code"
)
def test_a_killed_import_leaves_nothing_to_see(tmp_path: Path, exported: Path) -> None:
    """R10: it left a folder that was no run and could not become one."""
    killing = textwrap.dedent(f"""
        import os, signal
        from textus.runs import store
        from textus.api.exchange import import_run
        from pathlib import Path
        store.save_file = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        import_run(Path({str(exported)!r}), Path({str(tmp_path / "run")!r}))
    """)
    done = subprocess.run([sys.executable, "-c", killing], capture_output=True, env={**os.environ})
    assert done.returncode == -9, done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_an_import_onto_a_full_disk_leaves_nothing(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10: the system's own error for it, raised where the weights are written."""
    from textus.runs import store

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with raises(RunError, "disk_full"):
        import_model(exported, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "hf"
    assert main(["export", str(trained), "--to", "hf", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_tokenizer_that_never_ends_is_refused(kind: str, tmp_path: Path) -> None:
    """R20: a FIFO or /dev/zero as tokenizer.json blocked for ever."""
    file = llama(tmp_path / "m") / "tokenizer.json"
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    with raises(TextusError, "not_a_regular_file"):
        read_folder(tmp_path / "m")
