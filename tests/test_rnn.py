"""Recurrent models against torch.nn's own modules: what they show, what they learn, where they forget.

What every family promises is in `test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from textus import api
from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.evaluation.perplexity import score_ids
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.models import rnn
from textus.models.nn.rnn_cells import SCANS, recurrent_dropout
from textus.models.registry import build
from textus.models.rnn import RNN
from textus.training.gradients import GradientAccumulator

V, D, LAYERS = 11, 8, 2
KINDS = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
MODES = {"elman": "RNN_TANH", "lstm": "LSTM", "gru": "GRU"}
CELLS = pytest.mark.parametrize("cell", KINDS)


def made(cell: str, seed: int = 0, **config: Any) -> RNN:
    """A model whose weights are all random, the head's too."""
    torch.manual_seed(seed)
    model = build("rnn", {"vocab_size": V, "d_model": D, "n_layer": LAYERS, "cell": cell, **config})
    assert isinstance(model, RNN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return model


def peer(model: RNN) -> Any:
    """torch.nn's stack of all layers with the same weights: (B, T, D) -> (B, T, D)."""
    config = model.config
    width = D // 2 if config.bidirectional else D
    theirs = KINDS[config.cell](D, width, LAYERS, batch_first=True, bidirectional=config.bidirectional)
    for number, layer in enumerate(model.layers):
        n = 2 if config.bidirectional else 1
        suffix = f"_l{number // n}" + ("_reverse" if number % n else "")
        for name, value in layer.named_parameters():
            getattr(theirs, name.removesuffix("_l0") + suffix).data.copy_(value.data)
    return theirs


def random_ids(rows: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (rows, time), generator=torch.Generator().manual_seed(seed))


def random_batch(rows: int = 4, time: int = 9, **fields: Any) -> Batch:
    return Batch(random_ids(rows, time, 1), random_ids(rows, time, 2), torch.ones(rows, time), **fields)


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


# ── equal to torch.nn ──────────────────────────────────────────────────────────────────────────

DOCUMENTS = torch.tensor([[0] * 9, [1] * 4 + [2] * 5, [3] + [4] * 2 + [5] * 6, [6] * 8 + [7]])


def document_by_document(theirs: Any, x: Tensor) -> Tensor:
    """Their states (B, T, D) of x, each document read alone."""
    rows = []
    for row, numbers in zip(x, DOCUMENTS, strict=True):
        pieces = [row[numbers == item][None] for item in numbers.unique()]
        rows.append(torch.cat([theirs(piece)[0] for piece in pieces], 1))
    return torch.cat(rows)


def check_equals_torch(cell: str, documents: Tensor | None) -> None:
    """States, and the gradients of every weight from a random gradient of them."""
    model, ids = made(cell), random_ids(4, 9)
    theirs = peer(model)
    embedded = model.embedding.weight.detach()[ids].requires_grad_()
    expected = theirs(embedded)[0] if documents is None else document_by_document(theirs, embedded)
    got = model.hidden(ids, documents=documents)
    assert_close(got, expected)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(3))
    got.backward(upstream)
    expected.backward(upstream)
    for number, layer in enumerate(model.layers):
        for name, value in layer.named_parameters():
            if not value.requires_grad:
                continue
            assert_close(value.grad, getattr(theirs, name.removesuffix("_l0") + f"_l{number}").grad)
    d_embedding = torch.zeros_like(model.embedding.weight).index_add(
        0,
        ids.flatten(),
        embedded.grad.flatten(0, 1),  # type: ignore[union-attr]
    )
    assert_close(model.embedding.weight.grad, d_embedding)  # type: ignore[arg-type]


@pytest.mark.promise("Families", "Recurrent states and gradients are `torch.nn`'s, packed documents included")
@CELLS
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one document", "packed documents"])
def test_states_and_gradients_are_those_of_torch(cell: str, documents: Tensor | None) -> None:
    """In one document torch's module does the work, in packed ones the scan does."""
    check_equals_torch(cell, documents)


@pytest.mark.promise("Families", "No state or gradient crosses a document's edge")
@CELLS
def test_a_state_that_crosses_into_the_next_document_is_caught(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rnn, "document_reset_mask", lambda documents: None)
    with pytest.raises(AssertionError):
        check_equals_torch(cell, DOCUMENTS)


@CELLS
def test_a_gradient_that_crosses_back_into_the_document_before_is_caught(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan's way back is given no `keep`, its way there is."""
    scan = SCANS[MODES[cell]]

    class Crossing(scan):  # type: ignore[misc, valid-type]
        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            class Saved:
                saved_tensors = tuple(
                    None if tensor is not None and tensor.shape == (9, 4, 1) else tensor
                    for tensor in ctx.saved_tensors
                )

            return scan.backward(Saved(), *gradients)

    monkeypatch.setitem(SCANS, MODES[cell], Crossing)
    with pytest.raises(AssertionError):
        check_equals_torch(cell, DOCUMENTS)


@CELLS
def test_a_vocabulary_larger_than_the_batch_is_read_the_same(cell: str) -> None:
    """Then each id's product with W_ih is made where it stands, not for the whole vocabulary."""
    model, ids = made(cell), random_ids(1, 9)
    documents = torch.tensor([[0] * 4 + [1] * 5])
    assert_close(
        model.hidden(ids[:, :4], documents=documents[:, :4]), model.hidden(ids, documents=documents)[:, :4]
    )
    assert_close(
        model.hidden(ids, documents=documents),
        model.hidden(ids.repeat(3, 1), documents=documents.repeat(3, 1))[:1],
    )


# ── two directions ─────────────────────────────────────────────────────────────────────────────

LENGTHS = torch.tensor([9, 1, 5, 8])


def check_two_directions(cell: str, precision: str = "float32") -> None:
    """Ragged rows as torch's packed sequences have them; what pads is not seen."""
    model, ids = made(cell, bidirectional=True), random_ids(4, 9)
    model.set_compute(precision, "plain", "eager")
    mask = torch.arange(9) < LENGTHS[:, None]
    packed = pack_padded_sequence(model.embedding(ids), LENGTHS, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(peer(model)(packed)[0], batch_first=True)[0]
    for padding in (0, 5):
        got = model.hidden(ids.masked_fill(~mask, padding), mask).float()
        torch.testing.assert_close(
            got[mask], expected[mask], rtol=1e-4, atol=2e-6 if precision == "float32" else 0.05
        )


@CELLS
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_directions_are_those_of_torch(cell: str, precision: str) -> None:
    check_two_directions(cell, precision)


def test_padding_read_by_the_second_direction_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lambda lengths, time: torch.arange(time - 1, -1, -1)[:, None].expand(time, len(lengths))  # noqa: E731
    monkeypatch.setattr(rnn, "reversal_index", whole)
    with pytest.raises(AssertionError):
        check_two_directions("gru")


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model(random_ids(1, 3)),
        lambda model: model.loss(random_batch()),
        lambda model: model.score(random_batch()),
        lambda model: model.new_cache(1, 3),
    ],
    ids=["forward", "loss", "score", "new_cache"],
)
def test_two_directions_are_no_language_model(use: Callable[[RNN], Any]) -> None:
    model = made("lstm", bidirectional=True)
    with raises(UsageError, "unsupported_model"):
        use(model)
    assert model.head is None


def test_two_directions_do_not_generate() -> None:
    with raises(UsageError, "unsupported_model"):
        generate(made("lstm", bidirectional=True), [1], SamplingParams(max_tokens=2), None)
    assert len(generate(made("lstm"), [1], SamplingParams(max_tokens=2), None)) == 2


def test_two_directions_refuse_packed_documents() -> None:
    with raises(UsageError, "incompatible_settings"):
        made("lstm", bidirectional=True).hidden(random_ids(4, 9), documents=DOCUMENTS)


# ── bfloat16, dropout, workers ─────────────────────────────────────────────────────────────────


def lesson(model: RNN, batch: Batch, workers: int = 1, pieces: int = 1) -> list[Tensor]:
    """The gradient of every parameter."""
    GradientAccumulator(model, workers).compute(batch, pieces)
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]  # type: ignore[union-attr]


@pytest.mark.promise("Families", "No two parameters share a gradient")
@CELLS
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_two_parameters_share_a_gradient(cell: str, precision: str) -> None:
    """Clipping and adding up change gradients in place: what two share would be changed twice."""
    model = made(cell)
    model.set_compute(precision, "plain", "eager")
    parameters = [p for p in model.parameters() if p.requires_grad]
    for documents in (None, DOCUMENTS):
        loss = model.loss(random_batch(documents=documents))
        result = torch.autograd.grad(loss.total, parameters)
        assert len({match.untyped_storage().data_ptr() for match in result}) == len(result)


@CELLS
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one document", "packed documents"])
def test_bfloat16_is_near(cell: str, documents: Tensor | None) -> None:
    batch = random_batch(documents=documents)
    precise, rounded = made(cell), made(cell)
    rounded.set_compute("bfloat16", "plain", "eager")
    assert rounded.hidden(batch.ids).dtype == torch.bfloat16
    assert rounded(batch.ids).dtype == torch.float32
    torch.testing.assert_close(rounded(batch.ids), precise(batch.ids), rtol=0, atol=0.06)
    for ours, exact in zip(lesson(rounded, batch, pieces=3), lesson(precise, batch), strict=True):
        assert float((ours - exact).norm()) < 0.05 * float(exact.norm())


def test_bfloat16_reads_on_from_a_cache() -> None:
    model, ids = made("lstm"), random_ids(3, 12)
    model.set_compute("bfloat16", "plain", "eager")
    cache = model.new_cache(3, 12)
    with torch.no_grad():
        pieces = [model(ids[:, start : start + 4], cache) for start in range(0, 12, 4)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=0, atol=0.03)


@pytest.mark.parametrize("words", [("float16", "plain", "eager"), ("float32", "plain", "compiled")])
def test_unknown_arithmetic_is_named(words: tuple[str, str, str]) -> None:
    with raises(UsageError, "unknown_name"):
        made("lstm").set_compute(*words)


def dropped_units(model: RNN, ids: Tensor, seed: int) -> Tensor:
    """Which units (B, T, D) of the last layer are zero."""
    return model.hidden(ids, seed=seed) == 0


def test_dropout_drops_whole_units_by_its_seed() -> None:
    model, ids = made("lstm", d_model=64, dropout=0.3), random_ids(8, 9)
    model.train()
    zero = dropped_units(model, ids, seed=1)
    assert (zero == zero[:, :1]).all()
    assert not (zero[0] == zero[1]).all()
    assert float(zero.float().mean()) == pytest.approx(0.3, abs=0.06)
    assert torch.equal(dropped_units(model, ids, seed=1), zero)
    assert not torch.equal(dropped_units(model, ids, seed=2), zero)
    model.eval()
    assert not dropped_units(model, ids, seed=1).any()


def test_dropout_keeps_the_mean() -> None:
    x = torch.ones(1, 20_000, D)
    assert float(recurrent_dropout(x, 0.4, 3, 0).mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.promise("Families", "Dropout is the same for any number of workers")
def test_dropout_is_the_same_for_any_number_of_workers() -> None:
    model, batch = made("lstm", dropout=0.5), random_batch()
    model.train()
    alone = lesson(model, batch, workers=1, pieces=4)
    together = lesson(model, batch, workers=2, pieces=4)
    assert all(map(torch.equal, alone, together))
    assert not all(
        map(
            torch.equal,
            alone,
            lesson(model, Batch(batch.ids, batch.targets, batch.weights, position=1), pieces=4),
        )
    )


# ── sizes and words ────────────────────────────────────────────────────────────────────────────


@CELLS
def test_it_reads_further_than_any_training_window(cell: str) -> None:
    """Nats of a long sequence read in one go are those of pieces that hand on their state."""
    model, ids = made(cell), random_ids(1, 600)
    assert model.config.context_length is None
    nats, kind = score_ids(model, [ids[0].tolist()], [0])
    cache, pieces = model.new_cache(1, 600), []
    with torch.no_grad():
        for start in range(0, 599, 100):
            pieces.append(model(ids[:, start : min(start + 100, 599)], cache))
    logs = torch.cat(pieces, 1)[0].log_softmax(-1)
    assert kind == "exact"
    assert float(nats[0].sum()) == pytest.approx(float(-logs.gather(1, ids[0, 1:, None]).sum()), rel=1e-4)


def test_a_forget_gate_starts_open() -> None:
    model = build("lstm", {"vocab_size": V, "d_model": D})
    for layer in model.layers:  # type: ignore[union-attr]
        both = layer.bias_ih_l0 + layer.bias_hh_l0
        assert torch.equal(both[D : 2 * D], torch.ones(D))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cell": "lstn"}, ("unknown_name", "'lstn'", "'lstm'")),
        ({"n_layer": 0}, ("out_of_range", "n_layer", "0")),
        ({"dropout": 1.0}, ("out_of_range", "1.0")),
        ({"d_model": 7, "bidirectional": True}, ("incompatible_settings", "7")),
    ],
)
def test_wrong_sizes_are_named(config: dict[str, Any], message: tuple[str, ...]) -> None:
    with raises(UsageError, *message):
        rnn.RNNConfig(**{"vocab_size": V, **config})


@pytest.mark.parametrize(("family", "cell"), [("rnn", "elman"), ("lstm", "lstm"), ("gru", "gru")])
def test_a_family_is_named_by_its_cell(family: str, cell: str) -> None:
    assert build(family, {"vocab_size": V, "d_model": D}).config.cell == cell


@pytest.mark.promise("Families", "An LSTM run resumes to the same bytes")
def test_a_run_resumes_to_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """`textus train --model lstm`, and the proof of `textus resume --prove`, with dropout."""
    run = api.train(
        corpus, model="lstm", depth=1, steps=8, out=tmp_path / "run", checkpoint_every=4,
        overrides=["model.d_model=16", "model.dropout=0.2", "train.batch_size=4", "train.context_length=16"],
    )  # fmt: skip
    assert run.model.config.n_layer == 1
    assert api.verify_determinism(run.path)["resumed_from_step"] == 4
    assert len(run.generate("The ", max_tokens=5)) > 0
