"""The fast loop: cached, batched, streaming, and equal to `generation.generate` id for id in fp32.

Continuous batching (Yu et al. 2022, Orca): requests enter and leave between steps, each with its own
position, sampling and stream of random numbers, so that what one gets does not depend on who else is there.
It knows the model contract and ids only: no tokenizer, no files. `Engine` is for one thread; `AsyncEngine`
runs one in the background for many callers. Shapes: B rows, T time, V vocabulary.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from textus.core.errors import RunError, TextusError, UsageError
from textus.data.bucketing import pad_sources
from textus.generation.params import SamplingParams
from textus.generation.sampling import (
    Ends,
    append_or_truncate,
    check_prompt,
    check_source,
    device_of,
    eos_ids,
    fills_context,
    inference_mode,
    mask_unused_ids,
    sample_id,
)
from textus.models.contract import LanguageModel

PIECE = 1 << 25
"""Prompts are read in pieces of about this many logits (128 MB): a family returns (B, T, V) of them, and
those
of a whole long prompt would not fit in memory."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One id of one request; the last event of a request has a reason.

    `reason` is "stop" (the model ended its text; `id` is then None) or "length" (`max_tokens` are there, or the context
    is full). Where the request failed its last event has an `error` instead; the others know nothing of it.
    """

    row: int  # the number `submit` gave; from `stream`, the place of the prompt
    id: int | None
    reason: Literal["stop", "length"] | None = None
    error: TextusError | None = None

    @property
    def is_last(self) -> bool:
        """Whether no more events come of the request."""
        return self.reason is not None or self.error is not None


@dataclass(slots=True)
class Request:
    """A row: the ids the model sees, of which the last has not been read yet once generation runs."""

    number: int
    ids: list[int]
    sampling: SamplingParams
    source: list[int] | None = None
    n_new: int = 0


class Engine:
    """Generates for at most `max_rows` requests at once; others wait in the order they came.

    `end_id` (one id or several) ends a request and is not part of its text. `max_rows` bounds memory: each row holds
    a cache. `n_ids` is the size of the tokenizer's vocabulary, where the model's is larger (`mask_unused_ids`).
    """

    def __init__(
        self, model: LanguageModel, *, end_id: Ends, max_rows: int = 8, n_ids: int | None = None
    ) -> None:
        if max_rows < 1:
            raise UsageError("out_of_range", f"max_rows={max_rows} is too small; give 1 or more")
        self.model = model
        self.ends = eos_ids(end_id)
        self.n_ids = n_ids
        self.max_rows = max_rows
        self.waiting: deque[Request] = deque()
        self.waiting_prefill: list[
            Request
        ] = []  # hold a row, but their ids are to be read (again, after a cut)
        self.running: list[Request] = []  # the rows of the cache, in order
        self.cache: Any = None
        self._n_submitted = 0
        self._device = device_of(model)
        self._context: int | None = model.config.context_length

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.waiting_prefill or self.running)

    def check(
        self, ids: Sequence[int], sampling: SamplingParams, source: Sequence[int] | None = None
    ) -> None:
        """UsageError where a request cannot be served: a prompt too long, a negative temperature."""
        if sampling.searches:
            raise UsageError(
                "incompatible_settings",
                f"beams={sampling.beams}: here texts are written id by id, without a search; set beams=1",
            )
        check_request(self.model, ids, sampling, source)

    def submit(
        self, ids: Sequence[int], sampling: SamplingParams, source: Sequence[int] | None = None
    ) -> int:
        """Queue a prompt, and for families that need one the ids of a source text; returns the request's number,
        which its events carry. Raises UsageError.
        """
        self.check(ids, sampling, source)
        number = self._n_submitted
        self._n_submitted += 1
        self.waiting.append(Request(number, list(ids), sampling, None if source is None else list(source)))
        return number

    def cancel(self, request: int) -> None:
        """Forget a request, wherever it is: no more events come of it. One that has ended is no error."""
        self.waiting = deque(waiting for waiting in self.waiting if waiting.number != request)
        self.waiting_prefill = [waiting for waiting in self.waiting_prefill if waiting.number != request]
        self._keep_rows([row for row, waiting in enumerate(self.running) if waiting.number != request])

    def clear(self) -> None:
        """Forget every request."""
        self.waiting.clear()
        self.waiting_prefill, self.running, self.cache = [], [], None

    def step(self) -> list[TokenEvent]:
        """One more id for every request that has a row; rows that became free are filled first.

        Where the model raises, what the caches remember is unknown: only `clear` is safe after it.
        """
        with inference_mode(self.model):
            free = self.max_rows - len(self.running) - len(self.waiting_prefill)
            fresh = [
                *self.waiting_prefill,
                *(self.waiting.popleft() for _ in range(min(free, len(self.waiting)))),
            ]
            self.waiting_prefill = []
            failed: list[TokenEvent] = []
            logits = [self._decode_step()] if self.running else []
            for group in group_by_length(fresh):
                logits += self._prefill_or_fail(group, failed)
            chosen = self._choose(torch.cat(logits) if len(logits) > 1 else logits[0]) if logits else []
            return [*failed, *chosen]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: SamplingParams | Sequence[SamplingParams],
        sources: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[TokenEvent]:
        """The events of these prompts as they come; `row` is the place in `prompts`.

        One `SamplingParams` serves all prompts; `sources` has one for each. Closing the iterator cancels the
        rest. Raises UsageError before anything is generated, also where the engine is busy with other requests, whose
        events would be lost.
        """
        if self.has_work:
            raise UsageError(
                "in_use", "the engine is busy with other requests; use submit and step, or another engine"
            )
        each_sampling = (
            [samplings] * len(prompts) if isinstance(samplings, SamplingParams) else list(samplings)
        )
        if len(each_sampling) != len(prompts):
            raise UsageError(
                "size_mismatch",
                f"{len(prompts)} prompts with {len(each_sampling)} samplings; give one for each, or one for all",
            )
        if sources is not None and len(sources) != len(prompts):
            raise UsageError(
                "size_mismatch",
                f"{len(prompts)} prompts with {len(sources)} sources; give one for each, or none",
            )
        given = [None] * len(prompts) if sources is None else sources
        wanted = list(zip(prompts, each_sampling, given, strict=True))
        for request in wanted:
            self.check(*request)
        place = {self.submit(*request): row for row, request in enumerate(wanted)}
        try:
            while self.has_work:
                for event in self.step():
                    if event.error is not None:
                        raise event.error
                    yield replace(event, row=place[event.row])
        finally:
            self.clear()

    # ── the parts of a step ──

    def _decode_step(self) -> Tensor:
        """Read the newest id of every running row: logits (B, V)."""
        ids = torch.tensor([[request.ids[-1]] for request in self.running], device=self._device)
        return self.model(ids, self.cache)[:, -1]

    def _prefill_waiting(self, fresh: list[Request]) -> Tensor:
        """Read the ids of new rows together, and join them to the running ones: logits (B, V)."""
        longest = max(len(request.ids) + request.sampling.max_tokens - request.n_new for request in fresh)
        length = longest if self._context is None else min(longest, self._context)
        cache = self.model.new_cache(len(fresh), length, self._sources(fresh))
        logits = prefill(self.model, [request.ids for request in fresh], cache, self._device)
        self.cache = cache if self.cache is None else self.cache.join(cache)
        self.running = [*self.running, *fresh]
        return logits

    def _prefill_or_fail(self, fresh: list[Request], failed: list[TokenEvent]) -> list[Tensor]:
        """Admit new rows; where they cannot be read together, one by one, and those that fail alone end with an error.

        The caches of the running rows are not touched before the new ones are whole.
        """
        try:
            return [self._prefill_waiting(fresh)]
        except Exception as error:
            if len(fresh) == 1:
                failed.append(TokenEvent(fresh[0].number, None, error=failure(error)))
                return []
        return [logits for request in fresh for logits in self._prefill_or_fail([request], failed)]

    def _sources(self, fresh: list[Request]) -> Tensor | None:
        """The source texts (B, S) of new rows, an empty one for a row without; None where no row has one."""
        if all(request.source is None for request in fresh):
            return None
        return pad_sources([request.source or [] for request in fresh], self.model.config.end_id).to(
            self._device
        )

    def _choose(self, logits: Tensor) -> list[TokenEvent]:
        """Sample an id for every row of logits (B, V), emit its event, and release finished rows."""
        events, keep = [], []
        rows = mask_unused_ids(logits, self.n_ids).float().cpu().numpy()
        for row, (request, scores) in enumerate(zip(self.running, rows, strict=True)):
            try:
                id = sample_id(scores, request.sampling, request.ids, request.n_new)
            except Exception as error:  # of this row alone: the others have logits of their own
                events.append(TokenEvent(request.number, None, error=failure(error)))
                continue
            request.n_new += 1
            if id in self.ends:
                events.append(TokenEvent(request.number, None, "stop"))
            elif request.n_new == request.sampling.max_tokens or fills_context(
                request.ids, request.sampling, self._context
            ):
                events.append(TokenEvent(request.number, id, "length"))
            else:
                events.append(TokenEvent(request.number, id))
                if append_or_truncate(request.ids, id, self._context):
                    self.waiting_prefill.append(request)  # its positions changed: read again what it keeps
                else:
                    keep.append(row)
        self._keep_rows(keep)
        return events

    def _keep_rows(self, rows: list[int]) -> None:
        """Keep only these rows."""
        if len(rows) == len(self.running):
            return
        with torch.inference_mode():  # `cancel` comes here too, and the cache was made in this mode
            self.cache = self.cache.select(rows) if rows else None
        self.running = [self.running[row] for row in rows]


def check_request(
    model: LanguageModel, ids: Sequence[int], sampling: SamplingParams, source: Sequence[int] | None = None
) -> None:
    """UsageError where a request cannot be served: a prompt too long, a negative temperature."""
    sampling.check()
    check_prompt(model, ids)
    check_source(model, source)


def failure(error: Exception) -> TextusError:
    """An error as those get it who wait: ours as it is, another one named."""
    if isinstance(error, TextusError):
        return error
    failed = RunError(
        "generation_failed",
        f"the model failed while generating: {type(error).__name__}: {error}; send it again",
    )
    failed.__cause__ = error
    return failed


def group_by_length(requests: list[Request]) -> list[list[Request]]:
    """Groups to be read together, the longest at most twice the shortest: padding costs time too."""
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda waiting: len(waiting.ids)):
        if groups and len(request.ids) <= 2 * len(groups[-1][0].ids):
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups


def prefill(
    model: LanguageModel, prompts: Sequence[Sequence[int]], cache: Any, device: torch.device
) -> Tensor:
    """Read ragged prompts into an empty cache, piece by piece; the logits (B, V) after each one's last id."""
    lengths = torch.tensor([len(ids) for ids in prompts])
    longest = int(lengths.max())
    padded = torch.zeros(len(prompts), longest, dtype=torch.long)  # (B, T); what pads is never looked at
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.tensor(ids)
    last: list[Tensor | None] = [None] * len(prompts)
    size = max(16, PIECE // (len(prompts) * model.config.vocab_size))
    for start in range(0, longest, size):
        piece = padded[:, start : start + size].to(device)
        inside = (lengths - start).clamp(0, piece.shape[1])
        full = bool((inside == piece.shape[1]).all())  # then a family need not mask anything
        logits = model(piece, cache, None if full else inside.to(device))  # (B, T, V)
        for row, n in enumerate(inside.tolist()):
            if n:
                last[row] = logits[row, n - 1]
    return torch.stack([logits for logits in last if logits is not None])


# ── many callers ───────────────────────────────────────────────────────────────────────────────


EventCallback = Callable[["TokenEvent | TextusError | None"], None]
"""Called on the engine's thread with each event of a request, its error, or None once it was cancelled."""


class RequestHandle:
    """The events of one request, as an iterator that waits for them; with a callback, the engine calls that instead.

    As a context manager it cancels what is left on leaving. Iterating raises RunError where the model failed
    or the engine was closed before the request had ended.
    """

    def __init__(self, thread: AsyncEngine, callback: EventCallback | None = None) -> None:
        self._thread = thread
        self._events: queue.SimpleQueue[TokenEvent | TextusError | None] = queue.SimpleQueue()
        self.deliver = callback or self._events.put
        self._ended = False

    def __iter__(self) -> RequestHandle:
        return self

    def __next__(self) -> TokenEvent:
        if self._ended:
            raise StopIteration
        item = self._events.get()
        if isinstance(item, TokenEvent):
            self._ended = item.reason is not None
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        # A new exception for each caller: one object raised on many threads would mix their tracebacks.
        raise type(item)(*item.args) from item.__cause__

    def cancel(self) -> None:
        """No more events: ends the iteration, also one that waits in another thread."""
        self._thread.cancel(self)

    def __enter__(self) -> RequestHandle:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self.cancel()


class AsyncEngine:
    """An engine in a background thread, for callers on any thread (an HTTP server).

    Orders travel through one inbox and are looked at between steps, so nobody waits for a lock during a step.
    Where one request fails it alone gets the error; where the model fails on the running rows, every open request does,
    and the engine continues with the next ones.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inbox: queue.SimpleQueue[tuple[str, RequestHandle | None, Any]] = queue.SimpleQueue()
        self._open: dict[int, RequestHandle] = {}
        self._closed = False
        self._gate = threading.Lock()  # nothing enters the inbox after "close"
        self._thread = threading.Thread(target=self._run, name="textus-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        source: Sequence[int] | None = None,
        callback: EventCallback | None = None,
    ) -> RequestHandle:
        """Queue a prompt; its events go to `callback`, or are read from the handle.

        Raises UsageError for a prompt that cannot be served, RunError after `close`.
        """
        self.engine.check(ids, sampling, source)
        reply = RequestHandle(self, callback)
        if not self._order("submit", reply, (list(ids), sampling, source)):
            raise RunError("closed", "the engine is closed; start the server again")
        return reply

    def cancel(self, reply: RequestHandle) -> None:
        """End a reply; one that has ended is no error."""
        self._order("cancel", reply)

    def close(self) -> None:
        """Stop after the current step; open requests get RunError. May be called more than once."""
        self._order("close")
        self._thread.join()

    def _order(self, what: str, reply: RequestHandle | None = None, detail: Any = None) -> bool:
        with self._gate:
            if self._closed:
                return False
            self._closed = what == "close"
            self._inbox.put((what, reply, detail))
            return True

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._obey()
                for event in self.engine.step() if going else []:
                    reply = self._open.pop(event.row) if event.is_last else self._open[event.row]
                    reply.deliver(event.error or event)
            except Exception as error:  # any: who waits must not wait for ever
                self._fail(error)
        self._fail(RunError("closed", "the engine was closed before this request had ended; send it again"))

    def _obey(self) -> bool:
        """Carry out the orders that have come, and wait for one where nothing is to do; False on "close"."""
        while not (self.engine.has_work and self._inbox.empty()):
            what, reply, detail = self._inbox.get()
            if what == "close":
                return False
            assert reply is not None
            if what == "submit":
                self._open[self.engine.submit(*detail)] = reply
            else:
                self._cancel(reply)
        return True

    def _cancel(self, reply: RequestHandle) -> None:
        for number, handle in self._open.items():
            if handle is reply:
                self.engine.cancel(number)
                del self._open[number]
                reply.deliver(None)
                return

    def _fail(self, error: Exception) -> None:
        """Every open request gets the error; none is left hanging."""
        self.engine.clear()
        for reply in self._open.values():
            reply.deliver(failure(error))
        self._open.clear()
