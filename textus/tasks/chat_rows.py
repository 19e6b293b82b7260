"""Conversations as rows of ids in a model's own chat template, of which only answers and their end are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.conversations import Message, calls_as_text, system_in_user_turn
from textus.data.weighted_rows import WeightedRow
from textus.tokenizers import Tokenizer

MERGED = 8
"""Ids at the end of a prompt that may be others where an answer follows: a tokenizer joins characters of both."""
PROBE = "Zebra quartz"
"""A text that no template has of its own."""
QUESTION: list[Message] = [{"role": "user", "content": "Text"}]


@dataclass(frozen=True)
class ChatRow(WeightedRow):
    """A conversation, or one answer of it, as ids; `n_bytes` of text in its answers, `number` of the conversation."""

    n_bytes: int = 0
    number: int = 0


@dataclass(frozen=True)
class AnswerIds:
    """A conversation up to one answer as ids; the answer with its end-of-turn token are those from `start` to `end`."""

    ids: list[int]
    start: int
    end: int


class ChatFormat:
    """How a tokenizer's chat template writes conversations. UsageError for one that cannot be trained on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.ends = tokenizer, set(tokenizer.turn_end_ids)
        if tokenizer.chat_template is None:
            raise UsageError(
                "template_missing",
                "the tokenizer of this base has no chat template: put a chat_template.jinja next to its tokenizer.json"
                " and import it again, or take one that has (textus pull smollm2)",
            )
        self.answer_ids([*QUESTION, {"role": "assistant", "content": PROBE}])
        self.writes_system = self._writes([{"role": "system", "content": PROBE}, *QUESTION])
        call = {"type": "function", "function": {"name": PROBE, "arguments": {}}}
        self.writes_calls = self._writes(
            [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
        )

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """Messages that the template can write: calls of tools as JSON, the system text in the first user turn, where
        it writes neither.
        """
        fitted = list(messages) if self.writes_calls else calls_as_text(messages)
        return fitted if self.writes_system else system_in_user_turn(fitted)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as ids, up to where the assistant answers."""
        return self.tokenizer.apply_chat_template(self.fitted(messages), add_generation_prompt=True)

    def answer_ids(self, messages: Sequence[Message]) -> AnswerIds:
        """The ids of a conversation that ends with an answer. It begins where the ids differ from those of the prompt,
        and ends with the first end-of-turn token, where generation stops.
        """
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=False)
        prompt = self.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)
        pairs = enumerate(zip(ids, prompt, strict=False))
        start = next((n for n, (one, other) in pairs if one != other), min(len(ids), len(prompt)))
        if len(prompt) - start > MERGED:
            raise UsageError(
                "template_unsupported",
                "the chat template of this base writes a conversation otherwise before an answer than with it, so that"
                " what it would learn is not what it reads; take the template of another copy of the model",
            )
        end = next((n for n in range(start, len(ids)) if ids[n] in self.ends), None)
        if end is None:
            raise UsageError(
                "template_unsupported",
                "the chat template of this base ends answers with no end-of-turn token that its tokenizer knows, so"
                " that the model would not learn to stop; add the token to tokenizer.json as a special one, or correct"
                " chat_template.jinja, and import the model again",
            )
        return AnswerIds(ids, start, end + 1)

    def rows(self, messages: Sequence[Message], limit: int | None, number: int) -> tuple[list[ChatRow], int]:
        """A conversation as rows of at most `limit` ids, and how many of its answers did not fit. It is one row where
        the template only adds to what was before, else one for each answer.
        """
        fitted = self.fitted(messages)
        places = [n for n, message in enumerate(fitted) if message["role"] == "assistant"]
        answers = [self.answer_ids(fitted[: n + 1]) for n in places]
        fitting = [answer for answer in answers if limit is None or answer.end <= limit]
        if not fitting:
            return [], len(answers)
        last = fitting[-1].ids
        if all(answer.ids[: answer.end] == last[: answer.end] for answer in fitting):
            return [self._row(fitting, number)], len(answers) - len(fitting)
        return [self._row([answer], number) for answer in fitting], len(answers) - len(fitting)

    def _row(self, answers: Sequence[AnswerIds], number: int) -> ChatRow:
        """The conversation up to the last of these answers."""
        ids = answers[-1].ids[: answers[-1].end]
        learned = [False] * len(ids)
        for answer in answers:
            learned[answer.start : answer.end] = [True] * (answer.end - answer.start)
        texts = [self.tokenizer.decode(answer.ids[answer.start : answer.end]) for answer in answers]
        return ChatRow(ids, learned, sum(len(text.encode()) for text in texts), number)

    def _writes(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes the probe."""
        try:
            ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except UsageError:
            return False
        return PROBE in self.tokenizer.decode(ids)


def encode_conversations(
    conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, limit: int | None
) -> list[ChatRow]:
    """Conversations as rows of at most `limit` ids (None: any length); what was changed, cut or left out is reported.
    DataError where nothing is left to learn.
    """
    form = ChatFormat(tokenizer)
    report_changes(conversations, form)
    encoded = [form.rows(messages, limit, number) for number, messages in enumerate(conversations)]
    cut = [n_cut for rows, n_cut in encoded if rows and n_cut]
    if cut:
        log_notice(
            f"{len(cut):,} of {len(conversations):,} conversations are longer than the context of {limit} tokens:"
            f" {sum(cut):,} answers at their ends are not learned"
        )
    if empty := sum(not rows for rows, _ in encoded):
        log_notice(
            f"{empty:,} of {len(conversations):,} conversations are left out: not even their first answer ends within"
            f" the context of {limit} tokens"
        )
    if not (rows := [row for own, _ in encoded for row in own]):
        raise DataError(
            "context_exceeded",
            f"no answer of {len(conversations):,} conversations ends within the context of {limit} tokens; give shorter"
            " ones, or a base with a longer context",
        )
    return rows


def report_changes(conversations: Sequence[Sequence[Message]], form: ChatFormat) -> None:
    """One line for each thing in conversations that the template cannot write."""
    with_system = sum(any(m["role"] == "system" for m in messages) for messages in conversations)
    if with_system and not form.writes_system:
        log_notice(
            f"the chat template of this base writes no system message: in {with_system:,} conversations its text begins"
            " the first user turn"
        )
    calls = sum(bool(message.get("tool_calls")) for messages in conversations for message in messages)
    if calls and not form.writes_calls:
        log_notice(
            f"the chat template of this base writes no calls of tools: {calls:,} are learned as JSON text"
        )
