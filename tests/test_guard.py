"""Around the routes: a failure ends one request alone, and only those who may send requests are answered."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from served import refused, remembering, running

from textus.core.errors import DataError, UsageError
from textus.serving import create_app

BASE = "base"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(remembering(BASE)) as address:
        yield address


# ── a failure ends one request alone ───────────────────────────────────────────────────────────

REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)


class Fragile:
    """Planted faults: a tokenizer that fails in every way one can, by what it reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, text: str) -> list[int]:
        if text == "panic":
            raise panic()
        if text == "broken":
            raise ZeroDivisionError("secret detail")
        if text == "ours":
            raise DataError("cannot_encode", "this text cannot be used; give another")
        return self.tokenizer.encode(text)


def panic() -> BaseException:
    """A real panic of the tokenizers library; it is no Exception."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex("^(a+)+$"), "isolated")
    try:
        split.pre_tokenize_str("a" * 40 + "b")
    except BaseException as error:
        return error
    raise AssertionError("the regex did not give up")


@pytest.fixture(scope="module")
def fragile() -> Iterator[str]:
    talker, base = remembering("gemma", chat=True, context=256), remembering("base")
    talker.tokenizer.chat_template = REFUSING
    with running(talker, replace(base, tokenizer=Fragile(base.tokenizer))) as address:
        yield address


SYSTEM = {"model": "gemma", "messages": [{"role": "system", "content": "x"}], "max_tokens": 2}
FAILURES: list[tuple[str, dict[str, Any], int, str]] = [
    ("chat/completions", SYSTEM, 400, "System role not supported"),
    ("chat/completions", {**SYSTEM, "stream": True}, 400, "System role not supported"),
    ("completions", {"model": "base", "prompt": "panic"}, 400, "cannot encode the prompt"),
    ("completions", {"model": "base", "prompt": "ours", "stream": True}, 400, "this text cannot be used"),
    ("completions", {"model": "base", "prompt": "broken"}, 500, "see its terminal for details"),
    ("completions", {"model": "base", "temperature": "\ud800"}, 400, "temperature="),
    ("completion", {}, 404, "no route"),
]


@pytest.mark.promise(
    "Robustness", "A request that fails ends alone: the connection and the other answers live"
)
@pytest.mark.parametrize(("route", "body", "status", "message"), FAILURES, ids=lambda value: str(value)[:30])
def test_the_connection_outlives_a_request_that_fails(
    fragile: str, route: str, body: dict[str, Any], status: int, message: str
) -> None:
    """M1, R12: the error has its form and the security headers, and 12 requests after it succeed on the same
    connection.
    """
    with httpx.Client(limits=httpx.Limits(max_connections=1)) as caller:
        answer = caller.post(f"{fragile}/v1/{route}", content=json.dumps(body))
        error = refused(answer, status)
        assert message in error["message"]
        assert "secret" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        connection = answer.extensions["network_stream"].get_extra_info("client_addr")
        for _ in range(12):
            good = caller.post(f"{fragile}/v1/completions", json={"model": "base", "prompt": "a"})
            assert good.status_code == 200
            assert good.extensions["network_stream"].get_extra_info("client_addr") == connection


def test_the_client_of_openai_sees_a_refusal_once_and_continues(fragile: str) -> None:
    """M1: a 500 would be tried three times."""
    sent: list[httpx.Request] = []
    hooks: Any = {"request": [sent.append]}
    with openai.OpenAI(
        base_url=f"{fragile}/v1", api_key="none", http_client=httpx.Client(event_hooks=hooks)
    ) as client:
        with pytest.raises(openai.BadRequestError, match="System role") as caught:
            client.chat.completions.create(**{key: SYSTEM[key] for key in ("model", "messages")})
        assert (caught.value.param, caught.value.type, len(sent)) == ("messages", "invalid_request_error", 1)
        messages: Any = [{"role": "user", "content": "hi"}]
        for _ in range(12):
            client.chat.completions.create(model="gemma", messages=messages, max_tokens=2)
    assert len(sent) == 13


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["base", "gemma", 1e-300, 1e300, 10**200, -1, "system", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text() | JSON}
    )
    | JSON,
    max_size=3,
)
FIELDS = [
    "model",
    "prompt",
    "messages",
    "n",
    "stop",
    "stream",
    "stream_options",
    "tools",
    "logprobs",
    "logit_bias",
]
NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens", "best_of"]
NAMES = st.sampled_from([*FIELDS, *NUMBERS, "max_completion_tokens", "echo", "user", "response_format"])
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["base", "gemma"])},
    optional={"messages": MESSAGES, "prompt": JSON, "max_tokens": st.integers(-3, 9)},
).flatmap(
    lambda body: st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=3).map(lambda more: body | more)
)


@pytest.mark.promise("Robustness", "No request body is answered by an internal error")
def test_no_body_whatever_is_answered_by_an_internal_error(fragile: str) -> None:
    """R12: schemas fuzzed through real requests on one connection."""
    statuses: Counter[int] = Counter()
    with httpx.Client() as caller:

        @settings(max_examples=200, deadline=None, database=None, derandomize=True)
        @given(st.sampled_from(["completions", "chat/completions"]), BODIES)
        def post(route: str, body: dict[str, Any]) -> None:
            answer = caller.post(f"{fragile}/v1/{route}", content=json.dumps(body), timeout=30)
            statuses[answer.status_code] += 1
            assert "content-security-policy" in answer.headers
            if answer.status_code != 200:
                assert refused(answer, answer.status_code)["type"] != "server_error", (body, answer.text)
            else:
                assert '"server_error"' not in answer.text

        post()
    assert statuses[200] > 3
    assert statuses[400] > 30
    assert set(statuses) <= {200, 400, 404}


# ── who may ask ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Server", "Requests of pages of other origins, and under foreign host names, are refused"
)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_other_pages_are_refused(address: str, origin: str) -> None:
    body = {"model": BASE, "prompt": "a"}
    for path in ("/v1/completions", "/v1/models", "/"):
        answer = httpx.post(address + path, json=body, headers={"origin": origin})
        assert refused(answer, 403)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    assert httpx.post(f"{address}/v1/completions", json=body, headers={"origin": address}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "10.0.0.1", "", "[::1"]
)
def test_other_names_are_refused(address: str, host: str) -> None:
    answer = httpx.get(f"{address}/v1/models", headers={"host": host})
    assert refused(answer, 403)["code"] == "host_not_allowed"


def test_own_names_are_answered(address: str) -> None:
    for host in ("localhost:9", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert httpx.get(f"{address}/v1/models", headers={"host": host}).status_code == 200


def test_bound_to_every_address_any_bare_address_is_a_name() -> None:
    with running(remembering("m"), host="0.0.0.0", hosts=["lab.example"]) as address:
        codes = {
            host: httpx.get(f"{address}/health", headers={"host": host}).status_code
            for host in ("10.0.0.1:80", "lab.example", socket.gethostname(), "evil.example")
        }
    assert list(codes.values()) == [200, 200, 200, 403]


@pytest.fixture(scope="module")
def opened() -> Iterator[str]:
    allowed = {"hosts": ["host.docker.internal", "Lab.Example"], "origins": ["http://localhost:3000/"]}
    with running(remembering("m"), **allowed) as address:
        yield address


@pytest.mark.promise(
    "Robustness",
    "Hosts and origins are refused until they are allowed; what cannot be served is refused at the start",
)
def test_a_name_is_answered_once_it_is_allowed(address: str, opened: str) -> None:
    """M9"""
    for host in ("host.docker.internal", "HOST.docker.internal:8000", "lab.example"):
        error = refused(httpx.get(f"{address}/v1/models", headers={"host": host}), 403)
        assert f"--allow-host {host.split(':')[0].lower()}" in error["message"]
        assert httpx.get(f"{opened}/v1/models", headers={"host": host}).status_code == 200
    refused(httpx.get(f"{opened}/v1/models", headers={"host": "evil.example"}), 403)


def test_a_page_of_an_allowed_origin_may_ask_and_read(address: str, opened: str) -> None:
    """M9: with its preflight, and errors too; the others stay refused."""
    page = {"origin": "http://localhost:3000"}
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    preflight = httpx.options(f"{opened}/v1/completions", headers=page | asks)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == page["origin"]
    assert preflight.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for body, status in (({"model": "m", "prompt": "a"}, 200), ({"model": "m", "n": 0}, 400)):
        answer = httpx.post(f"{opened}/v1/completions", json=body, headers=page)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == page["origin"]
        assert answer.headers["vary"] == "origin"
    for origin in ("http://localhost:3001", "https://localhost:3000", "http://localhost:3000.evil.example"):
        for method in ("OPTIONS", "POST"):
            answer = httpx.request(method, f"{opened}/v1/completions", headers={**asks, "origin": origin})
            assert f"--allow-origin {origin}" in refused(answer, 403)["message"]
            assert "access-control-allow-origin" not in answer.headers
    refused(httpx.options(f"{address}/v1/completions", headers=page | asks), 403)


@pytest.mark.parametrize(
    "allowed",
    [{"hosts": [name]} for name in ("http://lab.example", "lab.example:80", "", "a/b")]
    + [
        {"origins": [url]}
        for url in ("lab.example", "http://a/b", "*", "null", "http://u@h", "http://h:99999")
    ],
    ids=str,
)
def test_names_and_origins_that_are_none_are_refused_at_the_start(allowed: dict[str, Any]) -> None:
    with raises(UsageError, "invalid_value"):
        create_app([remembering("m")], **allowed)


def test_security_headers_are_on_every_answer(address: str) -> None:
    for path in ("/", "/v1/models", "/nowhere"):
        headers = httpx.get(address + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
