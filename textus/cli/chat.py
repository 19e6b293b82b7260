"""The command `chat`: a conversation at the terminal, or with the lines of a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from textus.cli.params import RunFolder, with_config
from textus.core.console import log_notice
from textus.core.errors import UsageError

if TYPE_CHECKING:
    from textus.api.run import Run
    from textus.generation.params import SamplingParams
    from textus.generation.streaming import DecodedStream

COMMANDS = {
    "/help": "this list",
    "/system TEXT": "set the system message; without a text, show it",
    "/clear": "forget the conversation, except the system message",
    "/set NAME=VALUE": "change a setting, such as temperature=0.5; without one, show them",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops an answer",
}


@with_config("textus.generation.params")
def chat(run: RunFolder, /, *, config: SamplingParams) -> None:
    """Chat with a model; questions are typed, or read one per line from a pipe. At the terminal /help lists commands.

    Example: echo "What is a list?" | textus chat work/run --temperature 0.7
    """
    from textus.api import open_run

    opened = open_run(run)
    opened.require_language_model()
    if not opened.supports_chat:
        why = (
            f"does not chat ({opened.chat_fault})"
            if opened.chat_fault
            else "was trained to continue texts, not to chat"
        )
        log_notice(f"{run} {why}: it continues the conversation by one line")
    conversation = Conversation(opened, config)
    typed = sys.stdin.isatty()
    for question in typed_lines() if typed else piped_lines():
        if typed and question.startswith("/"):
            if not conversation.command(question):
                return
        elif typed:
            with contextlib.suppress(KeyboardInterrupt):
                conversation.ask_at_terminal(question)
        else:
            conversation.ask(question)


class Conversation:
    """Messages so far, and how the next answer is sampled."""

    def __init__(self, run: Run, params: SamplingParams) -> None:
        self.run, self.params = run, params
        self.system = ""
        self.turns: list[dict[str, str]] = []

    def ask(self, question: str) -> None:
        """Show the answer as it is generated. After Ctrl-C, the part shown stays in the conversation."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        message = {"role": "user", "content": question}
        pieces = self.run.stream_chat([*system, *self.turns, message], self.params)
        answer = ""
        try:
            for piece in pieces:
                show(piece)
                answer += piece
        finally:
            self.turns += [message, {"role": "assistant", "content": answer}]
        show("\n")
        if (full := context_notice(pieces, self.params, self.run)) or pieces.reason == "length":
            log_notice(full or f"… (cut at {pieces.n_tokens} tokens: --max-tokens)")

    def ask_at_terminal(self, question: str) -> None:
        """`ask` at the terminal: an error or Ctrl-C ends the answer, not the program."""
        try:
            self.ask(question)
        except UsageError as error:
            log_notice(str(error))
        except KeyboardInterrupt:
            show("\n")
            log_notice("… (stopped)")

    def command(self, line: str) -> bool:
        """Carry out a line that begins with /; False ends the conversation."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/quit":
            return False
        if name == "/clear":
            self.turns = []
            log_notice("the conversation is empty")
        elif name == "/system":
            self.system = rest or self.system
            log_notice(f"system message: {self.system or 'none'}")
        elif name == "/set":
            self.set(rest)
        else:
            if name != "/help":
                log_notice(f"unknown command {name}; the commands are:")
            for form, what in COMMANDS.items():
                log_notice(f"  {form:16s} {what}")
        return True

    def set(self, assignment: str) -> None:
        """Change a field of `SamplingParams`; a wrong value changes nothing."""
        from textus.generation.params import sampling_params

        name, equals, value = (part.strip() for part in assignment.partition("="))
        name = name.replace("-", "_")
        if equals:
            try:
                self.params = sampling_params(self.params, {name: parse_setting(name, value)})
            except UsageError as error:
                log_notice(str(error))
                return
        log_notice(", ".join(f"{key}={setting!r}" for key, setting in asdict(self.params).items()))


def context_notice(pieces: DecodedStream, params: SamplingParams, run: Run) -> str:
    """The notice for a text that ended because the context is full; empty for every other."""
    if pieces.reason != "length" or pieces.n_tokens >= params.max_tokens:
        return ""
    context = run.model.config.context_length
    return f"… (cut at {pieces.n_tokens} tokens: the context of {context:,} is full; --sliding continues)"


def parse_setting(name: str, value: str) -> Any:
    """A value as typed, in the type of the field of this name."""
    from textus.generation.params import SamplingParams

    default = getattr(SamplingParams(), name, None)
    if isinstance(default, bool):
        return value.lower() in ("true", "yes", "on", "1")
    if not isinstance(default, int | float):
        return value
    try:
        return type(default)(value)
    except ValueError as error:
        kind = "whole number" if isinstance(default, int) else "number"
        raise UsageError("invalid_value", f"{name}={value} is not a {kind}") from error


def show(text: str) -> None:
    """Show a piece of text at once, before the next one is ready."""
    sys.stdout.write(text)
    sys.stdout.flush()


def typed_lines() -> Iterator[str]:
    """What is typed at a prompt, with line editing and history, until Ctrl-D; Ctrl-C clears the line."""
    with contextlib.suppress(ImportError):  # where it is missing, lines are not edited
        import readline  # noqa: F401 — input() uses it once it is imported
    log_notice("type a message; /help lists commands, Ctrl-D ends")
    while True:
        try:
            if sys.stdout.isatty():
                line = input("> ")
            else:  # the prompt is for the terminal, not for the file that answers go to
                sys.stderr.write("> ")
                sys.stderr.flush()
                line = sys.stdin.readline()
                if not line:
                    return
        except EOFError:
            show("\n")
            return
        except KeyboardInterrupt:
            show("\n")
            continue
        if line.strip():
            yield line.strip()


def piped_lines() -> Iterator[str]:
    """The lines of a pipe that are not empty."""
    while line := sys.stdin.readline():
        if line.strip():
            yield line.strip()
