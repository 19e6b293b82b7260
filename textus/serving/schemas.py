"""Request bodies and errors in OpenAI's format.

`RequestFields` takes a body apart. A parameter is understood; or known but unsupported, and rejected unless its value
changes nothing (`presence_penalty: 0`); or unknown, and rejected. Nothing that a client sets is silently ignored.
`null` is the same as leaving a parameter out. Source: the OpenAI API reference for completions and chat completions;
`top_k`, `min_p`, `repetition_penalty` and `stream_options.continuous_usage_stats` are extensions that vLLM has too.
"""

from __future__ import annotations

import difflib
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from textus.core.errors import UsageError
from textus.core.rng import derive_seed
from textus.generation.params import BOUNDS, MAX_STOP_LENGTH, SamplingParams

MAX_CHOICES = 8
MAX_ROWS = 32  # prompts × n of one request
MAX_TOKENS = 8192
"""Most new tokens of a model without a context length; of others, what the context leaves."""
UNLIMITED = int(BOUNDS["max_tokens"].high)
MAX_STOPS = 4
MAX_MESSAGES = 4096
ROLES = ("system", "developer", "user", "assistant")
SIMILARITY = 0.75
"""How similar an unknown parameter must be to a known one to be taken for a misspelling."""
UNSUPPORTED = frozenset(
    re.findall(
        r"\w+",
        """add_generation_prompt add_special_tokens bad_words cache_prompt cache_salt chat_template chat_template_kwargs
    continue_final_message documents dynatemp_range grammar guided_choice guided_grammar guided_json guided_regex
    ignore_eos include_stop_str_in_output json_schema length_penalty logits_processors min_tokens mirostat
    n_predict n_probs num_beams num_ctx num_predict prompt_logprobs repeat_last_n return_token_ids separate_reasoning
    skip_special_tokens spaces_between_special_tokens stop_token_ids structured_outputs thinking truncate_prompt_tokens
    typical_p use_beam_search beams early_stopping""",
    )
)
"""Parameters of other servers that this one does not have."""
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Unsupported parameters of OpenAI's, and the values that change nothing."""
NEUTRAL_CHAT_VALUES: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    **dict.fromkeys(("audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"), ()),
}
"""The same, of chat completions only."""


class ApiError(Exception):
    """A response other than 200, in the format that OpenAI's clients read."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kinds = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        message, param = escape_surrogates(self.message), self.param and escape_surrogates(self.param)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}


def escape_surrogates(text: str) -> str:
    """One line of valid UTF-8: lone surrogates become escapes."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def invalid_value(name: str, value: Any, wanted: str, code: str = "invalid_value") -> ApiError:
    """The error for one value: the parameter, the value, and what to send instead."""
    try:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        shown = json_type(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ApiError(400, f"{name}={shown} cannot be used; give {wanted}", param=name, code=code)


@dataclass(frozen=True)
class CompletionRequest:
    """One validated request: the model, what to continue, and how."""

    model: str
    prompts: list[str] | list[list[int]]  # empty for a chat
    messages: list[dict[str, Any]]  # empty for a completion
    n: int
    sampling: SamplingParams
    stream: bool
    usage: bool  # a last chunk with the token counts
    continuous_usage: bool  # token counts in every chunk

    @property
    def param(self) -> str:
        """The parameter that holds the text."""
        return "messages" if self.messages else "prompt"

    def samplings(self, max_tokens: int) -> list[SamplingParams]:
        """One for each choice, of at most `max_tokens`: the first has the given seed, the others derived ones."""
        seed, n_tokens = self.sampling.seed, min(self.sampling.max_tokens, max_tokens)
        seeds = [seed if i == 0 else derive_seed(seed, "choice", i) for i in range(self.n)]
        return [replace(self.sampling, seed=seed, max_tokens=n_tokens) for seed in seeds]


# ── from bytes to parameters ──────────────────────────────────────────────────────────────────────


def parse_body(data: bytes) -> RequestFields:
    """The parameters of a JSON object; ApiError with where it is not JSON, or what it is instead."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise invalid_json(f"it is not UTF-8 at byte {error.start}; send UTF-8") from error
    except json.JSONDecodeError as error:
        raise invalid_json(f"{error.msg} at line {error.lineno} column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid_json(reason) from error
    if not isinstance(value, dict):
        raise invalid_json(f"it is {json_type(value)}; send an object: {{...}}")
    return RequestFields(value)


def invalid_json(reason: str) -> ApiError:
    return ApiError(400, f"the body is not a JSON object: {reason}", code="invalid_json")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def json_type(value: Any) -> str:
    types = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return types.get(type(value), "an object" if isinstance(value, dict) else "null")


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class RequestFields:
    """The parameters of a request body, taken one by one; `reject_unknown` rejects those not taken."""

    def __init__(self, members: dict[str, Any]) -> None:
        self.members = members
        self.left = {name: value for name, value in members.items() if value is not None}
        self.known: set[str] = set()

    def take(self, name: str) -> Any:
        self.known.add(name)
        return self.left.pop(name, None)

    def sampling(self, name: str, default: Any) -> Any:
        """A sampling field within its bound (`generation.sampling.BOUNDS`)."""
        value, bound = self.take(name), BOUNDS[name]
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_value(name, value, f"{bound.wanted}, not {json_type(value)}", "invalid_type")
        if not bound.holds(value):
            raise invalid_value(name, value, bound.wanted)
        return value

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return default
        wanted = f"a whole number from {low} to {high}"
        if not is_integer(value):
            raise invalid_value(name, value, wanted, "invalid_type")
        if not low <= value <= high:
            raise invalid_value(name, value, wanted)
        return value

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise invalid_value(name, value, "true or false", "invalid_type")
        return bool(value)

    def text(self, name: str, remedy: str) -> str:
        value = self.take(name)
        if value is None:
            raise ApiError(400, f"{name} is missing; {remedy}", param=name, code="missing_required_parameter")
        if not isinstance(value, str):
            raise invalid_value(name, value, f"a string, not {json_type(value)}", "invalid_type")
        return value

    def reject_unsupported(self, name: str, *neutral: Any) -> None:
        """ApiError for a parameter this server does not support, unless its value is one that changes nothing."""
        value = self.take(name)
        if value is None or any(json_type(value) == json_type(item) and value == item for item in neutral):
            return
        raise ApiError(
            400,
            f"{name} is not supported by this server; leave it out",
            param=name,
            code="unsupported_parameter",
        )

    def reject_unknown(self) -> None:
        """ApiError for the first parameter not taken, suggesting the most similar name."""
        known = sorted(self.known - UNSUPPORTED)
        for name in self.left:
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=SIMILARITY)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            shown = name if len(name) <= 60 else name[:57] + "..."
            raise ApiError(400, f"unknown parameter {shown!r}; {hint}", param=shown, code="unknown_parameter")


def reject_surrogates(name: str, text: str) -> str:
    """The text; ApiError for a lone surrogate, which JSON can escape and UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(
            400,
            f"{name} has half a character (a lone surrogate) at {error.start}; send whole characters",
            param=name,
            code="invalid_value",
        ) from error
    return text


# ── the two requests ───────────────────────────────────────────────────────────────────────────


def parse_completion(fields: RequestFields) -> CompletionRequest:
    """The body of POST /v1/completions; ApiError for the first fault."""
    model = fields.text("model", "name one of GET /v1/models")
    prompts = read_prompts(fields.take("prompt"))
    n = read_n(fields, len(prompts))
    max_tokens = read_max_tokens(fields, "max_tokens")
    fields.reject_unsupported("best_of", 1, n)
    fields.reject_unsupported("echo", False)
    fields.reject_unsupported("logprobs", False)
    fields.reject_unsupported("suffix", "")
    sampling = read_sampling(fields, 16 if max_tokens is None else max_tokens)
    return finish_request(fields, CompletionRequest(model, prompts, [], n, sampling, *read_stream(fields)))


def parse_chat(fields: RequestFields, default_max_tokens: int = 512) -> CompletionRequest:
    """The body of POST /v1/chat/completions; ApiError for the first fault."""
    model = fields.text("model", "name one of GET /v1/models")
    messages = read_messages(fields.take("messages"))
    n = read_n(fields, 1)
    older = read_max_tokens(fields, "max_tokens")
    newer = read_max_tokens(fields, "max_completion_tokens")
    if older is not None and newer is not None and older != newer:
        given = [fields.members[name] for name in ("max_tokens", "max_completion_tokens")]
        raise invalid_value(
            "max_tokens", given[0], f"only one of max_tokens and max_completion_tokens (which is {given[1]})"
        )
    for name, neutral in NEUTRAL_CHAT_VALUES.items():
        fields.reject_unsupported(name, *neutral)
    sampling = read_sampling(fields, newer or older or default_max_tokens)
    return finish_request(fields, CompletionRequest(model, [], messages, n, sampling, *read_stream(fields)))


def finish_request(fields: RequestFields, request: CompletionRequest) -> CompletionRequest:
    """The request, after its remaining parameters are checked: both kinds of request take the same."""
    for name, neutral in NEUTRAL_VALUES.items():
        fields.reject_unsupported(name, *neutral)
    for name in UNSUPPORTED:
        fields.reject_unsupported(name)
    for name in ("user", "metadata", "safety_identifier", "prompt_cache_key"):
        fields.take(name)  # labels for the client's own records, without effect on the response
    fields.reject_unknown()
    return request


def read_n(fields: RequestFields, prompts: int) -> int:
    n = fields.integer("n", 1, 1, MAX_CHOICES) or 1
    if n * prompts > MAX_ROWS:
        raise invalid_value("n", n, f"at most {MAX_ROWS} choices in total ({prompts} prompts × n)")
    return n


def read_prompts(prompt: Any) -> list[str] | list[list[int]]:
    """A string, token ids, or a list of either; a missing prompt starts a new document."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [reject_surrogates("prompt", prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return [reject_surrogates("prompt", text) for text in prompt]
        if all(map(is_integer, prompt)):
            return [prompt]
        if all(isinstance(ids, list) and ids and all(map(is_integer, ids)) for ids in prompt):
            return prompt
    raise invalid_value(
        "prompt",
        prompt,
        "a string, a list of strings, a list of token ids, or a list of such lists",
        "invalid_type",
    )


def read_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        wanted = f'a list of 1 to {MAX_MESSAGES} messages such as {{"role": "user", "content": "Hello"}}'
        raise invalid_value("messages", messages, wanted, "invalid_type")
    return [read_message(f"messages[{i}]", message) for i, message in enumerate(messages)]


def read_message(where: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid_value(
            where, message, 'an object such as {"role": "user", "content": "Hello"}', "invalid_type"
        )
    if (role := message.get("role")) not in ROLES:
        raise invalid_value(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    for name, value in message.items():
        if name not in ("role", "content", "name", "refusal") and value not in (None, []):
            raise invalid_value(f"{where}.{name}", value, "only role and content", "unsupported_parameter")
    content = read_content(f"{where}.content", message.get("content"))
    read = {"role": "system" if role == "developer" else role, "content": content}
    if (name := message.get("name")) is None:
        return read
    if not isinstance(name, str):
        raise invalid_value(f"{where}.name", name, f"a string, not {json_type(name)}", "invalid_type")
    return {**read, "name": reject_surrogates(f"{where}.name", name)}


def read_content(where: str, content: Any) -> str | list[dict[str, str]]:
    """Text, or a list of text parts; whether the template takes parts is checked later."""
    if isinstance(content, str):
        return reject_surrogates(where, content)
    if isinstance(content, list) and content and all(map(is_text_part, content)):
        return [{"type": "text", "text": reject_surrogates(where, part["text"])} for part in content]
    raise invalid_value(
        where, content, 'a string, or parts of the form {"type": "text", "text": ...}', "invalid_type"
    )


def is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def read_stop(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    wanted = f"a string of 1 to {MAX_STOP_LENGTH} characters, or a list of up to {MAX_STOPS} of them"
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise invalid_value("stop", stop, wanted, "invalid_type")
    if len(stops) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_LENGTH for text in stops):
        raise invalid_value("stop", stop, wanted)
    return tuple(reject_surrogates("stop", text) for text in stops)


def read_max_tokens(fields: RequestFields, name: str) -> int | None:
    """Most new tokens; -1 is as many as possible. `CompletionRequest.samplings` reduces it to what the context leaves,
    as other local servers do.
    """
    value = fields.take(name)
    if value is None or (is_integer(value) and value == -1):
        return None if value is None else UNLIMITED
    wanted = "a whole number of 1 or more, or -1 for as many as the context leaves"
    if not is_integer(value):
        raise invalid_value(name, value, wanted, "invalid_type")
    if value < 1:
        raise invalid_value(name, value, wanted)
    return min(value, UNLIMITED)


def read_sampling(fields: RequestFields, max_tokens: int) -> SamplingParams:
    """OpenAI's defaults (temperature 1); without a seed each request draws one."""
    sampling = SamplingParams(
        temperature=float(fields.sampling("temperature", 1.0)),
        top_p=float(fields.sampling("top_p", 1.0)),
        top_k=fields.sampling("top_k", 0),
        min_p=float(fields.sampling("min_p", 0.0)),
        repetition_penalty=float(fields.sampling("repetition_penalty", 1.0)),
        max_tokens=max_tokens,
        seed=fields.sampling("seed", secrets.randbits(63)),
        stop=read_stop(fields.take("stop")),
    )
    try:
        sampling.check()
    except UsageError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    return sampling


def read_stream(fields: RequestFields) -> tuple[bool, bool, bool]:
    """(stream, usage in a last chunk, usage in every chunk)."""
    stream, options = fields.boolean("stream"), fields.take("stream_options")
    if options is None:
        return stream, False, False
    if not stream or not isinstance(options, dict):
        raise invalid_value("stream_options", options, "it as an object, and only together with stream=true")
    inner = RequestFields(options)
    usage, continuous = inner.boolean("include_usage"), inner.boolean("continuous_usage_stats")
    inner.reject_unsupported("include_obfuscation", False)
    inner.reject_unknown()
    return stream, usage or continuous, continuous
