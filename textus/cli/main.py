"""The command line: find the command, run it, and print its result or its error.

Exit codes: 0 done, 1 the work failed, 2 the words were wrong, 130 stopped by Ctrl-C. Errors are one line on
standard error; TEXTUS_DEBUG=1 shows where they were raised. With `--json` standard output holds one object
and nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from textus.cli.app import PLANNED, PLANNED_FLAGS, VERBS, all_commands, build_app
from textus.cli.help import flat_commands, overview, page
from textus.cli.params import CommandResult
from textus.core.arguments import STDIN
from textus.core.console import log_notice
from textus.core.errors import TextusError, UsageError
from textus.core.io import is_disk_full
from textus.core.names import unknown_name_error

HELP = ("--help", "-h")
CLOSE = 0.7
"""How like a flag another must be to be offered for it (0 to 1)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and never raises for what a person can cause."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        with terminated_like_ctrl_c():
            code = run(words)
            sys.stdout.flush()
        return code
    except Terminated as stop:
        return failed(stopped("terminated", stop, words), 143, "interrupted")
    except KeyboardInterrupt as stop:
        return failed(stopped("stopped", stop, words), 130, "interrupted")
    except BrokenPipeError:  # the reader of our output has gone: `textus … | head`
        give_up_output()
        return 0
    except TextusError as error:
        return failed(str(error), error.exit_code, error.code)
    except Exception as error:
        return unexpected(error)


def stopped(how: str, stop: KeyboardInterrupt, words: Sequence[str]) -> str:
    """One line for Ctrl-C: what is kept, where the work has a note on it (`arguments.noted`), and the command again."""
    notes = getattr(stop, "__notes__", [])
    return "; ".join([how, *notes]) + (f": {shlex.join(['textus', *words])}" if notes else "")


def unexpected(error: Exception) -> int:
    """The exit code for an error that is not one of ours, with one line for those that have a known reason."""
    if is_disk_full(error):
        if isinstance(error, OSError) and error.filename is None:
            give_up_output()
        return failed(full_disk(error), 1, "disk_full")
    if isinstance(error, CycloptsError):
        return failed(str(error), 2, "invalid_arguments")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return failed(f"{error.strerror or error}{where}", 1, "unreadable_file")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's own kind
        return failed(
            "out of memory; use a smaller model, batch or context (--set model.d_model=…)", 1, "out_of_memory"
        )
    return failed(
        f"unexpected {type(error).__name__}: {error}; TEXTUS_DEBUG=1 shows where; please report it",
        1,
        "internal_error",
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is half written is removed on the way out, as after Ctrl-C."""


@contextlib.contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C while the body runs; not where somebody else handles or ignores it."""
    import signal
    import threading

    def stop(*_: object) -> None:
        raise Terminated

    free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def give_up_output() -> None:
    """Point standard output at nothing, so that what it still holds is not tried again at exit."""
    with contextlib.suppress(OSError, ValueError):  # no real file behind it: a test, a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: list[str]) -> int:
    """Answer help and version, else parse, work and print."""
    if words in (["--version"], ["version"]):
        from importlib.metadata import version

        print(f"textus {version('textus')}")
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    app = build_app(VERBS if words and words[0] in VERBS else None)  # plugins are looked up only if needed
    arguments_before = words[: words.index("--")] if "--" in words else words
    if not words or any(word in HELP for word in arguments_before):
        print(help_text(app, [word for word in arguments_before if word not in HELP]))
        return 0
    return work(app, words)


def help_text(app: App, words: list[str]) -> str:
    """The page for the verb named by the first words: all verbs, a noun's verbs, or one verb."""
    if not words:
        return overview()
    two = " ".join(words[:2])
    if two in flat_commands():
        return page(app, two)
    verb = all_commands().get(words[0])
    if verb is None:
        raise unknown_verb(words)
    if not isinstance(verb, dict):
        return page(app, words[0])
    if len(words) > 1 and not words[1].startswith("-"):
        raise unknown_name_error(f"verb of {words[0]}", words[1], verb)
    return overview(words[0])


def work(app: App, words: list[str]) -> int:
    """Parse the words, run the verb, print its answer; standard output is kept clean for `--json`."""
    if words[0] in VERBS and isinstance(VERBS[words[0]], dict) and len(words) == 1:
        print(overview(words[0]))
        return 0
    try:
        command, bound, inner = app.parse_args(with_stdin(words), print_error=False, exit_on_error=False)
    except UnknownCommandError as error:
        raise unknown_verb(words) from error
    except CycloptsError as error:
        raise UsageError("invalid_arguments", explained(error, words)) from error
    as_json = bool(bound.arguments.get("as_json"))
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        answer = command(*bound.args, **bound.kwargs, **dict.fromkeys(inner, main))
    if isinstance(answer, CommandResult):
        text = json.dumps(answer.data, ensure_ascii=False, default=str) if as_json else answer.text
        # a lone surrogate, as in a file name that is not UTF-8, as its escape
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
        return answer.exit_code
    return answer if isinstance(answer, int) else 0


def with_stdin(words: list[str]) -> list[str]:
    """A single - in place of a text, as the name of standard input: the parser takes it for an option."""
    if words[0] not in ("predict", "generate", "translate", "summarize"):
        return words
    result = list(words)
    for place, (before, word) in enumerate(pairwise(words), 1):
        if word == "-" and (not before.startswith("--") or before in ("--json", "--force", "--text")):
            result[place] = STDIN
    return result


def unknown_verb(words: list[str]) -> UsageError:
    """The nearest verb, or the nearest verb of a noun."""
    inner = VERBS.get(words[0])
    if isinstance(inner, dict):
        return unknown_name_error(f"verb of {words[0]}", words[1], inner)
    if today := PLANNED.get(words[0].lower()):
        return UsageError(
            "not_implemented",
            f"textus {words[0]} is planned and does not exist yet (see the README); today: {today}",
        )
    return unknown_name_error("verb", words[0], all_commands())


def unknown_flag(error: UnknownOptionError) -> str:
    """The flag nobody knows, and the one most like it: never --force, which would replace what it was not meant to."""
    given = (error.token.keyword or error.token.value).partition("=")[0]
    if today := PLANNED_FLAGS.get(given):
        return f"unknown option {given}: {today}"
    names = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    near = difflib.get_close_matches(given, [name for name in names if name != "--force"], n=1, cutoff=CLOSE)
    return f"unknown option {given}" + (f"; did you mean {near[0]}?" if near else "")


def explained(error: CycloptsError, words: list[str]) -> str:
    """What is wrong with the words, and where the flags are explained."""
    verb = " ".join(words[:2]) if " ".join(words[:2]) in flat_commands() else words[0]
    message = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        needed = error.argument.name
        given = needed.startswith("--") and needed in words
        message = f"{needed} needs a value" if given else f"{verb} needs {needed}"
    elif isinstance(error, UnknownOptionError):
        message = unknown_flag(error)
    elif isinstance(error, UnusedCliTokensError):
        message = f"{verb} does not take {' '.join(map(repr, error.unused_tokens or []))}"
    message = message.removesuffix(".")
    return f"{message}{'' if message.endswith('?') else ';'} see: textus {verb} --help"


def full_disk(error: BaseException) -> str:
    """A disk without space, a quota or a limit on file sizes, with the file and what to do."""
    name = getattr(error, "filename", None)
    if getattr(error, "errno", None) == errno.EFBIG or f"os error {errno.EFBIG}" in str(error):
        why = "a file would be larger than may be (ulimit -f, or the file system); raise that limit"
    else:
        why = "no space left on the disk, or of your quota; free some"
    return f"{why}; a run keeps its last good checkpoint" + (f": {name}" if name else "")


def failed(message: str, exit_code: int, code: str) -> int:
    """One line on standard error, with the code at its end; the traceback too where TEXTUS_DEBUG is set."""
    if os.environ.get("TEXTUS_DEBUG"):
        import traceback

        traceback.print_exc()
    log_notice(f"textus: {' '.join(message.split())} [{code}]")
    return exit_code
