"""The n-gram model against a slow transcription of the formulas, and `kenlm` reading its ARPA file."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from raising import raises

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.models import ngram
from textus.models.ngram import NGram, NGramConfig
from textus.models.registry import build

END, VOCAB = 0, 11  # id 10 is in the vocabulary and in no text


# ── the oracle: Chen & Goodman's formulas, one n-gram at a time ────────────────────────────────


class Transcription:
    """Interpolated modified Kneser–Ney over lists of ids; one not beginning with END was cut there."""

    def __init__(self, texts: list[list[int]], order: int) -> None:
        self.order = order
        occurrences: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
        begins: set[tuple[int, ...]] = set()  # n-grams at the place where a text was cut
        for text in texts:
            for i in range(1, len(text)):
                for n in range(1, min(order, i + 1) + 1):
                    occurrences[n][tuple(text[i - n + 1 : i + 1])] += 1
                if i < order and text[0] != END:
                    begins.add(tuple(text[: i + 1]))
        self.adjusted: list[dict[tuple[int, ...], int]] = [{} for _ in range(order + 1)]
        for n in range(1, order + 1):
            for gram, count in occurrences[n].items():
                if n < order and not (n > 1 and gram[0] == END):
                    before = {longer[0] for longer in occurrences[n + 1] if longer[1:] == gram}
                    count = len(before) + (gram in begins)
                self.adjusted[n][gram] = count
        self.discounts = [self._discounts(n) for n in range(1, order + 1)]
        self.followers: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for table in self.adjusted:
            for gram, count in table.items():
                self.followers[gram[:-1]][gram[-1]] = count

    def _discounts(self, n: int) -> tuple[float, float, float] | None:
        t = Counter(self.adjusted[n].values())
        if 0 in (t[1], t[2], t[3]):
            return None
        y = t[1] / (t[1] + 2 * t[2])
        d = (1 - 2 * y * t[2] / t[1], 2 - 3 * y * t[3] / t[2], 3 - 4 * y * t[4] / t[3])
        return d if 0 < d[0] <= 1 and 0 < d[1] <= 2 and 0 < d[2] <= 3 else None

    def p(self, word: int, context: tuple[int, ...]) -> float:
        """p(word | context), the context already cut to order - 1 ids and at END."""
        lower = self.p(word, context[1:]) if context else 1 / VOCAB
        followers = self.followers.get(context)
        if not followers:
            return lower
        d = self.discounts[len(context)] or (0.5, 1.0, 1.5)
        total = sum(followers.values())
        kept = sum(d[min(count, 3) - 1] for count in followers.values())
        count = followers.get(word, 0)
        return (count - (d[min(count, 3) - 1] if count else 0)) / total + kept / total * lower

    def context(self, ids: list[int]) -> tuple[int, ...]:
        """What the model may see of these ids."""
        ids = ids[len(ids) - ids[::-1].index(END) - 1 :] if END in ids else ids
        return tuple(ids[max(0, len(ids) - self.order + 1) :])

    def row(self, ids: list[int]) -> list[float]:
        """The logs of the distribution after these ids."""
        context = self.context(ids)
        return [math.log(self.p(word, context)) for word in range(VOCAB)]


def documents_of(seed: int, n: int = 12, longest: int = 60) -> list[list[int]]:
    """Documents of a skewed, sticky text, so that counts of 1, 2, 3 and 4 all occur; some are empty."""
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        words = [chance.choice([1, 2, 3])]
        for _ in range(chance.randrange(longest)):
            near = words[-1] % 9 + 1
            words.append(near if chance.random() < 0.5 else min(9, 1 + int(chance.expovariate(0.5))))
        made.append(words)
    return [*made, [], [4]]


def stream_of(documents: list[list[int]]) -> list[int]:
    return [END, *(i for words in documents for i in [*words, END])]


def texts_of(documents: list[list[int]]) -> list[list[int]]:
    return [[END, *words, END] for words in documents]


def batch_of(stream: list[int]) -> Batch:
    ids = torch.tensor([stream])
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, len(stream) - 1))


def trained(stream: list[int], order: int) -> NGram:
    model = NGram(NGramConfig(VOCAB, END, order))
    model.count(batch_of(stream))
    model.update()
    return model


def same(first: NGram, second: NGram) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def furthest(model: NGram, oracle: Transcription, seed: int) -> float:
    """The largest difference of log-probabilities over random contexts, seen ones and unseen ones."""
    chance = random.Random(seed)
    rows = [[chance.choice([END, *range(1, VOCAB)]) for _ in range(12)] for _ in range(6)]
    result = model(torch.tensor(rows))
    wanted = torch.tensor([[oracle.row(row[: t + 1]) for t in range(12)] for row in rows])
    return float((result - wanted).abs().max())


# ── estimates ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Models", "The n-gram's estimates are those of the formulas; `kenlm` scores its ARPA the same"
)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_estimates_equal_the_formulas(order: int, seed: int) -> None:
    documents = documents_of(seed)
    model, oracle = trained(stream_of(documents), order), Transcription(texts_of(documents), order)
    assert furthest(model, oracle, seed) < 1e-5
    for text in texts_of(documents):
        wanted = torch.tensor([oracle.row(text[: t + 1]) for t in range(len(text))])
        assert torch.allclose(model(torch.tensor([text]))[0], wanted, atol=1e-5)


def test_both_estimated_and_fallback_discounts_are_met(capsys: pytest.CaptureFixture[str]) -> None:
    oracle = Transcription(texts_of(documents_of(0)), 5)
    model = trained(stream_of(documents_of(0)), 5)
    assert any(oracle.discounts)
    assert None in oracle.discounts
    for n, discount in enumerate(oracle.discounts):
        assert model.discounts[n].tolist() == pytest.approx(discount or (0.5, 1.0, 1.5))
    poor = [str(n) for n, discount in enumerate(oracle.discounts, 1) if discount is None]
    assert f"the discounts of {', '.join(poor)}-grams" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["discount", "raw counts", "uniform"])
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ngram.adjust_counts
    if fault == "discount":
        monkeypatch.setattr(ngram, "estimate_discounts", lambda adjusted: (0.75, 0.75, 0.75))
    elif fault == "raw counts":  # n-grams from end-of-text on counted like all others
        monkeypatch.setattr(ngram, "adjust_counts", lambda counts, links, end_id: real(counts, links, -5))
    else:
        monkeypatch.setattr(ngram, "estimate_order", _without_backoff)
    documents = documents_of(1)
    model, oracle = trained(stream_of(documents), 3), Transcription(texts_of(documents), 3)
    assert furthest(model, oracle, 0) > 1e-3


def _without_backoff(
    adjusted: np.ndarray, parent: np.ndarray, n_parents: int, lower: np.ndarray, discount: np.ndarray
) -> ngram.NGramOrder:
    total = np.maximum(np.bincount(parent, adjusted, minlength=n_parents), 1)
    return ngram.NGramOrder((adjusted + 0.5) / total[parent], np.ones(n_parents))


def test_the_loss_of_training_is_that_of_the_targets() -> None:
    stream = stream_of(documents_of(3))
    model = NGram(NGramConfig(VOCAB, END, 4))
    model.count(batch_of(stream))
    loss = model.update()
    again = model.loss(batch_of(stream))
    assert loss.weight == again.weight == len(stream) - 1
    assert float(loss.total) == pytest.approx(float(again.total), rel=1e-5)
    assert float(loss.mean) < math.log(VOCAB) / 1.2


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one_also_untrained(order: int) -> None:
    ids = torch.randint(VOCAB, (5, 40), generator=torch.Generator().manual_seed(order))
    for model in (trained(stream_of(documents_of(4)), order), NGram(NGramConfig(VOCAB, END, order))):
        logs = model(ids)
        assert logs.dtype == torch.float32
        assert logs.shape == (5, 40, VOCAB)
        assert torch.allclose(logs.exp().sum(-1), torch.ones(5, 40), atol=1e-5)


# ── how the text is cut into batches changes nothing ───────────────────────────────────────────


def test_windows_with_overlap_equal_the_whole() -> None:
    documents = documents_of(5)
    stream = stream_of(documents)
    starts = np.flatnonzero(np.array(stream[:-1]) == END)
    whole = trained(stream, 5)
    loader = TokenLoader(
        in_memory_dataset(stream, starts),
        batch_size=3,
        context_length=17,
        overlap=whole.capabilities.overlap,
        shuffle=False,
    )
    model = NGram(NGramConfig(VOCAB, END, 5))
    for step in range(loader.n_batches):
        model.count(loader.batch(step))
    assert model.update().weight == len(stream) - 1
    assert same(model, whole)
    nats = torch.cat([whole.score(loader.batch(step))[0].flatten() for step in range(loader.n_batches)])
    assert float(nats.sum()) == pytest.approx(float(whole.score(batch_of(stream))[0].sum()), rel=1e-5)


def test_without_overlap_windows_differ_so_the_test_above_can_fail() -> None:
    stream = stream_of(documents_of(5))
    loader = TokenLoader(in_memory_dataset(stream), batch_size=3, context_length=17, overlap=0, shuffle=False)
    model = NGram(NGramConfig(VOCAB, END, 5))
    for step in range(loader.n_batches):
        model.count(loader.batch(step))
    model.update()
    assert not same(model, trained(stream, 5))
    cut = [stream[i : i + 18] for i in range(0, len(stream) - 1, 17)]
    texts = [part for window in cut for part in _at_ends(window)]
    assert furthest(model, Transcription(texts, 5), 5) < 1e-5


def _at_ends(window: list[int]) -> list[list[int]]:
    """A window cut into texts at each end-of-text, which ends one and begins the next."""
    marks = [0, *(i for i in range(1, len(window)) if window[i] == END), len(window) - 1]
    return [window[a : b + 1] for a, b in pairwise(marks) if b > a]


def test_counting_in_several_batches_and_folds_equals_one(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = documents_of(6, n=40)
    whole = trained(stream_of(documents), 4)
    for limit in (1, 100, 300):
        monkeypatch.setattr(ngram, "PENDING", limit)
        model = NGram(NGramConfig(VOCAB, END, 4))
        for text in texts_of(documents):
            model.count(batch_of(text))
        model.update()
        assert same(model, whole)


def test_a_changed_document_cuts_the_context_without_an_end_of_text() -> None:
    first, second = [END, 1, 2, 3, 4, 1, 2], [5, 1, 2, 3, 3, END]
    joined = batch_of([*first, *second])
    joined.documents = torch.tensor([[0] * 7 + [1] * 5])
    joined.weights[0, 6] = 0  # 5 after the 2 of another document
    model, apart = (NGram(NGramConfig(VOCAB, END, 3)) for _ in range(2))
    model.count(joined)
    apart.count(batch_of(first))
    apart.count(batch_of(second))
    assert float(model.update().total) == float(apart.update().total)
    assert same(model, apart)
    nats = model.score(joined)[0][0]
    assert torch.equal(nats[7:], model.score(batch_of(second))[0][0])
    joined.documents = None
    model.count(joined)
    model.update()
    assert not same(model, apart)


@pytest.mark.parametrize("masked", [False, True])
def test_padded_rows_equal_rows_alone(masked: bool) -> None:
    rows = texts_of(documents_of(7))
    time = max(map(len, rows)) - 1
    ids = torch.full((len(rows), time), 7)  # a padding id that is also a word
    targets, weights = torch.full_like(ids, 8), torch.zeros(ids.shape)
    for b, row in enumerate(rows):
        n = len(row) - 1
        ids[b, :n], targets[b, :n], weights[b, :n] = torch.tensor(row[:-1]), torch.tensor(row[1:]), 1
    batch = Batch(ids, targets, weights, mask=weights > 0 if masked else None)
    padded, alone = (NGram(NGramConfig(VOCAB, END, 4)) for _ in range(2))
    padded.count(batch)
    for row in rows:
        alone.count(batch_of(row))
    padded.update(), alone.update()
    assert same(padded, alone)
    nats = padded.score(batch)[0]
    assert not nats[weights == 0].any()
    for b, row in enumerate(rows):
        assert torch.equal(nats[b, : len(row) - 1], alone.score(batch_of(row))[0][0])


# ── the contract ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [1, 2, 5])
def test_score_is_forward_gathered(order: int) -> None:
    model = trained(stream_of(documents_of(8)), order)
    ids = torch.randint(VOCAB, (4, 50), generator=torch.Generator().manual_seed(1))
    targets = torch.randint(VOCAB, (4, 50), generator=torch.Generator().manual_seed(2))  # not the next ids
    weights = (torch.arange(50) % 3 > 0).float().expand(4, 50)
    nats, kind = model.score(Batch(ids, targets, weights))
    wanted = -model(ids).gather(2, targets[..., None])[..., 0] * weights
    assert kind == "exact"
    assert torch.allclose(nats, wanted, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_cached_equals_uncached_in_uneven_chunks_of_ragged_rows(order: int) -> None:
    model = trained(stream_of(documents_of(9)), order)
    chance = random.Random(order)
    rows = [[chance.randrange(VOCAB) for _ in range(n)] for n in (30, 7, 19)]
    cache, done = model.new_cache(3, 30), [0, 0, 0]
    while done != [30, 7, 19]:
        take = [min(chance.randrange(6), len(row) - n) for row, n in zip(rows, done, strict=True)]
        ids = torch.full((3, 6), 5)
        for b, n in enumerate(take):
            ids[b, :n] = torch.tensor(rows[b][done[b] : done[b] + n])
        logs = model(ids, cache, torch.tensor(take))
        for b, n in enumerate(take):
            alone = model(torch.tensor([rows[b]]))[0, done[b] : done[b] + n]
            assert torch.allclose(logs[b, :n], alone, atol=1e-6)
            done[b] += n
        assert cache.lengths.tolist() == done


def test_caches_are_selected_and_joined() -> None:
    model = trained(stream_of(documents_of(10)), 4)
    ids = torch.tensor([[1, 2, 3, 4], [5, 0, 6, 7], [1, 1, 2, 2]])
    cache = model.new_cache(3, 8)
    model(ids[:2], half := model.new_cache(2, 8))
    model(ids[2:], other := model.new_cache(1, 8))
    model(ids, cache)
    joined, step = half.join(other), torch.tensor([[8], [9], [3]])
    picked = cache.select([2, 0])
    wanted = model(torch.cat([ids, step], 1))[:, -1:]
    assert torch.allclose(model(step, joined), wanted, atol=1e-6)
    assert torch.allclose(model(step[[2, 0]], picked), wanted[[2, 0]], atol=1e-6)
    assert picked.lengths.tolist() == [5, 5]
    assert cache.lengths.tolist() == [4, 4, 4]  # selecting copied
    assert not cache.can_rewind


def test_unseen_contexts_back_off_to_what_is_known() -> None:
    model = trained(stream_of(documents_of(11)), 5)
    never = torch.tensor([[10, 10, 10, 10]])  # id 10 was in no text
    assert torch.allclose(model(never)[0, -1], model.probability_1)
    assert float(model.probability_1.min()) > -math.inf
    seen, after_unseen = torch.tensor([[1, 2]]), torch.tensor([[10, 1, 2]])
    assert torch.allclose(model(after_unseen)[0, -1], model(seen)[0, -1])


def test_the_same_text_gives_the_same_bytes() -> None:
    assert same(trained(stream_of(documents_of(12)), 5), trained(stream_of(documents_of(12)), 5))
    assert not same(trained(stream_of(documents_of(12)), 5), trained(stream_of(documents_of(13)), 5))


def test_a_second_pass_starts_anew() -> None:
    model = trained(stream_of(documents_of(12)), 3)
    model.count(batch_of(stream_of(documents_of(13))))
    model.update()
    assert same(model, trained(stream_of(documents_of(13)), 3))


# ── saving ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [1, 2, 5])
def test_save_and_load(order: int, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = trained(stream_of(documents_of(14)), order)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = build("ngram", {"vocab_size": VOCAB, "end_id": END, "order": order})
    assert isinstance(fresh, NGram)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    ids = torch.randint(VOCAB, (2, 20))
    assert same(model, fresh)
    assert torch.equal(model(ids), fresh(ids))
    trained(stream_of(documents_of(15)), order).load_state_dict(model.state_dict())  # over another's tables


@pytest.mark.promise("Models", "Damaged n-gram tables are refused")
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("keys_3", lambda t: t.flip(0), "rising"),
        ("keys_3", lambda t: t + 10_000_000, "rising"),
        ("keys_2", lambda t: t - 100, "rising"),
        ("keys_3", lambda t: t[:-1], "values for"),
        ("keys_2", lambda t: t.float(), "torch.float32"),
        ("backoff_2", lambda t: t[:-1], "values for"),
        ("probability_1", lambda t: t[:-1], "values for"),
        ("probability_3", lambda t: t * math.nan, "not logs"),
        ("probability_2", lambda t: -t, "not logs"),
    ],
)
def test_damaged_tables_are_refused(name: str, damage: object, message: str) -> None:
    model = trained(stream_of(documents_of(14)), 4)
    state = model.state_dict()
    state[name] = damage(state[name])  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=message):
        NGram(model.config).load_state_dict(state)


def test_tables_of_another_order_are_refused() -> None:
    state = trained(stream_of(documents_of(14)), 3).state_dict()
    for order in (2, 4):
        with pytest.raises(RuntimeError):
            NGram(NGramConfig(VOCAB, END, order)).load_state_dict(state)


# ── ARPA ───────────────────────────────────────────────────────────────────────────────────────


def words_of(n: int) -> list[str]:
    return ["<|endoftext|>", *(f"w{i}é" for i in range(1, n))]


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("unknown", [False, True])
def test_kenlm_gives_the_same_scores(order: int, unknown: bool, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = trained(stream_of(documents_of(16)), order)
    words = words_of(VOCAB)
    if unknown:
        words[3] = "<unk>"
    model.write_arpa(tmp_path / "model.arpa", words)
    peer = kenlm.Model(str(tmp_path / "model.arpa"))
    assert peer.order == order
    unseen = [[random.Random(i).randrange(1, VOCAB) for _ in range(20)] for i in range(20)]
    for ids in [*documents_of(16), *documents_of(17), *unseen]:
        scores = list(peer.full_scores(" ".join(words[i] for i in ids), bos=True, eos=True))
        nats = model.score(batch_of([END, *ids, END]))[0][0]
        assert len(scores) == len(nats)
        assert np.allclose([-score * math.log(10) for score, _, _ in scores], nats.numpy(), atol=1e-4)


def test_arpa_lists_every_id_and_counts_its_lines(tmp_path: Path) -> None:
    model = trained(stream_of(documents_of(16)), 3)
    model.write_arpa(tmp_path / "model.arpa", words_of(VOCAB))
    head, *sections = (tmp_path / "model.arpa").read_text().split("-grams:\n")
    for n, section in enumerate(sections, 1):
        lines = section[: section.index("\n\n")].splitlines()
        assert f"ngram {n}={len(lines)}\n" in head
        assert all(len(line.split("\t")[1].split(" ")) == n for line in lines)
    unigrams = {line.split("\t")[1] for line in sections[0].splitlines() if "\t" in line}
    assert unigrams == {"<s>", "</s>", "<unk>", *words_of(VOCAB)[1:]}


@pytest.mark.parametrize(
    ("i", "word", "messages"),
    [
        (3, "a b", ("invalid_value",)),
        (3, "", ("invalid_value",)),
        (4, "<s>", ("invalid_value",)),
        (5, "w2é", ("duplicate_name",)),
    ],
)
def test_tokens_that_are_no_words_are_refused(
    i: int, word: str, messages: tuple[str, ...], tmp_path: Path
) -> None:
    words = words_of(VOCAB)
    words[i] = word
    with raises(UsageError, *messages):
        NGram(NGramConfig(VOCAB, END, 2)).write_arpa(tmp_path / "model.arpa", words)
    with raises(UsageError, "size_mismatch", "10 tokens"):
        NGram(NGramConfig(VOCAB, END, 2)).write_arpa(tmp_path / "model.arpa", words[:-1])
    assert not (tmp_path / "model.arpa").exists()


# ── wrong words ────────────────────────────────────────────────────────────────────────────────


def test_wrong_settings_and_ids_are_named() -> None:
    with raises(UsageError, "out_of_range", "0"):
        NGramConfig(VOCAB, END, 0)
    with raises(UsageError, "unknown_id", "11"):
        NGramConfig(VOCAB, VOCAB)
    model = NGram(NGramConfig(VOCAB, END, 3))
    with raises(UsageError, "empty_data"):
        model.update()
    with raises(UsageError, "unknown_id", "12", "11"):
        model.count(batch_of([END, 12, 3]))
