"""Word vectors beside gensim's own reading and asking; damaged files; what reaches a model's embedding.

Shapes: W words, D width, V vocabulary.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises

from textus.core.errors import DataError, MissingDependencyError, UsageError
from textus.models import word_vectors
from textus.models.registry import build
from textus.models.word_vectors import VectorSettings, WordVectors, initial_embeddings, read
from textus.tokenizers import Tokenizer
from textus.tokenizers import train as train_tokenizer

WORDS = ["the", "Königin", "狐狸", "don't", "a/b", "2", "Fox"]


def some(words: list[str] | None = None, width: int = 5, seed: int = 0) -> WordVectors:
    words = words or WORDS
    return WordVectors(words, np.random.default_rng(seed).normal(size=(len(words), width)).astype(np.float32))


def same(one: WordVectors, other: WordVectors) -> bool:
    return one.words == other.words and np.array_equal(one.matrix, other.matrix)


@pytest.fixture(scope="module")
def gensim() -> Any:
    return pytest.importorskip("gensim.models", reason="gensim is not installed (the extra `vectors`)")


# ── learning ───────────────────────────────────────────────────────────────────────────────────


def texts() -> list[list[str]]:
    """Two topics that never meet; within one, words stand beside each other at random."""
    draw = random.Random(1)
    topics = [["fox", "hen", "egg", "barn", "hay"], ["ship", "sail", "mast", "wave", "port"]]
    return [draw.choices(topics[n % 2], k=12) for n in range(400)]


SMALL = VectorSettings(d_model=12, epochs=8, sample=0.0, window=3, negative=5, both=False)


@pytest.mark.parametrize("method", ["skip-gram", "cbow"])
def test_words_that_occur_together_have_near_vectors(method: Any, gensim: Any) -> None:
    trained = word_vectors.train_vectors(texts(), VectorSettings(**{**vars(SMALL), "method": method}))
    assert trained.matrix.shape == (10, 12)
    for word, topic in (("fox", {"hen", "egg", "barn", "hay"}), ("ship", {"sail", "mast", "wave", "port"})):
        assert {name for name, _ in trained.similar(word, 4)} == topic


def test_the_methods_differ_and_both_adds_the_context_vectors(gensim: Any) -> None:
    ways = [SMALL, VectorSettings(**{**vars(SMALL), "method": "cbow"})]
    ways += [VectorSettings(**{**vars(SMALL), "both": True}), VectorSettings(**{**vars(SMALL), "seed": 1})]
    made = [word_vectors.train_vectors(texts(), way).matrix for way in ways]
    assert not any(np.allclose(made[0], other) for other in made[1:])


@pytest.mark.promise("Families", "Same texts and settings give the same word vectors, which are gensim's")
def test_same_texts_same_bytes_and_they_are_gensims(gensim: Any) -> None:
    """Python's own hash of a string changes with every process: another one must change nothing."""
    trained = word_vectors.train_vectors(texts(), SMALL)
    assert same(word_vectors.train_vectors(texts(), SMALL), trained)
    theirs = gensim.Word2Vec(
        sg=1, vector_size=12, epochs=8, sample=0.0, window=3, min_count=2, seed=0, workers=1, hashfxn=len
    )
    theirs.build_vocab(texts())
    theirs.train(texts(), total_examples=400, epochs=8)
    assert same(WordVectors(theirs.wv.index_to_key, theirs.wv.vectors), trained)


def test_long_texts_are_read_to_their_end(gensim: Any) -> None:
    """gensim drops what is beyond 10,000 words of one text."""
    long = ["a", "b"] * 6_000 + ["last", "word"] * 50
    assert "last" in word_vectors.train_vectors([long], VectorSettings(d_model=4, epochs=1))
    pieces = list(word_vectors._Pieces([long]))
    assert [len(piece) for piece in pieces] == [10_000, 2_100]
    model = gensim.Word2Vec(vector_size=4, min_count=1, workers=1, sample=0)
    model.build_vocab([long])
    assert model.train([long], total_examples=1, epochs=1)[0] <= 10_000 < len(long)  # the fault, planted


def test_what_cannot_be_learned_from(gensim: Any) -> None:
    with raises(UsageError, "wrong_type"):
        word_vectors.train_vectors(text for text in texts())
    with raises(DataError, "too_little_data", "5"):
        word_vectors.train_vectors([["a", "b"]], VectorSettings(min_count=5))
    with raises(UsageError, "out_of_range", "window", "0"):
        VectorSettings(window=0)


def test_without_gensim_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with raises(MissingDependencyError, "extra_not_installed", "vectors"):
        word_vectors.train_vectors(texts())


# ── files ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["safetensors", "text"])
def test_what_is_written_is_read_to_the_bit(kind: Any, tmp_path: Path) -> None:
    some().save(tmp_path / "file", kind)
    assert same(read(tmp_path / "file"), some())


@pytest.mark.promise("Families", "word2vec and GloVe files are read; a cut or damaged one is noticed")
@pytest.mark.parametrize("binary", [True, False])
def test_gensims_files_are_read(binary: bool, gensim: Any, tmp_path: Path) -> None:
    theirs = gensim.KeyedVectors(5)
    theirs.add_vectors(WORDS, some().matrix)
    theirs.save_word2vec_format(str(tmp_path / "file"), binary=binary)
    got = read(tmp_path / "file")
    assert got.words == theirs.index_to_key
    np.testing.assert_allclose(got.matrix, theirs.vectors, rtol=1e-6)


def test_the_c_programs_line_breaks_are_read(tmp_path: Path) -> None:
    """word2vec.c ends each binary vector with a line break, gensim does not."""
    matrix = some().matrix
    body = b"".join(w.encode() + b" " + row.tobytes() + b"\n" for w, row in zip(WORDS, matrix, strict=True))
    (tmp_path / "file").write_bytes(b"%d 5\n" % len(WORDS) + body)
    assert same(read(tmp_path / "file"), some())


def test_gensim_reads_our_text(gensim: Any, tmp_path: Path) -> None:
    some().save(tmp_path / "file", "text")
    theirs = gensim.KeyedVectors.load_word2vec_format(str(tmp_path / "file"))
    assert theirs.index_to_key == WORDS
    assert np.array_equal(theirs.vectors, some().matrix)


def test_gloves_text_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No first line with sizes, blanks inside a word, and a word twice: all in the files people fetch."""
    lines = ["the 0.1 -2e-3 3", ". . . 1 2 3", "\u2028 4 5 6", "the 9 9 9"]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    got = read(tmp_path / "glove.txt")
    assert got.words == ["the", ". . .", "\u2028"]
    np.testing.assert_allclose(got.matrix, [[0.1, -0.002, 3], [1, 2, 3], [4, 5, 6]], rtol=1e-6)
    assert "1 words come twice; the first vector of each is taken" in capsys.readouterr().err


def test_every_cut_of_a_file_is_noticed(gensim: Any, tmp_path: Path) -> None:
    """A file of any form, cut anywhere: no vector is ever wrong in silence."""
    theirs = gensim.KeyedVectors(5)
    theirs.add_vectors(WORDS, some().matrix)
    theirs.save_word2vec_format(str(tmp_path / "binary"), binary=True)
    some().save(tmp_path / "text", "text")
    some().save(tmp_path / "ours")
    for name in ("binary", "text", "ours"):
        whole, cut = (tmp_path / name).read_bytes(), tmp_path / "cut"
        for size in range(0, len(whole) - 1, 3):
            cut.write_bytes(whole[:size])
            try:
                got = read(cut)
            except DataError:
                continue
            assert name == "text", (name, size)  # only within the last number can a cut not be seen
            assert size > len(whole) - 15
            assert got.words == WORDS


ROW = struct.pack("<2f", 1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no vectors"),
        (b"a 1 2\nb 1\n", "line 2: 1 numbers instead of 2"),
        (b"a 1 2\nb 1 2 3\nc x 2\n", "line 3: not a word and 2 numbers"),
        (b"a 1 2\n\xff 1 2\n", "line 2 is not UTF-8"),
        (b"word\n", "line 1: 0 numbers instead of some"),
        (b"2 2\na 1 2\n", "has 1 vectors, its first line names 2"),
        (b"1 2\na 1 2\nb 1 2\n", "has 2 vectors, its first line names 1"),
        (b"1 2\na nan 2\n", "'a' has a value that is not a number"),
        (b"a 1e99 2\n", "'a' has a value that is not a number"),
        (b"99999999999 300\na " + ROW, "too short for the 99999999999 vectors"),
        (b"2 2\na " + ROW + b"b" * 12, "cut short in vector 2 of 2"),
        (b"1 2\n\xff\xfe " + ROW, "vector 1: the word is not UTF-8"),
        (struct.pack("<Q", 8) + b"{}      ", "holds no word vectors: there is no tensor 'words'"),
        (struct.pack("<Q", 8) + b"{,,}    ", "is damaged"),
    ],
)
def test_damaged_files_get_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / "file")
    assert message in str(error.value)


def test_missing_files_and_impossible_characters(tmp_path: Path) -> None:
    with raises(DataError, "not_found"):
        read(tmp_path / "nothing")
    with raises(UsageError, "invalid_value", "'. .'"):
        some(["a", ". ."]).save(tmp_path / "file", "text")
    with raises(DataError, "duplicate_name", "'a'"):
        some(["a", "b", "a"])
    with raises(DataError, "size_mismatch", "2"):
        WordVectors(["a", "b"], np.zeros((3, 2), np.float32))


# ── asking ─────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_gensims(gensim: Any) -> None:
    words = [f"w{n}" for n in range(60)]
    ours, theirs = some(words, 8), gensim.KeyedVectors(8)
    theirs.add_vectors(words, ours.matrix)
    assert ours.similarity("w3", "w40") == pytest.approx(float(theirs.similarity("w3", "w40")), abs=1e-6)
    for got, expected in (
        (ours.similar("w5", 7), theirs.most_similar("w5", topn=7)),
        (
            ours.analogy("w1", "w2", "w3", 5),
            theirs.most_similar(positive=["w2", "w3"], negative=["w1"], topn=5),
        ),
    ):
        assert [word for word, _ in got] == [word for word, _ in expected]
    assert [x for _, x in ours.similar("w5", 7)] == pytest.approx(
        [x for _, x in theirs.most_similar("w5", topn=7)], abs=1e-6
    )


def test_analogies_are_counted_as_they_are_answered() -> None:
    words = [f"w{n}" for n in range(30)]
    ours = some(words, 3)
    draw = random.Random(0)
    questions = [tuple(draw.sample([*words, "nowhere"], 3)) for _ in range(600)]
    prompts: list[Any] = []
    for a, b, c in questions:
        known = "nowhere" not in (a, b, c)
        answer = ours.analogy(a, b, c)[0][0] if known and len(prompts) % 2 else words[0]
        prompts.append((a, b, c, answer))
    expected = sum("nowhere" not in q and ours.analogy(*q[:3])[0][0] == q[3] for q in prompts)
    right, coverage = word_vectors.analogy_accuracy(ours, prompts)
    assert right == expected > 200
    assert (coverage.n_found, coverage.total) == (sum("nowhere" not in q for q in prompts), 600)
    assert word_vectors.analogy_accuracy(ours, [])[0] == 0


def test_rank_correlation_is_scipys_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    draw = np.random.default_rng(0)
    for n in (2, 7, 50):
        one, other = draw.integers(0, 9, n).astype(float), draw.normal(size=n)
        if np.ptp(one):
            expected = stats.spearmanr(one, other).statistic
            assert word_vectors.rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)
    assert word_vectors.rank_correlation(np.ones(4), draw.normal(size=4)) == 0.0


def test_pairs_without_a_vector_count_as_zero() -> None:
    got, coverage = word_vectors.cosines(some(), [("the", "Fox"), ("the", "vixen")])
    assert got[0] == pytest.approx(some().similarity("the", "Fox"))
    assert got[1] == 0.0
    assert str(coverage) == "1 of 2 (50.0%)"


def test_unknown_words_are_reported() -> None:
    with raises(UsageError, "unknown_name", "'vixen'", "7"):
        some().similar("vixen")


# ── a model's embedding ────────────────────────────────────────────────────────────────────────

TEXT = "The fox and the hen. The barn, the fox; foxes and hens don't unbarn.\n" * 30


def tokenizer(kind: str) -> Tokenizer:
    return train_tokenizer(kind, [TEXT], vocab_size=600)


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece", "unigram", "char"])
def test_ids_get_the_vector_of_what_they_spell(kind: str) -> None:
    known = some(["the", "fox", "hen", "a", "barn", "Barn", "<|endoftext|>"])
    made = tokenizer(kind)
    matrix, result = known.embeddings_for(made)
    assert matrix.shape == (made.vocab_size, known.width)
    assert not matrix[~result].any()
    assert not result[list(made.special.values())].any()
    expected = {"a"} if kind == "char" else {"the", "fox", "hen", "barn"}
    seen = set()
    for number in result.nonzero()[:, 0].tolist():
        spelt = made.decode([number]).strip()
        word = spelt if spelt in known else spelt.lower()
        seen.add(word)
        assert np.array_equal(matrix[number].numpy(), known.matrix[known.row(word)])
    assert seen >= expected


def test_a_piece_inside_a_word_is_not_that_word() -> None:
    made = tokenizer("wordpiece")
    inside = [
        n for token, n in made.backend.get_vocab(with_added_tokens=False).items() if token.startswith("▁")
    ]
    everything = some(sorted({made.decode([n]).strip() for n in range(made.vocab_size)} - {""}))
    result = everything.embeddings_for(made)[1]
    assert inside
    assert not result[inside].any()


def decoder(made: Tokenizer, width: int, **settings: Any) -> Any:
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 2, "context_length": 8}
    return build("decoder", {**shape, "vocab_size": made.vocab_size, "d_model": width, **settings})


@pytest.mark.promise(
    "Families",
    "A model starts with the word vectors; vectors of another width are reported and change nothing",
)
@pytest.mark.parametrize("tie_head", [True, False])
def test_a_model_begins_with_the_vectors(tie_head: bool) -> None:
    made, known = tokenizer("word"), some(["the", "fox", "hen", "nothing"], width=8)
    model, before = (decoder(made, 8, tie_head=tie_head) for _ in range(2))
    coverage = initial_embeddings(model, known, made)
    matrix, result = known.embeddings_for(made)
    assert coverage.n_found == int(result.sum()) >= 3
    assert coverage.total == made.vocab_size - len(made.special)
    got, old = model.embedding.weight.detach(), before.embedding.weight.detach()
    assert torch.equal(got[~result], old[~result])
    scale = got[result] / matrix[result]
    torch.testing.assert_close(scale, scale[0, 0].expand_as(scale))  # one number: cosines stay
    torch.testing.assert_close(got[result].square().mean(), old[result].square().mean())
    fox = result.nonzero()[:1]
    assert not torch.allclose(model.hidden(fox), before.hidden(fox))


def test_what_does_not_fit_is_reported_and_changes_nothing() -> None:
    made = tokenizer("word")
    model = decoder(made, 8)
    before = model.embedding.weight.detach().clone()
    with raises(UsageError, "size_mismatch", "5", "8"):
        initial_embeddings(model, some(), made)
    with raises(UsageError, "size_mismatch", "25"):
        initial_embeddings(model, some(width=8), tokenizer("char"))
    with raises(UsageError, "unsupported_model", "fake"):
        initial_embeddings(build("fake", {}), some(), made)
    assert torch.equal(model.embedding.weight, before)
    assert initial_embeddings(model, some(["vixen"], width=8), made).n_found == 0
    assert torch.equal(model.embedding.weight, before)
