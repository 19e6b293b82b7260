"""Beam search against transformers' own, on random models of several shapes, and against itself, text by text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textus.core.errors import RunError, UsageError
from textus.generation import beam
from textus.generation.beam import Hypothesis, beam_search
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.interop.folder import read_folder
from textus.models.registry import build

V, END, CONTEXT = 31, 1, 64
BEAMS = SamplingParams(beams=4, max_tokens=12)
SHAPES = ("t5", "t5 v1.1", "flan-t5 of silu", "llama", "gpt2")
PENALTIES = (0.0, 1.0, 2.0)


def theirs_of(shape: str, seed: int) -> Any:
    """A random model of transformers, its weights large enough that texts differ."""
    torch.manual_seed(seed)
    t5 = {
        "vocab_size": V, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0,
        "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
    }  # fmt: skip
    ids = {"bos_token_id": 0, "eos_token_id": END, "pad_token_id": 0}
    if shape == "llama":
        config: Any = transformers.LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=CONTEXT, **ids,
        )  # fmt: skip
    elif shape == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, **ids
        )
    elif shape == "t5":
        config = transformers.T5Config(**t5)
    else:
        forward = "gated-silu" if "silu" in shape else "gated-gelu"
        config = transformers.T5Config(**t5, feed_forward_proj=forward, tie_word_embeddings=False)
    is_t5 = config.model_type == "t5"
    kind = transformers.T5ForConditionalGeneration if is_t5 else transformers.AutoModelForCausalLM.from_config
    theirs = kind(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return theirs


def ours_of(folder: Path, theirs: Any) -> Any:
    theirs.save_pretrained(folder)
    result = read_folder(folder)
    model = build(result.family, result.config)
    model.load_state_dict(result.weights)
    return model.eval()


def texts_of(seed: int, n: int = 4, longest: int = 9) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=random).tolist()
    return [torch.randint(2, V, (length,), generator=random).tolist() for length in lengths]


def search(
    ours: Any, texts: list[list[int]], sampling: SamplingParams, ends: Any = END
) -> list[list[Hypothesis]]:
    if ours.capabilities.needs_source:
        return beam_search(ours, [[0]] * len(texts), sampling, sources=texts, ends=ends)
    return beam_search(ours, texts, sampling, ends=ends)


def theirs_search(theirs: Any, text: list[int], sampling: SamplingParams, ends: Any = END) -> Any:
    """The ids of every beam of transformers, their ends cut off, and their scores."""
    is_t5 = theirs.config.is_encoder_decoder
    given = torch.tensor([[*text, END]] if is_t5 else [text])
    result = theirs.generate(
        given, attention_mask=torch.ones_like(given), num_beams=sampling.beams, num_return_sequences=sampling.beams,
        max_new_tokens=sampling.max_tokens, length_penalty=sampling.length_penalty, do_sample=False,
        early_stopping=sampling.early_stopping, eos_token_id=ends, pad_token_id=0, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    stops = ends if isinstance(ends, list) else [ends]
    new = [row[1 if is_t5 else len(text) :] for row in result.sequences.tolist()]
    cut = [row[: next((at for at, id in enumerate(row) if id in stops), sampling.max_tokens)] for row in new]
    return cut, result.sequences_scores.tolist()


def assert_equal_to_theirs(
    ours: Any, theirs: Any, texts: list[list[int]], sampling: SamplingParams, ends: Any = END
) -> list[Hypothesis]:
    """Every beam of every text, and its score; the best ones are returned."""
    together = search(ours, texts, sampling, ends)
    for text, hypotheses in zip(texts, together, strict=True):
        ids, scores = theirs_search(theirs, text, sampling, ends)
        assert [hypothesis.ids for hypothesis in hypotheses] == ids
        torch.testing.assert_close(
            torch.tensor([hypothesis.score for hypothesis in hypotheses]),
            torch.tensor(scores),
            atol=1e-4,
            rtol=1e-4,
        )
    return [hypotheses[0] for hypotheses in together]


@pytest.mark.promise(
    "Generation",
    "Beam search gives the texts and scores of `transformers`, token for token, alone and in a batch",
)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_beams_are_those_of_transformers(
    tmp_path: Path, shape: str, length_penalty: float, early_stopping: bool
) -> None:
    """2 models of 4 texts for each of 30 settings: 240 texts, 960 beams."""
    sampling = replace(BEAMS, length_penalty=length_penalty, early_stopping=early_stopping)
    for seed in (1, 2):
        theirs = theirs_of(shape, seed)
        assert_equal_to_theirs(ours_of(tmp_path, theirs), theirs, texts_of(seed), sampling)


@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ends_that_come_early_or_never(tmp_path: Path, shape: str, length_penalty: float) -> None:
    """Ends of many ids come early, an end that no text has never comes."""
    theirs = theirs_of(shape, 3)
    ours, texts = ours_of(tmp_path, theirs), texts_of(3)
    sampling = replace(BEAMS, length_penalty=length_penalty)
    often, unknown = list(range(1, V, 2)), V + 1
    early = assert_equal_to_theirs(ours, theirs, texts, replace(sampling, early_stopping=True), often)
    assert all(text.reason == "stop" and len(text.ids) < sampling.max_tokens for text in early)
    assert_equal_to_theirs(ours, theirs, texts, sampling, often)
    never = assert_equal_to_theirs(ours, theirs, texts, sampling, unknown)
    assert all(text.reason == "length" and len(text.ids) == sampling.max_tokens for text in never)


@pytest.mark.parametrize("shape", ["t5 v1.1", "llama"])
def test_texts_do_not_depend_on_their_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    theirs = theirs_of(shape, 4)
    ours, texts = ours_of(tmp_path, theirs), texts_of(4, n=20, longest=30)
    alone = [search(ours, [text], BEAMS)[0] for text in texts]
    for max_rows in (1, 12, 128):
        monkeypatch.setattr(beam, "MAX_ROWS", max_rows)
        together = search(ours, texts, BEAMS)
        assert [[text.ids for text in texts] for texts in together] == [
            [text.ids for text in texts] for texts in alone
        ]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_beam_is_greedy(tmp_path: Path, shape: str) -> None:
    theirs = theirs_of(shape, 5)
    ours, texts = ours_of(tmp_path, theirs), texts_of(5, n=12)
    greedy = SamplingParams(temperature=0, max_tokens=12)
    is_t5 = ours.capabilities.needs_source
    expected: list[list[int]] = [[] for _ in texts]
    for event in Engine(ours, end_id=END, max_rows=12).stream(
        [[0]] * 12 if is_t5 else texts, greedy, texts if is_t5 else None
    ):
        expected[event.row] += [] if event.id is None else [event.id]
    assert [hypotheses[0].ids for hypotheses in search(ours, texts, greedy)] == expected


def test_a_score_without_its_length_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault planted: log-probabilities are not divided by lengths."""
    theirs = theirs_of("t5 v1.1", 1)
    ours, advance = ours_of(tmp_path, theirs), beam.BeamSearch.advance

    def without_length(self: Any, candidates: Any, sampling: SamplingParams, ends: Any) -> None:
        advance(self, candidates, replace(sampling, length_penalty=0.0), ends)

    monkeypatch.setattr(beam.BeamSearch, "advance", without_length)
    with pytest.raises(AssertionError):
        assert_equal_to_theirs(ours, theirs, texts_of(1), replace(BEAMS, length_penalty=2.0))


def test_beams_of_the_wrong_row_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault planted: the cache is not put in the order of the beams."""
    theirs = theirs_of("llama", 1)
    ours = ours_of(tmp_path, theirs)
    kind = type(ours.new_cache(1, 4))
    select = kind.select
    monkeypatch.setattr(kind, "select", lambda self, rows: select(self, sorted(rows)))
    with pytest.raises(AssertionError):
        assert_equal_to_theirs(ours, theirs, texts_of(1), BEAMS)


def test_a_full_context_ends_a_text(tmp_path: Path) -> None:
    ours = ours_of(tmp_path, theirs_of("gpt2", 6))
    texts = [[2] * (CONTEXT - 3), [3] * CONTEXT, [4]]
    lengths = [
        max(len(text.ids) for text in hypotheses) for hypotheses in beam_search(ours, texts, BEAMS, ends=None)
    ]
    assert lengths == [3, 1, 12]


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    ours = ours_of(tmp_path, theirs_of("gpt2", 6))
    for options in ({"temperature": 1.0}, {"repetition_penalty": 1.2}, {"sliding": True}):
        with pytest.raises(UsageError, match="beams=4"):
            beam_search(ours, [[2]], replace(BEAMS, **options), ends=END)
    with pytest.raises(UsageError, match="beams=0"):
        beam_search(ours, [[2]], SamplingParams(beams=0), ends=END)
    with pytest.raises(UsageError, match="1 sources"):
        beam_search(ours, [[2], [3]], BEAMS, sources=[[2]], ends=END)
    with torch.no_grad():
        ours.head_weight[:] = float("nan")
    with pytest.raises(RunError, match="damaged"):
        beam_search(ours, [[2]], BEAMS, ends=END)
