"""A real server on a free port, for the tests of the API and of the page."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import torch
import uvicorn
from remembering import Remembering, RememberingConfig
from torch import Tensor

from textus.models.testing import Fake, FakeCache, FakeConfig
from textus.serving.app import bind_socket, create_app, listening_url
from textus.serving.scheduler import ServedModel
from textus.tokenizers import Tokenizer, train

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?'\"()<>/=\n中文字你好世界"


class Reciter(Fake):
    """Recites a text over and over, `pause` seconds a token: where in it is only a matter of the position."""

    def __init__(
        self, tokenizer: Tokenizer, text: str, *, pause: float = 0.0, context: int | None = None
    ) -> None:
        super().__init__(FakeConfig(vocab_size=tokenizer.vocab_size, context_length=context))
        self.text = torch.tensor(tokenizer.encode(text))
        self.pause = pause
        self.n_steps = 0

    def forward(self, ids: Tensor, cache: FakeCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → logits (B, T, V)."""
        time.sleep(self.pause)
        self.n_steps += 1
        before = torch.zeros(len(ids), dtype=torch.long) if cache is None else cache.lengths
        logits = super().forward(ids, cache, lengths)
        places = (before[:, None] + torch.arange(ids.shape[1]) + 1) % len(self.text)
        return torch.nn.functional.one_hot(self.text[places], logits.shape[-1]) * 100.0


def characters() -> Tokenizer:
    return train("char", [ALPHABET], vocab_size=90)


def remembering(name: str, *, chat: bool = False, context: int | None = 64) -> ServedModel:
    """A model whose every token depends on all before it, and that never ends by itself."""
    tokenizer = characters()
    model = Remembering(RememberingConfig(tokenizer.vocab_size, context_length=context, scale=1.5))
    model.table.data[:, tokenizer.end_id] = -100.0
    return ServedModel(name, model, tokenizer, created=1_700_000_000, chat=chat, context_length=context)


def reciting(name: str, text: str, *, chat: bool = False, pause: float = 0.0) -> ServedModel:
    tokenizer = characters()
    model = Reciter(tokenizer, text, pause=pause)
    return ServedModel(name, model, tokenizer, created=1_700_000_000, chat=chat, context_length=None)


@contextlib.contextmanager
def running(*served: ServedModel, **options: Any) -> Iterator[str]:
    """The address of a server over these models, as long as the body runs."""
    with bind_socket("127.0.0.1", 0) as listener:
        app = create_app(served, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listening_url(listener)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not end"


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must be in OpenAI's shape, of one line, without a stack trace."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error
