"""The HTTP server: OpenAI-compatible routes over the engine, the page, the guard, and `serve`.

Routes: GET /v1/models, GET /v1/models/{id}, POST /v1/completions, POST /v1/chat/completions, GET /health, GET
/ and the page's files. There are no keys: whoever reaches the port may use it, which is why it is bound to
this machine and why requests that other web sites make a browser send (cross-site forgery, DNS rebinding) are
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.core.names import nearest_name
from textus.serving import schemas
from textus.serving.guard import STOPS, OriginHostMiddleware, add_errors, parse_host_name, parse_origin
from textus.serving.scheduler import RequestScheduler, RequestStream, ServedModel, TextDelta, to_api_error
from textus.serving.schemas import ApiError, CompletionRequest

MAX_BODY = 2_000_000  # bytes
GRACE = 3  # seconds
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def create_app(
    served: Sequence[ServedModel],
    *,
    max_rows: int = 8,
    max_queue: int = 64,
    host: str = "127.0.0.1",
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application over these models; it starts one engine thread for each, closed when the server stops.

    Each model writes at most `max_rows` answers together; `max_queue` more wait, the next gets 429. `host` is
    the address it will be bound to; `hosts` are further names by which it may be addressed (behind a proxy, from a
    container), `origins` those of other web pages that may use it. Raises UsageError for no models, two of one name,
    and a model that cannot generate.
    """
    known = [each.name for each in served]
    if not known:
        raise UsageError("missing_argument", "there is nothing to serve; name at least one run")
    if len(set(known)) < len(known):
        raise UsageError(
            "duplicate_name", f"two models have one name ({', '.join(known)}); rename one of the run folders"
        )
    for each in served:
        if not each.model.can_generate:
            raise UsageError(
                "unsupported_model",
                f"{each.name} cannot be served: {type(each.model).__name__} reads texts and generates none; take a run"
                " of another family, or use it with textus embed or textus finetune",
            )
        each.check_template()
    names, pages = [parse_host_name(name) for name in hosts], [parse_origin(url) for url in origins]
    desks = {each.name: RequestScheduler(each, max_rows, max_queue) for each in served}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(asyncio.to_thread(desk.close) for desk in desks.values()))

    # No generated documentation page: it would load scripts from another host.
    app = FastAPI(
        title="Textus",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.desks = desks
    add_errors(app)
    add_models(app, desks)
    add_generation(app, desks)
    add_page(app)
    app.add_middleware(OriginHostMiddleware, host=host, hosts=names, origins=pages)
    return app


# ── routes ─────────────────────────────────────────────────────────────────────────────────────


def add_models(app: FastAPI, desks: dict[str, RequestScheduler]) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(desk.served) for desk in desks.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return model_card(get_scheduler(desks, name).served)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "models": list(desks), "open": sum(desk.n_open for desk in desks.values())}


def model_card(served: ServedModel) -> dict[str, Any]:
    """A model as GET /v1/models shows it: OpenAI's four fields, and what a page needs to know."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "textus",
        "context_length": served.context_length,
        "chat": served.chat,
    }


def get_scheduler(desks: dict[str, RequestScheduler], name: str) -> RequestScheduler:
    if name in desks:
        return desks[name]
    near = nearest_name(name, desks)
    hint = f"did you mean {near!r}? " if near else ""
    shown = name if len(name) <= 60 else name[:57] + "..."
    message = f"there is no model {shown!r}; {hint}served here: {', '.join(desks)}"
    raise ApiError(404, message, param="model", code="model_not_found")


def add_generation(app: FastAPI, desks: dict[str, RequestScheduler]) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await respond(request, desks, schemas.parse_completion, CompletionFormat)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await respond(request, desks, schemas.parse_chat, ChatFormat)


async def respond(
    request: Request,
    desks: dict[str, RequestScheduler],
    read: Callable[[schemas.RequestFields], CompletionRequest],
    rendering: type[CompletionFormat] | type[ChatFormat],
) -> Response:
    """Check, begin, and answer whole or as a stream; both are made of the same pieces."""
    asked = read(schemas.parse_body(await read_body(request)))
    desk = get_scheduler(desks, asked.model)
    if asked.messages and not desk.served.chat:
        fault = desk.served.chat_fault
        why = f"does not chat ({fault})" if fault else "was trained to continue text, not to chat"
        raise ApiError(
            400,
            f"{asked.model!r} {why}; use POST /v1/completions",
            param="model",
            code="model_not_chat",
        )
    call = await desk.open(asked)
    form = rendering(asked)
    if asked.stream:
        return EventStream(stream_events(call, asked, form), call)
    return await full_response(request, call, asked, form)


async def read_body(request: Request) -> bytes:
    """The body; ApiError as soon as it is known to be too large."""
    too_large = ApiError(
        413, f"the body is larger than {MAX_BODY:,} bytes; send less text", code="body_too_large"
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise too_large
    return bytes(data)


async def full_response(
    request: Request, call: RequestStream, asked: CompletionRequest, form: CompletionFormat | ChatFormat
) -> Response:
    """The answer in one piece. A caller who hangs up meanwhile ends the work."""
    texts, reasons = [""] * len(call.rows), [""] * len(call.rows)
    watcher = asyncio.create_task(cancel_on_disconnect(request, call))
    try:
        async for piece in call:
            texts[piece.index] += piece.text
            reasons[piece.index] = piece.reason or ""
    finally:
        watcher.cancel()
    if call.cancelled and not all(reasons):
        return Response(status_code=499)  # nobody is there to read it
    choices = [
        form.choice(i, text, reason) for i, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    return JSONResponse({**form.head(stream=False), "choices": choices, "usage": call.usage()})


async def cancel_on_disconnect(request: Request, call: RequestStream) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    call.cancel()


async def stream_events(
    call: RequestStream, asked: CompletionRequest, form: CompletionFormat | ChatFormat
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for every piece, then the counts where asked for, then [DONE]."""
    head = form.head(stream=True)

    def chunk(choices: list[dict[str, Any]], usage: bool = False) -> str:
        counts = {"usage": call.usage() if usage else None} if asked.usage else {}
        return format_sse({**head, "choices": choices, **counts})

    try:
        for opening in form.openings(len(call.rows)):
            yield chunk([opening])
        async for piece in call:
            for delta in form.deltas(piece):
                yield chunk([delta], usage=asked.continuous_usage)
    except STOPS:
        raise
    except BaseException as error:  # the status line is long gone: the stream carries it
        yield format_sse(to_api_error(error).body())
    else:
        if asked.usage:
            yield chunk([], usage=True)
    yield "data: [DONE]\n\n"


def format_sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Ends the work with the connection, wherever the stream stood."""

    def __init__(self, content: AsyncIterator[str], call: RequestStream) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self.call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.call.cancel()


class CompletionFormat:
    """OpenAI's text_completion, whole and in chunks."""

    prefix, whole_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, asked: CompletionRequest) -> None:
        self.id, self.created, self.model = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time()), asked.model

    def head(self, stream: bool) -> dict[str, Any]:
        name = self.chunk_name if stream else self.whole_name
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def openings(self, n: int) -> Iterator[dict[str, Any]]:
        yield from ()

    def deltas(self, piece: TextDelta) -> Iterator[dict[str, Any]]:
        yield self.choice(piece.index, piece.text, piece.reason)


class ChatFormat(CompletionFormat):
    """OpenAI's chat.completion: a chunk with the role first, an empty one with the reason last."""

    prefix, whole_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def openings(self, n: int) -> Iterator[dict[str, Any]]:
        for index in range(n):
            yield self.delta(index, {"role": "assistant", "content": ""})

    def deltas(self, piece: TextDelta) -> Iterator[dict[str, Any]]:
        if piece.text:
            yield self.delta(piece.index, {"content": piece.text})
        if piece.reason:
            yield self.delta(piece.index, {}, piece.reason)

    def delta(self, index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def add_page(app: FastAPI) -> None:
    """The page's files, read once: nothing else of the disk can be asked for."""
    folder = files("textus.serving") / "web"
    for path, (name, kind) in PAGE.items():
        page = Response((folder / name).read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})
        app.add_route(path, static_response(page), methods=["GET"])


def static_response(page: Response) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        return page

    return respond


# ── running it ─────────────────────────────────────────────────────────────────────────────────


class Server(uvicorn.Server):
    """Lets open answers end when it is told to stop; after `GRACE` seconds it ends them itself."""

    def __init__(self, config: uvicorn.Config, desks: Sequence[RequestScheduler]) -> None:
        super().__init__(config)
        self.desks = desks

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(self.close_desks())
        await super().shutdown(sockets)
        closing.cancel()

    async def close_desks(self) -> None:
        await asyncio.sleep(GRACE)
        await asyncio.gather(*(asyncio.to_thread(desk.close) for desk in self.desks))


def serve(served: Sequence[ServedModel], host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Answer on `host`:`port` (0: any free one) until Ctrl-C or SIGTERM; `options` are those of `create_app`.

    Open answers get some seconds to end. Raises UsageError where the port is in use (a free one named) or
    the address is not this machine's.
    """
    with bind_socket(host, port) as listener:
        app = create_app(served, host=host, **options)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2 * GRACE,
        )
        server = Server(config, list(app.state.desks.values()))
        if host not in ("127.0.0.1", "localhost", "::1"):
            log_notice(
                f"bound to {host}: everyone who reaches this address can use the models, there are no keys"
            )
        log_notice(
            f"serving {', '.join(each.name for each in served)} at {listening_url(listener)} (Ctrl-C stops)"
        )
        with quiet_signals():
            server.run(sockets=[listener])
    log_notice("stopped")


def bind_socket(host: str, port: int) -> socket.socket:
    """A listening socket: the port is ours before anything else is done. UsageError where it cannot be."""
    if not 0 <= port <= 65535:
        raise UsageError(
            "out_of_range", f"port={port} is not a port; give a number from 1 to 65535, or 0 for any free one"
        )
    try:
        return open_socket(host, port)
    except socket.gaierror as error:
        raise UsageError(
            "invalid_value", f"host={host!r} is not known; give an address of this machine, such as 127.0.0.1"
        ) from error
    except PermissionError as error:
        raise UsageError(
            "address_not_available", f"port {port} is reserved for the administrator; take one above 1023"
        ) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(
                "address_not_available", f"host={host!r} is not an address of this machine; use 127.0.0.1"
            ) from error
        raise UsageError(
            "address_in_use", f"port {port} on {host} is in use; try --port {free_port(host, port)}"
        ) from error


def open_socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def free_port(host: str, after: int) -> int:
    """The next free port, or any."""
    for port in [*range(after + 1, min(after + 50, 65536)), 0]:
        with contextlib.suppress(OSError), open_socket(host, port) as listener:
            return listener.getsockname()[1]
    return 0


def listening_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def quiet_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the server and nothing more: uvicorn raises them again once it has shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
