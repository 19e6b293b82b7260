"""Folders of sentence-transformers: pooling, Dense, normalization and length are those of modules.json (M2).

The oracle is the model and the tokenizer of `transformers`, pooled here by the definitions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from raising import raises
from safetensors.torch import load_file, save_file

from textus.api import Run, export, finetune, import_model, open_run
from textus.cli.main import main
from textus.core.errors import TextusError
from textus.pipelines.search_index import Index

TEXTS = ["a cat sat", "the dog, it ran away", "x", "a " * 40 + "cat"]
SWITCHES = {
    "cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens", "last": "pooling_mode_lasttoken",
}  # fmt: skip


def folder_of(folder: Path, pooling: dict[str, Any], *more: str, place: str = "", **settings: Any) -> Path:
    """A small random BERT with its tokenizer, and the modules after it."""
    at = folder / place
    at.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz,."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (at / "vocab.txt").write_text("\n".join(pieces) + "\n")
    transformers.BertTokenizer(str(at / "vocab.txt")).save_pretrained(at)
    (at / "vocab.txt").unlink()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = transformers.BertModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    model.save_pretrained(at)
    if settings:
        (at / "sentence_bert_config.json").write_text(json.dumps(settings))
    names = [
        ("Transformer", place),
        ("Pooling", "1_Pooling"),
        *((name, f"{n}_{name}") for n, name in enumerate(more, 2)),
    ]
    kind = "sentence_transformers.models."
    modules = [
        {"idx": n, "name": str(n), "path": at, "type": kind + name} for n, (name, at) in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    for name, path in names:
        if name == "Dense":
            dense(folder / path)
    return folder


def dense(place: Path, activation: str = "Tanh") -> None:
    place.mkdir()
    function = f"torch.nn.modules.activation.{activation}"
    settings = {"in_features": 32, "out_features": 24, "bias": True, "activation_function": function}
    (place / "config.json").write_text(json.dumps(settings))
    generator = torch.Generator().manual_seed(1)
    tensors = {"linear.weight": torch.randn(24, 32, generator=generator), "linear.bias": torch.ones(24)}
    save_file(tensors, place / "model.safetensors")


def states(folder: Path, text: str, longest: int = 512) -> torch.Tensor:
    """The last states (T, D) of `transformers`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder).eval()(**encoded).last_hidden_state
    return hidden[0]


POOLED = {
    "cls": lambda h: h[0], "mean": lambda h: h.mean(0), "max": lambda h: h.amax(0), "last": lambda h: h[-1],
    "mean_sqrt_len": lambda h: h.sum(0) / len(h) ** 0.5,
}  # fmt: skip


def imported(folder: Path) -> Run:
    return import_model(folder, out=folder.parent / "run")


def unit(vector: torch.Tensor) -> np.ndarray:
    return (vector / vector.norm()).numpy()


@pytest.mark.promise(
    "Robustness", "Vectors of a sentence-transformers folder are pooled by its configuration"
)
@pytest.mark.parametrize("mode", SWITCHES)
def test_vectors_are_pooled_as_the_folder_requires(mode: str, tmp_path: Path) -> None:
    """M2: BGE, GTE, arctic and mxbai take the first state; the mean of all was taken for every folder."""
    other = {name: mode == ours for ours, name in SWITCHES.items()}
    folder = folder_of(tmp_path / "m", other, "Normalize")
    result = imported(folder).embed(TEXTS)
    for vector, text in zip(result, TEXTS, strict=True):
        np.testing.assert_allclose(vector, unit(POOLED[mode](states(folder, text))), atol=2e-5)


@pytest.mark.parametrize("mode", ["cls", ["mean"]])
def test_the_newer_name_of_the_mode_is_read(mode: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"pooling_mode": mode}, "Normalize")
    named = mode if isinstance(mode, str) else mode[0]
    np.testing.assert_allclose(
        imported(folder).embed(["a cat"])[0], unit(POOLED[named](states(folder, "a cat"))), atol=2e-5
    )


def test_dense_length_and_place_are_read(tmp_path: Path) -> None:
    """M2: a Dense module was dropped, as was the length."""
    pooling = {SWITCHES["cls"]: True}
    folder = folder_of(
        tmp_path / "m", pooling, "Dense", "Normalize", place="0_Transformer", max_seq_length=16
    )
    run = imported(folder)
    from safetensors.torch import load_file

    tensors = load_file(folder / "2_Dense" / "model.safetensors")
    for vector, text in zip(run.embed(TEXTS), TEXTS, strict=True):
        pooled = states(folder / "0_Transformer", text, 16)[0]
        expected = torch.tanh(tensors["linear.weight"] @ pooled + tensors["linear.bias"])
        np.testing.assert_allclose(vector, unit(expected), atol=2e-5)
    assert run.record["heads"]["similarity"]["pooling"] == "cls"
    assert run.record["task_settings"]["longest"] == 16


def test_every_command_takes_the_folders_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """M2: `embed`, `index` and `similarity` alike, from run.json alone; and a run to fine-tune from."""
    folder = folder_of(tmp_path / "m", {SWITCHES["cls"]: True}, "Normalize")
    run = open_run(imported(folder).path)
    right = np.stack([unit(states(folder, text)[0]) for text in TEXTS])
    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n")
    assert main(["embed", str(run.path), str(tmp_path / "t.txt"), "--out", str(tmp_path / "v.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), right, atol=2e-5)
    words = [
        "index",
        "build",
        str(tmp_path / "t.txt"),
        "--run",
        str(run.path),
        "--out",
        str(tmp_path / "index"),
    ]
    assert main(words) == 0
    ((number, score),) = Index(tmp_path / "index").search(["the dog, it ran away"], k=1)[0]
    assert (number, round(score, 4)) == (1, 1.0)
    (answer,) = run.predict([(TEXTS[0], TEXTS[1])])
    assert float(right[0] @ right[1]) < 0.999
    assert answer["score"] == pytest.approx(float(right[0] @ right[1]), abs=1e-4)
    rows = "\n".join(json.dumps({"text": f"a cat {n}", "label": "xy"[n % 2]}) for n in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    tuned = finetune(
        tmp_path / "rows.jsonl", out=tmp_path / "tuned", init_from=run.path, overrides=["train.steps=2"]
    )
    assert tuned.tasks == ["classification"]


def test_prompts_and_lengths_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """M2: prompts are not added by any command, so each is named; vectors are made length one."""
    folder = folder_of(tmp_path / "m", {SWITCHES["mean"]: True})
    settings = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    run = imported(folder)
    err = capsys.readouterr().err
    assert "not added here (there 'query' is set before every text): query: 'query: '" in err
    assert "here length one" in err
    assert run.record["imported"]["prompts"] == {"query": "query: "}


@pytest.mark.parametrize(
    ("pooling", "more", "part"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, [], ("unsupported_setting", "weightedmean")),
        ({SWITCHES["cls"]: True, SWITCHES["mean"]: True}, [], ("unsupported_setting",)),
        ({"pooling_mode_new_tokens": True}, [], ("unsupported_setting", "pooling_mode_new_tokens")),
        ({SWITCHES["cls"]: True}, ["LSTM"], ("unsupported_setting", "'LSTM'")),
        ({SWITCHES["cls"]: True}, ["Normalize", "Dense"], ("unsupported_setting",)),
    ],
)
def test_what_is_not_known_is_refused(
    pooling: dict[str, Any], more: list[str], part: tuple[str, ...], tmp_path: Path
) -> None:
    """M2: unknown modules and modes are named."""
    with raises(TextusError, *part):
        imported(folder_of(tmp_path / "m", pooling, *more))


def test_a_dense_module_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {SWITCHES["cls"]: True}, "Dense")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with raises(TextusError, "unsafe_file", "2_Dense/pytorch_model.bin"):
        imported(folder)
    for path in (folder / "2_Dense").iterdir():
        path.unlink()
    (folder / "2_Dense").rmdir()
    dense(folder / "2_Dense", "Softmax")
    with raises(TextusError, "unsupported_setting", "'Softmax'"):
        imported(folder)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("longest", [{}, {"max_seq_length": 24}])
def test_texts_are_cut_where_and_as_the_tokenizer_requires(
    side: str, longest: dict[str, Any], tmp_path: Path
) -> None:
    """model_max_length of a folder without sentence_bert_config.json, and truncation_side, were passed over."""
    folder = folder_of(tmp_path / "m", {"pooling_mode_lasttoken": True}, "Normalize", **longest)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "truncation_side": side, "model_max_length": 10}
    path.write_text(json.dumps(settings))
    text = "the dog, " * 9 + "it ran away and the cat sat on a mat"
    expected = unit(states(folder, text, longest.get("max_seq_length", 10))[-1])
    np.testing.assert_allclose(imported(folder).embed(text), expected, atol=1e-5)


def test_a_plain_encoder_reports_that_it_cuts_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "m", {"pooling_mode_mean_tokens": True})
    (folder / "modules.json").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation_side": "left"}))
    imported(folder)
    assert "truncation_side=left" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("Dense",)])
@pytest.mark.parametrize("mode", ["cls", "max"])
def test_an_exported_sentence_model_gives_the_same_vectors(
    mode: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    """The export had no modules.json: imported again, its pooling was the mean."""
    pooling = {name: mode == ours for ours, name in SWITCHES.items()}
    run = imported(folder_of(tmp_path / "m", pooling, *more, "Normalize", max_seq_length=20))
    export(tmp_path / "run", out=tmp_path / "out")
    again = import_model(tmp_path / "out", out=tmp_path / "again")
    np.testing.assert_allclose(again.embed(TEXTS), run.embed(TEXTS), atol=1e-6)
    if not more:
        for text, vector in zip(TEXTS, again.embed(TEXTS), strict=True):
            expected = POOLED[mode](states(tmp_path / "out", text, 20))
            np.testing.assert_allclose(vector, unit(expected), atol=1e-5)


# ── numbers that are none ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float, tmp_path: Path) -> None:
    """NaN weights were imported in silence, and vectors of NaN written."""
    folder = folder_of(tmp_path / "m", {"pooling_mode_mean_tokens": True}, "Normalize")
    spoil(folder / "model.safetensors", "encoder.layer.1.output.dense.weight", value)
    with raises(TextusError, "invalid_weights", "1"):
        imported(folder)


def test_a_dense_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"pooling_mode_mean_tokens": True}, "Dense")
    spoil(folder / "2_Dense" / "model.safetensors", "linear.bias", float("nan"))
    with raises(TextusError, "invalid_weights", "linear.bias", "1"):
        imported(folder)


def test_a_run_that_computes_nan_gives_no_vector_and_no_answer(tmp_path: Path) -> None:
    """A run that was spoilt after its import, or whose training failed."""
    run = imported(folder_of(tmp_path / "m", {"pooling_mode_mean_tokens": True}, "Normalize"))
    assert np.isfinite(run.embed(TEXTS)).all()
    with torch.no_grad():
        next(iter(run.model.blocks)).attention_norm.weight[0] = float("nan")
    for answer in (lambda: run.embed(TEXTS), lambda: run.predict([("a cat", "a dog")])):
        with raises(TextusError, "invalid_weights") as caught:
            answer()
        assert "\n" not in str(caught.value)


def spoil(file: Path, name: str, value: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
