"""The encoder against `transformers`, which was written by others; what it hides, and how it is scored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises
from torch import Tensor

from textus.core.config import from_dict, to_dict
from textus.core.errors import RunError, UsageError
from textus.data.batch import Batch
from textus.data.loader import NextSentenceLoader, TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.interop.folder import read_folder, write_folder
from textus.interop.registry import describe
from textus.models.encoder import Encoder, EncoderConfig, attention_mask, mask_text, sample_mask
from textus.models.registry import build
from textus.tokenizers import train as train_tokenizer

V, T, MASK = 37, 20, 36
SMALL: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layer": 2, "n_head": 2, "d_model": 16}


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(4, MASK, (rows, length), generator=torch.Generator().manual_seed(seed))


def shaken(model: torch.nn.Module) -> Any:
    """Nothing left at zero or one, where a mistake would not show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return model.eval()


def small(**changes: Any) -> Encoder:
    return shaken(Encoder(EncoderConfig(**{**SMALL, **changes})))


# ── against transformers ───────────────────────────────────────────────────────────────────────


def theirs(name: str, **changes: Any) -> Any:
    """A small random model of `transformers`."""
    import transformers

    shape = {
        "vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": T + 2, "layer_norm_eps": 1e-12,
        "mask_token_id": MASK, **changes,
    }  # fmt: skip
    kind = transformers.RobertaConfig if name.startswith("Roberta") else transformers.BertConfig
    return shaken(getattr(transformers, name)(kind(**shape)))


def imported(folder: Path) -> Encoder:
    result = read_folder(folder)
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    return model.eval()  # type: ignore[return-value]


PADDED = torch.arange(T) < torch.tensor([[T], [9], [1]])  # rows of 20, 9 and 1 ids


def outputs(model: Any, ids: Tensor, segments: Tensor) -> Any:
    return model(ids, attention_mask=PADDED.long(), token_type_ids=segments, output_hidden_states=True)


FOREIGN = [
    ("BertForMaskedLM", {}),
    ("BertForMaskedLM", {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 0.1}),
    ("BertForPreTraining", {}),
    ("BertModel", {"hidden_act": "relu"}),
    ("RobertaForMaskedLM", {"type_vocab_size": 1}),
    ("RobertaModel", {"type_vocab_size": 1, "pad_token_id": 0, "hidden_act": "silu"}),
]


@pytest.mark.promise(
    "Families", "An encoder reads BERT and RoBERTa folders as `transformers` does, and writes what it reads"
)
@pytest.mark.parametrize(("name", "changes"), FOREIGN)
@torch.inference_mode()
def test_it_reads_as_transformers_does(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    other = theirs(name, **changes)
    other.save_pretrained(tmp_path)
    model = imported(tmp_path)
    segments = (torch.arange(T) > 4).long().expand(3, T) * (model.config.segments > 1)
    ids = random_ids(3, T).masked_fill(~PADDED, other.config.pad_token_id)
    states, expected = model.hidden(ids, PADDED, segments), outputs(other, ids, segments)
    torch.testing.assert_close(states[PADDED], expected.hidden_states[-1][PADDED], rtol=0, atol=1e-4)
    if name.endswith("Model"):
        torch.testing.assert_close(model.pooled(states), expected.pooler_output, rtol=0, atol=1e-4)
    else:
        scores = getattr(expected, "logits", None)
        scores = expected.prediction_logits if scores is None else scores
        torch.testing.assert_close(model.logits(states)[PADDED], scores[PADDED], rtol=0, atol=1e-4)
    if name == "BertForPreTraining":
        follows = model.next_sentence(model.pooled(states))  # type: ignore[misc]
        torch.testing.assert_close(follows, expected.seq_relationship_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "changes"), FOREIGN)
@torch.inference_mode()
def test_transformers_reads_what_is_written(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    other = theirs(name, **changes)
    other.save_pretrained(tmp_path / "in")
    result = read_folder(tmp_path / "in")
    config = from_dict(EncoderConfig, result.config)
    assert write_folder(tmp_path / "out", result.family, config, result.weights, None) == name
    again = getattr(transformers, name).from_pretrained(tmp_path / "out").eval()
    ids, segments = random_ids(3, T), torch.zeros(3, T, dtype=torch.long)
    for mine, original in zip(again(ids).to_tuple(), other(ids).to_tuple(), strict=True):
        torch.testing.assert_close(mine, original, rtol=0, atol=1e-6)
    written, first = (outputs(model, ids, segments).to_tuple()[0] for model in (again, other))
    torch.testing.assert_close(written, first, rtol=0, atol=1e-6)


def test_a_bert_that_still_holds_its_pooler_is_read(tmp_path: Path) -> None:
    """As google's files do, which say BertForMaskedLM."""
    other = theirs("BertForPreTraining")
    other.config.architectures = ["BertForMaskedLM"]
    other.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace("BertForPreTraining", "BertForMaskedLM")
    (tmp_path / "config.json").write_text(config)
    model, ids = imported(tmp_path), random_ids(2, T)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), other(ids).prediction_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mask_token_id": V}, ("unknown_id", "mask_token_id")),
        ({"is_decoder": True}, ("unsupported_setting", "is_decoder=True")),
        ({"hidden_act": "tanh"}, ("unsupported_setting", "'tanh'")),
    ],
)
def test_what_it_cannot_hold_is_refused(
    changes: dict[str, Any], complaint: tuple[str, ...], tmp_path: Path
) -> None:
    theirs("BertForMaskedLM", **changes).save_pretrained(tmp_path)
    with raises((UsageError, RunError), *complaint):
        read_folder(tmp_path)


def test_a_default_encoder_shows_why_it_has_no_form_there() -> None:
    with raises(UsageError, "unsupported_export", "position='learned'", "'rotary'"):
        describe("encoder", to_dict(EncoderConfig(V)))


# ── what is seen ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Families", "Padding is never seen; both sides are")
@pytest.mark.parametrize("norm_first", [True, False])
@torch.inference_mode()
def test_padding_changes_nothing_and_both_sides_are_seen(norm_first: bool) -> None:
    model, ids = small(norm_first=norm_first), random_ids(1, 9)
    padded = torch.cat([ids, random_ids(1, 6, seed=5)], 1)
    mask = torch.arange(15)[None] < 9
    torch.testing.assert_close(model.hidden(padded, mask)[:, :9], model.hidden(ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(padded, lengths=torch.tensor([9]))[:, :9], model(ids), rtol=0, atol=1e-5)
    for place in (0, 8):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        assert (model(changed) - model(ids)).abs().amax(-1).gt(1e-4).all(), "some position does not see it"


def test_documents_are_runs_of_equal_numbers() -> None:
    seen = attention_mask(torch.tensor([[True] * 6 + [False]]), torch.tensor([[0, 0, 1, 1, 0, 0, 0]]))
    assert seen is not None
    rows = ["".join("x" if item else "." for item in row) for row in seen[0, 0]]
    assert rows == ["xx.....", "xx.....", "..xx...", "..xx...", "....xx.", "....xx.", "....xxx"]


@torch.inference_mode()
def test_choices_of_arithmetic_change_only_rounding() -> None:
    model, ids = small(d_model=32), random_ids(2, T)
    exact = model(ids)
    model.set_compute("bfloat16", "fused", "eager")
    assert (model(ids) - exact).abs().max() < 0.3
    assert (model(ids) - exact).abs().max() > 0
    with raises(UsageError, "unknown_name", "'native'"):
        model.set_compute("float32", "plain", "native")
    with raises(UsageError, "unknown_name", "attention", "'tiled'"):
        model.set_compute("float32", "tiled", "eager")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_head": 3}, ("incompatible_settings", "3")),
        ({"n_head": 16, "d_model": 48, "position": "rotary"}, ("incompatible_settings",)),
        ({"mask_id": V}, ("unknown_id", "37")),
        ({"mask_rate": 0.0}, ("out_of_range", "mask_rate", "0.0")),
        ({"dropout": 1.0}, ("out_of_range", "dropout", "1.0")),
        ({"n_layer": 0}, ("out_of_range", "n_layer", "0")),
        ({"objective": "mlm+nsp"}, ("incompatible_settings",)),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], complaint: tuple[str, ...]) -> None:
    with raises(UsageError, *complaint):
        EncoderConfig(**{**SMALL, **changes})


# ── what is hidden ─────────────────────────────────────────────────────────────────────────────


def long_batch(rows: int = 64, length: int = 128, position: int = 0) -> Batch:
    """Words of one to four tokens, weights of 1, no special ids."""
    ids = random_ids(rows, length)
    starts = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    return Batch(ids, ids, torch.ones(ids.shape), position=position, word_starts=starts)


def config_for(masking: str, **changes: Any) -> EncoderConfig:
    return EncoderConfig(**{**SMALL, "masking": masking, "mask_id": MASK, "end_id": 0, **changes})


@pytest.mark.parametrize("masking", ["token", "word", "span"])
def test_fifteen_in_a_hundred_are_chosen_and_eight_of_ten_hidden(masking: str) -> None:
    batch = long_batch(512)
    seen, weights = mask_text(batch, config_for(masking))
    chosen = weights > 0
    share = chosen.float().mean().item()
    assert 0.145 < share < (0.155 if masking == "token" else 0.2)
    masked = (seen == MASK)[chosen].float().mean().item()
    kept = (seen == batch.targets)[chosen].float().mean().item()
    assert 0.78 < masked < 0.82
    assert 0.08 < kept < 0.125  # a random id may be the same one
    assert torch.equal(seen[~chosen], batch.targets[~chosen])
    torch.testing.assert_close(weights.sum(1), batch.weights.sum(1))


def test_masking_is_anew_each_step_and_the_same_for_one() -> None:
    first, again, later = (mask_text(long_batch(position=p), config_for("word"))[0] for p in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def pieces_hidden(masking: str, n: int = 200) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Units of a text and what was chosen of it, many times."""
    units = np.cumsum(np.random.default_rng(0).random(100) < 0.5)
    units[40:50] = -1
    for seed in range(n):
        yield units, sample_mask(units, 14, masking, np.random.default_rng(seed))


@pytest.mark.promise(
    "Families",
    "Whole words are hidden, never parts of them; what is hidden depends on neither padding nor "
    "micro-batches",
)
def test_whole_words_are_hidden() -> None:
    for units, chosen in pieces_hidden("word"):
        assert 14 <= (chosen >= 0).sum() < 14 + max(np.bincount(units[units >= 0]))
        for unit in np.unique(units[units >= 0]):
            assert len(set(chosen[units == unit])) == 1, "a word is hidden in part"


def test_single_tokens_are_hidden() -> None:
    results = [chosen for _, chosen in pieces_hidden("token")]
    assert all((chosen >= 0).sum() == 14 for chosen in results)
    assert any(
        len(set((chosen >= 0)[units == u])) > 1
        for u in range(1, 40)
        for units, chosen in pieces_hidden("token", 3)
    )


def test_spans_are_of_geometric_length_in_words() -> None:
    """Clipped at ten, their mean is (1 - 0.8^10) / 0.2 = 4.46 words; meeting another makes some shorter."""
    units = np.repeat(np.arange(20_000), 2)
    chosen = sample_mask(units, 2000, "span", np.random.default_rng(0))
    lengths = np.asarray([len(np.unique(units[chosen == piece])) for piece in range(chosen.max() + 1)])
    lengths = lengths[lengths > 0]
    assert 4.0 < lengths.mean() < 4.7
    assert lengths.max() == 10
    assert 0.15 < (lengths == 1).mean() < 0.27, "a fifth of geometric lengths is 1"


def test_neither_padding_nor_special_ids_nor_context_are_hidden() -> None:
    batch = long_batch(8, 40)
    batch.targets[:, 3], batch.targets[:, 5] = 0, MASK
    batch.weights[:, 10:20] = 0
    batch.mask = torch.arange(40).expand(8, 40) < 30
    for masking in ("token", "word", "span"):
        for step in range(20):
            _, weights = mask_text(replace(batch, position=step), config_for(masking, mask_rate=0.9))
            assert not weights[:, [3, 5]].any()
            assert not weights[:, 10:20].any()
            assert not weights[:, 30:].any()
            assert (weights.sum(1) > 0).all()
    batch.targets[:] = 0
    assert not mask_text(batch, config_for("word"))[1].any(), "nothing can be hidden"


def test_padding_and_pieces_change_nothing_hidden() -> None:
    batch = long_batch(6, 40)
    seen, weights = mask_text(batch, config_for("span"))
    grown = replace(
        batch, **{name: torch.cat([getattr(batch, name), getattr(batch, name)], 1)
        for name in ("ids", "targets", "word_starts")},
        weights=torch.cat([batch.weights, torch.zeros(6, 40)], 1),
        mask=torch.arange(80).expand(6, 80) < 40,
    )  # fmt: skip
    assert torch.equal(mask_text(grown, config_for("span"))[0][:, :40], seen)
    pieces = [mask_text(piece, config_for("span"))[1] for piece in batch.micro(4)]
    assert torch.equal(torch.cat(pieces), weights)


# ── learning and scoring ───────────────────────────────────────────────────────────────────────


def test_the_loss_is_of_what_was_hidden() -> None:
    """By hand: logits of the hidden text, cross-entropy of the chosen, each row's mean times its weight."""
    model, batch = small(mask_id=MASK), long_batch(3, T)
    seen, weights = mask_text(batch, model.config)
    logs = model(seen).log_softmax(-1)
    expected = 0.0
    for row in range(3):
        chosen = weights[row] > 0
        nats = -logs[row, chosen].gather(1, batch.targets[row, chosen][:, None])
        expected += nats.mean().item() * T
    loss = model.loss(batch)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.parts == {"mlm": pytest.approx(expected, rel=1e-5)}
    assert loss.weight == 3 * T


@pytest.mark.promise("Families", "A pseudo-likelihood never sees the token it scores")
@torch.inference_mode()
def test_the_score_sees_both_sides_and_not_the_token_itself() -> None:
    """A model that repeats what it sees would be right about everything, if it saw it."""
    torch.manual_seed(0)
    model, ids = small(mask_id=MASK, tie_head=True), random_ids(1, 12)
    nats, kind = model.score(Batch(ids, ids, torch.ones(1, 12)))
    assert kind == "pseudo"
    seen = ids.clone()
    seen[0, 7] = MASK
    assert float(nats[0, 7]) == pytest.approx(float(-model(seen)[0, 7].log_softmax(-1)[ids[0, 7]]), rel=1e-4)
    unhidden = -model(ids)[0, 7].log_softmax(-1)[ids[0, 7]]
    assert abs(float(nats[0, 7] - unhidden)) > 1e-3


def taught(config: dict[str, Any], batches: Any, steps: int) -> Encoder:
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(**config))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(batches(step)).mean.backward()
        optimiser.step()
    return model.eval()


def test_it_learns_what_only_the_other_side_holds() -> None:
    """Rows a…z b where the last id names the first: the first can only be known from what comes later."""

    def rows(step: int) -> Batch:
        ids = torch.randint(0, 8, (32, 6), generator=torch.Generator().manual_seed(step))
        ids[:, 5] = ids[:, 0]
        return Batch(ids, ids, torch.ones(ids.shape), position=step)

    config = {
        "vocab_size": 8,
        "context_length": 6,
        "n_layer": 2,
        "n_head": 2,
        "d_model": 32,
        "mask_rate": 0.3,
    }
    model = taught(config, rows, 300)
    with torch.inference_mode():
        nats, _ = model.score(rows(999))
    assert nats[:, [0, 5]].mean() < 0.3
    assert nats[:, 1:5].mean() > math.log(8) - 0.3


# ── pairs of texts ─────────────────────────────────────────────────────────────────────────────


def counting_store(n_documents: int = 6, length: int = 50) -> Any:
    """Documents that count upwards in their own tens: what follows what is plain to see."""
    ids, starts = [], []
    for number in range(n_documents):
        starts.append(len(ids))
        ids += [0] + [1 + number * 10 + n % 10 for n in range(length)]
    return in_memory_dataset([*ids, 0], starts)


def test_half_the_pairs_follow_each_other() -> None:
    loader = NextSentenceLoader(counting_store(), batch_size=16, context_length=24, seed=1)
    labels = []
    for step in range(40):
        batch = loader.batch(step)
        assert batch.segments is not None
        assert torch.equal(batch.ids, batch.targets)
        labels += batch.labels.tolist()
        for row in range(16):
            real = batch.weights[row] > 0
            first, second = (batch.ids[row, real & (batch.segments[row] == s)].tolist() for s in (0, 1))
            assert first
            assert second
            assert (batch.ids[row][~real] == 0).all()
            if batch.labels[row] == 0:
                assert second[0] == (first[-1] + 1 if first[-1] % 10 else first[-1] - 9)
            for text in (first, second):
                assert len({(item - 1) // 10 for item in text}) == 1, (
                    "a text runs over the end of its document"
                )
    assert 0.4 < np.mean(labels) < 0.6


def test_pairs_are_a_function_of_the_step() -> None:
    first, second = (
        NextSentenceLoader(counting_store(), batch_size=4, context_length=16, seed=3) for _ in range(2)
    )
    second.batch(0)
    assert torch.equal(first.batch(5).ids, second.batch(5).ids)
    assert not torch.equal(first.batch(5).ids, first.batch(6).ids)
    with raises(UsageError, "out_of_range", "4"):
        NextSentenceLoader(counting_store(), batch_size=4, context_length=4)


def test_next_sentences_are_learned_and_logged_separately() -> None:
    loader = NextSentenceLoader(counting_store(), batch_size=32, context_length=16, seed=0)
    config = {**SMALL, "vocab_size": 61, "segments": 2, "objective": "mlm+nsp", "end_id": 0, "d_model": 32}
    model = taught({**config, "masking": "token"}, loader.batch, 250)
    loss = model.loss(loader.batch(999))
    assert set(loss.parts) == {"mlm", "nsp"}
    assert float(loss.total) == pytest.approx(sum(loss.parts.values()), rel=1e-4)
    assert loss.parts["nsp"] / loss.weight < 0.45, "no better than guessing (0.69)"


# ── as a run ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Families", "An encoder's training resumes to the same bytes")
@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp"])
def test_it_is_trained_resumed_and_measured_like_any_family(
    objective: str, corpus: Path, story: Path, tmp_path: Path
) -> None:
    from textus.api import open_run, train, verify_determinism

    settings = ["model.n_layer=1", "model.d_model=32", "model.n_head=2", "model.context_length=24",
                "model.segments=2", f"model.objective={objective}", "train.batch_size=4"]  # fmt: skip
    run = train(
        corpus, model="encoder", tokenizer="bpe", steps=6, checkpoint_every=3, overrides=settings,
        out=tmp_path / "run",
    )  # fmt: skip
    lines = [line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if '"mlm"' in line]
    assert len(lines) == 6
    assert all(('"nsp"' in line) == (objective == "mlm+nsp") for line in lines)
    verify_determinism(tmp_path / "run")
    assert open_run(tmp_path / "run").evaluate(story)["kind"] == "pseudo"
    with raises(UsageError, "unsupported_model"):
        run.generate("Once")


# ── words ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("char", 40, "the| foxes| ran| 人|民"),
        ("word", 40, "the| foxes| ran| 人民"),
        ("bpe", 261, "the| foxes| ran| |人|民"),
        ("wordpiece", 530, "the| foxes| ran| 人民"),
        ("unigram", 270, "the| foxes| ran| |人|民"),
    ],
)
def test_batches_carry_where_words_begin(kind: str, size: int, expected: str) -> None:
    """Where no piece holds a Chinese character, its bytes stay together."""
    known = "the foxes ran 人民 " if kind in ("char", "word") else "the fox ran. "
    tokenizer = train_tokenizer(kind, [known * 3], size)
    ids = [tokenizer.end_id, *tokenizer.encode("the foxes ran 人民")]
    loader = TokenLoader(
        in_memory_dataset(ids),
        batch_size=1,
        context_length=len(ids) - 1,
        shuffle=False,
        word_starts=tokenizer.word_starts,
    )
    batch = loader.batch(0)
    assert batch.word_starts is not None
    words = [b""]
    for number, begins in zip(batch.targets[0].tolist(), batch.word_starts[0].tolist(), strict=True):
        if begins and words[-1]:
            words.append(b"")
        words[-1] += tokenizer.vocabulary[number]
    assert "|".join(word.decode() for word in words).replace("| |", "| ") == expected.replace("| |", "| ")
