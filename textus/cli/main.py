"""The command line: find the command, run it, and print its result or its error.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 stopped by Ctrl-C. Errors are one line on
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

from textus.cli.app import COMMANDS, PLANNED, PLANNED_FLAGS, all_commands, build_app
from textus.cli.help import flat_commands, overview, page
from textus.cli.params import CommandResult
from textus.core.arguments import STDIN
from textus.core.console import log_notice
from textus.core.errors import TextusError, UsageError
from textus.core.io import is_disk_full
from textus.core.names import unknown_name_error

HELP_FLAGS = ("--help", "-h")
MIN_SIMILARITY = 0.7
"""How similar a known flag must be to be suggested for an unknown one (0 to 1)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors that a user can cause are printed, never raised."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminated_like_ctrl_c():
            code = dispatch(argv)
            sys.stdout.flush()
        return code
    except Terminated as stop:
        return print_error(interrupt_message("terminated", stop, argv), 143, "interrupted")
    except KeyboardInterrupt as stop:
        return print_error(interrupt_message("stopped", stop, argv), 130, "interrupted")
    except BrokenPipeError:  # the reader closed the pipe: `textus … | head`
        discard_output()
        return 0
    except TextusError as error:
        return print_error(str(error), error.exit_code, error.code)
    except Exception as error:
        return print_unexpected_error(error)


def interrupt_message(how: str, stop: KeyboardInterrupt, argv: Sequence[str]) -> str:
    """One line for Ctrl-C: what is kept, if the command noted it (`note_on_interrupt`), and the command to repeat."""
    notes = getattr(stop, "__notes__", [])
    return "; ".join([how, *notes]) + (f": {shlex.join(['textus', *argv])}" if notes else "")


def print_unexpected_error(error: Exception) -> int:
    """Print an error that Textus did not raise itself, with the remedy if its cause is known; return the exit code."""
    if is_disk_full(error):
        if isinstance(error, OSError) and error.filename is None:
            discard_output()
        return print_error(disk_full_message(error), 1, "disk_full")
    if isinstance(error, CycloptsError):
        return print_error(str(error), 2, "invalid_arguments")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return print_error(f"{error.strerror or error}{where}", 1, "unreadable_file")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's own kind
        return print_error(
            "out of memory; use a smaller model, batch or context (--set model.d_model=…)", 1, "out_of_memory"
        )
    return print_error(
        f"unexpected {type(error).__name__}: {error}; TEXTUS_DEBUG=1 shows where; please report it",
        1,
        "internal_error",
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM: unfinished output is removed before the exit, as after Ctrl-C."""


@contextlib.contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C while the body runs, unless another handler is set or the signal is ignored."""
    import signal
    import threading

    def stop(*_: object) -> None:
        raise Terminated

    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def discard_output() -> None:
    """Redirect standard output to nothing, so that the interpreter does not try to flush it again at exit."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as in a test or a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(argv: list[str]) -> int:
    """Print the help or the version, or run a command."""
    if argv in (["--version"], ["version"]):
        from importlib.metadata import version

        print(f"textus {version('textus')}")
        return 0
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    app = build_app(
        COMMANDS if argv and argv[0] in COMMANDS else None
    )  # plugins are looked up only if needed
    before_separator = argv[: argv.index("--")] if "--" in argv else argv
    if not argv or any(argument in HELP_FLAGS for argument in before_separator):
        print(help_text(app, [argument for argument in before_separator if argument not in HELP_FLAGS]))
        return 0
    return run_command(app, argv)


def help_text(app: App, argv: list[str]) -> str:
    """The help page that `argv` names: all commands, a group of commands, or one command."""
    if not argv:
        return overview()
    full_name = " ".join(argv[:2])
    if full_name in flat_commands():
        return page(app, full_name)
    command = all_commands().get(argv[0])
    if command is None:
        raise unknown_command(argv)
    if not isinstance(command, dict):
        return page(app, argv[0])
    if len(argv) > 1 and not argv[1].startswith("-"):
        raise unknown_name_error(f"command of {argv[0]}", argv[1], command)
    return overview(argv[0])


def run_command(app: App, argv: list[str]) -> int:
    """Parse `argv`, run its command and print the result; with `--json` nothing else reaches standard output."""
    if argv[0] in COMMANDS and isinstance(COMMANDS[argv[0]], dict) and len(argv) == 1:
        print(overview(argv[0]))
        return 0
    try:
        command, bound, injected = app.parse_args(with_stdin(argv), print_error=False, exit_on_error=False)
    except UnknownCommandError as error:
        raise unknown_command(argv) from error
    except CycloptsError as error:
        raise usage_error(error, argv) from error
    as_json = bool(bound.arguments.get("as_json"))
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = command(*bound.args, **bound.kwargs, **dict.fromkeys(injected, main))
    if isinstance(result, CommandResult):
        text = json.dumps(result.data, ensure_ascii=False, default=str) if as_json else result.text
        # escape lone surrogates, as in file names that are not UTF-8
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
        return result.exit_code
    return result if isinstance(result, int) else 0


def with_stdin(argv: list[str]) -> list[str]:
    """Replace a lone - by the path of standard input, since the parser would take it for an option."""
    if argv[0] not in ("predict", "generate", "translate", "summarize"):
        return argv
    result = list(argv)
    for place, (previous, argument) in enumerate(pairwise(argv), 1):
        if argument == "-" and (not previous.startswith("--") or previous in ("--json", "--force", "--text")):
            result[place] = STDIN
    return result


def unknown_command(argv: list[str]) -> UsageError:
    """The error for an unknown command, with the nearest known one of all or of its group."""
    group = COMMANDS.get(argv[0])
    if isinstance(group, dict):
        return unknown_name_error(f"command of {argv[0]}", argv[1], group)
    if alternative := PLANNED.get(argv[0].lower()):
        return UsageError(
            "not_implemented",
            f"textus {argv[0]} is planned and does not exist yet (see the README); today: {alternative}",
        )
    return unknown_name_error("command", argv[0], all_commands())


def unknown_flag_message(error: UnknownOptionError) -> str:
    """The message for an unknown flag, with the most similar one; never --force, which could overwrite files."""
    given = (error.token.keyword or error.token.value).partition("=")[0]
    if alternative := PLANNED_FLAGS.get(given):
        return f"unknown option {given}: {alternative}"
    names = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    near = difflib.get_close_matches(
        given, [name for name in names if name != "--force"], n=1, cutoff=MIN_SIMILARITY
    )
    return f"unknown option {given}" + (f"; did you mean {near[0]}?" if near else "")


def usage_error(error: CycloptsError, argv: list[str]) -> UsageError:
    """What is wrong with `argv`, and where the flags are documented."""
    full_name = " ".join(argv[:2])
    command = full_name if full_name in flat_commands() else argv[0]
    message = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        needed = error.argument.name
        given = needed.startswith("--") and needed in argv
        message = f"{needed} needs a value" if given else f"{command} needs {needed}"
    elif isinstance(error, UnknownOptionError):
        message = unknown_flag_message(error)
    elif isinstance(error, UnusedCliTokensError):
        message = f"{command} does not take {' '.join(map(repr, error.unused_tokens or []))}"
    message = message.removesuffix(".")
    separator = "" if message.endswith("?") else ";"
    return UsageError("invalid_arguments", f"{message}{separator} see: textus {command} --help")


def disk_full_message(error: BaseException) -> str:
    """The message for a full disk, an exceeded quota or a limit on file sizes, with the file and the remedy."""
    name = getattr(error, "filename", None)
    if getattr(error, "errno", None) == errno.EFBIG or f"os error {errno.EFBIG}" in str(error):
        why = "a file would be larger than may be (ulimit -f, or the file system); raise that limit"
    else:
        why = "no space left on the disk, or of your quota; free some"
    return f"{why}; a run keeps its last good checkpoint" + (f": {name}" if name else "")


def print_error(message: str, exit_code: int, code: str) -> int:
    """Print one line to standard error that ends with the code, after the traceback if TEXTUS_DEBUG is set."""
    if os.environ.get("TEXTUS_DEBUG"):
        import traceback

        traceback.print_exc()
    log_notice(f"textus: {' '.join(message.split())} [{code}]")
    return exit_code
