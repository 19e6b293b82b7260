"""The token stream and its batches: every target once, the same order for the same seed, damage seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.loader import TokenLoader, clamp_context_length, scoring_windows
from textus.data.token_dataset import TokenDataset, in_memory_dataset, load_or_tokenize
from textus.tokenizers import Tokenizer, train


@dataclass
class Texts:
    """A corpus of (document, part of its text) pairs, in a folder."""

    path: Path
    parts: list[tuple[str, str]]
    fingerprint: str = "0123456789abcdef"

    def documents(self, split: str = "train") -> list[SimpleNamespace]:
        return [SimpleNamespace(id=name, text=text) for name, text in self.parts]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train("bpe", ["the cat sat on the mat, and the dog lay on the log. " * 20], 300)


PARTS = [("a", "the cat sat "), ("a", "on the mat"), ("b", "龙 and 🦊\n\n"), ("c", "x" * 50)]


def test_the_stream_is_documents_between_ends(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = load_or_tokenize(Texts(tmp_path, PARTS), tokenizer, "train")
    end, e = tokenizer.end_id, tokenizer.encode
    a, b, c = e("the cat sat ") + e("on the mat"), e("龙 and 🦊\n\n"), e("x" * 50)
    assert store.ids.tolist() == [end, *a, end, *b, end, *c, end]
    assert store.starts.tolist() == [0, len(a) + 1, len(a) + len(b) + 2]
    assert store.ids.dtype == np.uint16


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    letters = [chr(0x4E00 + n) for n in range(20000)] + [chr(0xAC00 + n) for n in range(11172)]
    letters += [chr(0x20000 + n) for n in range(40000)]
    big = train("char", ["".join(letters)], 1 << 20)
    store = load_or_tokenize(Texts(tmp_path, [("a", letters[-1] + letters[0])]), big)
    assert store.ids.dtype == np.uint32
    assert big.decode(store.ids[1:-1].tolist()) == letters[-1] + letters[0]


def test_ids_are_kept_and_not_made_twice(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = load_or_tokenize(Texts(tmp_path, PARTS), tokenizer)
    again = load_or_tokenize(Texts(tmp_path, [("z", "other text, same fingerprint")]), tokenizer)
    assert again.ids.tolist() == first.ids.tolist()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.promise("Text", "Kept ids that were damaged, or are of another corpus, are made again")
@pytest.mark.parametrize("suffix", ["ids", "starts", "json"])
def test_damage_is_seen_and_repaired(
    tmp_path: Path, tokenizer: Tokenizer, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = load_or_tokenize(Texts(tmp_path, PARTS), tokenizer).ids.tolist()
    file = next(tmp_path.rglob(f"train.{suffix}"))
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    assert load_or_tokenize(Texts(tmp_path, PARTS), tokenizer).ids.tolist() == good
    assert "making the ids again" in capsys.readouterr().err


def test_another_corpus_is_tokenised_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    load_or_tokenize(Texts(tmp_path, PARTS), tokenizer)
    other = load_or_tokenize(Texts(tmp_path, [("z", "new")], "fedcba9876543210"), tokenizer)
    assert other.ids.tolist() == [0, *tokenizer.encode("new"), 0]


def test_an_interrupted_pass_leaves_nothing_that_looks_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    class Breaking(Texts):
        def documents(self, split: str = "train"):  # type: ignore[no-untyped-def]
            yield SimpleNamespace(id="a", text="y" * (1 << 20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_tokenize(Breaking(tmp_path, []), tokenizer)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_empty_split_is_reported(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with raises(DataError, "empty_data"):
        load_or_tokenize(Texts(tmp_path, []), tokenizer)


# ── windows ──


def stream(n: int, documents: int = 1) -> TokenDataset:
    """n targets that tell their position: id = index."""
    starts = np.linspace(0, n, documents, endpoint=False).astype(int)
    return TokenDataset(np.arange(n + 1), starts, {})


def targets(batch: Batch) -> list[int]:
    return batch.targets[batch.weights > 0].tolist()


@pytest.mark.promise("Text", "In order and in scoring windows, every target counts exactly once")
@given(n=st.integers(1, 300), size=st.integers(1, 5), length=st.integers(2, 40), overlap=st.integers(0, 39))
@settings(max_examples=150, deadline=None)
def test_in_order_every_target_counts_exactly_once(n: int, size: int, length: int, overlap: int) -> None:
    overlap = min(overlap, length - 1)
    loader = TokenLoader(stream(n), batch_size=size, context_length=length, overlap=overlap, shuffle=False)
    batches = [loader.batch(step) for step in range(loader.n_batches)]
    assert [t for batch in batches for t in targets(batch)] == list(range(1, n + 1))
    for batch in batches:
        real = batch.weights > 0
        assert torch.equal(batch.targets[real], batch.ids[real] + 1)
        if batch.mask is not None:
            assert not (real & ~batch.mask).any()
        first = real.int().argmax(1)
        has_context = batch.ids[:, 0] > 0
        assert (first[has_context & real.any(1)] == overlap).all()


@given(
    n=st.integers(1, 300),
    size=st.integers(1, 5),
    length=st.integers(1, 40),
    overlap=st.integers(0, 39),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_shuffled_no_target_comes_twice_in_an_epoch(
    n: int, size: int, length: int, overlap: int, seed: int
) -> None:
    overlap = min(overlap, length - 1)
    loader = TokenLoader(stream(n), batch_size=size, context_length=length, seed=seed, overlap=overlap)
    rows = [row for step in range(-(-loader.n_windows // size)) for row in loader.batch(step).micro(size)]
    counts = Counter(t for row in rows[: loader.n_windows] for t in targets(row))
    assert max(counts.values()) == 1
    assert len(counts) > n - loader.stride or loader.n_windows == 1


@pytest.mark.promise("Text", "A batch depends on the seed and the step only; an epoch sees no target twice")
def test_the_order_needs_no_memory_and_epochs_differ() -> None:
    def rows(loader: TokenLoader, steps: list[int]) -> dict[int, list[list[int]]]:
        return {step: loader.batch(step).ids.tolist() for step in steps}

    def fresh() -> TokenLoader:
        return TokenLoader(stream(1000, 7), batch_size=3, context_length=16, seed=5)

    forward, backward = rows(fresh(), list(range(90))), rows(fresh(), list(reversed(range(90))))
    assert forward == backward
    workers = rows(fresh(), list(range(0, 90, 2))) | rows(fresh(), list(range(1, 90, 2)))
    assert workers == forward
    per_epoch = fresh().n_windows // 3
    assert forward[0] != forward[per_epoch]
    other = TokenLoader(stream(1000, 7), batch_size=3, context_length=16, seed=6)
    assert other.batch(0).ids.tolist() != forward[0]


def test_batches_are_what_models_expect() -> None:
    batch = TokenLoader(stream(1000, 7), batch_size=3, context_length=16, seed=5).batch(11)
    assert batch.ids.shape == batch.targets.shape == batch.weights.shape == (3, 16)
    assert (batch.ids.dtype, batch.weights.dtype, batch.position) == (torch.int64, torch.float32, 11)
    assert batch.mask is None
    assert batch.n_targets == 48


def test_documents_are_numbered_and_each_end_belongs_to_what_it_begins() -> None:
    store = stream(100, 4)  # they begin at 0, 25, 50, 75
    for batch in (TokenLoader(store, batch_size=2, context_length=20, seed=1).batch(n) for n in range(4)):
        assert batch.documents is not None
        assert torch.equal(batch.documents, batch.ids // 25)
    assert TokenLoader(stream(100), batch_size=2, context_length=20).batch(0).documents is None


def test_a_short_corpus_shrinks_the_context() -> None:
    assert clamp_context_length(stream(10), 64) == 10
    assert clamp_context_length(stream(100), 64) == 64
    batch = TokenLoader(stream(10), batch_size=2, context_length=16).batch(0)  # not shrunk: padded
    assert batch.n_targets == 20
    assert batch.mask is not None


def test_what_cannot_be_is_refused() -> None:
    with raises(DataError, "too_little_data"):
        TokenLoader(in_memory_dataset([0]), batch_size=1, context_length=4)
    with raises(UsageError, "out_of_range", "4"):
        TokenLoader(stream(9), batch_size=1, context_length=4, overlap=4)
    with raises(UsageError, "out_of_range", "-1"):
        TokenLoader(stream(9), batch_size=1, context_length=4).batch(-1)
    with raises(UsageError, "out_of_range", "9"):
        list(scoring_windows([0, 1, 2], 4, 9))


@pytest.mark.promise("Text", "Micro-batches add up to the batch")
@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_micro_batches_add_up(n: int) -> None:
    batch = TokenLoader(stream(500, 3), batch_size=7, context_length=16).batch(0)
    parts = batch.micro(n)
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert sum(part.n_targets for part in parts) == batch.n_targets
    assert all(part.documents is not None and part.documents.shape == part.ids.shape for part in parts)
    assert len(parts) == min(n, 7)


@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_scoring_windows_count_each_target_once(stride: int | None) -> None:
    ids = np.random.default_rng(0).integers(0, 50, 61)
    scored = [t for batch in scoring_windows(ids, 8, stride, batch_size=3) for t in targets(batch)]
    assert scored == ids[1:].tolist()
