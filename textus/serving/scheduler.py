"""From validated requests to text: one engine thread per model, many requests at once, each cancellable.

The engine works on ids only. A `RequestScheduler` holds the tokenizer and admits a bounded number of choices. The
engine calls back with each token; the choices of an HTTP request put their text into the one asyncio queue of its
`RequestStream`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from textus.core.errors import TextusError, UsageError
from textus.generation.engine import AsyncEngine, Engine, EventCallback, RequestHandle, TokenEvent
from textus.generation.params import SamplingParams
from textus.generation.sampling import bos_ids
from textus.generation.streaming import TextStream
from textus.models.contract import LanguageModel
from textus.serving.schemas import MAX_TOKENS, ApiError, CompletionRequest
from textus.tokenizers.chat_template import check_template

PANIC = "PanicException"
"""Raised by the tokenizer library when it gives up on a text; it is no `Exception` and cannot be imported."""
Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class ServedModel:
    """A model to serve; `created` in seconds since 1970, `context_length` None for an unlimited one."""

    name: str
    model: LanguageModel
    tokenizer: Any
    created: int
    chat: bool
    context_length: int | None
    chat_fault: str = ""  # why its chat template is not used

    def check_template(self) -> None:
        """UsageError for a chat template that drops the user's text."""
        template = self.tokenizer.chat_template if self.chat else None
        try:
            if template is not None:
                check_template(template, self.tokenizer.roles)
        except UsageError as error:
            raise UsageError(error.code, f"{self.name} cannot be served: {error}") from error

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        """The ids to continue; an empty prompt starts a new document."""
        if isinstance(prompt, str):
            prompt = [*self.tokenizer.bos_ids, *self.tokenizer.encode(prompt)]
        return list(prompt) or [self.tokenizer.end_id]

    def engine_input(self, ids: list[int]) -> tuple[list[int], list[int] | None]:
        """(ids to continue, source ids): a sequence-to-sequence model takes the prompt as its source."""
        if not self.model.capabilities.needs_source:
            return ids, None
        return bos_ids(self.model, self.tokenizer.end_id), ids

    def max_new_tokens(self, ids: list[int]) -> int:
        """Most new tokens for a prompt: what its context leaves, at least one."""
        if self.context_length is None:
            return MAX_TOKENS
        return max(1, self.context_length - len(self.engine_input(ids)[0]))

    def end_ids(self, chat: bool) -> frozenset[int]:
        """Ids that end a reply in addition to the end-of-text ids: in a chat, those that end a turn."""
        return frozenset(self.tokenizer.turn_end_ids if chat else ())


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice, how many tokens it has so far, and in the last delta its finish reason."""

    index: int
    text: str
    n_tokens: int
    reason: Reason | None = None


class RequestScheduler:
    """Admits requests for one model: `max_rows` choices run together, `max_queue` wait, more are rejected."""

    def __init__(self, served: ServedModel, max_rows: int, max_queue: int) -> None:
        self.served = served
        self.max_open = max_rows + max_queue
        self.n_open = 0  # changed on the event loop only
        ends, n_ids = served.tokenizer.end_ids, served.tokenizer.vocab_size
        self.engine = AsyncEngine(Engine(served.model, end_id=ends, max_rows=max_rows, n_ids=n_ids))

    def close(self) -> None:
        """Stop generating; open requests end with an error."""
        self.engine.close()

    async def submit(self, request: CompletionRequest) -> RequestStream:
        """Start a request; ApiError if its prompt does not fit or the queue is full."""
        prompts = await asyncio.to_thread(self._encode, request)  # encoding a long text takes a while
        self._check(request, prompts)
        choices = [
            (*self.served.engine_input(ids), sampling)
            for ids in prompts
            for sampling in request.samplings(self.served.max_new_tokens(ids))
        ]
        if self.n_open + len(choices) > self.max_open:
            raise ApiError(
                429,
                f"{self.n_open} of at most {self.max_open} requests are running or queued; retry later",
                code="queue_full",
            )
        stream = RequestStream(self, sum(map(len, prompts)), self.served.end_ids(bool(request.messages)))
        try:
            stream.start(choices)
        except TextusError as error:  # the engine was closed meanwhile
            stream.cancel()
            raise ApiError(503, str(error), code="shutting_down") from error
        return stream

    def _encode(self, request: CompletionRequest) -> list[list[int]]:
        """The ids of every prompt, or of the rendered conversation."""
        try:
            if request.messages:
                return [
                    self.served.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True)
                ]
            return [self.served.prompt_ids(prompt) for prompt in request.prompts]
        except TextusError as error:  # a template may reject these messages
            raise ApiError(400, str(error), param=request.param, code="invalid_value") from error
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ != PANIC:
                raise
            message = f"{self.served.name!r} cannot encode the {request.param} ({error}); shorten or split it"
            raise ApiError(400, message, param=request.param, code="invalid_value") from error

    def _check(self, request: CompletionRequest, prompts: list[list[int]]) -> None:
        """ApiError for a prompt longer than the context, or one that the engine rejects."""
        context, param = self.served.context_length, request.param
        longest = max(map(len, prompts))
        if context is not None and longest > context:
            raise ApiError(
                400,
                f"the {param} has {longest:,} tokens, the context of {self.served.name!r} holds {context:,}; "
                f"shorten it by {longest - context:,}",
                param=param,
                code="context_length_exceeded",
            )
        try:
            for ids in prompts:
                prompt, source = self.served.engine_input(ids)
                self.engine.engine.check(prompt, request.sampling, source)
        except UsageError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from error


class ChoiceStream:
    """One choice while it is generated: tokens in, text out. It lives on the event loop."""

    def __init__(self, index: int, text: TextStream, end_ids: frozenset[int]) -> None:
        self.index, self.text, self.end_ids = index, text, end_ids
        self.handle: RequestHandle | None = None
        self.n_tokens = 0
        self.ended = False

    def push(self, event: TokenEvent) -> TextDelta:
        """The text that this token makes certain, and why the choice ended, if it did."""
        reason, text = event.reason, ""
        if event.id is not None and event.id in self.end_ids:
            reason = "stop"
        elif event.id is not None:
            self.n_tokens += 1
            text = self.text.push(event.id)
        if reason is not None:
            text += self.text.flush()
        if self.text.stopped:
            reason = "stop"
        return TextDelta(self.index, text, self.n_tokens, reason)


class RequestStream:
    """The choices of one HTTP request: an asynchronous iterator of text deltas, in the order they are generated."""

    def __init__(self, scheduler: RequestScheduler, n_prompt: int, end_ids: frozenset[int]) -> None:
        self.scheduler, self.n_prompt, self.end_ids = scheduler, n_prompt, end_ids
        self.choices: list[ChoiceStream] = []
        self.n_running = 0
        self.cancelled = False
        self._n_tokens: dict[int, int] = {}  # of each choice
        self._loop = asyncio.get_running_loop()
        self._deltas: asyncio.Queue[TextDelta | BaseException | None] = asyncio.Queue()

    def start(self, choices: Sequence[tuple[list[int], list[int] | None, SamplingParams]]) -> None:
        """Submit every choice (prompt ids, source ids, sampling) to the engine."""
        for index, (ids, source, sampling) in enumerate(choices):
            text = TextStream(self.scheduler.served.tokenizer, sampling.stop)
            choice = ChoiceStream(index, text, self.end_ids)
            choice.handle = self.scheduler.engine.submit(ids, sampling, source, self._callback(choice))
            self.choices.append(choice)
            self.n_running += 1
            self.scheduler.n_open += 1

    def _callback(self, choice: ChoiceStream) -> EventCallback:
        """What the engine's thread calls with each event of a choice."""

        def deliver(event: TokenEvent | TextusError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._receive, choice, event)

        return deliver

    def _receive(self, choice: ChoiceStream, event: TokenEvent | TextusError | None) -> None:
        """On the event loop: decode an event and queue its text; None is the engine's reply to `cancel`."""
        if choice.ended:  # by a stop string, before the engine knew of it
            return
        delta: TextDelta | BaseException | None
        try:
            delta = choice.push(event) if isinstance(event, TokenEvent) else event
        except BaseException as error:  # the tokenizer library's panic is no Exception
            delta = error
        choice.ended = not isinstance(delta, TextDelta) or delta.reason is not None
        if choice.ended:
            self.n_running -= 1
            self.scheduler.n_open -= 1
            if isinstance(event, TokenEvent) and choice.handle:
                choice.handle.cancel()  # has no effect if the engine ended it
        if not isinstance(delta, TextDelta) or delta.text or delta.reason:
            self._deltas.put_nowait(delta)

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        """Deltas until every choice has ended or the request is cancelled; leaving early cancels the rest."""
        try:
            while self.n_running or not self._deltas.empty():
                delta = await self._deltas.get()
                if self.cancelled:
                    return
                if isinstance(
                    delta, TextusError
                ):  # of the engine, which may hand one object to many requests
                    raise type(delta)(*delta.args) from delta.__cause__
                if isinstance(delta, BaseException):
                    raise delta
                if delta is not None:
                    self._n_tokens[delta.index] = delta.n_tokens
                    yield delta
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating; no effect once every choice has ended."""
        if self.n_running and not self.cancelled:
            self.cancelled = True
            for choice in self.choices:
                if choice.handle:
                    choice.handle.cancel()

    def usage(self) -> dict[str, int]:
        """Token counts of the deltas handed out so far, as OpenAI reports them."""
        n = sum(self._n_tokens.values())
        return {"prompt_tokens": self.n_prompt, "completion_tokens": n, "total_tokens": self.n_prompt + n}


def to_api_error(error: BaseException) -> ApiError:
    """The error for the caller: ours with their message, any other without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TextusError):
        return ApiError(500, str(error), code="generation_failed")
    return ApiError(500, "the server failed; see its terminal for details", code="internal_error")
