"""The table of rotary angles is made as it is needed, not for the whole context a model declares (M21)."""

from __future__ import annotations

import pytest
import torch

from textus.evaluation.inspection import cache_bytes
from textus.models.decoder import Decoder
from textus.models.encoder import Encoder, EncoderConfig
from textus.models.nn import rope
from textus.models.nn.attention import DecoderConfig
from textus.models.nn.rope import TABLE, RopeScaling, RotaryTable, rotary_table

DECLARED = 4_000_000
SMALL = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "d_model": 32}


@pytest.mark.parametrize("scaling", [None, RopeScaling("linear", 4.0)])
def test_table_grows_to_the_angles_of_the_whole_one(scaling: RopeScaling | None) -> None:
    """M21: what is added later is what would have been there from the start, bit for bit."""
    grown, (cos, sin) = (
        RotaryTable(50_000, 16, 10_000.0, scaling),
        rotary_table(50_000, 16, 10_000.0, scaling),
    )
    assert len(grown.cos) == TABLE
    for n in (1, TABLE, TABLE + 1, 20_000, 50_000):
        for mine, whole in zip(grown.first(n), (cos, sin), strict=True):
            assert torch.equal(mine, whole[:n])
    places = torch.tensor([[0, 49_999], [7, 8]])
    assert torch.equal(grown.at_positions(places)[0], cos[places].unsqueeze(-2))
    assert len(grown.cos) == 50_000, "never longer than the context"


def test_models_of_a_huge_declared_context_keep_a_short_table() -> None:
    """M21: 4 million positions took 7.6 GB and 31 s."""
    model = Decoder(DecoderConfig(context_length=DECLARED, **SMALL)).eval()
    encoder = Encoder(EncoderConfig(context_length=DECLARED, position="rotary", **SMALL))
    for made in (model, encoder):
        held = sum(buffer.numel() for buffer in made.buffers())
        assert held <= 2 * TABLE * 16
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.long))
    assert (cache_bytes(model, DECLARED) or 0) > 10**9, "counted, not made"


def test_cached_logits_past_the_first_table_are_those_of_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """M21: rows that point past the table, padding among them, read the angles they always had."""
    whole = Decoder(DecoderConfig(context_length=64, **SMALL)).eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    monkeypatch.setattr(rope, "TABLE", 8)
    grown = Decoder(DecoderConfig(context_length=64, **SMALL)).eval()
    grown.load_state_dict(whole.state_dict())
    ids = torch.randint(50, (2, 40), generator=torch.Generator().manual_seed(0))
    pieces = ((0, 7, [7, 7]), (7, 20, [2, 13]), (20, 33, [13, 1]))
    results = []
    for model in (whole, grown):
        cache = model.new_cache(2, 64)
        with torch.inference_mode():
            for first, last, lengths in pieces:
                logits = model(ids[:, first:last], cache, torch.tensor(lengths))
                results += [logits[row, :length] for row, length in enumerate(lengths)]
    half = len(results) // 2
    assert all(torch.equal(one, other) for one, other in zip(results[:half], results[half:], strict=True))
    assert 8 < len(grown.rotary.cos) < 64, "it grew, and not to the end"


def test_table_that_grew_while_generating_serves_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """M21: an inference tensor in the table would break the next backward pass."""
    monkeypatch.setattr(rope, "TABLE", 4)
    model = Encoder(EncoderConfig(context_length=64, position="rotary", **SMALL))
    with torch.inference_mode():
        model.hidden(torch.zeros(1, 10, dtype=torch.long))
    model.hidden(torch.zeros(1, 10, dtype=torch.long)).sum().backward()
    assert model.embedding.weight.grad is not None
