"""Runs trained here and exported with their tokenizers: `transformers` reads, predicts and writes the same; and
`import` brings them back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY
from corpora import write

import textus
from textus.api import Run, export, import_model, open_run
from textus.core.io import sha256

SENTENCES = [part.strip() + "." for part in STORY.replace("\n", " ").split(".") if part.strip()]
ASKED = ["The fox went down to the river.", "good morning", "One winter 春 the river froze, and"]
TINY = ["model.n_layer=2", "model.d_model=32", "model.n_head=2", "optim.warmup=2"]

T5 = ["model.position=relative", "model.scale_scores=false", "model.dropout=0"]
BERT = [
    "model.position=learned", "model.norm=layer", "model.norm_first=false", "model.bias=true", "model.tie_head=true",
    "model.activation=gelu-exact", "model.mlm_transform=true", "model.segments=2", "model.mask_id=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpora_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The story's sentences alone, and each with its own capitals as the target."""
    folder = tmp_path_factory.mktemp("texts")
    pairs = [{"source": text, "target": text.upper()} for text in SENTENCES]
    write(folder, {
        "plain.jsonl": "".join(json.dumps({"text": item}) + "\n" for item in SENTENCES),
        "pairs.jsonl": "".join(json.dumps(pair) + "\n" for pair in pairs),
    })  # fmt: skip
    return {
        name: textus.build_corpus(folder / f"{name}.jsonl", out=folder / name, split="none").path
        for name in ("plain", "pairs")
    }


def made(corpora_of: dict[str, Path], out: Path, family: str, settings: list[str]) -> tuple[Run, Path, Run]:
    """A run trained for some steps, its export, and the run that is made of that."""
    corpus = corpora_of["pairs" if family == "encoder-decoder" else "plain"]
    run = textus.train(corpus, model=family, tokenizer="bpe", steps=25, overrides=settings, out=out / "run")
    export(run.path, out=out / "hf")
    return run, out / "hf", import_model(out / "hf", out=out / "back")


def same_weights(one: Run, other: Run) -> None:
    theirs = other.model.state_dict()
    assert theirs.keys() == one.model.state_dict().keys()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(theirs[name], weight), name
    assert other.tokenizer.vocabulary == one.tokenizer.vocabulary
    assert all(other.tokenizer.encode(text) == one.tokenizer.encode(text) for text in ASKED)


@pytest.mark.promise(
    "Families",
    "Exports with their tokenizers predict and write as `transformers` does, and come back the same",
)
@pytest.mark.parametrize("more", [[], ["model.activation=geglu", "model.tie_head=false"]])
def test_an_encoder_decoder_writes_as_transformers_t5(
    corpora_of: dict[str, Path], tmp_path: Path, more: list[str]
) -> None:
    import transformers

    run, hf, back = made(corpora_of, tmp_path, "encoder-decoder", [*TINY, *T5, *more])
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(hf).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    for text in ASKED:
        request = tokenizer(text, return_tensors="pt")
        assert request.input_ids[0].tolist() == [*run.tokenizer.encode(text), run.tokenizer.end_id]
        target = torch.tensor([[run.tokenizer.end_id, *run.tokenizer.encode("THE FOX WENT")]])
        with torch.no_grad():
            expected = theirs(input_ids=request.input_ids, decoder_input_ids=target).logits
            cache = run.model.new_cache(1, target.shape[1], request.input_ids)
            torch.testing.assert_close(run.model(target, cache), expected, atol=1e-4, rtol=0)
        written = theirs.generate(**request, max_new_tokens=25, do_sample=False)[0]
        texts = run.generate(text, temperature=0, max_tokens=25)
        assert (
            tokenizer.decode(written, skip_special_tokens=True)
            == texts
            == back.generate(text, temperature=0, max_tokens=25)
        )
        assert texts, "the comparison is of something"
    same_weights(run, back)
    pairs = corpora_of["pairs"].parent / "pairs.jsonl"
    bits = [item.evaluate(pairs, samples=False)["bits_per_byte"]["value"] for item in (run, back)]
    assert bits[0] == bits[1]


def test_an_encoder_fills_masks_as_transformers_bert(corpora_of: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    run, hf, back = made(corpora_of, tmp_path, "encoder", [*TINY, *BERT])
    theirs = transformers.pipeline("fill-mask", model=str(hf), top_k=5)
    mask = theirs.tokenizer.mask_token
    for text in (f"The {mask} went down to the river.", f"and the heron{mask} nothing"):
        before, after = text.split(mask)
        left, right = (run.tokenizer.encode(part) for part in (before, after))
        ids = torch.tensor([[*left, run.model.config.mask_id, *right]])
        assert theirs.tokenizer(text).input_ids == ids[0].tolist()
        with torch.no_grad():
            logits = run.model(ids)
            expected = theirs.model(input_ids=ids).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        best = logits[0, len(left)].softmax(-1).topk(5)
        filled = theirs(text)
        assert [row["token"] for row in filled] == best.indices.tolist()
        assert [row["score"] for row in filled] == pytest.approx(best.values.tolist(), abs=1e-5)
    same_weights(run, back)
    assert back.model.config.mask_id == 2


@pytest.mark.parametrize(
    ("more", "name"),
    [([], "Qwen3ForCausalLM"), (["model.qk_norm=false", "model.n_kv_head=1"], "LlamaForCausalLM")],
)
def test_a_decoder_continues_as_transformers_does(
    corpora_of: dict[str, Path], tmp_path: Path, more: list[str], name: str
) -> None:
    import transformers

    run, hf, back = made(corpora_of, tmp_path, "decoder", [*TINY, *more])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(hf).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    assert type(theirs).__name__ == name
    for text in ASKED:
        request = tokenizer(text, return_tensors="pt")
        assert request.input_ids[0].tolist() == run.tokenizer.encode(text)
        with torch.no_grad():
            torch.testing.assert_close(
                run.model(request.input_ids), theirs(**request).logits, atol=1e-4, rtol=0
            )
        written = theirs.generate(
            input_ids=request.input_ids,
            attention_mask=request.attention_mask,
            max_new_tokens=20,
            do_sample=False,
        )[0, request.input_ids.shape[1] :]
        texts = run.generate(text, temperature=0, max_tokens=20)
        assert tokenizer.decode(written, skip_special_tokens=True) == texts
    same_weights(run, back)


def test_an_export_s_tokenizer_is_otherwise_the_run_s(corpora_of: dict[str, Path], tmp_path: Path) -> None:
    """Only what was named above differs in the files: nothing else may be lost on the way."""
    run, hf, _ = made(corpora_of, tmp_path, "encoder-decoder", [*TINY, *T5])
    kept, written = (json.loads((item / "tokenizer.json").read_text()) for item in (run.path, hf))
    different: list[Any] = [name for name in kept if kept[name] != written[name]]
    assert different == ["post_processor"]
    shutil.rmtree(tmp_path / "back")
    again = export(import_model(hf, out=tmp_path / "back").path, out=tmp_path / "again")
    assert again["architecture"] == "T5ForConditionalGeneration"
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        assert sha256(hf / name) == sha256(tmp_path / "again" / name), name
    back = open_run(tmp_path / "back")
    assert back.record["family"] == "encoder-decoder"
    assert not back.supports_chat, "no conversation was trained on: exported and imported it is no chat model"
    assert not (hf / "chat_template.jinja").exists()
