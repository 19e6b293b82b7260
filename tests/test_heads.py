"""Heads against arithmetic done another way: every sequence written out for the CRF, torch.nn for the rest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.nn.heads import CRF, IGNORED, SequenceHead, SpanHead, TokenClassificationHead, pool

B, T, D, C = 3, 5, 6, 3
LENGTHS = torch.tensor([5, 3, 1])
MASK = torch.arange(T) < LENGTHS[:, None]


def states(seed: int = 0) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def batch(labels: Tensor, mask: Tensor | None = MASK) -> Batch:
    ids = torch.zeros(len(labels), T, dtype=torch.long)
    return Batch(ids, ids, torch.ones(ids.shape), mask=mask, labels=labels)


def shaken(module: Any) -> Any:
    """Weights of size one, no dropout."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


# ── a linear chain ─────────────────────────────────────────────────────────────────────────────


def written_out(crf: CRF, scores: Tensor) -> dict[tuple[int, ...], float]:
    """What every sequence of labels of one row (T, C) adds up to."""
    results = {}
    for labels in itertools.product(range(C), repeat=len(scores)):
        total = crf.start[labels[0]] + crf.end[labels[-1]] + sum(scores[t, c] for t, c in enumerate(labels))
        total = total + sum((crf.transition[a, b] for a, b in itertools.pairwise(labels)), torch.zeros(()))
        results[labels] = float(total)
    return results


@pytest.mark.promise(
    "Families", "The CRF's likelihood and Viterbi path are those of all sequences written out"
)
@torch.no_grad()
def test_the_crf_is_what_writing_all_sequences_out_gives() -> None:
    crf, scores = shaken(CRF(C)), torch.randn(B, T, C, generator=torch.Generator().manual_seed(2))
    labels = torch.randint(0, C, (B, T), generator=torch.Generator().manual_seed(3))
    nats, best = crf.loss(scores, labels, MASK), crf.best(scores, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        every = written_out(crf, scores[row, :length])
        log_sum = torch.logsumexp(torch.tensor(list(every.values())), 0)
        right = every[tuple(labels[row, :length].tolist())]
        assert float(nats[row]) == pytest.approx(float(log_sum) - right, abs=1e-4)
        assert tuple(best[row, :length].tolist()) == max(every, key=lambda key: every[key])


@torch.no_grad()
def test_a_crf_that_reads_padding_is_caught() -> None:
    """The planted fault: padding as if it were text gives other nats and other labels."""
    crf, scores = shaken(CRF(C)), torch.randn(B, T, C, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(B, T, dtype=torch.long)
    right, wrong = crf.loss(scores, labels, MASK), crf.loss(scores, labels, torch.ones_like(MASK))
    assert float((right - wrong)[1:].abs().min()) > 1e-3
    assert float((right - wrong)[0].abs()) == 0
    noisy = torch.where(MASK[..., None], scores, 50 * torch.randn(B, T, C))
    assert torch.equal(crf.loss(noisy, labels, MASK), right)
    assert crf.loss(scores, labels, torch.zeros_like(MASK)).tolist() == [0.0] * B


def test_the_gradient_of_a_crf_is_its_marginals_less_the_truth() -> None:
    """Summed over labels it is zero at every position, and -1 more at the label that is right."""
    crf, scores = shaken(CRF(C)), torch.randn(B, T, C, requires_grad=True)
    labels = torch.ones(B, T, dtype=torch.long)
    crf.loss(scores, labels, MASK).sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad.sum(-1), torch.zeros(B, T), rtol=0, atol=1e-5)
    marginals = scores.grad + nn.functional.one_hot(labels, C)
    assert (marginals[MASK] > 0).all()
    assert not scores.grad[~MASK].any()


def test_a_crf_learns_that_labels_alternate() -> None:
    """States say nothing; only the chain can tell."""
    torch.manual_seed(0)
    head = TokenClassificationHead(D, 2, crf=True, dropout=0.0)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    labels = torch.tensor([[0, 1, 0, 1, 0]] * B)
    for _ in range(60):
        optimiser.zero_grad()
        head.loss(torch.zeros(B, T, D), batch(labels, None)).mean.backward()
        optimiser.step()
    assert torch.equal(head.predict(torch.zeros(B, T, D)), labels)
    assert not torch.equal(TokenClassificationHead(D, 2).eval().predict(torch.zeros(B, T, D)), labels)


# ── tokens ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("crf", [False, True])
@torch.no_grad()
def test_tokens_without_a_label_take_no_part(crf: bool) -> None:
    """Later pieces of words lie between the labelled ones: the chain goes from word to word."""
    head, hidden = shaken(TokenClassificationHead(D, C, crf=crf)), states()
    labels = torch.tensor([[0, 2, 1, 0, 1], [1, 1, 0, IGNORED, IGNORED], [2, *[IGNORED] * 4]])
    whole = head.loss(hidden, batch(labels))
    assert whole.weight == 9
    order = torch.tensor([0, 5, 1, 6, 2, 3, 7, 4])  # pieces 5, 6, 7 are not labelled
    spread = torch.cat([hidden, 9 * torch.randn(B, 3, D)], 1)[:, order]
    scattered = torch.cat([labels, torch.full((B, 3), IGNORED)], 1)[:, order]
    again = head.loss(spread, batch(scattered, None))
    torch.testing.assert_close(again.total, whole.total)
    assert again.weight == whole.weight
    guess, request = head.predict(hidden, MASK), head.predict(spread, scattered != IGNORED)
    assert torch.equal(request[scattered != IGNORED], guess[MASK])
    assert (guess[~MASK] == IGNORED).all()
    assert (request[scattered == IGNORED] == IGNORED).all()


@torch.no_grad()
def test_token_nats_are_those_of_torch() -> None:
    head, hidden = shaken(TokenClassificationHead(D, C)), states()
    labels = torch.where(MASK, 1, IGNORED)
    scores = hidden @ head.out.weight.T + head.out.bias
    expected = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(head.loss(hidden, batch(labels)).total, expected)
    assert torch.equal(head.predict(hidden), scores.argmax(-1))


# ── texts ──────────────────────────────────────────────────────────────────────────────────────


def test_a_text_is_its_first_state_or_the_mean_of_the_real_ones() -> None:
    hidden = states()
    torch.testing.assert_close(pool(hidden, MASK, "mean")[1], hidden[1, :3].mean(0))
    torch.testing.assert_close(pool(hidden, None, "mean"), hidden.mean(1))
    assert torch.equal(pool(hidden, MASK, "cls"), hidden[:, 0])
    noisy = torch.where(MASK[..., None], hidden, 1e4)
    torch.testing.assert_close(pool(noisy, MASK, "mean"), pool(hidden, MASK, "mean"))


@pytest.mark.parametrize(
    ("task", "labels", "torchs"),
    [
        ("single", torch.tensor([0, 2, 1]), nn.CrossEntropyLoss()),
        ("multi", torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]), nn.BCEWithLogitsLoss()),
        ("regression", torch.tensor([[0.5, 1, 2], [3, -1, 0], [0, 0, 9]]), nn.MSELoss()),
    ],
)
@torch.no_grad()
def test_sequence_losses_are_those_of_torch(task: Any, labels: Tensor, torchs: nn.Module) -> None:
    head, hidden = shaken(SequenceHead(D, C, task=task)), states()
    scores = head(hidden, MASK)
    wanted = labels if task == "single" else labels.float()
    loss = head.loss(hidden, batch(labels))
    torch.testing.assert_close(loss.mean, torchs(scores, wanted))
    assert loss.weight == B
    pieces = [head.loss(hidden[rows], batch(labels[rows], MASK[rows])) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(pieces[0].total + pieces[1].total, loss.total)
    guess = head.predict(hidden, MASK)
    expected = {"single": scores.softmax(-1), "multi": scores.sigmoid(), "regression": scores}[task]
    torch.testing.assert_close(guess, expected)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"task": "singel"}, ("unknown_name", "'single'")),
        ({"pooling": "sum"}, ("unknown_name", "pooling", "'sum'")),
    ],
)
def test_wrong_words_are_named(words: dict[str, Any], complaint: tuple[str, ...]) -> None:
    with raises(UsageError, *complaint):
        SequenceHead(D, C, **words)


# ── spans ──────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_spans_are_the_likeliest_that_fit() -> None:
    """Against trying every first and last position."""
    head, hidden = shaken(SpanHead(D)), states(4)
    for mask, longest in ((MASK, 30), (None, 30), (None, 2), (MASK.roll(1, 1) & MASK, 1)):
        if mask is not None and not mask.any(1).all():
            mask = mask | (torch.arange(T) == 0)
        logs = head(hidden, mask)
        spans, nats = head.predict(hidden, mask, longest=longest)
        for row in range(B):
            every = {
                (a, b): float(logs[row, a, 0] + logs[row, b, 1])
                for a in range(T)
                for b in range(a, min(T, a + longest))
            }
            best = max(every, key=lambda key: every[key])
            assert tuple(spans[row].tolist()) == best
            assert float(nats[row]) == pytest.approx(every[best], abs=1e-5)
            if mask is not None:
                assert mask[row, list(best)].all()


@torch.no_grad()
def test_span_nats_are_the_mean_of_both_ends() -> None:
    head, hidden = shaken(SpanHead(D)), states(5)
    labels = torch.tensor([[1, 3], [0, 2], [0, 0]])
    loss = head.loss(hidden, batch(labels))
    expected = 0.0
    for row in range(B):
        scores = hidden[row, : LENGTHS[row]] @ head.out.weight.T + head.out.bias
        ends = [nn.functional.cross_entropy(scores[:, end], labels[row, end]) for end in (0, 1)]
        expected += float(sum(ends)) / 2
    assert float(loss.total) == pytest.approx(expected, abs=1e-4)
    assert loss.weight == B
