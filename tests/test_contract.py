"""Every family keeps the contract of `textus.models.contract`; and for each promise a model that breaks it is caught.

A new family needs one line in `CASES` of `families.py`. A check is a function of a trained model that raises
AssertionError; it runs on every case, and on the planted faults of `faulty.py`. Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    CASES,
    CONTEXT,
    END,
    V,
    assert_close,
    fresh,
    learn,
    mean_score,
    random_batch,
    random_ids,
    toy_batch,
    trained,
)
from faulty import (
    CountsRows,
    Forgets,
    Keeps,
    LooksAhead,
    Means,
    Mixes,
    Narrow,
    Overruns,
    ReadsOn,
    Restless,
    SeesPadding,
    Sound,
    Ungrouped,
    Unnormalised,
    Weightless,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from textus.core.config import to_dict
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.models.contract import CountBased, LanguageModel, Loss
from textus.models.registry import FAMILIES, build


@pytest.mark.promise(
    "Models",
    "Every family keeps every clause of the contract: shapes, probabilities that sum to one, no look "
    "ahead, cached = uncached, batched = alone, padding and packing change nothing",
)
def test_every_family_is_tried() -> None:
    assert {family for family, _ in CASES.values()} == set(FAMILIES)


# ── checks: what is read ───────────────────────────────────────────────────────────────────────


def check_shapes(model: LanguageModel) -> None:
    assert model.config.vocab_size == V
    assert hasattr(model.config, "context_length")
    for rows, length in ((1, 1), (3, 7), (2, CONTEXT)):
        logits = model(random_ids(rows, length))
        assert logits.shape == (rows, length, V)
        assert logits.is_floating_point()
        assert logits.isfinite().all()


def check_causality(model: LanguageModel) -> None:
    """What comes later changes nothing before it; what came before does (but for memoryless families)."""
    ids = random_ids(2, 12)
    changed = torch.cat([ids[:, :7], random_ids(2, 5, seed=9)], 1)
    assert_close(model(changed)[:, :7], model(ids)[:, :7], "logits know later ids")


def check_too_long(model: LanguageModel) -> None:
    """More ids than the context: one line with both numbers, in one piece or through a cache."""
    context = model.config.context_length
    if context is None:
        return
    with pytest.raises(UsageError, match=rf"{context + 1}.* {context}\b"):
        model(random_ids(1, context + 1))
    if not model.capabilities.can_generate:
        return
    cache = model.new_cache(1, context)
    model(random_ids(1, context), cache)
    with pytest.raises(UsageError, match=rf"{context + 1}.* {context}\b"):
        model(random_ids(1, 1), cache)


# ── checks: what is remembered ─────────────────────────────────────────────────────────────────


def read_on(model: LanguageModel, cache: Any, ids: Tensor, cuts: list[int]) -> Tensor:
    """Logits of ids (B, T) read in pieces that end at `cuts` and at T."""
    edges = [0, *cuts, ids.shape[1]]
    pieces = [ids[:, low:high] for low, high in pairwise(edges)]
    return torch.cat([model(piece, cache) for piece in pieces], 1)


def check_cached_equals_uncached(model: LanguageModel) -> None:
    ids = random_ids(3, 20)
    for cuts in ([5, 6, 12], [1, 2, 3, 4], [19], list(range(1, 20))):
        cache = model.new_cache(3, 20)
        assert_close(read_on(model, cache, ids, cuts), model(ids), f"pieces cut at {cuts}")
        assert cache.lengths.tolist() == [20] * 3
        assert isinstance(cache.can_rewind, bool)


def check_lengths(model: LanguageModel) -> None:
    """Rows read raggedly in two padded pieces, some nothing of one, go on as if read alone."""
    rows = [random_ids(1, n, seed=n)[0] for n in (1, 9, 4, 7)]
    first = [1, 5, 0, 3]
    after = random_ids(4, 3, seed=7)
    outcomes = []
    for padding in (0, 5):
        cache = model.new_cache(4, 16)
        for takes in (first, [len(row) - n for row, n in zip(rows, first, strict=True)]):
            piece = torch.full((4, max(takes) + 1), padding)
            for b, n in enumerate(takes):
                seen = int(cache.lengths[b])
                piece[b, :n] = rows[b][seen : seen + n]
            logits = model(piece, cache, torch.tensor(takes))
        assert cache.lengths.tolist() == [len(row) for row in rows]
        assert_close(logits[1, 3], model(rows[1][None])[0, -1], "the last of a ragged row")
        outcomes.append(model(after, cache))
    assert_close(outcomes[0], outcomes[1], "what pads is seen")
    for b, row in enumerate(rows):
        alone = model(torch.cat([row, after[b]])[None])[:, len(row) :]
        assert_close(outcomes[0][b : b + 1], alone, f"row {b} after ragged reading")


def check_select_and_join(model: LanguageModel) -> None:
    """Rows dropped, reordered and brought together from caches of other sizes keep each their own past."""
    past = {n: random_ids(1, n, seed=n) for n in (2, 5, 9)}
    caches = {}
    for n, ids in past.items():
        caches[n] = model.new_cache(1, n + 6)
        model(ids, caches[n])
    joined = caches[5].join(caches[9]).join(caches[2])
    assert joined.lengths.tolist() == [5, 9, 2]
    after = random_ids(3, 6, seed=4)
    together = model(after[:, :2], joined)
    chosen = joined.select([2, 0])
    assert chosen.lengths.tolist() == [4, 7]
    rest = model(after[[2, 0], 2:], chosen)
    for b, n in enumerate((5, 9, 2)):
        alone = model(torch.cat([past[n], after[b : b + 1]], 1))[:, n:]
        assert_close(together[b : b + 1], alone[:, :2], f"joined row of {n}")
        if n != 9:
            place = [2, 5].index(n)
            assert_close(rest[place : place + 1], alone[:, 2:], f"selected row of {n}")


PROMPTS = [[3, 1, 4], [9], [2, 6] * (CONTEXT // 2), [7, 9, 3, 2, 3, 8, 4], [1, 2]]


def check_engine_equals_generate(model: LanguageModel) -> None:
    """Ragged prompts, batched and cached, over the end of the context, give the ids each gives alone."""
    for temperature in (0.0, 1.0):
        samplings = [
            SamplingParams(temperature=temperature, max_tokens=9 + 7 * n, seed=n) for n in range(len(PROMPTS))
        ]
        got: list[list[int]] = [[] for _ in PROMPTS]
        for event in Engine(model, end_id=END, max_rows=3).stream(PROMPTS, samplings):
            got[event.row] += [] if event.id is None else [event.id]
        for row, (prompt, sampling) in enumerate(zip(PROMPTS, samplings, strict=True)):
            assert got[row] == generate(model, prompt, sampling, END), (
                f"row {row} at temperature {temperature}"
            )


def check_same_seed_same_text(model: LanguageModel) -> None:
    texts = [
        generate(model, [3, 1], SamplingParams(seed=s, max_tokens=30, temperature=1.5), None)
        for s in (4, 4, 5)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


# ── checks: what is learnt ─────────────────────────────────────────────────────────────────────


def check_probabilities_sum_to_one(model: LanguageModel) -> None:
    """Over all targets, at every position: what an exact `score` gives are probabilities."""
    if model.capabilities.likelihood == "bound":  # of whole texts: tests/test_vae.py asks whether it is one
        assert_close(model(random_ids(2, 9)).exp().sum(2), torch.ones(2, 9), "probabilities of all ids")
        return
    ids, targets = random_ids(2, 9), random_ids(2, 9, seed=1)
    for place in (0, 4, 8):  # one at a time: some families read the other targets too
        total = torch.zeros(2)
        for target in range(V):
            targets[:, place] = target
            total += torch.exp(-model.score(Batch(ids, targets, torch.ones(2, 9)))[0][:, place])
        assert_close(total, torch.ones(2), f"probabilities of all ids at {place}")


def check_score_agrees_with_forward(model: LanguageModel) -> None:
    batch = random_batch()
    nats, kind = model.score(batch)
    assert kind in ("exact", "bound", "pseudo")
    logs = (
        (model(batch.ids) if model.capabilities.is_causal else hidden_in_turn(model, batch))
        .float()
        .log_softmax(-1)
    )
    if kind != "bound":
        assert_close(
            nats, -logs.gather(2, batch.targets[..., None])[..., 0] * batch.weights, "score and forward"
        )
    assert (nats[batch.weights == 0] == 0).all()


def hidden_in_turn(model: LanguageModel, batch: Batch) -> Tensor:
    """Logits (B, T, V) for each target where it is the one hidden from a model that reads both ways."""
    logits = []
    for place in range(batch.targets.shape[1]):
        seen = batch.targets.clone()
        seen[:, place] = model.config.masked_id
        logits.append(model(seen)[:, place])
    return torch.stack(logits, 1)


def check_loss_is_a_weighted_sum(model: LanguageModel) -> None:
    """A total and a weight: pieces add up to the whole, and padding adds nothing."""
    batch = random_batch(rows=5)
    whole = model.loss(batch)
    assert isinstance(whole, Loss)
    assert whole.weight == pytest.approx(float(batch.weights.sum()))
    if model.capabilities.is_causal:  # the others learn by another sum than they are scored by
        assert_close(whole.total, model.score(batch)[0].sum(), "loss and score")
    for n in (2, 3, 5):
        pieces = [model.loss(piece) for piece in batch.micro(n)]
        assert_close(sum((p.total for p in pieces), torch.zeros(())), whole.total, f"{n} pieces")
        assert sum(p.weight for p in pieces) == pytest.approx(whole.weight)
    padded = model.loss(pad(batch))
    assert_close(padded.total, whole.total, "padding")
    assert padded.weight == pytest.approx(whole.weight)


def pad(batch: Batch, extra: int = 4) -> Batch:
    """Columns of ids that do not count, and a row of nothing else."""
    rows, length = batch.ids.shape

    def grown(tensor: Tensor, fill: int) -> Tensor:
        larger = tensor.new_full((rows + 1, length + extra), fill)
        larger[:rows, :length] = tensor
        return larger

    mask = grown(torch.ones_like(batch.ids, dtype=torch.bool), 0)
    return Batch(grown(batch.ids, 2), grown(batch.targets, 5), grown(batch.weights, 0), mask=mask)


def check_accumulated_learning(model: LanguageModel) -> None:
    """Learning from micro-batches, or from the padded batch, is learning from the whole."""
    batch = replace(random_batch(rows=4), weights=torch.ones(4, 20))
    whole = lesson(model, [batch])
    for other in (batch.micro(2), batch.micro(3), [pad(batch)]):
        for name, value in lesson(model, other).items():
            assert_close(value, whole[name], f"what {name} learns from {len(other)} pieces")


def lesson(model: LanguageModel, pieces: list[Batch]) -> dict[str, Tensor]:
    """What is learnt from these pieces together: gradients, or the tables of a count model."""
    if isinstance(model, CountBased):
        torch.manual_seed(0)  # a model that begins at random begins the same for every way of cutting
        pupil = type(model)(model.config)
        for piece in pieces:
            pupil.count(piece)
        pupil.update()
        return pupil.state_dict()
    model.zero_grad()
    for piece in pieces:
        model.loss(piece).total.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert grads
    return grads


def check_documents_do_not_see_each_other(model: LanguageModel) -> None:
    """Packed in one row, the second document is scored the same whatever the first one was."""
    second = random_ids(1, 9, seed=3)
    documents = torch.tensor([[0] * 6 + [1] * 8])
    nats = []
    for seed in (1, 2):
        stream = torch.cat([random_ids(1, 6, seed=seed), second], 1)
        batch = Batch(stream[:, :-1], stream[:, 1:], torch.ones(1, 14), documents=documents)
        nats.append(model.score(batch)[0])
    assert_close(nats[0][:, 6:], nats[1][:, 6:], "a document sees the one before")


def check_parameter_groups(model: LanguageModel) -> None:
    """Every parameter that learns is in exactly one group."""
    grouped = [id(p) for group in model.parameter_groups().values() for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def check_learning_continues_after_generating(model: LanguageModel) -> None:
    """Nothing made while generating (in inference mode) is left in the way of gradients."""
    pupil = copy.deepcopy(model)
    generate(pupil, [1, 2], SamplingParams(max_tokens=3), None)
    list(Engine(pupil, end_id=None).stream([[1, 2]], SamplingParams(max_tokens=3)))
    learn(pupil, toy_batch(), steps=1)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]
WITH_GRADIENTS = [
    check_accumulated_learning,
    check_learning_continues_after_generating,
]


GENERATING = [
    check_cached_equals_uncached,
    check_lengths,
    check_select_and_join,
    check_engine_equals_generate,
    check_same_seed_same_text,
    check_learning_continues_after_generating,
]


def asked(check: Callable[[LanguageModel], None], model: LanguageModel) -> bool:
    """Whether this was promised: families that read both ways see what comes later, and have no cache."""
    can = model.capabilities
    return (can.is_causal or check is not check_causality) and (can.can_generate or check not in GENERATING)


def run(check: Callable[[LanguageModel], None], model: LanguageModel) -> None:
    with torch.set_grad_enabled(check in WITH_GRADIENTS):
        check(model)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("case", CASES)
def test_contract(case: str, check: Callable[[LanguageModel], None]) -> None:
    if not asked(check, trained(case)):
        causal = trained(case).capabilities.is_causal
        pytest.skip("this family has no cache" if causal else "this family reads both ways")
    run(check, trained(case))


# ── what needs a new model ─────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Models",
    "The loss falls on a toy text; the same seed learns the same; saved and loaded it is the same model",
)
@pytest.mark.parametrize("case", CASES)
def test_the_loss_falls_on_a_toy_text(case: str) -> None:
    model, batch = fresh(case), toy_batch()
    before = mean_score(model, batch)
    learn(model, batch)
    after = mean_score(model, batch)
    assert after < before - 0.1, f"{before:.3f} -> {after:.3f}"


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_learns_the_same(case: str) -> None:
    first, second = fresh(case, seed=3), fresh(case, seed=3)
    for model in (first, second):
        torch.manual_seed(1)  # dropout
        learn(model, toy_batch(), steps=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_it_is_the_same_model(case: str, tmp_path: Path) -> None:
    model = trained(case)
    family, _ = CASES[case]
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors"
    )
    config = json.loads(json.dumps(to_dict(model.config)))
    torch.manual_seed(99)
    loaded = build(family, config)
    loaded.load_state_dict(load_file(tmp_path / "m.safetensors"))
    loaded.eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(random_ids(2, 12)), model(random_ids(2, 12)))


# ── planted faults ─────────────────────────────────────────────────────────────────────────────


FAULTS: dict[Callable[[LanguageModel], None], list[type[Sound]]] = {
    check_shapes: [Narrow],
    check_causality: [LooksAhead],
    check_too_long: [Overruns],
    check_cached_equals_uncached: [Forgets, Restless, LooksAhead],
    check_lengths: [SeesPadding, Forgets],
    check_select_and_join: [Mixes],
    check_engine_equals_generate: [Forgets, Mixes, Restless, LooksAhead],
    check_same_seed_same_text: [Restless],
    check_probabilities_sum_to_one: [Unnormalised],
    check_score_agrees_with_forward: [Unnormalised, Weightless],
    check_loss_is_a_weighted_sum: [Means, CountsRows, Weightless],
    check_accumulated_learning: [Means, Weightless],
    check_documents_do_not_see_each_other: [ReadsOn],
    check_parameter_groups: [Ungrouped],
    check_learning_continues_after_generating: [Keeps],
}


@pytest.mark.promise("Models", "For each clause a model that breaks it is caught")
def test_every_check_has_a_planted_fault() -> None:
    assert set(FAULTS) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_sound_model_passes(check: Callable[[LanguageModel], None]) -> None:
    run(check, Sound())


def planted() -> Iterator[Any]:
    for check, faults in FAULTS.items():
        for fault in faults:
            yield pytest.param(check, fault, id=f"{check.__name__.removeprefix('check_')}-{fault.__name__}")


@pytest.mark.parametrize(("check", "fault"), planted())
def test_a_planted_fault_is_found(check: Callable[[LanguageModel], None], fault: type[Sound]) -> None:
    torch.manual_seed(0)
    broken = RuntimeError if fault is Keeps else (AssertionError, pytest.fail.Exception)
    with pytest.raises(broken):
        run(check, fault())


def test_batches_have_no_field_these_checks_do_not_know() -> None:
    """A new field of `Batch` may be a new promise: look at the checks, then add it here."""
    known = (
        "ids targets weights documents mask position piece source segments labels word_starts numbers task"
    )
    assert [field.name for field in fields(Batch)] == known.split()
