"""Beam search, token for token that of `transformers` on the same weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from textus.core.errors import RunError, UsageError
from textus.generation import beam
from textus.generation.beam import BeamParams, beam_search
from textus.generation.sampling import generate
from textus.interop.folder import read_folder
from textus.models.registry import build

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY, END, PAD = 40, 1, 0
SIZES = {
    "t5": transformers.T5Config(
        vocab_size=VOCABULARY, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=PAD,
        eos_token_id=END, pad_token_id=PAD, dropout_rate=0.0,
    ),
    "t5-gated": transformers.T5Config(
        vocab_size=VOCABULARY, d_model=24, d_kv=6, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=PAD,
        eos_token_id=END, pad_token_id=PAD, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=2, eos_token_id=END, pad_token_id=PAD,
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=96, bos_token_id=2, eos_token_id=END,
        pad_token_id=PAD,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """A random model of transformers, and the same read by Textus."""
    folder = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(3)
    config = SIZES[request.param]
    auto = transformers.AutoModelForSeq2SeqLM if "t5" in request.param else transformers.AutoModelForCausalLM
    theirs = auto.from_config(config).eval()
    with torch.no_grad():  # weights large enough that texts differ
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained(folder)
    imported = read_folder(folder)
    ours = build(imported.family, imported.config)
    ours.load_state_dict(imported.weights)
    return request.param, theirs, ours.eval()


def texts_of_theirs(theirs: Any, given: list[list[int]], params: BeamParams) -> list[list[int]]:
    """What `generate` writes for each, one at a time, without the end."""
    written = []
    for ids in given:
        options = {
            "num_beams": params.beams, "length_penalty": params.length_penalty, "early_stopping": params.early_stopping,
            "max_new_tokens": params.max_tokens, "do_sample": False, "eos_token_id": END, "pad_token_id": PAD,
        }  # fmt: skip
        out = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)[0]
        new = out.tolist()[1:] if theirs.config.is_encoder_decoder else out.tolist()[len(ids) :]
        written.append(new[: new.index(END)] if END in new else new)
    return written


def texts_of_ours(name: str, ours: Any, given: list[list[int]], params: BeamParams) -> list[list[int]]:
    if "t5" in name:  # our sources have no end of their own: it is added
        return beam_search(ours, [[PAD]] * len(given), params, sources=[ids[:-1] for ids in given], ends=END)
    return beam_search(ours, given, params, ends=END)


def given_ids(name: str, n: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    ids = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 9))] for _ in range(n)]
    return [[*row, END] for row in ids] if "t5" in name else ids


@pytest.mark.promise("Generation", "Beam search writes what transformers writes, token for token")
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("beams", [4, 2])
def test_texts_are_those_of_transformers(
    models: tuple[str, Any, Any], beams: int, length_penalty: float, early_stopping: bool
) -> None:
    name, theirs, ours = models
    params = BeamParams(beams, length_penalty, 14, early_stopping)
    given = given_ids(name, 12, seed=beams)
    assert texts_of_ours(name, ours, given, params) == texts_of_theirs(theirs, given, params)


def test_some_texts_end_and_some_are_cut(models: tuple[str, Any, Any]) -> None:
    name, _, ours = models
    lengths = {
        len(text) for text in texts_of_ours(name, ours, given_ids(name, 30, 0), BeamParams(4, 0.0, 14))
    }
    assert min(lengths) < 14 <= max(lengths), "else equal texts would show little"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("no length penalty", lambda text, score, ids, n: keep_finished(text, score * (len(ids) + 1), ids, n)),
        ("the worst is kept", lambda text, score, ids, n: keep_finished(text, -score, ids, n)),
    ],
)  # fmt: skip
def test_a_fault_is_caught(
    models: tuple[str, Any, Any], name: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, theirs, ours = models
    params = BeamParams(4, 1.0, 14)
    given = given_ids(family, 30, seed=5)
    expected = texts_of_theirs(theirs, given, params)
    assert texts_of_ours(family, ours, given, params) == expected
    monkeypatch.setattr(beam.BeamText, "finish", fault)
    assert texts_of_ours(family, ours, given, params) != expected


keep_finished = beam.BeamText.finish


@pytest.mark.promise("Generation", "A text of a beam search does not depend on the texts searched with it")
def test_a_text_does_not_depend_on_the_others(models: tuple[str, Any, Any]) -> None:
    name, _, ours = models
    given, params = given_ids(name, 9, seed=7), BeamParams(3, 1.0, 12)
    assert texts_of_ours(name, ours, given, params) == [
        text for ids in given for text in texts_of_ours(name, ours, [ids], params)
    ]


def test_one_beam_is_greedy(models: tuple[str, Any, Any]) -> None:
    from textus.generation.params import SamplingParams

    name, _, ours = models
    for ids in given_ids(name, 5, seed=9):
        prompt, source = ([PAD], ids[:-1]) if "t5" in name else (ids, None)
        greedy = generate(
            ours, prompt, SamplingParams(temperature=0.0, max_tokens=12), end_id=END, source=source
        )
        assert texts_of_ours(name, ours, [ids], BeamParams(1, 1.0, 12)) == [list(greedy)]


def test_the_end_may_be_all_there_is_to_write(models: tuple[str, Any, Any]) -> None:
    """A model that is sure of the end at once writes an empty text."""
    name, _, ours = models
    given = given_ids(name, 3, seed=1)
    every = range(VOCABULARY)
    sources = [ids[:-1] for ids in given] if "t5" in name else None
    prompts = [[PAD]] * 3 if sources else given
    assert beam_search(ours, prompts, BeamParams(4, 1.0, 5), sources=sources, ends=set(every)) == [[], [], []]


def test_more_beams_than_ids_and_a_full_context(models: tuple[str, Any, Any]) -> None:
    name, _, ours = models
    texts = texts_of_ours(name, ours, given_ids(name, 2, seed=2), BeamParams(50, 1.0, 3))
    assert all(len(text) <= 3 for text in texts)
    if "t5" not in name:
        long = [[3] * 94]
        assert len(texts_of_ours(name, ours, long, BeamParams(2, 1.0, 50))[0]) <= 2


def test_damaged_weights_and_wrong_numbers_are_refused(models: tuple[str, Any, Any], tmp_path: Path) -> None:
    with raises(UsageError, "out_of_range", "beams=0"):
        BeamParams(beams=0)
    with raises(UsageError, "out_of_range", "length_penalty"):
        BeamParams(length_penalty=float("nan"))
    name, _, ours = models
    kept = {key: value.clone() for key, value in ours.state_dict().items()}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(float("nan"))
    with raises(RunError, "invalid_weights"):
        texts_of_ours(name, ours, given_ids(name, 1, seed=0), BeamParams(2))
    ours.load_state_dict(kept)
