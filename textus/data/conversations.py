"""Conversations of labelled rows as messages with roles: OpenAI's `messages`, ShareGPT's `conversations` and Alpaca's
columns, each checked turn by turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textus.core.errors import DataError

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
OTHER_NAMES = {
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "observation": "tool", "function": "tool", "ipython": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Names of roles elsewhere → our own."""
CALLS = ("function_call", "tool_call")
"""Roles of ShareGPT whose text is a call of a tool as JSON."""
FIELDS = ("messages", "conversations", "instruction", "input", "output", "system", "history")
"""Fields that conversations are read from."""


def read_conversation(values: Mapping[str, Any], where: str, *, labelled: bool = True) -> list[Message]:
    """The messages of a row, checked; `labelled`: it has an answer of the assistant to learn from.

    Raises DataError that names the row: no such columns, a message of another form, an unknown role, turns in an order
    that no conversation has, or an empty answer.
    """
    if (turns := values.get("messages")) is not None:
        messages = [from_message(turn, n, where) for n, turn in enumerate(turns_of(turns, where))]
    elif (turns := values.get("conversations")) is not None:
        messages = [from_sharegpt(turn, n, where) for n, turn in enumerate(turns_of(turns, where))]
    elif values.get("instruction") is not None:
        messages = from_alpaca(values, where, labelled=labelled)
    else:
        raise DataError(
            "column_not_found",
            f"{where} has no field 'messages' (or 'conversations', or 'instruction' and 'output'); it has"
            f" {', '.join(map(repr, list(values)[:30]))}: name its column with --columns messages=COLUMN",
        )
    system = values.get("system")
    if isinstance(system, str) and system.strip() and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    check_turns(messages, where, labelled=labelled)
    return messages


def turns_of(value: Any, where: str) -> list[Any]:
    """The list of turns in a field, which a table holds as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise invalid(
                where, "its conversation is a text that is not JSON; write a list of messages"
            ) from error
    if not isinstance(value, list):
        raise invalid(where, f"its conversation is {value!r:.60}; write a list of messages")
    return value


def from_message(message: Any, number: int, where: str) -> Message:
    """A message {"role", "content"} with our name of its role; further fields, such as `tool_calls`, are kept."""
    if not isinstance(message, dict) or "role" not in message:
        raise invalid(where, f"message {number} is {message!r:.60}; write {{'role': …, 'content': …}}")
    content = message.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise invalid(where, f"message {number} has content {content!r:.60}; write a string")
    return {**message, "role": known_role(message["role"], number, where), "content": content or ""}


def from_sharegpt(turn: Any, number: int, where: str) -> Message:
    """A turn {"from", "value"}; a call of a tool in JSON becomes `tool_calls`."""
    if isinstance(turn, dict) and "role" in turn:
        return from_message(turn, number, where)
    if not isinstance(turn, dict) or "from" not in turn or not isinstance(turn.get("value"), str):
        raise invalid(where, f"turn {number} is {turn!r:.60}; write {{'from': …, 'value': …}}")
    role = known_role(turn["from"], number, where)
    if turn["from"] not in CALLS:
        return {"role": role, "content": turn["value"]}
    return {"role": role, "content": "", "tool_calls": parse_calls(turn["value"], number, where)}


def parse_calls(text: str, number: int, where: str) -> list[dict[str, Any]]:
    """Calls written as JSON, one object or a list of them with `name` and `arguments`."""
    try:
        calls = json.loads(text)
    except ValueError as error:
        raise invalid(where, f"turn {number} calls a tool by {text!r:.60}, which is not JSON") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise invalid(where, f"turn {number} calls a tool by {text!r:.60}, which has no name and arguments")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def from_alpaca(values: Mapping[str, Any], where: str, *, labelled: bool) -> list[Message]:
    """An instruction with its input, after a `history` of [question, answer] pairs where there is one."""
    texts = {name: values.get(name) for name in ("instruction", "input", "output")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise DataError("wrong_type", f"{where}: {name} is {text!r:.60}, not a text")
    history = values.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in history
    ):
        raise invalid(where, f"history is {history!r:.60}; write a list of [question, answer] pairs")
    parts = [text for name in ("instruction", "input") if (text := texts[name]) and text.strip()]
    turns = [*history, ["\n".join(parts), texts["output"] or ""]]
    messages: list[Message] = [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return messages if labelled or turns[-1][1] else messages[:-1]


def known_role(name: Any, number: int, where: str) -> str:
    """Our name of a role; DataError for an unknown one."""
    if name in ROLES:
        return str(name)
    if not isinstance(name, str) or name not in OTHER_NAMES:
        raise invalid(where, f"message {number} has the unknown role {name!r}; roles are {', '.join(ROLES)}")
    return OTHER_NAMES[name]


def check_turns(messages: Sequence[Message], where: str, *, labelled: bool = True) -> None:
    """DataError where no conversation has turns in this order, or an answer is empty."""
    previous: Message | None = None
    for number, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if problem := turn_problem(message, previous):
            raise invalid(where, f"message {number}: {problem}")
        previous = message
    if labelled and not any(message["role"] == "assistant" for message in messages):
        raise invalid(where, "the conversation has no assistant turn: there is nothing to learn")


def turn_problem(message: Message, previous: Message | None) -> str:
    """What is wrong with a message after the previous one that is no system message; "" for nothing."""
    role, before = message["role"], previous and previous["role"]
    called = bool(previous and previous.get("tool_calls"))
    if role == "assistant" and before is None:
        return "the conversation starts with the assistant; begin with a user turn"
    if role == before and role != "tool":
        return f"two {role} turns in a row; join them to one"
    if role == "tool" and before != "tool" and not called:
        return "a tool result without a call; the assistant turn before it needs tool_calls"
    if role == "assistant" and not message["content"].strip() and not message.get("tool_calls"):
        return "the answer of the assistant is empty"
    if role == "user" and not message["content"].strip():
        return "the user turn is empty"
    return ""


def calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """The messages with calls of tools as JSON in the content, for a chat template that does not know `tool_calls`."""
    return [
        message
        if not message.get("tool_calls")
        else {
            "role": message["role"],
            "content": "\n".join(
                filter(None, [message["content"], *(call_as_text(call) for call in message["tool_calls"])])
            ),
        }
        for message in messages
    ]


def call_as_text(call: Any) -> str:
    """A call as one line of JSON."""
    return json.dumps(call.get("function", call) if isinstance(call, dict) else call, ensure_ascii=False)


def system_in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system text at the beginning of the first user turn."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    rest = [message for message in messages if message["role"] != "system"]
    first = next((n for n, message in enumerate(rest) if message["role"] == "user"), None)
    if not system or first is None:
        return rest
    rest[first] = {**rest[first], "content": f"{system}\n\n{rest[first]['content']}"}
    return rest


def invalid(where: str, problem: str) -> DataError:
    """The error for a row whose conversation cannot be used."""
    return DataError("invalid_row", f"{where}: {problem}")
