"""The recurrent encoder–decoder: against torch.nn and its formulas written out, and on a text to turn around.

What every family promises is in `test_contract.py`. Shapes: B batch, T target steps, S source steps.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.data.bucketing import pad_sources
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.models import seq2seq
from textus.models.registry import build
from textus.models.seq2seq import Seq2Seq, Seq2SeqConfig
from textus.training.gradients import GradientAccumulator

V, D, LAYERS, END = 11, 8, 2, 0
KINDS = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
STEPS = {"elman": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
CELLS = pytest.mark.parametrize("cell", KINDS)
ATTENTIONS = pytest.mark.parametrize("attention", ["additive", "bilinear"])
FEEDING = pytest.mark.parametrize("input_feeding", [False, True], ids=["plain", "fed"])

SOURCES = [[3, 1, 4, 1, 5], [9], [2, 6, 5], []]


def made(seed: int = 0, **config: Any) -> Seq2Seq:
    """A model whose weights are all random."""
    torch.manual_seed(seed)
    model = build("seq2seq", {"vocab_size": V, "d_model": D, "n_layer": LAYERS, **config})
    assert isinstance(model, Seq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def random_ids(rows: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(1, V, (rows, time), generator=torch.Generator().manual_seed(seed))


def pairs(**fields: Any) -> Batch:
    """Four ragged sources, targets of seven random ids."""
    ids, targets = random_ids(4, 7, 1), random_ids(4, 7, 2)
    return Batch(ids, targets, torch.ones(4, 7), source=pad_sources(SOURCES, END), **fields)


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=5e-6)


# ── the formulas, written out ──────────────────────────────────────────────────────────────────


def copied(module: Any, layers: Any, directions: int = 1) -> Any:
    """A torch.nn stack, or a list of its cells, that shares the weights of our layers."""
    for number, layer in enumerate(layers):
        suffix = f"_l{number // directions}" + ("_reverse" if number % directions else "")
        target = module[number] if isinstance(module, list) else module
        for name, value in layer.named_parameters():
            plain = name.removesuffix("_l0")
            target._parameters[plain if isinstance(module, list) else plain + suffix] = value
    return module


def written_out(model: Seq2Seq, batch: Batch) -> Tensor:
    """Logits (B, T, V) from torch.nn's bidirectional encoder, its cells, and the papers' formulas, row by row."""
    config, attention, embedding = model.config, model.attention, model.encoder.embedding.weight
    encoder = KINDS[config.cell](D, D // 2, LAYERS, batch_first=True, bidirectional=True)
    copied(encoder, model.encoder.layers, 2)
    cells = [STEPS[config.cell](layer.input_size, D) for layer in model.layers]
    copied(cells, model.layers)
    logits = []
    for ids, source in zip(batch.ids, SOURCES, strict=True):
        memory = encoder(embedding[torch.tensor([*source, END])][None])[0][0]  # (S, D)
        ends = torch.cat([memory[-1, : D // 2], memory[0, D // 2 :]])
        start = torch.tanh(model.bridge.weight @ ends + model.bridge.bias).view(LAYERS, -1, D)
        states, fed, row = [*start], torch.zeros(D), []
        for x in embedding[ids]:
            read = torch.cat([x, fed]) if config.input_feeding else x
            for number, cell in enumerate(cells):
                before = [part[None] for part in states[number]]
                after = cell(read[None], tuple(before) if config.cell == "lstm" else before[0])
                states[number] = torch.cat(after) if config.cell == "lstm" else after
                read = states[number][0]
            if config.attention == "additive":
                queries = attention.query.weight @ read
                scores = torch.stack(
                    [attention.score @ torch.tanh(queries + attention.keys.weight @ m) for m in memory]
                )
            else:
                scores = torch.stack([read @ attention.keys.weight @ m for m in memory])
            context = scores.softmax(0) @ memory
            fed = torch.tanh(attention.join.weight @ torch.cat([context, read]))
            row.append(model.head_weight @ fed)
        logits.append(torch.stack(row))
    return torch.stack(logits)


def nats_of(logits: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")


@pytest.mark.promise("Families", "seq2seq scores and trains as its formulas define")
@FEEDING
@ATTENTIONS
@CELLS
def test_nats_and_gradients_are_those_of_the_formulas(cell: str, attention: str, input_feeding: bool) -> None:
    model = made(cell=cell, attention=attention, input_feeding=input_feeding)
    batch = pairs()
    expected = nats_of(written_out(model, batch), batch)
    nats, kind = model.score(batch)
    assert kind == "exact"
    assert_close(nats, expected)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad(expected.sum(), list(parameters.values()))
    got = torch.autograd.grad(model.loss(batch).total, list(parameters.values()))
    for name, ours, theirs in zip(parameters, got, wanted, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


# ── what is looked at ──────────────────────────────────────────────────────────────────────────


def check_padding(model: Seq2Seq) -> None:
    """A source scores the same alone and beside longer ones."""
    batch = pairs()
    together = model.score(batch)[0]
    for row, source in enumerate(SOURCES):
        alone = Batch(
            batch.ids[row : row + 1], batch.targets[row : row + 1], torch.ones(1, 7),
            source=pad_sources([source], END),
        )  # fmt: skip
        assert_close(model.score(alone)[0], together[row : row + 1])


@pytest.mark.promise("Families", "What fills a source changes nothing")
@ATTENTIONS
@FEEDING
def test_what_fills_a_source_changes_nothing(attention: str, input_feeding: bool) -> None:
    check_padding(made(attention=attention, input_feeding=input_feeding))


def test_attention_to_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of padding are what they were: only the decoder's mask is lost."""
    weights = seq2seq.AdditiveAttention.weights

    def unmasked(self: Any, query: Tensor, memory: Any) -> Tensor:
        everything = torch.ones_like(memory.real)
        return weights(self, query, seq2seq.EncoderMemory(memory.states, memory.keys, everything))

    monkeypatch.setattr(seq2seq.AdditiveAttention, "weights", unmasked)
    with pytest.raises(AssertionError):
        check_padding(made())


def test_a_source_read_past_its_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        seq2seq, "source_mask", lambda source, end_id: torch.ones_like(source, dtype=torch.bool)
    )
    with pytest.raises(AssertionError):
        check_padding(made())


@pytest.mark.promise("Families", "Alignments sum to one over the source and are those used")
@ATTENTIONS
@FEEDING
def test_alignments_sum_to_one_over_the_source(attention: str, input_feeding: bool) -> None:
    model, batch = made(attention=attention, input_feeding=input_feeding), pairs()
    assert batch.source is not None
    weights = model.alignment(batch.source, batch.ids)
    assert weights.shape == (4, 7, 6)
    assert_close(weights.sum(2), torch.ones(4, 7))
    for row, source in zip(weights, SOURCES, strict=True):
        assert (row[:, len(source) + 1 :] == 0).all()
        assert (row[:, : len(source) + 1] > 0).all()


def test_alignments_are_those_the_logits_were_made_with() -> None:
    """What they find in the source, joined to the states, gives the model's own logits."""
    model, batch = made(cell="gru"), pairs()
    assert batch.source is not None
    memory, start = model.encode_source(batch.source, 4)
    x = model.encoder.embedding(batch.ids.t())
    for number, layer in enumerate(model.layers):
        x = layer(x, start[number])[0]
    result = model.alignment(batch.source, batch.ids) @ memory.states
    vectors = torch.tanh(model.attention.join(torch.cat([result, x.transpose(0, 1)], 2)))
    logits = model(batch.ids, model.new_cache(4, 7, batch.source))
    assert_close(vectors @ model.head_weight.t(), logits)


@CELLS
def test_hidden_is_the_encoder_s(cell: str) -> None:
    model, ids, lengths = made(cell=cell), random_ids(3, 6), torch.tensor([6, 2, 4])
    theirs = copied(
        KINDS[cell](D, D // 2, LAYERS, batch_first=True, bidirectional=True), model.encoder.layers, 2
    )
    packed = pack_padded_sequence(
        model.encoder.embedding(ids), lengths, batch_first=True, enforce_sorted=False
    )
    mask = torch.arange(6) < lengths[:, None]
    expected = pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    assert_close(model.hidden(ids, mask)[mask], expected[mask])


# ── reading on from a cache ────────────────────────────────────────────────────────────────────


@CELLS
@FEEDING
def test_cached_is_uncached_on_ragged_sources(cell: str, input_feeding: bool) -> None:
    """Targets read in ragged pieces, from caches that were joined and cut, beside all at once."""
    model, batch = made(cell=cell, input_feeding=input_feeding), pairs()
    with torch.no_grad():
        expected = model.score(batch)[0]
        caches = [model.new_cache(1, 7, pad_sources([source], END)) for source in SOURCES]
        cache = caches[0].join(caches[1]).join(caches[2]).join(caches[3])
        takes = torch.tensor([3, 0, 2, 1])
        piece = torch.where(torch.arange(3) < takes[:, None], batch.ids[:, :3], 5)
        first = model(piece, cache, takes)
        assert cache.lengths.tolist() == takes.tolist()
        order = [2, 0, 3, 1]
        cache = cache.select(order)
        for place, row in enumerate(order):
            n = int(takes[row])
            one = cache.select([place])
            rest = model(batch.ids[row : row + 1, n:], one)
            logits = torch.cat([first[row : row + 1, :n], rest], 1)
            nats = nats_of(
                logits, Batch(batch.ids[row : row + 1], batch.targets[row : row + 1], torch.ones(1, 7))
            )
            assert_close(nats, expected[row : row + 1])


# ── learning what cannot be done without the source ────────────────────────────────────────────


def turned(rows: int, seed: int) -> tuple[list[list[int]], Batch]:
    """Texts of three to six ids, to be written from their end."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 7, (rows,), generator=random).tolist()
    texts = [torch.randint(1, V, (n,), generator=random).tolist() for n in lengths]
    targets = pad_sources([text[::-1] for text in texts], END)
    ids = torch.cat([torch.full((rows, 1), END), targets[:, :-1]], 1)
    weights = torch.stack([(torch.arange(targets.shape[1]) <= n).float() for n in lengths])
    return texts, Batch(ids, targets, weights, position=seed, source=pad_sources(texts, END))


def learnt(model: Seq2Seq, steps: int) -> Seq2Seq:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(turned(64, seed=step)[1]).mean.backward()
        optimiser.step()
    return model.eval()


def written(model: Seq2Seq, sources: list[list[int]]) -> list[list[int]]:
    """Greedy answers of the engine, many at once."""
    answers: list[list[int]] = [[] for _ in sources]
    greedy = SamplingParams(temperature=0, max_tokens=8)
    engine = Engine(model, end_id=END, max_rows=5)
    for event in engine.stream([[END]] * len(sources), [greedy] * len(sources), sources):
        answers[event.row] += [] if event.id is None else [event.id]
    return answers


@pytest.mark.promise("Families", "seq2seq learns to reverse a text, impossible without its source")
@pytest.mark.parametrize(
    "config",
    [
        {"cell": "lstm", "attention": "bilinear"},
        {"cell": "gru", "attention": "additive", "input_feeding": True},
    ],
    ids=["bilinear", "additive, fed"],
)
def test_it_learns_to_turn_a_text_around(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = learnt(Seq2Seq(Seq2SeqConfig(V, d_model=32, **config)), steps=120)
    texts, batch = turned(40, seed=10_001)
    right = sum(answer == text[::-1] for answer, text in zip(written(model, texts), texts, strict=True))
    assert right >= 34
    with torch.no_grad():
        weight = batch.weights.sum()
        knowing = float(model.score(batch)[0].sum() / weight)
        batch.source = pad_sources([texts[-1 - row] for row in range(40)], END)
        misled = float(model.score(batch)[0].sum() / weight)
    assert knowing < 0.2
    assert misled > 1.0, "the source makes no difference"


# ── bfloat16, dropout, words ───────────────────────────────────────────────────────────────────


def lesson(model: Seq2Seq, batch: Batch, workers: int = 1) -> list[Tensor]:
    GradientAccumulator(model, workers).compute(batch, 4)
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]  # type: ignore[union-attr]


@FEEDING
@CELLS
def test_bfloat16_is_near(cell: str, input_feeding: bool) -> None:
    precise, rounded = (made(cell=cell, input_feeding=input_feeding) for _ in range(2))
    rounded.set_compute("bfloat16", "plain", "eager")
    torch.testing.assert_close(rounded.score(pairs())[0], precise.score(pairs())[0], rtol=0, atol=0.15)
    for ours, exact in zip(lesson(rounded, pairs()), lesson(precise, pairs()), strict=True):
        assert float((ours - exact).norm()) < 0.1 * float(exact.norm()) + 1e-3


@pytest.mark.promise("Families", "Dropout is the same for any number of workers")
@FEEDING
def test_dropout_follows_from_the_batch_alone(input_feeding: bool) -> None:
    model = made(dropout=0.5, input_feeding=input_feeding)
    model.train()
    alone = lesson(model, pairs())
    assert all(map(torch.equal, alone, lesson(model, pairs(), workers=2)))
    assert not all(map(torch.equal, alone, lesson(model, pairs(position=1))))
    plain = made(input_feeding=input_feeding)
    assert_close(model.eval().score(pairs())[0], plain.score(pairs())[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attention": "additiv"}, ("unknown_name", "'additiv'", "'additive'")),
        ({"cell": "ltsm"}, ("unknown_name", "'ltsm'", "'lstm'")),
        ({"end_id": V}, ("unknown_id", "11")),
        ({"d_model": 7}, ("incompatible_settings", "7")),
        ({"dropout": -0.1}, ("out_of_range", "-0.1")),
    ],
)
def test_wrong_words_are_named(config: dict[str, Any], message: tuple[str, ...]) -> None:
    with raises(UsageError, *message):
        Seq2SeqConfig(**{"vocab_size": V, **config})


def test_every_matrix_but_embedding_and_head_is_in_the_group_of_matrices() -> None:
    model = made(attention="additive", tie_head=False)
    groups = model.parameter_groups()
    assert len(groups["matrices"]) == sum(p.ndim == 2 for p in model.parameters()) - 2
    assert sum(map(len, groups.values())) == sum(p.requires_grad for p in model.parameters())
