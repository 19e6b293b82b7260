"""The engine against the reference loop, id for id; requests that come, go and fail; many callers at once."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from faulty import Forgets, Mixes, SeesPadding
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from remembering import Remembering, RememberingCache, RememberingConfig
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.generation import engine as engine_module
from textus.generation.engine import AsyncEngine, Engine, TokenEvent
from textus.generation.params import BOUNDS, Bound, SamplingParams
from textus.generation.sampling import generate
from textus.models.contract import LanguageModel

END = 0


def collect(events: Iterator[TokenEvent]) -> dict[int, list[int]]:
    """The ids of each row; every row ends exactly once."""
    ids: dict[int, list[int]] = defaultdict(list)
    ended: set[int] = set()
    for event in events:
        assert event.row not in ended, "an event after the last one"
        if event.id is not None:
            ids[event.row].append(event.id)
        if event.reason is not None:
            assert (event.id is None) == (event.reason == "stop")
            ended.add(event.row)
            ids[event.row] += []
    assert ended == set(ids)
    return ids


def drain(engine: Engine) -> Iterator[TokenEvent]:
    while engine.has_work:
        yield from engine.step()


def assert_equals_reference(
    model: LanguageModel, prompts: Sequence[list[int]], samplings: Sequence[SamplingParams], max_rows: int = 3
) -> None:
    got = collect(Engine(model, end_id=END, max_rows=max_rows).stream(prompts, samplings))
    for row, (ids, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        assert got[row] == generate(model, ids, sampling, END), f"row {row}: {ids} {sampling}"


SAMPLINGS = [
    SamplingParams(max_tokens=60, seed=1, sliding=True),
    SamplingParams(max_tokens=5, temperature=0),
    SamplingParams(max_tokens=60, temperature=1.5, seed=2, sliding=True),
    SamplingParams(max_tokens=30, top_k=3, top_p=0.9, seed=3),
    SamplingParams(max_tokens=40, repetition_penalty=1.5, seed=4, temperature=2.0, sliding=True),
    SamplingParams(max_tokens=1, min_p=0.1, seed=5),
]
PROMPTS = [[1, 2, 3], [4, 5], [5] * 16, [6, 7], [8, 9, 1, 2, 3, 4, 5], [3] * 15]


# ── equal to the reference ─────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Generation", "The engine's tokens are the reference's, whoever joins, leaves or rolls over"
)
@pytest.mark.parametrize("max_rows", [1, 2, 3, 8])
@pytest.mark.parametrize("context_length", [16, 17, None])
def test_ragged_prompts_that_join_leave_and_roll_over(max_rows: int, context_length: int | None) -> None:
    model = Remembering(RememberingConfig(context_length=context_length))
    assert_equals_reference(model, PROMPTS, SAMPLINGS, max_rows)


requests = st.tuples(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0, 0.8, 3.0]),
        top_k=st.sampled_from([0, 4]),
        top_p=st.sampled_from([1.0, 0.8]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        max_tokens=st.integers(1, 30),
        seed=st.integers(0, 5),
        sliding=st.booleans(),
    ),
    st.integers(0, 12),  # the step before which it comes
    st.none() | st.integers(0, 25),  # the step before which it is cancelled
)


@settings(max_examples=80, deadline=None)
@given(
    requests=st.lists(requests, min_size=1, max_size=6),
    max_rows=st.integers(1, 4),
    context_length=st.sampled_from([8, 9, None]),
)
def test_any_schedule_of_joins_and_cancellations(
    requests: list[tuple[list[int], SamplingParams, int, int | None]],
    max_rows: int,
    context_length: int | None,
) -> None:
    """Every request gets what it would get alone, and a cancelled one the beginning of it."""
    model = Remembering(RememberingConfig(context_length=context_length))
    engine = Engine(model, end_id=END, max_rows=max_rows)
    numbers: dict[int, int] = {}  # request -> place in `requests`
    ids: dict[int, list[int]] = defaultdict(list)
    cancelled: set[int] = set()
    for step in range(200):
        for place, (prompt, sampling, arrives, leaves) in enumerate(requests):
            if arrives == step:
                numbers[engine.submit(prompt, sampling)] = place
            if leaves == step and place in numbers.values():
                cancelled.add(number := next(n for n in numbers if numbers[n] == place))
                engine.cancel(number)
        for event in engine.step():
            assert event.row not in cancelled
            ids[event.row] += [] if event.id is None else [event.id]
        assert len(engine.running) + len(engine.waiting_prefill) <= max_rows
    assert not engine.has_work
    for number, place in numbers.items():
        alone = generate(model, *requests[place][:2], END)
        assert ids[number] == (alone[: len(ids[number])] if number in cancelled else alone)


def test_long_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged over the pieces too: some rows end in the first, some fill the last exactly."""
    monkeypatch.setattr(engine_module, "PIECE", 0)
    model = Remembering(RememberingConfig(context_length=None))
    prompts = [[1 + n % 7 for n in range(length)] for length in (20, 40, 17, 32, 33, 25)]
    assert_equals_reference(
        model, prompts, [SamplingParams(max_tokens=6, seed=n) for n in range(6)], max_rows=6
    )


class Watching(Remembering):
    """Remembers the shapes it read."""

    def __init__(self, config: RememberingConfig) -> None:
        super().__init__(config)
        self.shapes: list[tuple[int, ...]] = []

    def forward(
        self, ids: Tensor, cache: RememberingCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        self.shapes.append(tuple(ids.shape))
        return super().forward(ids, cache, lengths)


def test_pieces_are_no_larger_than_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PIECE", 13 * 100)
    model = Watching(RememberingConfig(context_length=None))
    collect(Engine(model, end_id=None).stream([[1, 2] * 110] * 2, SamplingParams(max_tokens=2)))
    assert model.shapes == [*[(2, 50)] * 4, (2, 20), (2, 1)]


def test_a_short_prompt_is_not_padded_to_a_long_one() -> None:
    model = Watching(RememberingConfig(context_length=None))
    prompts = [[1] * length for length in (3, 200, 4, 6, 7)]
    collect(Engine(model, end_id=None).stream(prompts, SamplingParams(max_tokens=2)))
    assert model.shapes == [(3, 6), (1, 7), (1, 200), (5, 1)]


@pytest.mark.parametrize("fault", [Mixes, SeesPadding, Forgets])
def test_a_broken_cache_is_found_by_these_tests(fault: type[Remembering]) -> None:
    with pytest.raises(AssertionError, match="row"):
        assert_equals_reference(fault(), PROMPTS, SAMPLINGS)


# ── requests ───────────────────────────────────────────────────────────────────────────────────


def test_requests_are_served_in_order_at_most_max_rows_at_once() -> None:
    engine = Engine(Remembering(), end_id=None, max_rows=2)
    numbers = [engine.submit([1], SamplingParams(max_tokens=n)) for n in (2, 4, 1, 3)]
    seen = []
    while engine.has_work:
        seen.append([event.row for event in engine.step()])
    assert numbers == [0, 1, 2, 3]
    assert seen == [[0, 1], [0, 1], [1, 2], [1, 3], [3], [3]]


def test_reasons() -> None:
    model = Remembering()
    free = generate(model, [1], SamplingParams(max_tokens=20), None)
    end = free[5]
    events = list(Engine(model, end_id=end).stream([[1]], SamplingParams(max_tokens=20)))
    assert events[-1] == TokenEvent(0, None, "stop")
    assert [event.reason for event in events[:-1]] == [None] * free.index(end)
    assert list(Engine(model, end_id=None).stream([[1]], SamplingParams(max_tokens=1))) == [
        TokenEvent(0, free[0], "length")
    ]


@pytest.mark.promise(
    "Robustness",
    "A chat keeps its system message and reserves space for the answer; an answer ends with the context",
)
@pytest.mark.parametrize("n_prompt", [3, 15, 16])
def test_an_answer_that_fills_the_context_ends_with_length(n_prompt: int) -> None:
    """C19: nothing of the conversation is forgotten while its answer is written, unless that was asked for."""
    model = Remembering(RememberingConfig(context_length=16))
    prompt = [1] * n_prompt
    events = list(Engine(model, end_id=None).stream([prompt], SamplingParams(max_tokens=50, seed=1)))
    assert events[-1].reason == "length"
    assert len(events) == max(1, 16 - n_prompt)
    assert [event.id for event in events] == generate(
        model, prompt, SamplingParams(max_tokens=50, seed=1), None
    )
    sliding = SamplingParams(max_tokens=50, seed=1, sliding=True)
    assert len(list(Engine(model, end_id=None).stream([prompt], sliding))) == 50


def test_memory_is_given_back() -> None:
    engine = Engine(Remembering(), end_id=None, max_rows=2)
    collect(engine.stream([[1], [2]], SamplingParams(max_tokens=3)))
    assert engine.cache is None
    first, second = engine.submit([1], SamplingParams()), engine.submit([2], SamplingParams())
    engine.step()
    engine.cancel(first)
    engine.cancel(first)  # again: no error
    engine.cancel(99)
    assert len(engine.cache.lengths) == 1
    engine.cancel(second)
    assert engine.cache is None
    assert not engine.has_work


def test_a_stream_left_early_cancels_the_rest() -> None:
    engine = Engine(Remembering(), end_id=None, max_rows=1)
    for _ in engine.stream([[1], [2]], SamplingParams()):
        break
    assert not engine.has_work
    assert len(collect(engine.stream([[1]], SamplingParams(max_tokens=3)))[0]) == 3


def test_nothing_to_do_is_no_step() -> None:
    engine = Engine(Remembering(), end_id=None)
    assert engine.step() == []
    assert list(engine.stream([], SamplingParams())) == []


def test_words_that_are_wrong() -> None:
    engine = Engine(Remembering(), end_id=None)
    with raises(UsageError, "context_exceeded", "17", "16"):
        engine.submit([1] * 17, SamplingParams())
    with raises(UsageError, "out_of_range", "temperature", "-1"):
        engine.submit([1], SamplingParams(temperature=-1))
    with raises(UsageError, "out_of_range", "0"):
        Engine(Remembering(), end_id=None, max_rows=0)
    with raises(UsageError, "size_mismatch", "2", "1"):
        next(engine.stream([[1], [2]], [SamplingParams()]))
    with pytest.raises(UsageError):
        next(engine.stream([[1], []], SamplingParams()))
    assert not engine.has_work, "a prompt stayed behind"
    engine.submit([1], SamplingParams())
    with raises(UsageError, "in_use"):
        next(engine.stream([[1]], SamplingParams()))


# ── many callers ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def front() -> Iterator[AsyncEngine]:
    thread = AsyncEngine(Engine(Remembering(), end_id=END, max_rows=3))
    yield thread
    thread.close()


def test_many_threads_get_what_each_would_get_alone(front: AsyncEngine) -> None:
    model, got = Remembering(), {}

    def ask(n: int) -> None:
        reply = front.submit(PROMPTS[n % 6], replace(SAMPLINGS[n % 6], seed=n))
        got[n] = [event.id for event in reply if event.id is not None]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for n in range(24):
        assert got[n] == generate(model, PROMPTS[n % 6], replace(SAMPLINGS[n % 6], seed=n), END)


ENDLESS = SamplingParams(max_tokens=10**9, temperature=0, sliding=True)


@pytest.fixture
def endless() -> Iterator[AsyncEngine]:
    thread = AsyncEngine(Engine(Remembering(), end_id=None, max_rows=1))
    yield thread
    thread.close()


def test_a_cancelled_reply_ends_and_its_row_goes_to_the_next(endless: AsyncEngine) -> None:
    first, second = endless.submit([1], ENDLESS), endless.submit([2], SamplingParams(max_tokens=3))
    next(first)
    first.cancel()
    list(first)  # what had come before, then the end
    assert len(list(second)) == 3
    first.cancel()
    second.cancel()  # after the end: no error


def test_a_waiting_reply_can_be_cancelled_too(endless: AsyncEngine) -> None:
    first, second = endless.submit([1], ENDLESS), endless.submit([2], ENDLESS)
    next(first)
    second.cancel()
    assert list(second) == []
    assert next(first).reason is None


def test_leaving_a_reply_cancels_it(endless: AsyncEngine) -> None:
    with endless.submit([1], ENDLESS) as reply:
        next(reply)
    assert len(list(endless.submit([2], SamplingParams(max_tokens=2)))) == 2


def test_wrong_requests_are_refused_at_once_and_disturb_nobody(endless: AsyncEngine) -> None:
    reply = endless.submit([1], ENDLESS)
    with pytest.raises(UsageError):
        endless.submit([1] * 17, SamplingParams())
    assert next(reply).reason is None


class Failing(Remembering):
    """Planted fault: fails when it reads a 12, which it never writes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table.data[:, 12] = -100

    def forward(
        self, ids: Tensor, cache: RememberingCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        if (ids == 12).any():
            raise MemoryError("no room for 12")
        return super().forward(ids, cache, lengths)


@pytest.mark.promise(
    "Robustness", "A request that fails ends alone: the connection and the other answers live"
)
@pytest.mark.parametrize("max_rows", [1, 4])
def test_a_row_that_fails_ends_alone_and_the_others_get_what_they_get_without_it(max_rows: int) -> None:
    """R2: also where it is read together with others, and in the midst of running ones."""
    greedy = SamplingParams(max_tokens=4, temperature=0)
    alone = [event.id for event in Engine(Failing(), end_id=None).stream([[2]], greedy)]
    front = AsyncEngine(Engine(Failing(), end_id=None, max_rows=max_rows))
    running = front.submit([1], ENDLESS)
    next(running)
    replies = [front.submit(ids, greedy) for ids in ([12], [2], [12], [2])]
    if max_rows == 1:
        running.cancel()
    for reply in replies[::2]:
        with raises(RunError, "generation_failed", "12") as caught:
            list(reply)
        assert isinstance(caught.value.__cause__, MemoryError)
        assert list(reply) == [], "the error comes once"
    for reply in replies[1::2]:
        assert [event.id for event in reply] == alone
    if max_rows > 1:
        assert next(running).reason is None
    front.close()


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_row_whose_choice_fails_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: logits that one request's settings make infinite; the bounds that prevent it are lifted here."""
    monkeypatch.setitem(BOUNDS, "repetition_penalty", Bound(0, math.inf, "anything"))
    wild = SamplingParams(max_tokens=4, repetition_penalty=1e-300)
    front = AsyncEngine(Engine(Remembering(), end_id=None, max_rows=4))
    others = [front.submit([1], ENDLESS), front.submit([2], ENDLESS)]
    with raises(RunError, "invalid_weights"):
        list(front.submit([1, 2, 3], wild))
    for reply in others:
        assert [next(reply).reason for _ in range(20)] == [None] * 20
    front.close()


@pytest.mark.promise("Generation", "A model that fails reaches everyone who waits, and the next are served")
def test_a_failure_of_the_running_rows_reaches_everyone_who_waits_and_the_next_are_served() -> None:
    model = Failing()
    front = AsyncEngine(Engine(model, end_id=None, max_rows=1))
    replies = [front.submit([1], ENDLESS), front.submit([2], ENDLESS)]
    next(replies[0])
    table, model.table.data = model.table.data, torch.zeros(2, 2)
    for reply in replies:
        with raises(RunError, "generation_failed"):
            list(reply)
    model.table.data = table
    assert len(list(front.submit([2], SamplingParams(max_tokens=4)))) == 4
    front.close()


class Stuck(RememberingCache):
    """Planted fault: rows cannot be dropped."""

    def select(self, rows: list[int]) -> RememberingCache:
        raise IndexError("rows are stuck")


class Sticky(Remembering):
    """Makes such caches."""

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> RememberingCache:
        return Stuck(*vars(super().new_cache(batch_size, length, source)).values())


def test_a_failure_while_cancelling_reaches_everyone_too() -> None:
    front = AsyncEngine(Engine(Sticky(), end_id=None, max_rows=2))
    replies = [front.submit([1, 2], ENDLESS)]
    replies.append(front.submit([3, 4], ENDLESS))
    for reply in replies:
        next(reply)
    replies[0].cancel()
    for reply in replies:
        with raises(RunError, "generation_failed"):
            list(reply)
    front.close()


class Broken(Remembering):
    """Planted fault: its weights are not numbers."""

    def forward(
        self, ids: Tensor, cache: RememberingCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        return super().forward(ids, cache, lengths) * torch.nan


def test_an_error_of_ours_keeps_its_words() -> None:
    front = AsyncEngine(Engine(Broken(), end_id=None))
    with raises(RunError, "invalid_weights"):
        list(front.submit([1], SamplingParams()))
    front.close()


def test_close_ends_what_is_open_and_refuses_what_comes() -> None:
    front = AsyncEngine(Engine(Remembering(), end_id=None, max_rows=1))
    replies = [front.submit([1], ENDLESS), front.submit([2], ENDLESS)]
    next(replies[0])
    front.close()
    front.close()
    for reply in replies:
        with raises(RunError, "closed"):
            list(reply)
        reply.cancel()
    with raises(RunError, "closed"):
        front.submit([1], SamplingParams())
    assert not front._thread.is_alive()
