"""Conversations with a run (C7, C19) and at the terminal (U18), on a small Llama with a chat template."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chats import TEMPLATES, turns, write_folder

from textus import open_run
from textus.api import exchange
from textus.api.conversation import fitting_ids
from textus.api.run import Run
from textus.generation.params import SamplingParams

CONTEXT = 128
TEXTUS = [str(Path(sys.executable).with_name("textus"))]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that chats, of random weights, that never ends an answer itself at temperature 0."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = write_folder(tmp_path_factory.mktemp("hub"), "byte-level", "plain")
    (folder / "chat_template.jinja").write_text(TEMPLATES["chatml"], encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.lm_head.weight.data[tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder)] = 0
    model.save_pretrained(folder)
    out = tmp_path_factory.mktemp("runs") / "talker"
    exchange.import_run(folder, out)
    run = open_run(out)
    assert run.supports_chat
    return run


def fits(run: Run, messages: list[dict[str, Any]], free: int) -> bool:
    return len(run.tokenizer.apply_chat_template(messages)) + free <= CONTEXT


@pytest.mark.promise(
    "Robustness",
    "A chat keeps its system message and reserves space for the answer; an answer ends with the context",
)
@pytest.mark.parametrize("system", ["You are brief.", None])
@pytest.mark.parametrize("free", [10, 30, 1000])
def test_the_oldest_turns_are_left_out_and_the_system_message_is_kept(
    talker: Run, system: str | None, free: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """C7: whole turns, as few as make room for the answer, at most half of the context for it; reported."""
    messages = turns(*[f"number {n}" for n in range(13)], system=system)
    ids = fitting_ids(messages, free, talker.model.config.context_length, talker._conversation)
    err = capsys.readouterr().err
    n_left = int(re.search(r"the (\d+) oldest messages were left out", err)[1])  # type: ignore[index]
    first = len(messages) - 13
    kept = [*messages[:first], *messages[first + n_left :]]
    assert n_left % 2 == 0
    assert kept[first]["role"] == "user"
    assert ids == talker.tokenizer.apply_chat_template(kept)
    free = min(free, CONTEXT // 2)
    assert fits(talker, kept, free)
    assert not fits(talker, [*messages[:first], *messages[first + n_left - 2 :]], free)
    assert ("system message is kept" in err) == (system is not None)
    assert f"{free} are for the answer" in err


def test_a_conversation_that_fits_is_left_alone(talker: Run, capsys: pytest.CaptureFixture[str]) -> None:
    messages = turns("a", "b", "c", system="s")
    assert fitting_ids(
        messages, 20, talker.model.config.context_length, talker._conversation
    ) == talker.tokenizer.apply_chat_template(messages)
    assert capsys.readouterr().err == ""


def test_an_answer_ends_with_the_context_unless_it_slides(talker: Run) -> None:
    """C19: chat and generate alike."""
    n_prompt = len(talker.tokenizer.apply_chat_template(turns("hello")))
    pieces = talker.stream_chat(turns("hello"), max_tokens=1000, temperature=0)
    list(pieces)
    assert (pieces.reason, pieces.n_tokens) == ("length", CONTEXT - n_prompt)
    text = talker.stream("a", max_tokens=1000, temperature=0)
    list(text)
    assert (text.reason, text.n_tokens) == ("length", CONTEXT - len(talker.tokenizer.encode("a")))
    longer = talker.stream("a", max_tokens=300, temperature=0, sliding=True)
    list(longer)
    assert (longer.reason, longer.n_tokens) == ("length", 300)


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm", "PYTHONUNBUFFERED": "1"}


def test_a_cut_answer_is_marked_in_a_pipe(talker: Run) -> None:
    words = [*TEXTUS, "chat", str(talker.path), "--max-tokens", "3", "--temperature", "0"]
    done = subprocess.run(
        words, input="hello\n/help\n", capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stderr.count("… (cut at 3 tokens: --max-tokens)") == 2  # in a pipe /help is a question
    assert done.stdout.count("\n") >= 2


class Terminal:
    """A program with a terminal of its own; what it shows is read up to a text that is waited for."""

    def __init__(self, words: list[str]) -> None:
        self.shown = ""
        self.main, side = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=side, stdout=side, stderr=side, env=environment(), start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(side)

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def wait(self, text: str, seconds: float = 60) -> str:
        """What is shown up to `text`; the rest is kept for the next time."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} did not come after {self.shown!r}"
            if select.select([self.main], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self.main, 1000).decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def press(self, key: str, text: str) -> None:
        """Press a key until `text` comes: Python's line editor may miss a signal that comes just before it waits."""
        for _ in range(12):
            self.type(key)
            with contextlib.suppress(AssertionError):
                self.wait(text, seconds=5)
                return
        raise AssertionError(f"{text!r} did not come after {key!r}")


def test_a_terminal_chat_edits_lines_stops_answers_and_has_commands(talker: Run) -> None:
    """U18."""
    pytest.importorskip("readline")
    terminal = Terminal([*TEXTUS, "chat", str(talker.path), "--temperature", "0"])
    try:
        terminal.wait("/help lists commands")
        terminal.wait("> ")
        terminal.type("/hlp\x1b[D\x1b[De\n")  # two steps to the left, and what was missing
        assert "/system TEXT" in terminal.wait("/quit ")
        terminal.type("/nonsense\n")
        terminal.wait("unknown command /nonsense")
        terminal.type("/set max_tokens=4\n")
        terminal.wait("max_tokens=4, seed")
        terminal.type("/set top_p=7\n")
        terminal.wait("top_p=7.0 is out of range")
        terminal.type("/system Be brief.\n")
        terminal.wait("system message: Be brief.")
        terminal.type("hello\n")
        terminal.wait("… (cut at 4 tokens: --max-tokens)")
        terminal.type("/clear\n")
        terminal.wait("the conversation is empty")
        terminal.wait("> ")
        terminal.type("not sent")
        terminal.wait("not sent")
        terminal.press("\x03", "\n> ")  # Ctrl-C clears the line
        terminal.type("/set max_tokens=1000000\n")
        terminal.wait("max_tokens=1000000, seed")
        terminal.type("/set sliding=true\n")
        terminal.wait("sliding=True")
        terminal.type("hello\n")
        time.sleep(1.5)
        terminal.type("\x03")
        terminal.wait("… (stopped)")
        terminal.type("/quit\n")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.main)


def test_a_setting_is_read_in_its_own_form() -> None:
    from textus.cli.chat import Conversation

    conversation = Conversation(None, SamplingParams(temperature=0))  # type: ignore[arg-type]
    for assignment in ("temperature=0.5", "top-k = 5", "sliding=true", "nonsense=1", "seed=x", "top_p=0.9"):
        conversation.set(assignment)
    assert conversation.params == SamplingParams(temperature=0.5, top_k=5, sliding=True, top_p=0.9)
