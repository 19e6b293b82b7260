"""The server as its callers see it: the `openai` client, raw HTTP for what that never sends, a subprocess."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from served import reciting, refused, remembering, running

from textus.generation.params import SamplingParams
from textus.generation.sampling import generate
from textus.serving.app import MAX_BODY
from textus.serving.scheduler import ServedModel

BASE, CHAT, SLOW = "base", "talker", "slow-one"


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    return {
        BASE: remembering(BASE),
        CHAT: remembering(CHAT, chat=True, context=256),
        SLOW: reciting(SLOW, "tick tock ", pause=0.02),
    }


@pytest.fixture(scope="module")
def address(models: dict[str, ServedModel]) -> Iterator[str]:
    with running(*models.values(), max_rows=4, max_queue=8) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(served: ServedModel, ids: list[int], **sampling: Any) -> str:
    """What the reference loop gives."""
    end = served.tokenizer.end_id
    return served.tokenizer.decode(
        generate(served.model, ids, SamplingParams(temperature=1.0, **sampling), end)
    )


def until(condition: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def n_open(address: str) -> int:
    return httpx.get(f"{address}/health").json()["open"]


# ── models ─────────────────────────────────────────────────────────────────────────────────────


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [BASE, CHAT, SLOW]
    model = client.models.retrieve(CHAT)
    assert (model.object, model.created, model.owned_by) == ("model", 1_700_000_000, "textus")


def test_an_unknown_model_names_the_nearest(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'talker'") as caught:
        client.completions.create(model="talkr", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="model 'nothing' not found"):
        client.models.retrieve("nothing")


def test_health(address: str) -> None:
    answer = httpx.get(f"{address}/health").json()
    assert answer["status"] == "ok"
    assert answer["models"] == [BASE, CHAT, SLOW]


# ── completions ────────────────────────────────────────────────────────────────────────────────


def test_a_completion_is_what_the_reference_loop_gives(
    client: openai.OpenAI, models: dict[str, ServedModel]
) -> None:
    answer = client.completions.create(model=BASE, prompt="hello", seed=5, max_tokens=30)
    ids = models[BASE].tokenizer.encode("hello")
    assert answer.choices[0].text == expected(models[BASE], ids, seed=5, max_tokens=30)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        5,
        30,
        35,
    )


def test_sampling_parameters_reach_the_model(client: openai.OpenAI, models: dict[str, ServedModel]) -> None:
    wanted = {"temperature": 0.5, "top_p": 0.9}
    added = {"top_k": 7, "min_p": 0.01, "repetition_penalty": 1.3}
    answer = client.completions.create(
        model=BASE, prompt="hi", seed=1, max_tokens=40, extra_body=added, **wanted
    )
    served, sampling = models[BASE], SamplingParams(seed=1, max_tokens=40, **wanted, **added)
    new = generate(served.model, served.tokenizer.encode("hi"), sampling, served.tokenizer.end_id)
    assert answer.choices[0].text == served.tokenizer.decode(new)


def test_without_a_seed_answers_differ_and_greedy_ones_do_not(client: openai.OpenAI) -> None:
    def texts(**options: Any) -> set[str]:
        answers = [client.completions.create(model=BASE, prompt="x", **options) for _ in range(3)]
        return {answer.choices[0].text for answer in answers}

    assert len(texts()) == 3
    assert len(texts(temperature=0)) == 1


def test_choices_differ_and_the_first_is_that_of_one(client: openai.OpenAI) -> None:
    one = client.completions.create(model=BASE, prompt="abc", seed=2)
    three = client.completions.create(model=BASE, prompt="abc", seed=2, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert three.choices[0].text == one.choices[0].text
    assert len({choice.text for choice in three.choices}) == 3
    assert three.usage is not None
    assert (three.usage.prompt_tokens, three.usage.completion_tokens) == (3, 48)


def test_prompts_as_lists_and_as_ids(client: openai.OpenAI, models: dict[str, ServedModel]) -> None:
    encode = models[BASE].tokenizer.encode
    one = client.completions.create(model=BASE, prompt="abc", seed=2).choices[0].text
    assert client.completions.create(model=BASE, prompt=encode("abc"), seed=2).choices[0].text == one
    both = client.completions.create(model=BASE, prompt=["abc", "de"], seed=2)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == one
    assert both.usage is not None
    assert both.usage.prompt_tokens == 5
    mixed = client.completions.create(model=BASE, prompt=[encode("de"), encode("abc")], seed=2)
    assert [choice.text for choice in mixed.choices] == [choice.text for choice in reversed(both.choices)]


def test_an_empty_prompt_begins_a_document(client: openai.OpenAI, models: dict[str, ServedModel]) -> None:
    answer = client.completions.create(model=BASE, prompt="", seed=3)
    assert answer.choices[0].text == expected(
        models[BASE], [models[BASE].tokenizer.end_id], seed=3, max_tokens=16
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 1


def test_special_strings_in_a_prompt_are_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=BASE, prompt="<|im_end|>", max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 10


@pytest.mark.parametrize("stop", ["ck to", ["zzz", "ck to"], ["ck to", "to"]])
def test_stop_strings(client: openai.OpenAI, stop: Any) -> None:
    def ask(**options: Any) -> Any:
        return client.completions.create(model=SLOW, prompt="tick tock ", stop=stop, max_tokens=20, **options)

    answer = ask()
    assert answer.choices[0].text == "ti"
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].text for chunk in ask(stream=True)) == "ti"


def test_the_end_of_text_is_a_stop_and_not_counted() -> None:
    served = reciting("short", "abc")
    model: Any = served.model
    model.text[2] = served.tokenizer.end_id
    with running(served) as address:
        answer = httpx.post(f"{address}/v1/completions", json={"model": "short", "prompt": "xyz"}).json()
    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 2


# ── streaming ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Server", "Streamed text is the same text; requests together get what they get alone")
def test_streamed_text_is_the_same_text(client: openai.OpenAI) -> None:
    request = {"model": BASE, "prompt": "Once", "seed": 11, "max_tokens": 90, "n": 2}
    whole = client.completions.create(**request)
    texts, reasons = ["", ""], [None, None]
    for chunk in client.completions.create(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices] == ["length", "length"]


def test_counts_in_a_stream(client: openai.OpenAI) -> None:
    request = {"model": BASE, "prompt": "abc", "seed": 1, "max_tokens": 12, "stream": True}
    assert all(chunk.usage is None for chunk in client.completions.create(**request))
    chunks = list(client.completions.create(**request, stream_options={"include_usage": True}))
    *before, last = chunks
    assert all(chunk.usage is None and chunk.choices for chunk in before)
    assert last.choices == []
    assert last.usage.completion_tokens == 12
    assert last.usage.prompt_tokens == 3
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    counts = [c.usage.completion_tokens for c in client.completions.create(**request, stream_options=options)]
    assert counts == [*range(1, 13), 12]


def test_the_stream_on_the_wire(address: str) -> None:
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 3}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *blocks, end, nothing = answer.text.split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_tokens_come_as_they_are_made(client: openai.OpenAI) -> None:
    started, times = time.monotonic(), []
    for _ in client.completions.create(model=SLOW, prompt="a", max_tokens=20, stream=True):
        times.append(time.monotonic() - started)
    assert len(times) == 20
    assert times[0] < times[-1] / 2


# ── chat ───────────────────────────────────────────────────────────────────────────────────────


def test_chat_whole_and_streamed(client: openai.OpenAI, models: dict[str, ServedModel]) -> None:
    messages: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    request: Any = {"model": CHAT, "messages": messages, "seed": 4, "max_completion_tokens": 25}
    answer = client.chat.completions.create(**request)
    ids = models[CHAT].tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens <= 25
    text = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**request, stream=True)
    )
    assert text == answer.choices[0].message.content
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    again = client.chat.completions.create(**{**request, "messages": [messages[0], *parts]})
    assert again.choices[0].message.content == text


def test_a_turn_ends_with_its_end_mark() -> None:
    served = reciting("turns", "abcdef", chat=True)
    special = served.tokenizer.special["<|im_end|>"]
    model: Any = served.model
    n_prompt = len(
        served.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
    )
    model.text[(n_prompt + 3) % 6] = special
    with running(served) as address:
        body = {"model": "turns", "messages": [{"role": "user", "content": "x"}]}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body).json()
        assert until(lambda: n_open(address) == 0)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    assert len(answer["choices"][0]["message"]["content"]) == 3


def test_a_base_model_does_not_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/completions"):
        client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])


# ── together ───────────────────────────────────────────────────────────────────────────────────


def test_requests_together_get_what_they_get_alone(client: openai.OpenAI) -> None:
    def ask(i: int) -> str:
        prompt = "the quick brown fox"[: 1 + 2 * i]
        answer = client.completions.create(model=BASE, prompt=prompt, seed=i, max_tokens=20 + 10 * i)
        return answer.choices[0].text

    alone = [ask(i) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == alone


def test_a_full_queue_is_reported_and_recovers() -> None:
    with running(reciting("slow", "tick", pause=0.02), max_rows=1, max_queue=2) as address:
        body = {"model": "slow", "prompt": "a", "max_tokens": 15}

        def post(_: int) -> httpx.Response:
            return httpx.post(f"{address}/v1/completions", json=body, timeout=30)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(post, range(8)))
        assert sorted({answer.status_code for answer in answers}) == [200, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["retry-after"] == "1"
        assert post(0).status_code == 200


# ── hanging up ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Server",
    "A disconnect ends the work; a full queue is reported and recovers; a signal ends the server cleanly",
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("waits", [False, True])
def test_hanging_up_ends_the_work(stream: bool, waits: bool) -> None:
    """Also while the request still waits for a row."""
    served = reciting("endless", "tick", pause=0.02)
    model: Any = served.model
    body = {"model": "endless", "prompt": "a", "max_tokens": 8000, "stream": stream}
    with running(served, max_rows=1) as address:
        with ThreadPoolExecutor(1) as threads:
            if waits:
                first = threads.submit(
                    httpx.post, f"{address}/v1/completions", json={**body, "max_tokens": 60}
                )
                assert until(lambda: n_open(address) == 1)
            hang_up(address, body)
            assert until(lambda: n_open(address) == int(waits)), "the engine goes on writing for nobody"
            if waits:
                assert first.result().status_code == 200
        steps = model.n_steps
        time.sleep(0.2)
        assert model.n_steps <= steps + 1


def hang_up(address: str, body: dict[str, Any]) -> None:
    """Send a request, wait until it is being served, close the connection."""
    before = n_open(address)
    host, port = address.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        assert until(lambda: n_open(address) == before + 1)


# ── bad input ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Server", "Malformed bodies and bad values get the right error, never a trace")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"model": "base", ', "line 1 column 19"),
        (b"", "line 1 column 1"),
        (b"[1, 2]", "an array"),
        (b'"text"', "a string"),
        (b"\xff\xfe{}", "UTF-8 at byte 0"),
        (b'{"model": "base", "temperature": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "digit"),
    ],
)
def test_malformed_bodies(address: str, data: bytes, message: str) -> None:
    error = refused(httpx.post(f"{address}/v1/completions", content=data), 400)
    assert message in error["message"]
    assert error["code"] == "invalid_json"


BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"temperature": -1},
        "temperature",
        "temperature=-1 cannot be used; give a number from 0 (greedy) to 100",
    ),
    ({"temperature": 1e400}, "temperature", "a number from 0 (greedy) to 100"),
    ({"temperature": "hot"}, "temperature", "not a string"),
    ({"temperature": True}, "temperature", "not a boolean"),
    ({"top_p": 0}, "top_p", "above 0"),
    ({"top_p": 1.5}, "top_p", "at most 1"),
    ({"top_k": -1}, "top_k", "from 0"),
    ({"min_p": 1}, "min_p", "below 1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "from 0.01 to 100"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty", "from 0.01 to 100"),
    ({"temperature": "\ud800"}, "temperature", "not a string"),
    ({"temperature": 10**300}, "temperature", "to 100"),
    ({"stop": ["\udfff"]}, "stop", "half a character"),
    ({"\ud800": 1}, "\\ud800", "unknown parameter"),
    ({"max_tokens": 0}, "max_tokens", "1 or more, or -1"),
    ({"max_tokens": -2}, "max_tokens", "1 or more, or -1"),
    ({"max_tokens": 1.5}, "max_tokens", "a whole number"),
    ({"n": 9}, "n", "from 1 to 8"),
    ({"n": 8, "prompt": ["a"] * 5}, "n", "at most 32"),
    ({"seed": "one"}, "seed", "a whole number"),
    ({"seed": 2**64}, "seed", "a whole number"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4"),
    ({"stop": ""}, "stop", "1 to 1000 characters"),
    ({"stop": 7}, "stop", "a string"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
    ({"prompt": [[]]}, "prompt", "a string"),
    ({"prompt": [1.5]}, "prompt", "token ids"),
    ({"prompt": {}}, "prompt", "token ids"),
    ({"prompt": [10**9]}, "prompt", "not in the model's vocabulary"),
    ({"prompt": [-1]}, "prompt", "not in the model's vocabulary"),
    ({"prompt": "\ud800"}, "prompt", "half a character"),
    ({"model": 3}, "model", "not a number"),
    ({"model": None}, "model", "model is missing"),
    ({"tempature": 1}, "tempature", "did you mean temperature?"),
    ({"maxtokens": 1}, "maxtokens", "did you mean max_tokens?"),
    ({"chat_template": "x"}, "chat_template", "chat_template is not supported"),
    ({"stop_token_ids": [1]}, "stop_token_ids", "stop_token_ids is not supported"),
    ({"min_tokens": 3}, "min_tokens", "min_tokens is not supported"),
    ({"stop_tokens": [1]}, "stop_tokens", "unknown parameter 'stop_tokens'; leave it out"),
    ({"seed": -(2**63) - 1}, "seed", "a whole number"),
    ({"temperature": 10**400}, "temperature", "to 100"),
    ({"echo": True}, "echo", "not supported"),
    ({"logprobs": 0}, "logprobs", "not supported"),
    ({"logprobs": 3}, "logprobs", "not supported"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"best_of": 3}, "best_of", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"frequency_penalty": -1}, "frequency_penalty", "not supported"),
    ({"logit_bias": {"5": 10}}, "logit_bias", "not supported"),
]


@pytest.mark.parametrize(("change", "param", "message"), BAD_VALUES, ids=lambda value: str(value)[:40])
def test_bad_values(address: str, change: dict[str, Any], param: str, message: str) -> None:
    body = json.dumps({"model": BASE, "prompt": "a", **change}).replace("Infinity", "1e400")
    error = refused(httpx.post(f"{address}/v1/completions", content=body), 400)
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "cat", "content": "meow"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "meow"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
    ),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"messages": [{"role": "user", "content": "x", "name": "a\ud800"}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "messages[0].name"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
        "messages[0].content",
    ),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("change", "param"), BAD_CHATS, ids=lambda value: str(value)[:40])
def test_bad_chats(address: str, change: dict[str, Any], param: str) -> None:
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}], **change}
    answer = httpx.post(f"{address}/v1/chat/completions", content=json.dumps(body))
    assert refused(answer, 400)["param"] == param


@pytest.mark.parametrize(("older", "newer"), [(-1, 8), (8, -1), (10**12, 5)])
def test_two_limits_are_named_as_they_were_given(address: str, older: int, newer: int) -> None:
    """Attack 2, row 16: -1 became 2147483647."""
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}
    limits = {"max_tokens": older, "max_completion_tokens": newer}
    error = refused(httpx.post(f"{address}/v1/chat/completions", json={**body, **limits}), 400)
    assert error["message"].startswith(f"max_tokens={older} cannot be used")
    assert f"(which is {newer})" in error["message"]


def test_values_that_ask_for_nothing_pass(client: openai.OpenAI, address: str) -> None:
    nothing: Any = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "n": 1, "user": "me"}
    client.completions.create(
        model=BASE, prompt="a", best_of=1, echo=False, suffix=None, logprobs=None, **nothing
    )
    chat: Any = {"tools": [], "response_format": {"type": "text"}, "logprobs": False, "tool_choice": "none"}
    messages: Any = [{"role": "developer", "content": "hi"}]
    client.chat.completions.create(model=CHAT, messages=messages, max_tokens=3, **chat, **nothing)
    every_null = dict.fromkeys(
        ("temperature", "top_p", "stop", "seed", "stream", "logprobs", "stream_options")
    )
    assert httpx.post(f"{address}/v1/completions", json={"model": BASE, **every_null}).status_code == 200


def test_a_prompt_longer_than_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="65 tokens, the context of 'base' holds 64") as caught:
        client.completions.create(model=BASE, prompt="a" * 65)
    assert caught.value.code == "context_length_exceeded"
    answer = client.completions.create(model=BASE, prompt="a" * 64, max_tokens=99)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (1, "length")


@pytest.mark.parametrize("wanted", [32_000, 2**40, -1])
def test_more_tokens_than_the_context_leaves_are_cut_to_it(client: openai.OpenAI, wanted: int) -> None:
    """M18: as other local servers do; the text is the beginning of the one without a limit."""
    answer = client.completions.create(model=BASE, prompt="abc", max_tokens=wanted, seed=1)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (61, "length")
    short = client.completions.create(model=BASE, prompt="abc", max_tokens=20, seed=1)
    assert answer.choices[0].text.startswith(short.choices[0].text)
    messages: Any = [{"role": "user", "content": "hi"}]
    for name in ("max_tokens", "max_completion_tokens"):
        extra = {name: wanted, "seed": 1}  # not one that ends at once
        talked = client.chat.completions.create(model=CHAT, messages=messages, extra_body=extra)
        assert 0 < talked.usage.completion_tokens <= 256 - talked.usage.prompt_tokens


def test_bodies_too_large(address: str) -> None:
    data = b'{"model": "base", "prompt": "' + b"a" * MAX_BODY + b'"}'
    assert "2,000,000" in refused(httpx.post(f"{address}/v1/completions", content=data), 413)["message"]
    chunks = iter([data[:1000], data[1000:]])  # no Content-Length: found out while reading
    assert refused(httpx.post(f"{address}/v1/completions", content=chunks), 413)["code"] == "body_too_large"


def test_unknown_routes_and_methods(address: str) -> None:
    for path in ("/v1/completion", "/api/chat", "/healthz", "/v1/" + "a" * 300):
        message = refused(httpx.post(address + path), 404)["message"]
        assert "POST /v1/completions, POST /v1/chat/completions, GET /health" in message
        assert "did you mean" not in message
    assert "use POST /v1/chat/completions" in refused(httpx.post(f"{address}/api/chat"), 404)["message"]
    refused(httpx.get(f"{address}/../../etc/passwd"), 404)
    refused(httpx.get(f"{address}/app.py"), 404)
    answer = httpx.get(f"{address}/v1/completions")
    assert "use POST" in refused(answer, 405)["message"]
    assert answer.headers["allow"] == "POST"


def test_a_failure_of_the_model_is_reported_without_a_trace_and_the_server_continues() -> None:
    served = reciting("fragile", "tick")
    model: Any = served.model
    whole_text = model.text
    with running(served) as address:
        body = {"model": "fragile", "prompt": "a"}
        model.text = "no tensor"
        assert refused(httpx.post(f"{address}/v1/completions", json=body), 500)["type"] == "server_error"
        streamed = httpx.post(f"{address}/v1/completions", json={**body, "stream": True})
        assert '"error"' in streamed.text
        assert "Traceback" not in streamed.text
        model.text = whole_text
        assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200


def test_a_fault_of_the_server_shows_nothing_of_its_inside() -> None:
    served = reciting("broken", "tick")

    class Broken:
        end_ids, vocab_size = (0,), 3

        def encode(self, text: str) -> list[int]:
            raise ZeroDivisionError("secret detail")

    with running(ServedModel("broken", served.model, Broken(), 0, False, None)) as address:
        answer = httpx.post(f"{address}/v1/completions", json={"model": "broken", "prompt": "a"})
    assert "secret" not in refused(answer, 500)["message"]
