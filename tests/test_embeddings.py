"""`textus train --embeddings`: word vectors as the first input embeddings of any neural family."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import write
from raising import raises
from safetensors.torch import load_file

import textus
from textus.api import verify_determinism
from textus.cli.main import main
from textus.core.errors import RunError, UsageError
from textus.models.registry import build
from textus.models.word_vectors import WordVectors, initial_embeddings, input_embedding, read
from textus.runs.store import open_run
from textus.tokenizers import Tokenizer, load
from textus.training import pretrain

WIDTH = 16
NEURAL: dict[str, dict[str, Any]] = {name: {} for name in ("rnn", "lstm", "gru", "seq2seq", "vae", "gan")}
NEURAL |= {name: {"n_head": 2} for name in ("decoder", "encoder", "encoder-decoder")}
TOPICS = [["fox", "hen", "egg", "barn", "hay", "cow"], ["ship", "sail", "mast", "wave", "port", "crew"]]
WORDS = [word for topic in TOPICS for word in topic]
TRAIN = {"tokenizer": "word", "steps": 4}
SMALL = [f"model.d_model={WIDTH}", "model.n_layer=1", "train.batch_size=4"]
HEADS = ["model.n_head=2"]
STILL = ["optim.rate=1e-9", "optim.other_rate=1e-9", *HEADS]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty sentences, each of one topic; half of them to learn from."""
    draw, folder = random.Random(1), tmp_path_factory.mktemp("topics")
    texts = [" ".join(draw.choices(TOPICS[n % 2], k=12)) for n in range(80)]
    write(folder, {"texts.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts)})
    return textus.build_corpus(folder / "texts.jsonl", out=folder / "corpus", split="hash:0.5").path


@pytest.fixture(scope="module")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer") / "words"
    return textus.train_tokenizer(corpus, kind="word", vocab_size=40, out=folder)


def known(words: list[str] = WORDS, width: int = WIDTH) -> WordVectors:
    """Vectors that say what the corpus would teach: words of one topic lie together."""
    random_ = np.random.default_rng(3)
    ways = random_.normal(size=(2, width))
    topic = [word in TOPICS[1] for word in words]
    matrix = ways[np.array(topic, int)] + 0.3 * random_.normal(size=(len(words), width))
    return WordVectors(words, matrix.astype(np.float32))


def pieces(tokenizer: Tokenizer, vectors: WordVectors) -> dict[int, str]:
    """Ids whose text, without the blank before it, has a vector."""
    spelt = {number: piece.decode().strip() for number, piece in enumerate(tokenizer.vocabulary)}
    return {number: word for number, word in spelt.items() if word in vectors}


def assert_scaled(rows: torch.Tensor, results: dict[int, str], vectors: WordVectors) -> None:
    """The rows of the pieces found are their vectors times one number: cosines stay."""
    wanted = torch.from_numpy(vectors.matrix[[vectors.row(word) for word in results.values()]])
    ratio = rows[list(results)] / wanted
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In word2vec's text form; `hay` and `crew` have no vector, and one is not in the corpus."""
    path = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    known([word for word in [*WORDS, "zebra"] if word not in ("hay", "crew")]).save(path, "text")
    return path


@pytest.mark.promise(
    "Families", "`--embeddings`: rows are the file's, scaled by one number; resume needs only the run's copy"
)
@pytest.mark.parametrize("family", NEURAL)
def test_every_neural_family_begins_with_the_vectors(family: str, tokenizer: Tokenizer) -> None:
    shape = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "d_model": WIDTH, "n_layer": 1}
    if family in ("rnn", "lstm", "gru", "decoder"):
        del shape["end_id"]
    vectors = known()
    models: list[Any] = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build(family, {**shape, **NEURAL[family]}))
    coverage = initial_embeddings(models[0], vectors, tokenizer)
    result = pieces(tokenizer, vectors)
    assert coverage.total == tokenizer.vocab_size - len(tokenizer.special)
    assert coverage.n_found == len(result) == coverage.total
    got, old = (input_embedding(model).weight.detach() for model in models)
    assert_scaled(got, result, vectors)
    torch.testing.assert_close(got[list(result)].square().mean(), old[list(result)].square().mean())
    others = sorted(set(range(len(old))) - set(result))
    assert torch.equal(got[others], old[others])


def trained(corpus: Path, out: Path, **more: Any) -> Path:
    settings = [*SMALL, *more.pop("overrides", [])]
    return textus.train(corpus, overrides=settings, out=out, **{**TRAIN, **more}).path


def test_a_run_begins_with_them_is_reported_and_keeps_a_copy(
    corpus: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(corpus), "--tokenizer", "word", "--steps", "2", "--embeddings", str(file), "--out"]
    flags = [word for setting in [*SMALL, *STILL] for word in ("--set", setting)]
    assert main([*words, str(tmp_path / "run"), *flags]) == 0
    err = capsys.readouterr().err
    run, vectors = open_run(tmp_path / "run"), read(file)
    tokenizer, about = load(run.path), run.record["embeddings"]
    result = pieces(tokenizer, vectors)
    total = tokenizer.vocab_size - len(tokenizer.special)
    assert 0 < len(result) < total
    assert f"{len(result)} of {total} ({len(result) / total:.1%}) pieces have a vector in {file}" in err
    assert (about["tokens_with_vector"], about["tokens"], about["path"]) == (len(result), total, str(file))
    begun = load_file(run.path / "embeddings.safetensors")["embeddings"]
    after = load_file(run.path / "model.safetensors")["embedding.weight"]
    assert_scaled(begun, result, vectors)
    torch.testing.assert_close(after, begun, atol=1e-5, rtol=0)  # the rate is next to nothing
    plain = load_file(trained(corpus, tmp_path / "plain", steps=2, overrides=STILL) / "model.safetensors")
    others = [number for number in range(len(after)) if number not in result]
    assert not torch.allclose(plain["embedding.weight"][list(result)], begun[list(result)], atol=1e-2)
    torch.testing.assert_close(plain["embedding.weight"][others], begun[others], atol=1e-5, rtol=0)


def test_resume_needs_the_run_s_own_copy_only(
    corpus: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "vectors.txt"
    again.write_bytes(file.read_bytes())
    path = trained(corpus, tmp_path / "run", embeddings=again, checkpoint_every=4, overrides=HEADS)
    again.unlink()
    assert not open_run(path).steps(), "to prove it is to train again from the first step"
    assert verify_determinism(path)["resumed_from_step"] == 2
    with monkeypatch.context() as planted:  # the fault: it begins again with its seed's own rows
        planted.setattr(pretrain, "read_embeddings", lambda run: None)
        with raises(RunError, "not_reproduced"):
            verify_determinism(path)
    with (path / "embeddings.safetensors").open("r+b") as held:  # a flipped byte in the copy
        held.seek(-1, 2)
        byte = held.read(1)[0]
        held.seek(-1, 2)
        held.write(bytes([byte ^ 1]))
    run = open_run(path)
    run.record["status"] = "training"
    run.write_record()
    with raises(RunError, "damaged", "embeddings.safetensors", "256"):
        textus.resume(path)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ({"model": "ngram", "steps": None}, ("option_not_applicable", "'ngram'")),
        ({"model": "hmm", "steps": None}, ("option_not_applicable", "'hmm'")),
        ({"overrides": ["model.d_model=32", *HEADS]}, ("size_mismatch", "16", "32")),
        ({"tokenizer": "char", "overrides": HEADS}, ("incompatible_data",)),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    words: dict[str, Any], messages: tuple[str, ...], corpus: Path, file: Path, tmp_path: Path
) -> None:
    settings = [] if words.get("steps", 1) is None else [*SMALL, *words.pop("overrides", [])]
    request = {**TRAIN, "overrides": settings, **words}
    with raises(UsageError, *messages):
        textus.train(corpus, embeddings=file, out=tmp_path / "run", **request)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_good_vectors_help_where_there_are_few_sentences(corpus: Path, tmp_path: Path) -> None:
    """Three seeds; against vectors of the same form that say nothing, too: what helps is what they say."""
    good, mixed = tmp_path / "good.txt", tmp_path / "mixed.txt"
    vectors = known()
    vectors.save(good, "text")
    order = np.random.default_rng(5).permutation(len(WORDS))
    WordVectors(WORDS, vectors.matrix[order]).save(mixed, "text")

    def nats(name: str, seed: int, embeddings: Path | None) -> float:
        path = trained(
            corpus, tmp_path / f"{name}-{seed}", model="gru", steps=20, seed=seed, embeddings=embeddings,
            overrides=["optim.rate=0.003"],
        )  # fmt: skip
        lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        return float(min(line["validation"] for line in lines if "validation" in line))

    for seed in range(3):
        with_good, with_mixed, without = (
            nats("good", seed, good), nats("mixed", seed, mixed), nats("none", seed, None)
        )  # fmt: skip
        assert with_good < without, (seed, with_good, without)
        assert with_good < with_mixed, (seed, with_good, with_mixed)
