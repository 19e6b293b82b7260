"""The HTTP server: OpenAI-compatible routes over the engine, the web page, and `serve`.

There are no API keys: anyone who reaches the port may use it. So the server binds to this machine by default, and
rejects requests that other web sites make a browser send (cross-site forgery, DNS rebinding).
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
    """The application over these models, with one engine thread for each until the server stops.

    Each model generates at most `max_rows` choices at once; `max_queue` more wait, the next gets 429. `host` is the
    address the server will be bound to; `hosts` are further host names it accepts (behind a proxy, from a container),
    `origins` the origins of other web pages that may use it. Raises UsageError for no models, duplicate names, and a
    model that cannot generate.
    """
    names = [model.name for model in served]
    if not names:
        raise UsageError("missing_argument", "nothing to serve; name at least one run")
    if len(set(names)) < len(names):
        raise UsageError(
            "duplicate_name",
            f"two models have the same name ({', '.join(names)}); rename one of the run folders",
        )
    for model in served:
        if not model.model.capabilities.can_generate:
            raise UsageError(
                "unsupported_model",
                f"{model.name} cannot be served: {type(model.model).__name__} cannot generate text; serve a run of"
                " another family, or use this one with textus embed or textus finetune",
            )
        model.check_template()
    own_hosts, pages = [parse_host_name(name) for name in hosts], [parse_origin(url) for url in origins]
    schedulers = {model.name: RequestScheduler(model, max_rows, max_queue) for model in served}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(asyncio.to_thread(scheduler.close) for scheduler in schedulers.values()))

    # No generated documentation page: it would load scripts from another host.
    app = FastAPI(
        title="Textus",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.schedulers = schedulers
    add_errors(app)
    add_models(app, schedulers)
    add_generation(app, schedulers)
    add_page(app)
    app.add_middleware(OriginHostMiddleware, host=host, hosts=own_hosts, origins=pages)
    return app


# ── routes ─────────────────────────────────────────────────────────────────────────────────────


def add_models(app: FastAPI, schedulers: dict[str, RequestScheduler]) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(scheduler.served) for scheduler in schedulers.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return model_card(get_scheduler(schedulers, name).served)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "models": list(schedulers),
            "open": sum(scheduler.n_open for scheduler in schedulers.values()),
        }


def model_card(served: ServedModel) -> dict[str, Any]:
    """A model in GET /v1/models: OpenAI's four fields, and two that the web page needs."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "textus",
        "context_length": served.context_length,
        "chat": served.chat,
    }


def get_scheduler(schedulers: dict[str, RequestScheduler], name: str) -> RequestScheduler:
    if name in schedulers:
        return schedulers[name]
    near = nearest_name(name, schedulers)
    hint = f"did you mean {near!r}? " if near else ""
    shown = name if len(name) <= 60 else name[:57] + "..."
    message = f"model {shown!r} not found; {hint}available: {', '.join(schedulers)}"
    raise ApiError(404, message, param="model", code="model_not_found")


def add_generation(app: FastAPI, schedulers: dict[str, RequestScheduler]) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await respond(request, schedulers, schemas.parse_completion, CompletionFormat)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await respond(request, schedulers, schemas.parse_chat, ChatFormat)


async def respond(
    http_request: Request,
    schedulers: dict[str, RequestScheduler],
    parse: Callable[[schemas.RequestFields], CompletionRequest],
    response_format: type[CompletionFormat] | type[ChatFormat],
) -> Response:
    """Validate, submit, and respond as a stream of chunks or with one body made of the same deltas."""
    request = parse(schemas.parse_body(await read_body(http_request)))
    scheduler = get_scheduler(schedulers, request.model)
    if request.messages and not scheduler.served.chat:
        fault = scheduler.served.chat_fault
        reason = f"cannot chat ({fault})" if fault else "was trained to continue text, not to chat"
        raise ApiError(
            400,
            f"{request.model!r} {reason}; use POST /v1/completions",
            param="model",
            code="model_not_chat",
        )
    stream = await scheduler.submit(request)
    formatter = response_format(request)
    if request.stream:
        return EventStream(stream_events(stream, request, formatter), stream)
    return await full_response(http_request, stream, formatter)


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
    http_request: Request, stream: RequestStream, formatter: CompletionFormat | ChatFormat
) -> Response:
    """All deltas in one body. Generation stops if the client disconnects."""
    texts, reasons = [""] * len(stream.choices), [""] * len(stream.choices)
    watcher = asyncio.create_task(cancel_on_disconnect(http_request, stream))
    try:
        async for delta in stream:
            texts[delta.index] += delta.text
            reasons[delta.index] = delta.reason or ""
    finally:
        watcher.cancel()
    if stream.cancelled and not all(reasons):
        return Response(status_code=499)  # the client has disconnected
    choices = [formatter.choice(i, *pair) for i, pair in enumerate(zip(texts, reasons, strict=True))]
    return JSONResponse({**formatter.head(stream=False), "choices": choices, "usage": stream.usage()})


async def cancel_on_disconnect(request: Request, stream: RequestStream) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


async def stream_events(
    stream: RequestStream, request: CompletionRequest, formatter: CompletionFormat | ChatFormat
) -> AsyncIterator[str]:
    """Server-sent events: chunks for every delta, then the usage if requested, then [DONE]."""
    head = formatter.head(stream=True)

    def chunk(choices: list[dict[str, Any]], usage: bool = False) -> str:
        counts = {"usage": stream.usage() if usage else None} if request.usage else {}
        return format_sse({**head, "choices": choices, **counts})

    try:
        for choice in formatter.opening_choices(len(stream.choices)):
            yield chunk([choice])
        async for delta in stream:
            for choice in formatter.chunk_choices(delta):
                yield chunk([choice], usage=request.continuous_usage)
    except STOPS:
        raise
    except BaseException as error:  # the status line has been sent: the stream carries the error
        yield format_sse(to_api_error(error).body())
    else:
        if request.usage:
            yield chunk([], usage=True)
    yield "data: [DONE]\n\n"


def format_sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """A stream of events that stops the generation when the connection ends."""

    def __init__(self, content: AsyncIterator[str], stream: RequestStream) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.cancel()


class CompletionFormat:
    """OpenAI's text_completion, whole and in chunks."""

    prefix, whole_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, request: CompletionRequest) -> None:
        self.id, self.created, self.model = (
            f"{self.prefix}-{uuid.uuid4().hex}",
            int(time.time()),
            request.model,
        )

    def head(self, stream: bool) -> dict[str, Any]:
        name = self.chunk_name if stream else self.whole_name
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def opening_choices(self, n: int) -> Iterator[dict[str, Any]]:
        yield from ()

    def chunk_choices(self, delta: TextDelta) -> Iterator[dict[str, Any]]:
        yield self.choice(delta.index, delta.text, delta.reason)


class ChatFormat(CompletionFormat):
    """OpenAI's chat.completion; its stream starts with a chunk for the role and ends with an empty one."""

    prefix, whole_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def opening_choices(self, n: int) -> Iterator[dict[str, Any]]:
        for index in range(n):
            yield self.chunk_choice(index, {"role": "assistant", "content": ""})

    def chunk_choices(self, delta: TextDelta) -> Iterator[dict[str, Any]]:
        if delta.text:
            yield self.chunk_choice(delta.index, {"content": delta.text})
        if delta.reason:
            yield self.chunk_choice(delta.index, {}, delta.reason)

    def chunk_choice(self, index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def add_page(app: FastAPI) -> None:
    """The web page's files, read once: no other file on the disk can be requested."""
    folder = files("textus.serving") / "web"
    for path, (name, kind) in PAGE.items():
        page = Response((folder / name).read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})
        app.add_route(path, static_response(page), methods=["GET"])


def static_response(response: Response) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        return response

    return respond


# ── running it ─────────────────────────────────────────────────────────────────────────────────


class Server(uvicorn.Server):
    """On shutdown lets running requests finish for `GRACE` seconds, then ends them."""

    def __init__(self, config: uvicorn.Config, schedulers: Sequence[RequestScheduler]) -> None:
        super().__init__(config)
        self.schedulers = schedulers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(self.close_schedulers())
        await super().shutdown(sockets)
        closing.cancel()

    async def close_schedulers(self) -> None:
        await asyncio.sleep(GRACE)
        await asyncio.gather(*(asyncio.to_thread(scheduler.close) for scheduler in self.schedulers))


def serve(served: Sequence[ServedModel], host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve on `host`:`port` (0: any free one) until Ctrl-C or SIGTERM; `options` are those of `create_app`.

    Running requests get a few seconds to finish. Raises UsageError if the port is in use (suggesting a free one) or
    the address is not one of this machine.
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
        server = Server(config, list(app.state.schedulers.values()))
        if host not in ("127.0.0.1", "localhost", "::1"):
            log_notice(
                f"bound to {host}: anyone who reaches this address can use the models; there are no API keys"
            )
        log_notice(
            f"serving {', '.join(model.name for model in served)} at {listening_url(listener)} (Ctrl-C to stop)"
        )
        with quiet_signals():
            server.run(sockets=[listener])
    log_notice("stopped")


def bind_socket(host: str, port: int) -> socket.socket:
    """A listening socket, bound before anything else happens; UsageError if it cannot be."""
    if not 0 <= port <= 65535:
        raise UsageError(
            "out_of_range", f"port={port} is not a port; give a number from 1 to 65535, or 0 for any free one"
        )
    try:
        return open_socket(host, port)
    except socket.gaierror as error:
        raise UsageError(
            "invalid_value", f"host={host!r} not found; give an address of this machine, such as 127.0.0.1"
        ) from error
    except PermissionError as error:
        raise UsageError(
            "address_not_available", f"port {port} needs administrator rights; use one above 1023"
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
    """The next free port within 50, else any."""
    for port in [*range(after + 1, min(after + 50, 65536)), 0]:
        with contextlib.suppress(OSError), open_socket(host, port) as listener:
            return listener.getsockname()[1]
    return 0


def listening_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def quiet_signals() -> Iterator[None]:
    """Ignore the Ctrl-C and SIGTERM that uvicorn raises again after it has shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
