"""Hidden Markov models against all paths counted one by one, and against `hmmlearn`; the tagger likewise."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from raising import raises
from torch import Tensor

from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.models import hmm, hmm_tagger
from textus.models.hmm import HMM, TABLES, HMMConfig
from textus.models.hmm_tagger import HMMTagger, smooth, suffixes, word_shape
from textus.models.registry import build

END, VOCAB = 0, 6


def fresh(seed: int = 0, **settings: float) -> HMM:
    torch.manual_seed(seed)
    model = build("hmm", {"vocab_size": VOCAB, "end_id": END, "n_state": 3, **settings})
    assert isinstance(model, HMM)
    model.start = torch.rand(model.config.n_state, dtype=torch.double).softmax(0)
    model.midway = torch.rand(model.config.n_state, dtype=torch.double).softmax(0)
    return model


def text(length: int, seed: int = 0) -> list[int]:
    """Ids with a habit: a number tends to be followed by the next; no end-of-text."""
    random = np.random.default_rng(seed)
    steps = random.choice([1, 2, 3], size=length, p=[0.7, 0.2, 0.1])
    return [1 + int(step) % (VOCAB - 1) for step in np.cumsum(steps)]


def whole(rows: list[list[int]]) -> Batch:
    """Rows of like length, every next id a target."""
    ids = torch.tensor(rows)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(ids[:, 1:].shape))


def document(length: int, seed: int = 0) -> list[int]:
    return [END, *text(length, seed), END]


# ── the oracle: every path ─────────────────────────────────────────────────────────────────────


def paths(model: HMM, ids: list[int]) -> dict[tuple[int, ...], float]:
    """The probability of every path of states with these ids; end-of-text at the front is context."""
    first = (model.start if ids[0] == END else model.midway).tolist()
    transition, emission = model.transition.tolist(), model.emission.tolist()
    ids = ids[1:] if ids[0] == END else ids
    results = {}
    for path in itertools.product(range(model.config.n_state), repeat=len(ids)):
        p = first[path[0]] * emission[path[0]][ids[0]]
        for before, state, item in zip(path, path[1:], ids[1:], strict=False):
            p *= transition[before][state] * emission[state][item]
        results[path] = p
    return results


def likelihood(model: HMM, ids: list[int]) -> float:
    return sum(paths(model, ids).values())


@pytest.mark.promise(
    "Families",
    "HMM probabilities and Viterbi paths are those of all paths counted one by one, and of `hmmlearn`",
)
@pytest.mark.parametrize("ids", [document(5), document(5)[:-1], text(6)], ids=["document", "begun", "midway"])
def test_probabilities_are_those_of_all_paths(ids: list[int]) -> None:
    model = fresh()
    nats, kind = model.score(whole([ids]))
    expected = []
    for end in range(2, len(ids) + 1):
        before = 1.0 if ids[: end - 1] == [END] else likelihood(model, ids[: end - 1])
        expected.append(-math.log(likelihood(model, ids[:end]) / before))
    assert kind == "exact"
    assert nats[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_document_begins_from_the_start() -> None:
    """After end-of-text nothing of the document before is known, though it stands in the same row."""
    model = fresh()
    row = [*document(4, seed=1), *text(4, seed=2), END]
    alone = model.score(whole([document(4, seed=2)]))[0]
    assert model.score(whole([row]))[0][0, -5:].tolist() == pytest.approx(alone[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("ids", [document(6), text(7)], ids=["document", "midway"])
def test_viterbi_finds_the_likeliest_of_all_paths(ids: list[int]) -> None:
    for seed in range(5):
        model = fresh(seed)
        result = paths(model, ids)
        tagged = model.tag(torch.tensor([ids]))[0].tolist()
        assert tuple(tagged[-len(next(iter(result))) :]) == max(result, key=lambda path: result[path])


def test_viterbi_of_padded_rows_is_that_of_each_alone() -> None:
    model = fresh()
    rows = [document(n, seed=n) for n in (1, 9, 4)]
    ids = torch.full((3, 11), 3)
    mask = torch.zeros(3, 11, dtype=torch.bool)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row)
        mask[b, : len(row)] = True
    together = model.tag(ids, mask)
    for b, row in enumerate(rows):
        alone = model.tag(torch.tensor([row]))[0]
        assert together[b, 1 : len(row)].tolist() == alone[1:].tolist()
        assert (together[b, len(row) :] == 0).all()


# ── hmmlearn ───────────────────────────────────────────────────────────────────────────────────


def rival(model: HMM, prior: float) -> object:
    """A model of hmmlearn with the same tables; its sequences begin from `start`."""
    hmmlearn = pytest.importorskip("hmmlearn.hmm", reason="hmmlearn is not installed (pip install hmmlearn)")
    other = hmmlearn.CategoricalHMM(
        n_components=model.config.n_state, n_features=VOCAB, n_iter=1, init_params="",
        startprob_prior=1 + prior, transmat_prior=1 + prior, emissionprob_prior=1 + prior,
    )  # fmt: skip
    other.startprob_, other.transmat_, other.emissionprob_ = (
        getattr(model, name).numpy() for name in ("start", "transition", "emission")
    )
    return other


DOCUMENTS = [document(n, seed=n) for n in (1, 30, 7, 12, 2)]


def packed(documents: list[list[int]]) -> Batch:
    """Documents end to end in rows, as the loader cuts a stream of them."""
    stream, starts = [], []
    for document in documents:
        starts.append(len(stream))
        stream += document[:-1]
    loader = TokenLoader(
        in_memory_dataset([*stream, END], starts), batch_size=1, context_length=len(stream), shuffle=False
    )
    return loader.batch(0)


def taught(model: HMM, *batches: Batch) -> dict[str, Tensor]:
    for batch in batches:
        model.count(batch)
    model.update()
    return dict(model.state_dict())


def test_scores_and_states_equal_those_of_hmmlearn() -> None:
    model = fresh()
    other = rival(model, 0.0)
    for item in DOCUMENTS:
        column = np.array(item[1:])[:, None]
        nats = model.score(whole([item]))[0].sum()
        assert float(nats) == pytest.approx(-other.score(column), rel=1e-6)  # type: ignore[attr-defined]
        tags = model.tag(torch.tensor([item]))[0, 1:].tolist()
        assert tags == other.predict(column).tolist()  # type: ignore[attr-defined]


@pytest.mark.promise(
    "Families",
    "A step of Baum–Welch is `hmmlearn`'s and the posterior of all paths; padding, packing, pieces and "
    "grouping change nothing",
)
@pytest.mark.parametrize("prior", [1e-9, 0.01, 2.0])
def test_a_step_of_learning_equals_that_of_hmmlearn(prior: float) -> None:
    model = fresh(prior=prior)
    other = rival(model, prior)
    columns = np.concatenate([item[1:] for item in DOCUMENTS])[:, None]
    other.fit(columns, [len(item) - 1 for item in DOCUMENTS])  # type: ignore[attr-defined]
    trained = taught(model, packed(DOCUMENTS))
    for name, theirs in (("start", "startprob_"), ("transition", "transmat_"), ("emission", "emissionprob_")):
        np.testing.assert_allclose(trained[name].numpy(), getattr(other, theirs), atol=1e-9)


def expectations(model: HMM, rows: list[list[int]]) -> dict[str, Tensor]:
    """What is learnt from rows, by the posterior of every path."""
    counts = {name: torch.full_like(getattr(model, name), model.config.prior) for name in TABLES}
    for ids in rows:
        result = paths(model, ids)
        total = sum(result.values())
        seen = ids[1:] if ids[0] == END else ids
        for path, p in result.items():
            counts["start" if ids[0] == END else "midway"][path[0]] += p / total
            for before, state in itertools.pairwise(path):
                counts["transition"][before, state] += p / total
            for state, item in zip(path, seen, strict=True):
                counts["emission"][state, item] += p / total
    return {name: table / table.sum(-1, keepdim=True) for name, table in counts.items()}


def equal(trained: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.allclose(trained[name], expected[name], rtol=0, atol=1e-10) for name in TABLES)


ROWS = [document(5)[:-1], text(6, seed=1), document(4, seed=2)]


def test_what_is_learned_is_the_posterior_of_all_paths() -> None:
    trained = taught(fresh(), *(whole([row]) for row in ROWS))
    assert equal(trained, expectations(fresh(), ROWS))


def test_padding_and_packing_have_the_same_gradients() -> None:
    ids, targets, mask = torch.full((3, 9), 2), torch.full((3, 9), 4), torch.zeros(3, 9, dtype=torch.bool)
    for b, row in enumerate(ROWS):
        ids[b, : len(row) - 1], targets[b, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
        mask[b, : len(row) - 1] = True
    padded = Batch(ids, targets, mask.float(), mask=mask)
    assert equal(taught(fresh(), padded), expectations(fresh(), ROWS))
    documents = [document(4, seed=5), document(3, seed=6)]
    assert equal(taught(fresh(), packed(documents)), expectations(fresh(), documents))


def test_long_documents_are_learned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece begins with the last target of the one before, and where it is, `midway` says."""
    monkeypatch.setattr(hmm, "PIECE", 4)
    ids = document(9)
    pieces = [ids[:5], ids[4:9], ids[8:]]
    assert equal(taught(fresh(), whole([ids])), expectations(fresh(), pieces))


def test_targets_of_weight_zero_have_no_gradient() -> None:
    """What they would have taught stays away, though they are read: a document after them knows the same."""
    batch = packed([document(4, seed=5), document(3, seed=6)])
    batch.weights[:, :5] = 0
    assert equal(taught(fresh(), batch), expectations(fresh(), [document(3, seed=6)]))


# ── planted faults: what the comparisons above are worth ───────────────────────────────────────


def no_priming(batch: Batch, end_id: int) -> hmm.PackedSequences:
    result = CHAINS(batch, end_id)
    result.fresh[:] = True
    return result


def one_chain(batch: Batch, end_id: int) -> hmm.PackedSequences:
    result = CHAINS(batch, end_id)
    result.size, result.first, result.fresh = result.size.sum()[None], result.first[:1], result.fresh[:1]
    return result


def heavy_first(batch: Batch, end_id: int) -> hmm.PackedSequences:
    result = CHAINS(batch, end_id)
    result.weights[result.first] *= 2
    return result


CHAINS = hmm.pack_sequences


@pytest.mark.parametrize("fault", [no_priming, one_chain, heavy_first])
def test_a_planted_fault_is_seen(
    fault: Callable[[Batch, int], hmm.PackedSequences], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmm, "pack_sequences", fault)
    rows = [*ROWS[0], *ROWS[2]], ROWS[1]
    trained = taught(fresh(), *(whole([row]) for row in rows))
    monkeypatch.undo()
    sound = taught(fresh(), *(whole([row]) for row in rows))
    expected = expectations(fresh(), [ROWS[0], ROWS[2], ROWS[1]])
    assert not equal(trained, expected)
    # the row of two documents in one is cut: the same but for the first one's end
    assert equal(sound, expectations(fresh(), [[*ROWS[0], END], ROWS[2], ROWS[1]]))


# ── learning as a whole ────────────────────────────────────────────────────────────────────────


def objectives(model: HMM, batches: list[Batch], passes: int) -> list[float]:
    results = []
    for _ in range(passes):
        for batch in batches:
            model.count(batch)
        results.append(model.update().parts["objective"])
    return results


def rises(values: list[float]) -> bool:
    return any(after > before + 1e-9 * abs(before) for before, after in itertools.pairwise(values))


@pytest.mark.promise("Families", "The penalised likelihood never falls during EM")
@pytest.mark.parametrize("prior", [1e-6, 0.01, 1.0])
def test_the_penalised_likelihood_never_falls(prior: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmm, "PIECE", 16)
    batches = [whole([document(60, seed=1)]), whole([text(62, seed=s) for s in (2, 3)]), packed(DOCUMENTS)]
    result = objectives(fresh(prior=prior), batches, 60)
    assert not rises(result)
    assert result[-1] < result[0] - 1


def test_a_wrong_step_would_make_it_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: HMM, text: hmm.PackedSequences, rows: Tensor, expected: hmm.ExpectedCounts) -> None:
        EXPECT(model, text, rows, expected)
        expected.transition[0] *= 0.5
        expected.emission[:, 1] *= 0.7

    monkeypatch.setattr(hmm, "_expect_group", forgetful)
    assert rises(objectives(fresh(), [whole([document(60, seed=1)])], 60))


EXPECT = hmm._expect_group


def test_the_loss_is_from_before_the_update_and_of_the_targets() -> None:
    model, batch = fresh(), whole([document(20), text(22)])
    nats = model.score(batch)[0].sum()
    model.count(batch)
    loss = model.update()
    assert float(loss.total) == pytest.approx(float(nats), rel=1e-6)
    assert loss.weight == 42
    assert model.score(batch)[0].sum() < nats


def test_groups_of_chains_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory there is for a group, the same is learnt."""
    at_once = taught(fresh(), packed(DOCUMENTS))
    monkeypatch.setattr(hmm, "AT_ONCE", 1)
    assert equal(taught(fresh(), packed(DOCUMENTS)), at_once)


def test_states_find_the_kinds_of_words() -> None:
    """Two kinds of id that alternate become two states: tagging without a teacher."""
    random = np.random.default_rng(0)
    kinds = [[1, 2, 3], [4, 5]]
    row = [END, *(int(random.choice(kinds[place % 2])) for place in range(200))]
    torch.manual_seed(1)
    model = HMM(HMMConfig(vocab_size=VOCAB, end_id=END, n_state=2))
    for _ in range(model.n_passes()):
        model.count(whole([row]))
        model.update()
    states = model.tag(torch.tensor([row]))[0, 1:]
    assert states[::2].unique().numel() == states[1::2].unique().numel() == 1
    assert states[0] != states[1]


def test_states_that_begin_alike_stay_alike() -> None:
    """Why the beginning is random: from even tables nothing is learnt but how frequent ids are."""
    even = fresh()
    for name in TABLES:
        setattr(even, name, torch.full_like(getattr(even, name), 1 / getattr(even, name).shape[-1]))
    random = fresh()
    batch = whole([document(200)])
    for model in (even, random):
        objectives(model, [batch], 30)
    assert torch.allclose(even.emission[0], even.emission[1])
    assert float(random.loss(batch).mean) < float(even.loss(batch).mean) - 0.2


def test_wrong_words() -> None:
    for wrong, message in (
        ({"n_state": 0}, "n_state=0"),
        ({"passes": 0}, "passes=0"),
        ({"prior": 0.0}, "prior=0.0"),
        ({"end_id": 6}, "end_id=6"),
    ):
        with pytest.raises(UsageError, match=message):
            HMMConfig(**{"vocab_size": VOCAB, "end_id": END, **wrong})  # type: ignore[arg-type]
    with raises(UsageError, "empty_data"):
        fresh().update()
    with raises(UsageError, "unknown_id", "6"):
        fresh().count(whole([[1, 2, 6]]))


@pytest.mark.promise("Families", "Damaged HMM tables are refused")
@pytest.mark.parametrize("damage", [-0.5, 0.5, float("nan")])
def test_damaged_tables_are_refused(damage: float) -> None:
    sound = fresh().state_dict()
    fresh(1).load_state_dict(sound)
    for name in TABLES:
        damaged = {key: table.clone() for key, table in sound.items()}
        damaged[name][..., 0] += damage
        with pytest.raises(RuntimeError, match=f"{name} has rows that are not shares"):
            fresh(1).load_state_dict(damaged)


# ── the tagger ─────────────────────────────────────────────────────────────────────────────────

SENTENCES = [
    (["The", "dog", "walks", "."], ["D", "N", "V", "."]),
    (["A", "walk", "tires", "the", "dog", "."], ["D", "N", "V", "D", "N", "."]),
    (["Dogs", "walk", "."], ["N", "V", "."]),
    (["The", "old", "dog", "sleeps", "in", "1961", "."], ["D", "A", "N", "V", "P", "#", "."]),
    (["In", "the", "old", "garden", "it", "rained", "."], ["P", "D", "A", "N", "N", "V", "."]),
]


def tagger() -> HMMTagger:
    return HMMTagger().fit(SENTENCES)


def weigh(model: HMMTagger, words: list[str], tags: list[int]) -> float:
    """The log-probability of words with tags, up to a constant of the words."""
    edge = len(model.tags)
    chain = [edge, edge, *tags, edge]
    total = sum(float(model._transition[tuple(chain[i : i + 3])]) for i in range(len(chain) - 2))
    for place, (word, tag) in enumerate(zip(words, tags, strict=True)):
        possible, logs = model.candidates(word, place == 0)
        total += float(logs[possible.tolist().index(tag)]) if tag in possible else -math.inf
    return total


def best(model: HMMTagger, words: list[str]) -> list[str]:
    every = itertools.product(range(len(model.tags)), repeat=len(words))
    return [model.tags[tag] for tag in max(every, key=lambda tags: weigh(model, words, list(tags)))]


TEXTS = ["dogs sleep .", "Walk the dog .", "It walked in 1962 .", "gardens", "old old walks walk 7"]


@pytest.mark.promise(
    "Families",
    "The tagger's answer is the likeliest of all tag sequences; kept and brought back it tags the same",
)
@pytest.mark.parametrize("words", [text.split() for text in TEXTS])
def test_tags_are_the_likeliest_of_all(words: list[str]) -> None:
    model = tagger()
    assert model.tag(words) == best(model, words)


def test_a_planted_fault_in_the_transitions_is_seen() -> None:
    model = tagger()
    sound = [best(model, text.split()) for text in TEXTS]
    model._transition = model._transition.transpose(1, 0, 2)
    assert [model.tag(text.split()) for text in TEXTS] != sound


def test_tag_trigrams_are_interpolated_as_in_the_paper() -> None:
    """Brants 2000, figure 1, transcribed; and the shares add up to one."""
    rows = [[0, 1, 0, 1], [0, 1, 1], [1, 0]]
    grams = hmm_tagger.count_grams(rows, 2)
    padded = [[2, 2, *row, 2] for row in rows]
    tokens = sum(len(row) - 2 for row in padded)

    def seen(*tags: int) -> int:
        """As a context or an end: anywhere but where the last tag is the edge in front."""
        return sum(
            tuple(row[i - len(tags) + 1 : i + 1]) == tags for row in padded for i in range(2, len(row))
        )

    def context(*tags: int) -> int:
        return sum(seen(*tags, tag) for tag in range(3))

    votes = [0, 0, 0]
    for a, b, c in {tuple(row[i - 2 : i + 1]) for row in padded for i in range(2, len(row))}:
        cases = [
            (seen(c) - 1) / (tokens - 1),
            (seen(b, c) - 1) / (context(b) - 1) if context(b) > 1 else 0,
            (seen(a, b, c) - 1) / (context(a, b) - 1) if context(a, b) > 1 else 0,
        ]
        votes[cases.index(max(cases))] += seen(a, b, c)
    weights = [vote / sum(votes) for vote in votes]
    result = hmm_tagger.interpolate(grams, 2)
    a, b = 0, 1  # a context that was seen
    for c in range(3):
        shares = [seen(c) / tokens, seen(b, c) / context(b), seen(a, b, c) / context(a, b)]
        expected = sum(w * s for w, s in zip(weights, shares, strict=True))
        assert result[a, b, c] == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(result.sum(2), 1)
    assert (result > 0).all()


def test_unknown_words_are_tagged_by_their_endings() -> None:
    rows = [([f"{stem}ing", f"{stem}ly"], ["V", "R"]) for stem in ("walk", "talk", "sing", "jump", "hunt")]
    model = HMMTagger().fit(rows)
    assert model.tags[int(model.share("climbing").argmax())] == "V"
    assert model.tags[int(model.share("softly").argmax())] == "R"


def test_shapes_and_endings() -> None:
    assert [word_shape(word) for word in ("dog", "Dog", "NATO", "1961", "U.S.", "80-year")] == [
        "a", "Aa", "A", "d", "A.A.", "d-a",
    ]  # fmt: skip
    assert list(suffixes("Dog")) == ["Aa", "A-g", "A-og", "A-dog"]
    assert list(suffixes("")) == [""]


def test_smoothing_is_that_of_witten_and_bell() -> None:
    share = smooth({0: 3, 2: 1}, np.array([0.2, 0.3, 0.5]))
    assert share.tolist() == pytest.approx([(3 + 2 * 0.2) / 6, 2 * 0.3 / 6, (1 + 2 * 0.5) / 6])


def test_a_capital_at_the_beginning_is_weak_evidence() -> None:
    model = HMMTagger().fit([(["The", "Will", "will", "will", "will"], ["D", "N", "V", "V", "V"])] * 4)
    shares = []
    for opens in (False, True):
        tags, logs = model.candidates("Will", opens)
        share = dict(zip((model.tags[tag] for tag in tags), np.exp(logs) * model._prior[tags], strict=True))
        shares.append(share.get("V", 0.0) / share["N"])
    assert shares[0] < 0.1
    assert shares[1] > 1


def test_kept_and_brought_back_it_tags_the_same() -> None:
    model = tagger()
    again = HMMTagger.from_dict(json.loads(json.dumps(model.to_dict())))
    np.testing.assert_array_equal(again._transition, model._transition)
    assert all(again.tag(text.split()) == model.tag(text.split()) for text in TEXTS)
    assert again.to_dict() == model.to_dict()


def test_the_taggers_wrong_words() -> None:
    with raises(UsageError, "not_fitted"):
        HMMTagger().tag(["a"])
    with raises(DataError, "size_mismatch", "1", "2"):
        HMMTagger().fit([SENTENCES[0], (["a", "b"], ["D"])])
    with raises(DataError, "empty_data"):
        HMMTagger().fit([])
    assert tagger().tag([]) == []
    sound = tagger().to_dict()
    for damage in ({"tags": ["D"]}, {"words": {"a": [[-1, 2]]}}, {"grams": [[99, 1]]}, {"grams": "x"}):
        with raises(DataError, "damaged"):
            HMMTagger.from_dict({**sound, **damage})
    with raises(DataError, "damaged", "'words'"):
        HMMTagger.from_dict({"tags": ["D"], "grams": []})
