"""From checked requests to text: one engine a model, many requests at once, each cancellable.

The engine runs in a thread of its own and knows ids only. A `RequestScheduler` stands before it and knows the
tokenizer; it takes a bounded number of rows. A `RequestStream` is one HTTP request's rows, and hands their text to the
event loop as it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from textus.core.errors import TextusError, UsageError
from textus.generation.engine import AsyncEngine, Engine, RequestHandle, TokenEvent
from textus.generation.params import SamplingParams
from textus.generation.sampling import beginning
from textus.generation.streaming import TextStream
from textus.models.contract import LanguageModel
from textus.serving.schemas import MAX_TOKENS, ApiError, CompletionRequest
from textus.tokenizers.chat_template import check_template

PANIC = "PanicException"
"""What the tokenizer's library raises where it gives up on a text; it is no `Exception` and has no importable name."""
Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class ServedModel:
    """A model as the server knows it; `created` in seconds since 1970, `context_length` None: any length."""

    name: str
    model: LanguageModel
    tokenizer: Any
    created: int
    chat: bool
    context_length: int | None
    chat_fault: str = ""  # why its chat template is not used

    def check_template(self) -> None:
        """UsageError for a model that chats by a template that drops the text of the user."""
        template = self.tokenizer.chat_template if self.chat else None
        try:
            if template is not None:
                check_template(template, self.tokenizer.roles)
        except UsageError as error:
            raise UsageError(error.code, f"{self.name} cannot be served: {error}") from error

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        """The ids to continue; an empty text begins a new document."""
        if isinstance(prompt, str):
            prompt = [*self.tokenizer.begin, *self.tokenizer.encode(prompt)]
        return list(prompt) or [self.tokenizer.end_id]

    def engine_input(self, ids: list[int]) -> tuple[list[int], list[int] | None]:
        """The ids to continue and the source: for a model that makes a text from another, the prompt is that other."""
        if not self.model.needs_source:
            return ids, None
        return beginning(self.model, self.tokenizer.end_id), ids

    def max_new_tokens(self, ids: list[int]) -> int:
        """How many tokens an answer to a prompt may have: what the context leaves, one where it is full."""
        if self.context_length is None:
            return MAX_TOKENS
        return max(1, self.context_length - len(self.engine_input(ids)[0]))

    def end_ids(self, chat: bool) -> frozenset[int]:
        """Ids that end an answer besides those that end every text: in a chat also the end of a turn."""
        return frozenset(self.tokenizer.turn_end_ids if chat else ())


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice, the tokens it has so far, and on its last piece why it ended."""

    index: int
    text: str
    n_tokens: int
    reason: Reason | None = None


class RequestScheduler:
    """Takes requests for one model: `max_rows` are written together, `max_queue` wait, more are refused."""

    def __init__(self, served: ServedModel, max_rows: int, max_queue: int) -> None:
        self.served = served
        self.max_rows, self.max_open = max_rows, max_rows + max_queue
        self.n_open = 0  # changed on the event loop only
        ends, n_ids = served.tokenizer.end_ids, served.tokenizer.vocab_size
        self.engine = AsyncEngine(Engine(served.model, end_id=ends, max_rows=max_rows, n_ids=n_ids))
        self.threads = ThreadPoolExecutor(self.max_open, thread_name_prefix="textus-row")

    def close(self) -> None:
        """Stop generating; open calls end with an error."""
        self.engine.close()
        self.threads.shutdown()

    async def open(self, asked: CompletionRequest) -> RequestStream:
        """Begin to answer; ApiError where the prompt does not fit, or too many wait already."""
        prompts = await asyncio.to_thread(self._read, asked)  # a long text takes a while to encode
        self._check(asked, prompts)
        rows = [(ids, each) for ids in prompts for each in asked.samplings(self.served.max_new_tokens(ids))]
        if self.n_open + len(rows) > self.max_open:
            raise ApiError(
                429,
                f"{self.n_open} answers are being written or wait, and at most {self.max_open} may; "
                "send it again in a while",
                code="queue_full",
            )
        call = RequestStream(self, rows, sum(map(len, prompts)), self.served.end_ids(bool(asked.messages)))
        try:
            call.start()
        except TextusError as error:  # closed meanwhile
            call.cancel()
            raise ApiError(503, str(error), code="shutting_down") from error
        return call

    def submit(self, ids: list[int], sampling: SamplingParams) -> RequestHandle:
        """Queue one row."""
        prompt, source = self.served.engine_input(ids)
        return self.engine.submit(prompt, sampling, source)

    def _read(self, asked: CompletionRequest) -> list[list[int]]:
        try:
            if asked.messages:
                return [self.served.tokenizer.render(asked.messages, add_generation_prompt=True)]
            return [self.served.prompt_ids(prompt) for prompt in asked.prompts]
        except TextusError as error:  # a template may refuse what the caller sent
            raise ApiError(400, str(error), param=asked.param, code="invalid_value") from error
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ != PANIC:
                raise
            message = f"{self.served.name!r} cannot read the {asked.param} ({error}); shorten or split it"
            raise ApiError(400, message, param=asked.param, code="invalid_value") from error

    def _check(self, asked: CompletionRequest, prompts: list[list[int]]) -> None:
        context, param = self.served.context_length, asked.param
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
                self.engine.engine.check(prompt, asked.sampling, source)
        except UsageError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from error


class ChoiceStream:
    """One choice while it is written; lives in a thread that waits for the engine's events."""

    def __init__(self, call: RequestStream, index: int, reply: RequestHandle, stop: Sequence[str]) -> None:
        self.call, self.index, self.reply = call, index, reply
        self.text = TextStream(call.desk.served.tokenizer, stop)
        self.n_tokens = 0

    def run(self) -> None:
        """Until the answer ends: events in, pieces out. A failure is handed on instead of a piece."""
        try:
            for event in self.reply:
                piece = self.take(event)
                if piece.text or piece.reason:
                    self.call.deliver(piece)
                if piece.reason:
                    self.reply.cancel()  # no error where the engine has ended it itself
                    break
        except BaseException as error:  # a decoder's panic is no Exception
            self.call.deliver(error)
        finally:
            self.call.deliver(None)

    def take(self, event: TokenEvent) -> TextDelta:
        reason, text = event.reason, ""
        if event.id is not None and event.id in self.call.end_ids:
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
    """The answers to one HTTP request: an asynchronous iterator of pieces, from all choices as they come."""

    def __init__(
        self,
        desk: RequestScheduler,
        rows: list[tuple[list[int], SamplingParams]],
        n_prompt: int,
        end_ids: frozenset[int],
    ) -> None:
        self.desk, self.prompts, self.n_prompt, self.end_ids = desk, rows, n_prompt, end_ids
        self.n_tokens = [0] * len(rows)
        self.rows: list[ChoiceStream] = []
        self.n_running = 0
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[TextDelta | BaseException | None] = asyncio.Queue()

    def start(self) -> None:
        for index, (ids, sampling) in enumerate(self.prompts):
            row = ChoiceStream(self, index, self.desk.submit(ids, sampling), sampling.stop)
            self.rows.append(row)
            self.n_running += 1
            self.desk.n_open += 1
            self.desk.threads.submit(row.run)

    def deliver(self, piece: TextDelta | BaseException | None) -> None:
        """Hand something to the event loop, from a row's thread; None is a row's last word."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, piece)

    def _receive(self, piece: TextDelta | BaseException | None) -> None:
        if piece is None:
            self.n_running -= 1
            self.desk.n_open -= 1
        self._pieces.put_nowait(piece)

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        """Pieces until every choice has ended or the call is cancelled; leaving early cancels the rest."""
        try:
            while self.n_running or not self._pieces.empty():
                piece = await self._pieces.get()
                if self.cancelled:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                if piece is not None:
                    self.n_tokens[piece.index] = piece.n_tokens
                    yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop writing; one that has ended is no error."""
        if self.n_running and not self.cancelled:
            self.cancelled = True
            for row in self.rows:
                row.reply.cancel()

    def usage(self) -> dict[str, int]:
        n = sum(self.n_tokens)
        return {"prompt_tokens": self.n_prompt, "completion_tokens": n, "total_tokens": self.n_prompt + n}


def to_api_error(error: BaseException) -> ApiError:
    """What the caller is told: our own messages in full, of other failures only that they happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TextusError):
        return ApiError(500, str(error), code="generation_failed")
    return ApiError(500, "the server failed; its terminal shows the details", code="internal_error")
