"""The outermost layer: which requests are accepted, and that each one gets a response whatever fails.

`OriginHostMiddleware` rejects what another web site makes a browser send, answers the CORS preflights of allowed
origins, turns every exception into an error in OpenAI's format, and adds the security headers. So no exception reaches
the web server, which would respond in plain text and close the connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.serving.scheduler import to_api_error
from textus.serving.schemas import ApiError

ROUTES = (
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "GET /health",
    "GET /",
)
FOREIGN_ROUTES = {
    "/api/chat": "POST /v1/chat/completions",
    "/api/generate": "POST /v1/completions",
    "/api/tags": "GET /v1/models",
    "/chat/completions": "POST /v1/chat/completions",
    "/completions": "POST /v1/completions",
    "/completion": "POST /v1/completions",
    "/models": "GET /v1/models",
    "/v1/responses": "POST /v1/chat/completions",
    "/v1/messages": "POST /v1/chat/completions",
}
"""Route of another server → the one here that does the same."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PREFLIGHT_SECONDS = 600
"""How long a browser may cache the response to a preflight."""
STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""Raised to end the work from outside; any other exception is a failure of this one request."""


def add_errors(app: FastAPI) -> None:
    """Respond to errors of ours and of the router in OpenAI's format."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def routing_error(request: Request, error: HTTPException) -> JSONResponse:
        method, path = request.method, request.url.path
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{method} is not allowed on {path}; use {allowed}"
        else:
            message = no_route_message(path)
        return error_response(ApiError(error.status_code, message), dict(error.headers or {}))


def no_route_message(path: str) -> str:
    """The error for a path without a route, naming what to use instead."""
    shown = path if len(path) <= 60 else path[:57] + "..."
    equivalent = FOREIGN_ROUTES.get(path.rstrip("/"))
    hint = f"use {equivalent}; " if equivalent else ""
    return f"no route {shown}; {hint}available: {', '.join(ROUTES)}"


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as the response that carries it."""
    headers = dict(headers or {})
    if error.status == 429:
        headers["retry-after"] = "1"
    if error.status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    return JSONResponse(error.body(), error.status, headers)


class OriginHostMiddleware:
    """Rejects requests from other web sites, and responds to any failure of the layers inside.

    A page elsewhere can make a browser send requests to 127.0.0.1 in two ways: directly, and then the browser names
    that page in `Origin`; or through a DNS name that it rebinds to 127.0.0.1, and then that name is in `Host`. `hosts`
    (of `parse_host_name`) and `origins` (of `parse_origin`) are allowed in addition to the server's own.
    """

    def __init__(
        self, app: ASGIApp, host: str, hosts: Sequence[str] = (), origins: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.any_address = host in ("0.0.0.0", "::", "")
        self.names = {"localhost", "127.0.0.1", "::1", host.lower(), *hosts}
        self.origins = frozenset(origins)
        if self.any_address:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request, started = Request(scope), False
        added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        added += self.cors_headers(request)

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        try:
            await (self.own_response(request) or self.app)(scope, receive, send_guarded)
        except STOPS:
            raise
        except ClientDisconnect:  # the client disconnected while sending its body
            pass
        except BaseException as error:  # a panic of the tokenizer library is no Exception
            log_failure(request, error)
            if not started:
                await error_response(to_api_error(error))(scope, receive, send_guarded)

    def own_response(self, request: Request) -> Response | None:
        """A response without the layers inside: an error, or the response to a preflight."""
        if error := self.check(request):
            return error_response(error)
        method = request.headers.get("access-control-request-method")
        if request.method == "OPTIONS" and method and self.is_allowed(request):
            headers = {
                "access-control-allow-methods": "GET, POST, OPTIONS",
                "access-control-allow-headers": request.headers.get("access-control-request-headers", "*"),
                "access-control-max-age": str(PREFLIGHT_SECONDS),
            }
            if request.headers.get("access-control-request-private-network") == "true":
                headers["access-control-allow-private-network"] = "true"
            return Response(status_code=204, headers=headers)
        return None

    def check(self, request: Request) -> ApiError | None:
        """Why this request is rejected, or None."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self.is_own_host(host):
            flag = f"--allow-host {parse_host_header(host) or 'NAME'}"
            message = (
                f"the host name {host[:100]!r} is not allowed; use http://127.0.0.1 or localhost, or"
                f" start it with {flag}"
            )
            return ApiError(403, message, code="host_not_allowed")
        own = f"{request.url.scheme}://{host}".lower()
        if origin is not None and origin.lower() != own and not self.is_allowed(request):
            flag = f"--allow-origin {origin[:100]}" if origin != "null" else "--allow-origin URL"
            message = (
                f"pages of {origin[:100]!r} may not use this server; open the server's own page, or start it with"
                f" {flag}"
            )
            return ApiError(403, message, code="origin_not_allowed")
        return None

    def is_allowed(self, request: Request) -> bool:
        """Whether the request comes from a page whose origin was allowed."""
        return request.headers.get("origin", "").lower() in self.origins

    def cors_headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """Headers that let a page of an allowed origin read the response, errors included."""
        if not self.origins:
            return []
        vary = [(b"vary", b"origin")]
        if not self.is_allowed(request):
            return vary
        origin = request.headers["origin"].encode("latin-1")
        return [*vary, (b"access-control-allow-origin", origin)]

    def is_own_host(self, host: str) -> bool:
        """Whether a Host header names this server; bound to every address, any IP address does."""
        name = parse_host_header(host)
        return name in self.names or (self.any_address and is_address(name))


def log_failure(request: Request, error: BaseException) -> None:
    """Report a failed request in one line; with TEXTUS_DEBUG also its traceback."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    log_notice(f"{request.method} {request.url.path[:60]!r} failed ({text}); TEXTUS_DEBUG=1 shows where")
    if os.environ.get("TEXTUS_DEBUG"):
        import traceback

        traceback.print_exception(error)


def parse_host_header(host: str) -> str:
    """The name in a Host header, without its port; empty if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def parse_host_name(name: str) -> str:
    """A name of `--allow-host` in lower case; UsageError for one with a scheme, a port or a path."""
    bare = name.strip("[]") if is_address(name.strip("[]")) else name
    if not bare or (bare == name and parse_host_header(name) != name.lower()):
        raise UsageError(
            "invalid_value",
            f"--allow-host {name}: not a host name; give it without http://, port or path, such as lab.example",
        )
    return bare.lower()


def parse_origin(url: str) -> str:
    """An origin of `--allow-origin` in lower case; UsageError for anything but scheme, host and port."""
    try:
        parts = urlsplit(url.removesuffix("/"))
        good = bool(parts.scheme and parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or f"{parts.scheme}://{parts.netloc}".lower() != url.removesuffix("/").lower() or "@" in url:
        raise UsageError(
            "invalid_value",
            f"--allow-origin {url}: not an origin; give scheme, host and port as the browser does, such as"
            " http://localhost:3000",
        )
    return url.removesuffix("/").lower()
