"""Sampling against the filters of transformers, the reference loop's rules, and text released in time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.generation.params import SamplingParams
from textus.generation.sampling import (
    append_or_truncate,
    apply_repetition_penalty,
    filtered_probs,
    generate,
    sample_id,
    sample_index,
)
from textus.generation.streaming import TextStream, partial_stop_length
from textus.models.contract import Capabilities, LanguageModel
from textus.models.registry import build
from textus.tokenizers import train

GREEDY = SamplingParams(temperature=0)


@pytest.mark.parametrize("as_type", [int, np.int64, np.uint64])
def test_the_bounds_of_a_seed_are_exact(as_type: type) -> None:
    """Attack 2, row 10: as floats 2^64 - 1 and 2^64 are one, so are -2^63 and what is below it."""
    held = [-(2**63), 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]
    info = None if as_type is int else np.iinfo(as_type)
    for seed in held:
        if info is None or info.min <= seed <= info.max:
            SamplingParams(seed=as_type(seed)).check()
    for seed in (-(2**63) - 1, 2**64, 10**400, -(10**400)):
        with raises(UsageError, "out_of_range"):
            SamplingParams(seed=seed).check()


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [10**400, -(10**400), math.nan, math.inf, -math.inf])
def test_a_number_beyond_every_float_is_out_of_range(field: str, value: float) -> None:
    with raises(UsageError, "out_of_range", f"{field}="):
        replace(SamplingParams(), **{field: value}).check()


def test_the_largest_seed_draws() -> None:
    logits = np.arange(5, dtype=np.float32)
    ids = [
        sample_id(logits, SamplingParams(temperature=3, seed=seed), [], 0)
        for seed in range(2**64 - 40, 2**64)
    ]
    assert len(set(ids)) > 1


def probabilities(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    weights = filtered_probs(logits, logits.max(), sampling)
    return weights / weights.sum()


# ── the filters, against transformers ──────────────────────────────────────────────────────────


def transformers_probabilities(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    from transformers.generation import logits_process as peer

    steps: list = [peer.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        steps.append(peer.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(peer.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(peer.MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for step in steps:
        scores = step(torch.zeros(1, 1, dtype=torch.long), scores)
    return scores[0].softmax(-1).numpy()


FILTERS = {
    "temperature": SamplingParams(temperature=0.7),
    "hot": SamplingParams(temperature=1.9),
    "top_k": SamplingParams(temperature=1.0, top_k=5),
    "top_k of one": SamplingParams(temperature=1.0, top_k=1),
    "top_k of more than there are": SamplingParams(temperature=1.0, top_k=10_000),
    "top_p": SamplingParams(temperature=1.0, top_p=0.9),
    "top_p of one id": SamplingParams(temperature=1.0, top_p=1e-6),
    "min_p": SamplingParams(temperature=1.0, min_p=0.1),
    "top_k, then top_p": SamplingParams(temperature=0.9, top_k=12, top_p=0.6),
    "top_p, then min_p": SamplingParams(temperature=1.3, top_p=0.8, min_p=0.2),
    "all": SamplingParams(temperature=0.8, top_k=20, top_p=0.95, min_p=0.05),
}


@pytest.mark.promise(
    "Generation", "Sampling filters are those of `transformers`; draws follow the probabilities"
)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [3, 50, 4096])
def test_filters_equal_transformers(name: str, size: int) -> None:
    for seed in range(10):
        logits = np.random.default_rng(seed).normal(scale=3, size=size).astype(np.float32)
        ours, theirs = (f(logits, FILTERS[name]) for f in (probabilities, transformers_probabilities))
        assert (ours > 0).tolist() == (theirs > 0).tolist()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["top_k", "min_p"])
def test_filters_keep_ties_as_transformers_does(name: str) -> None:
    logits = np.array([2.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 0.0, -3.0], dtype=np.float32)
    np.testing.assert_allclose(
        probabilities(logits, FILTERS[name]), transformers_probabilities(logits, FILTERS[name]), rtol=1e-12
    )


@pytest.mark.parametrize("penalty", [1.2, 0.8, 3.0])
def test_penalty_equals_transformers(penalty: float) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(0).normal(size=40).astype(np.float32)
    history = [3, 3, 3, 17, 0, 39]  # each counts once, however often it was seen
    before = logits.copy()
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([history]), torch.from_numpy(logits)[None]
    )
    np.testing.assert_allclose(
        apply_repetition_penalty(logits, history, penalty), theirs[0].numpy(), rtol=1e-6
    )
    assert (logits == before).all(), "the model's logits were changed"


def test_the_nucleus_of_a_large_vocabulary_is_the_one_found_by_sorting_all_of_it() -> None:
    """The shortcut that leaves the tail unsorted changes nothing, even where nothing is unlikely."""
    for scale in (0.0, 0.01, 1.0, 10.0):
        logits = np.random.default_rng(1).normal(scale=scale, size=20_000).astype(np.float32)
        weights = filtered_probs(logits, logits.max(), SamplingParams(temperature=1.0))
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        kept = np.zeros(len(weights), dtype=bool)
        kept[order[before < 0.7 * weights.sum()]] = True
        nucleus = filtered_probs(logits, logits.max(), SamplingParams(temperature=1.0, top_p=0.7)) > 0
        # Sums in another order may disagree about the id that lies on the border itself.
        assert (nucleus != kept).sum() <= 1


# ── the draw ───────────────────────────────────────────────────────────────────────────────────


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.0, 0.2, 0.05, 0.25]) + 1e-300)
    drawn = [sample_id(logits, SamplingParams(temperature=1.0, seed=5), [], step) for step in range(20_000)]
    share = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(share, [0.5, 0.0, 0.2, 0.05, 0.25], atol=0.015)  # four deviations


@pytest.mark.parametrize("number", [0.0, 1e-18, 0.5, math.nextafter(1, 0)])
def test_no_number_draws_an_id_of_weight_zero(number: float) -> None:
    weights = np.array([0.0, 0.3, 0.0, 1e-9, 1.0, 0.0])
    assert weights[sample_index(weights, number)] > 0


def test_a_number_that_rounds_up_to_the_whole_draws_the_last_id_of_any_weight() -> None:
    assert sample_index(np.array([0.0, 1.0, 0.5, 0.0]), 1.0) == 2


def test_greedy_takes_the_smallest_of_tied_ids() -> None:
    assert sample_id(np.array([1.0, 3.0, 3.0], dtype=np.float32), GREEDY, [], 0) == 1


def test_greedy_minds_the_repetition_penalty() -> None:
    logits = np.array([1.0, 3.0, 2.9], dtype=np.float32)
    assert sample_id(logits, replace(GREEDY, repetition_penalty=1.5), [1], 0) == 2


def test_a_tiny_temperature_is_greedy() -> None:
    logits = np.random.default_rng(2).normal(size=100).astype(np.float32)
    for step in range(20):
        assert sample_id(logits, SamplingParams(temperature=1e-320), [], step) == logits.argmax()


def test_numbers_depend_on_seed_and_step_only() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    forwards = [sample_id(logits, SamplingParams(seed=1), [], step) for step in range(50)]
    backwards = [sample_id(logits, SamplingParams(seed=1), [7], step) for step in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [sample_id(logits, SamplingParams(seed=2), [], step) for step in range(50)]


def test_tensors_of_low_precision_are_logits_too() -> None:
    logits = torch.tensor([0.5, 2.0, 1.0], dtype=torch.bfloat16)
    assert sample_id(logits, GREEDY, [], 0) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams()])
def test_logits_that_are_not_numbers_are_refused(bad: float, sampling: SamplingParams) -> None:
    with raises(RunError, "invalid_weights", "1"):
        sample_id(np.array([0.0, bad, 2.0]), sampling, [], 0)


def test_logits_that_allow_nothing_are_refused() -> None:
    with raises(RunError, "invalid_weights"):
        sample_id(np.full(4, -math.inf), SamplingParams(), [], 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 101),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", 1.5),
        ("seed", 2**64),
        ("seed", None),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", 1e300),
        ("max_tokens", 0),
        ("stop", ("fine", "")),
        ("stop", "one text"),
        ("stop", (3,)),
    ],
)
def test_values_out_of_range_get_one_line(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        replace(SamplingParams(), **{name: value}).check()  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert repr(value) in message
    assert "give" in message
    assert "\n" not in message


def test_the_edges_of_the_ranges_are_allowed() -> None:
    SamplingParams(
        temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=0.1, max_tokens=1, stop=("a",)
    ).check()


# ── the loop ───────────────────────────────────────────────────────────────────────────────────


def fake(context_length: int | None = 16, vocab_size: int = 11) -> LanguageModel:
    return build("fake", {"vocab_size": vocab_size, "context_length": context_length})


class Recording(LanguageModel):
    """Wraps a model and remembers what it was asked to read."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model, self.config, self.read = model, model.config, list[list[int]]()
        self.dropped = torch.nn.Dropout(0.5)

    def forward(self, ids: Tensor, cache: object = None, lengths: Tensor | None = None) -> Tensor:
        self.read.append(ids[0].tolist())
        assert not self.dropped.training, "dropout is on"
        assert torch.is_inference_mode_enabled()
        return self.model(ids)


def test_generate_makes_max_tokens_new_ids_of_the_vocabulary() -> None:
    new = generate(fake(), [1, 2, 3], SamplingParams(max_tokens=40, sliding=True), None)
    assert len(new) == 40
    assert all(0 <= id < 11 for id in new)


@pytest.mark.promise(
    "Generation", "Same seed, same text; a token's random number depends on seed and step only"
)
def test_same_seed_same_text_and_another_seed_another() -> None:
    first, again, other = (
        generate(fake(), [1, 2], SamplingParams(seed=s, temperature=2.0), None) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_end_id_ends_and_is_not_returned() -> None:
    free = generate(fake(), [1, 2, 3], SamplingParams(max_tokens=40, temperature=1.5, sliding=True), None)
    end = free[10]
    ended = generate(fake(), [1, 2, 3], SamplingParams(max_tokens=40, temperature=1.5, sliding=True), end)
    assert ended == free[: free.index(end)]


def test_at_the_context_only_the_last_half_is_kept() -> None:
    model = Recording(fake(context_length=8))
    new = generate(model, [1, 2, 3, 4, 5], SamplingParams(max_tokens=9, sliding=True), None)
    assert [len(ids) for ids in model.read] == [5, 6, 7, 4, 5, 6, 7, 4, 5]
    assert model.read[3] == [1, 2, 3, 4, 5, *new][4:8]
    assert model.read[-1] == [1, 2, 3, 4, 5, *new][8:13]


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_the_smallest_contexts_continue_too(context_length: int) -> None:
    assert len(generate(fake(context_length), [1], SamplingParams(max_tokens=7, sliding=True), None)) == 7


def test_a_prompt_that_fills_the_context_is_read_whole() -> None:
    model = Recording(fake(context_length=8))
    generate(model, [1] * 8, SamplingParams(max_tokens=2, sliding=True), None)
    assert [len(ids) for ids in model.read] == [8, 4]


def test_extend_without_a_context_never_forgets() -> None:
    ids = list(range(1000))
    assert not append_or_truncate(ids, 5, None)
    assert len(ids) == 1001


def test_the_mode_is_put_back_also_after_a_failure() -> None:
    model = Recording(fake()).train()
    generate(model, [1], SamplingParams(max_tokens=2), None)
    assert model.training
    assert model.dropped.training
    model.model = torch.nn.Linear(1, 1)  # cannot read ids
    with pytest.raises(RuntimeError):
        generate(model, [1], SamplingParams(max_tokens=2), None)
    assert model.training


@pytest.mark.parametrize(
    ("ids", "messages"),
    [
        ([1] * 1017, ["1,017", "context holds 16", "shorten the prompt by 1,001"]),
        ([], ["no ids", "end-of-text"]),
        ([1, 11], ["id 11", "vocabulary of 11"]),
        ([1, -1], ["id -1"]),
    ],
)
def test_prompts_that_cannot_be_continued(ids: list[int], messages: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        generate(fake(), ids, SamplingParams(), None)
    for words in messages:
        assert words in str(caught.value)


def test_a_family_without_generation_is_reported() -> None:
    model = fake()
    model.capabilities = Capabilities(can_generate=False)
    with raises(UsageError, "unsupported_model"):
        generate(model, [1], SamplingParams(), None)


# ── text ───────────────────────────────────────────────────────────────────────────────────────


class Pieces:
    """The smallest decoder: id n is the nth piece of text."""

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces, self.rest = pieces, rest

    def stream(self) -> Pieces:
        return self

    def push(self, id: int) -> str:
        return self.pieces[id]

    def flush(self) -> str:
        return self.rest


def released(pieces: list[str], stop: tuple[str, ...]) -> tuple[list[str], bool]:
    stream = TextStream(Pieces(pieces), stop)
    return [*(stream.push(id) for id in range(len(pieces))), stream.flush()], stream.stopped


def test_without_stop_strings_text_comes_at_once() -> None:
    assert released(["a", "", "bc"], ()) == (["a", "", "bc", ""], False)


@pytest.mark.promise("Generation", "A stop string never leaks, however tokens cut it")
def test_a_stop_string_over_several_tokens_never_leaks() -> None:
    assert released(["yes", "\n", "\nUs", "er", ":", " more"], ("\n\nUser:",)) == (["yes", *[""] * 6], True)


def test_text_held_back_in_vain_is_released_as_soon_as_that_is_certain() -> None:
    assert released(["a", "\n", "\nU", "x"], ("\n\nUser:",)) == (["a", "", "", "\n\nUx", ""], False)


def test_what_is_held_at_the_end_is_flushed() -> None:
    assert released(["a\n", "\n"], ("\n\nUser:",)) == (["a", "", "\n\n"], False)


def test_a_stop_string_that_repeats_within_itself() -> None:
    assert released(["a", "a", "b", "a", "a", "c"], ("aac",)) == (["", "", "aab", "", "", "", ""], True)


def test_a_stop_string_completed_by_the_flush() -> None:
    stream = TextStream(Pieces(["x<"], rest="end> y"), ("<end>",))
    assert [stream.push(0), stream.flush(), stream.stopped] == ["x", "", True]


@pytest.mark.parametrize(
    ("text", "stop", "n"), [("abc", "cab", 1), ("aa", "aaa", 2), ("aaa", "aaa", 2), ("", "a", 0)]
)
def test_overlap(text: str, stop: str, n: int) -> None:
    assert partial_stop_length(text, stop) == n


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """What should come out, found one character at a time: the definition, slowly."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_with_a_real_tokenizer_no_half_character_and_no_stop_string_comes_out(kind: str) -> None:
    text = "One day, 从前有座山 🙂.\nUser: what?"
    tokenizer = train(kind, [text[:8]] if kind == "bpe" else [text], vocab_size=300)  # bytes, where bpe
    stream = TextStream(tokenizer, ["\nUser:"])
    ids = tokenizer.encode(text)
    out = [stream.push(id) for id in ids]
    assert "".join(out) + stream.flush() == "One day, 从前有座山 🙂."
    assert stream.stopped
    assert not any("\ufffd" in item for item in out)
    cut = TextStream(tokenizer, ["\nUser:"])
    half = tokenizer.encode("座山🙂\nUs")
    assert "".join(map(cut.push, half)) + cut.flush() == "座山🙂\nUs"


letters = st.text("ab\n", max_size=6)


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(letters, max_size=12), stops=st.lists(letters.filter(bool), max_size=3))
def test_any_cut_of_a_text_gives_the_same(pieces: list[str], stops: list[str]) -> None:
    texts, stopped = released(pieces, tuple(stops))
    assert ("".join(texts), stopped) == cut("".join(pieces), stops)
