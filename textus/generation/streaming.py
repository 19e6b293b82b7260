"""Text that is shown while it is generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class SupportsDecodeStream(Protocol):
    """What `TextStream` needs of a tokenizer: a decoder that takes one id at a time."""

    def stream(self) -> Any:
        """An object with `push(id) -> str` and `flush() -> str`."""
        ...


class TextStream:
    """Ids in, text out as soon as it is certain: never half a character, never part of a stop string.

    The first stop string to be complete ends the text (of two that end together, the longer one), so the
    result does not depend on how the text was cut into tokens. After that `stopped` is true and nothing more
    comes.
    """

    def __init__(self, tokenizer: SupportsDecodeStream, stop: Sequence[str] = ()) -> None:
        self.decoder = tokenizer.stream()
        self.stop = tuple(stop)
        self.held = ""  # may be the beginning of a stop string
        self.stopped = False

    def push(self, id: int) -> str:
        """The text that became certain with this id; often empty."""
        return "" if self.stopped else self._release(self.decoder.push(id))

    def flush(self) -> str:
        """The rest, when no more ids come."""
        if self.stopped:
            return ""
        text = self._release(self.decoder.flush())
        text, self.held = text + self.held, ""
        return text

    def _release(self, text: str) -> str:
        text, self.held = self.held + text, ""
        matches = [(text.index(stop) + len(stop), -len(stop)) for stop in self.stop if stop in text]
        if matches:
            end, minus_length = min(matches)
            self.stopped = True
            return text[: end + minus_length]
        certain = len(text) - max((partial_stop_length(text, stop) for stop in self.stop), default=0)
        text, self.held = text[:certain], text[certain:]
        return text


def partial_stop_length(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop` (but not all of it)."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class DecodedStream:
    """The engine's events of one prompt as text: an iterator of pieces, until it ends or a stop string is complete.

    Afterwards `reason` is why it ended, "stop" or "length" (`max_tokens` are there, or the context is full), and None
    where it was left early; `n_tokens` are counted as they come.
    """

    def __init__(self, events: Iterator[Any], text: TextStream) -> None:
        self.reason: str | None = None
        self.n_tokens = 0
        self._events = events
        self._pieces = self._stream_text(text)

    def __iter__(self) -> DecodedStream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def _stream_text(self, text: TextStream) -> Iterator[str]:
        for event in self._events:
            self.n_tokens += event.id is not None
            if event.id is not None and (piece := text.push(event.id)):
                yield piece
            self.reason = "stop" if text.stopped else event.reason
            if text.stopped:
                return
        if piece := text.flush():
            yield piece
