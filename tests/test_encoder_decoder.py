"""The encoder–decoder against implementations written by others: transformers' T5 and torch's Transformer; and
what it promises of sources, caches, dropout and smoothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.config import from_dict
from textus.core.errors import RunError, UsageError
from textus.data.batch import Batch
from textus.data.bucketing import pad_sources, source_mask
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.interop.folder import read_folder, write_folder
from textus.models import encoder_decoder
from textus.models.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    SeededDropout,
    label_smoothing_loss,
    relative_position_bucket,
)
from textus.models.nn.cross_entropy import chunk_loss, cross_entropy
from textus.models.registry import build
from textus.training.gradients import GradientAccumulator

transformers = pytest.importorskip(
    "transformers", reason="transformers is the oracle here; install textus[dev]"
)

V, END = 23, 0
SMALL = {
    "vocab_size": V,
    "context_length": 32,
    "n_layer": 2,
    "d_model": 16,
    "n_head": 2,
    "dropout": 0.0,
    "label_smoothing": 0.0,
}
SOURCES = [[3, 9, 4, 7], [5], [], [8, 8, 2, 6, 11, 12, 5]]


def model_of(seed: int = 0, **values: Any) -> EncoderDecoder:
    """A small model with no weight at a special value."""
    torch.manual_seed(seed)
    model = build("encoder-decoder", {**SMALL, **values})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    assert isinstance(model, EncoderDecoder)
    return model.eval()


def pairs(rows: int = 4, length: int = 6, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, V, (rows, length), generator=random)
    targets = torch.randint(1, V, (rows, length), generator=random)
    return Batch(ids, targets, torch.ones(rows, length), source=pad_sources(SOURCES[:rows], END))


# ── transformers' T5 ───────────────────────────────────────────────────────────────────────────

T5 = {
    "vocab_size": V, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}  # fmt: skip
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def t5(folder: Path, **values: Any) -> Any:
    """A random T5 of transformers, saved; weights large enough to matter."""
    torch.manual_seed(1)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**T5, **values})).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained(folder)
    return theirs


def ours_of(folder: Path) -> EncoderDecoder:
    result = read_folder(folder)
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    assert isinstance(model, EncoderDecoder)
    return model.eval()


def theirs_on(theirs: Any, sources: list[list[int]], ids: Tensor) -> Tensor:
    """Logits of transformers: a source ends with 1, what pads is masked."""
    longest = max(map(len, sources)) + 1
    given = torch.tensor([row + [1] + [0] * (longest - 1 - len(row)) for row in sources])
    mask = torch.tensor([[1] * (len(row) + 1) + [0] * (longest - 1 - len(row)) for row in sources])
    with torch.no_grad():
        logits: Tensor = theirs(input_ids=given, attention_mask=mask, decoder_input_ids=ids).logits
    return logits


@pytest.mark.promise(
    "Families", "T5's logits and greedy text are those of `transformers`, which loads what is exported"
)
@pytest.mark.parametrize(
    "values", [{}, V1_1, {"feed_forward_proj": "gated-silu"}], ids=["t5", "v1.1", "silu"]
)
def test_logits_and_greedy_text_are_those_of_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    theirs = t5(tmp_path, **values)
    ours = ours_of(tmp_path)
    ids = torch.randint(2, V, (4, 20), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = 0
    expected = theirs_on(theirs, SOURCES, ids)
    source = pad_sources(SOURCES, 1)
    cache = ours.new_cache(4, 20, source)
    with torch.no_grad():
        together = ours.score(Batch(ids, ids, torch.ones(4, 20), source=source))[0]
        piecewise = torch.cat([ours(ids[:, low:high], cache) for low, high in ((0, 1), (1, 8), (8, 20))], 1)
    torch.testing.assert_close(piecewise, expected, atol=1e-4, rtol=1e-4)
    nats = F.cross_entropy(expected.transpose(1, 2), ids, reduction="none")
    torch.testing.assert_close(together, nats, atol=1e-4, rtol=1e-4)
    prompts, greedy = [[0]] * 4, SamplingParams(temperature=0, max_tokens=15)
    got: list[list[int]] = [[] for _ in prompts]
    for event in Engine(ours, end_id=1).stream(prompts, greedy, SOURCES):
        got[event.row] += [] if event.id is None else [event.id]
    for row, given in enumerate(SOURCES):
        written = theirs.generate(
            torch.tensor([[*given, 1]]), max_new_tokens=15, do_sample=False, num_beams=1
        )
        assert got[row] == [value for value in written[0, 1:].tolist() if value != 1]


@pytest.mark.parametrize("values", [{}, {"activation": "geglu", "tie_head": False}, {"scale_head": True}])
def test_an_export_is_what_transformers_loads(tmp_path: Path, values: dict[str, Any]) -> None:
    shape = {"position": "relative", "scale_scores": False, "d_head": 6, "n_buckets": 8, "max_distance": 12}
    ours = model_of(**shape, end_id=1, start_id=0, **values)
    name = write_folder(tmp_path, "encoder-decoder", ours.config, ours.state_dict(), None)
    theirs = getattr(transformers, name).from_pretrained(tmp_path).eval()
    ids = torch.randint(2, V, (4, 9), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        result = ours(ids, ours.new_cache(4, 9, pad_sources(SOURCES, 1)))
    torch.testing.assert_close(result, theirs_on(theirs, SOURCES, ids), atol=1e-4, rtol=1e-4)
    assert ours_of(tmp_path).config == ours.config


def test_what_t5_cannot_hold_is_named(tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_export", "position='relative'", "'rotary'"):
        write_folder(tmp_path, "encoder-decoder", model_of().config, {}, None)
    t5(tmp_path / "t5")
    config = tmp_path / "t5" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"feed_forward_proj": "relu"', '"feed_forward_proj": "relus"'))
    with raises(UsageError, "unsupported_setting", "'relus'"):
        read_folder(tmp_path / "t5")
    config.write_text(text.replace('"d_kv": 6', '"d_kv": 4'))
    with raises(RunError, "weights_mismatch", "16", "18"):
        read_folder(tmp_path / "t5")


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_t5(both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-200, 200)
    expected = T5Attention._relative_position_bucket(distance, both_ways, 32, 128)
    assert torch.equal(relative_position_bucket(distance, 32, 128, both_ways=both_ways), expected)


# ── torch's Transformer ────────────────────────────────────────────────────────────────────────


def test_states_are_those_of_torchs_transformer() -> None:
    ours = model_of(norm="layer", norm_eps=1e-5, bias=True, position="sinusoidal", activation="relu")
    theirs = nn.Transformer(16, 2, 2, 2, 64, 0.0, norm_first=True, batch_first=True).eval()
    for name, blocks in (("encoder", ours.encoder), ("decoder", ours.decoder)):
        for block, layer in zip(blocks, getattr(theirs, name).layers, strict=True):
            copy_block(block, layer)
        getattr(theirs, name).norm.load_state_dict(getattr(ours, f"{name}_norm").state_dict())
    batch = pairs()
    assert batch.source is not None
    padding = ~source_mask(batch.source, END)
    causal = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    with torch.no_grad():
        given, written = (ours._embed(x, torch.arange(x.shape[1]), "x")[0] for x in (batch.source, batch.ids))
        memory = theirs.encoder(given, src_key_padding_mask=padding)
        expected = theirs.decoder(written, memory, tgt_mask=causal, memory_key_padding_mask=padding)
        states, bias = ours.encode_source(batch.source, 4)
        result = ours._decode(batch.ids, states, bias)
        hidden = ours.hidden(batch.source, ~padding)
    torch.testing.assert_close(states[~padding], memory[~padding], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[~padding], memory[~padding], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


def copy_block(block: Any, layer: Any) -> None:
    """Our weights into a layer of torch's."""
    state = {
        "self_attn.in_proj_": block.attention.qkv, "self_attn.out_proj.": block.attention.out,
        "linear1.": block.feed_forward.up, "linear2.": block.feed_forward.down, "norm1.": block.attention_norm,
    }  # fmt: skip
    norms = ["norm2."]
    if hasattr(block, "cross"):
        state |= {"multihead_attn.out_proj.": block.cross.out, "norm2.": block.cross_norm}
        norms = ["norm3."]
        joined = nn.Linear(16, 48)
        joined.weight = nn.Parameter(torch.cat([block.cross.q.weight, block.cross.kv.weight]))
        joined.bias = nn.Parameter(torch.cat([block.cross.q.bias, block.cross.kv.bias]))
        state["multihead_attn.in_proj_"] = joined
    state[norms[0]] = block.feed_forward_norm
    flat = {
        prefix + kind: getattr(part, kind) for prefix, part in state.items() for kind in ("weight", "bias")
    }
    layer.load_state_dict(flat)


# ── sources ────────────────────────────────────────────────────────────────────────────────────


def check_padding(model: EncoderDecoder) -> None:
    """A row's score and text are the same alone and beside a longer source, and whatever stands past its end."""
    batch = pairs()
    assert batch.source is not None
    whole = model.score(batch)[0]
    later = torch.where(source_mask(batch.source, END), batch.source, 7)
    torch.testing.assert_close(
        model.score(Batch(batch.ids, batch.targets, batch.weights, source=later))[0], whole
    )
    for row, source in enumerate(SOURCES):
        alone = Batch(*(x[row : row + 1] for x in (batch.ids, batch.targets, batch.weights)))
        alone.source = pad_sources([source], END)
        torch.testing.assert_close(model.score(alone)[0], whole[row : row + 1], atol=1e-5, rtol=1e-4)


POSITIONS = ["rotary", "sinusoidal", "learned", "relative"]


@pytest.mark.promise("Families", "What fills a source changes nothing")
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_a_source_is_read_up_to_its_first_end(position: str) -> None:
    check_padding(model_of(position=position))


@torch.no_grad()
def test_an_ignored_mask_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = lambda source, _: torch.ones_like(source, dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(encoder_decoder, "source_mask", everything)
    with pytest.raises(AssertionError):
        check_padding(model_of())


@torch.no_grad()
def test_no_source_is_an_empty_one_and_the_source_matters() -> None:
    model, batch = model_of(), pairs()
    batch.source = None
    nothing = model.score(batch)[0]
    batch.source = torch.full((4, 3), END)
    torch.testing.assert_close(model.score(batch)[0], nothing)
    torch.testing.assert_close(
        model(batch.ids), model(batch.ids, model.new_cache(4, 6, pad_sources([[]] * 4, END)))
    )
    batch.source = pad_sources(SOURCES, END)
    changed = (model.score(batch)[0] - nothing).abs().amax(1)
    assert (changed[[0, 1, 3]] > 1e-3).all()
    assert changed[2] < 1e-5


@pytest.mark.parametrize("position", POSITIONS)
def test_the_engine_writes_what_the_plain_loop_writes(position: str) -> None:
    """More requests than rows, sources of other lengths, some without one, past the end of the context."""
    model = model_of(position=position, context_length=12)
    prompts = [[END], [END, 4], [END, 3, 2, 5], [END], [END, 9]]
    sources = [*SOURCES, [6, 6]]
    samplings = [SamplingParams(temperature=1.0, max_tokens=8 + 4 * n, seed=n) for n in range(5)]
    got: list[list[int]] = [[] for _ in prompts]
    for event in Engine(model, end_id=END, max_rows=2).stream(prompts, samplings, sources):
        got[event.row] += [] if event.id is None else [event.id]
    for row, (prompt, sampling, source) in enumerate(zip(prompts, samplings, sources, strict=True)):
        assert got[row] == generate(model, prompt, sampling, END, source)
    assert len({tuple(item[:4]) for item in got}) > 1


@torch.no_grad()
def test_rows_keep_their_sources_when_selected_and_joined() -> None:
    model = model_of()
    caches = [model.new_cache(1, 9, pad_sources([source], END)) for source in SOURCES]
    ids = torch.randint(1, V, (4, 6), generator=torch.Generator().manual_seed(2))
    joined = caches[0].join(caches[1]).join(caches[2].join(caches[3]))
    assert joined.lengths.tolist() == [0] * 4
    whole = model(ids, joined)
    chosen = joined.select([3, 0])
    assert chosen.lengths.tolist() == [6, 6]
    after = model(ids[[3, 0], :2], chosen)
    for row, source in enumerate(SOURCES):
        alone = model.new_cache(1, 9, pad_sources([source], END))
        torch.testing.assert_close(
            model(ids[row : row + 1], alone), whole[row : row + 1], atol=1e-5, rtol=1e-4
        )
        if row in (0, 3):
            place = [3, 0].index(row)
            expected = model(ids[row : row + 1, :2], alone)
            torch.testing.assert_close(after[place : place + 1], expected, atol=1e-5, rtol=1e-4)


def test_sources_that_cannot_be_read_are_refused() -> None:
    model = model_of()
    engine, sampling = Engine(model, end_id=END), SamplingParams()
    with raises(UsageError, "context_exceeded", "32"):
        engine.submit([END], sampling, [3] * 32)
    with raises(UsageError, "unknown_id"):
        engine.submit([END], sampling, [V])
    with raises(UsageError, "size_mismatch", "1", "2"):
        next(engine.stream([[END]], sampling, [[3], [4]]))
    with raises(UsageError, "context_exceeded", "source", "33", "32"):
        model.new_cache(1, 3, torch.ones(1, 33, dtype=torch.long))
    plain = build("fake", {"vocab_size": V})
    with raises(UsageError, "unsupported_model", "Fake"):
        generate(plain, [1], sampling, None, [3])


# ── learning ───────────────────────────────────────────────────────────────────────────────────


def test_it_learns_to_reverse_what_only_the_source_holds() -> None:
    torch.manual_seed(0)
    model = build("encoder-decoder", {**SMALL, "d_model": 32, "context_length": 8, "n_layer": 1})
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    random = torch.Generator().manual_seed(1)

    def batch() -> Batch:
        given = torch.randint(1, 7, (64, 4), generator=random)
        end = torch.full((64, 1), END)
        written = given.flip(1)
        ids, targets = torch.cat([end, written], 1), torch.cat([written, end], 1)
        return Batch(ids, targets, torch.ones(64, 5), source=torch.cat([given, end], 1))

    for _ in range(250):
        optimiser.zero_grad()
        model.loss(batch()).mean.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        assert float(model.loss(batch()).mean) < 0.3  # without the source at best 1.4
    assert generate(model, [END], SamplingParams(temperature=0), END, [1, 2, 5, 3]) == [3, 5, 2, 1]


def test_label_smoothing_is_torchs_and_only_in_training() -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 8, generator=random, requires_grad=True)
    weight = torch.randn(V, 8, generator=random, requires_grad=True)
    targets, weights = torch.randint(0, V, (7,), generator=random), torch.rand(7, generator=random)
    result = cross_entropy(hidden[None], weight, targets[None], weights[None], label_smoothing_loss(0.2))
    got = torch.autograd.grad(result, [hidden, weight])
    nats = F.cross_entropy(hidden @ weight.t(), targets, reduction="none", label_smoothing=0.2)
    expected = (nats * weights).sum()
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(got, torch.autograd.grad(expected, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    plain = cross_entropy(hidden[None], weight, targets[None], weights[None], chunk_loss)
    torch.testing.assert_close(
        cross_entropy(hidden[None], weight, targets[None], weights[None], label_smoothing_loss(0.0)), plain
    )
    model = model_of(label_smoothing=0.2)
    exact = float(model.score(pairs())[0].sum().detach())
    assert float(model.loss(pairs()).total.detach()) == pytest.approx(exact, rel=1e-5)
    assert abs(float(model.train().loss(pairs()).total.detach()) - exact) > 0.1


def test_dropout_follows_from_the_step_and_the_piece_alone() -> None:
    x = torch.ones(1000, 50)
    dropped = SeededDropout(0.3, 5)(x)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(SeededDropout(0.3, 5)(x), dropped)
    drop = SeededDropout(0.3, 5)
    assert not torch.equal(drop(x), drop(x))
    model = model_of(dropout=0.3).train()
    first = pairs()
    losses = [float(model.loss(item).total) for item in (first, copy.copy(first))]
    assert losses[0] == losses[1]
    other = copy.copy(first)
    other.piece = 1
    assert float(model.loss(other).total) != losses[0]
    other.piece, other.position = 0, 9
    assert float(model.loss(other).total) != losses[0]


@pytest.mark.promise("Families", "With dropout any number of workers gives the same bytes")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_number_of_workers_gives_the_same_bytes(precision: str) -> None:
    model = model_of(dropout=0.3, label_smoothing=0.1).train()
    model.set_compute(precision, "plain", "eager")
    results = []
    for workers in (1, 2):
        GradientAccumulator(model, workers).compute(pairs(), 2)
        results.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True) if a is not None and b is not None)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in results[0])


@torch.no_grad()
def test_fused_attention_changes_rounding_only() -> None:
    model, batch = model_of(position="relative"), pairs()
    exact = model.score(batch)[0]
    model.set_compute("float32", "fused", "eager")
    torch.testing.assert_close(model.score(batch)[0], exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_layer": 0}, ("out_of_range", "n_layer", "0")),
        ({"dropout": 1.0}, ("out_of_range", "dropout", "1.0")),
        ({"label_smoothing": -0.1}, ("out_of_range", "label_smoothing", "-0.1")),
        ({"position": "rotary", "d_head": 3}, ("incompatible_settings",)),
        ({"position": "relative", "n_buckets": 2}, ("incompatible_settings", "2")),
        ({"objective": "spans"}, ("invalid_value", "objective")),
    ],
)
def test_a_config_that_cannot_be_is_refused(values: dict[str, Any], message: tuple[str, ...]) -> None:
    with raises(UsageError, *message):
        from_dict(EncoderDecoderConfig, {**SMALL, **values}, "model.")


def test_choices_it_does_not_have_are_refused() -> None:
    with raises(UsageError, "unknown_name", "attention"):
        model_of().set_compute("float32", "tiled", "eager")
    with raises(UsageError, "unknown_name", "step"):
        model_of().set_compute("float32", "plain", "native")
