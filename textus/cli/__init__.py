"""The command line: find the verb, run it, and tell what happened in the words of the person who typed.

Exit codes: 0 done, 1 the work failed, 2 the words were wrong, 130 stopped by Ctrl-C. Errors are one line on
standard error; TEXTUS_DEBUG=1 shows where they were raised. With `--json` standard output holds one object
and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

from cyclopts import App, CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from textus.arguments import STDIN
from textus.cli.app import VERBS, build_app
from textus.cli.help import flat_verbs, overview, page
from textus.cli.options import Answer
from textus.common import TextusError, UsageError, notice, unknown

HELP = ("--help", "-h")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and never raises for what a person can cause."""
    try:
        code = run(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return failed("stopped", 130)
    except BrokenPipeError:  # the reader of our output has gone: `textus … | head`
        give_up_output()
        return 0
    except TextusError as error:
        return failed(str(error), error.exit_code)
    except CycloptsError as error:
        return failed(str(error), 2)
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            give_up_output()
        return failed(system_trouble(error), 1)
    except MemoryError:
        return failed("out of memory; use a smaller model, batch or context (--set model.d_model=…)", 1)
    except Exception as error:
        return failed(
            f"unexpected {type(error).__name__}: {error}; TEXTUS_DEBUG=1 shows where; please report it", 1
        )


def give_up_output() -> None:
    """Point standard output at nothing, so that what it still holds is not tried again at exit."""
    with contextlib.suppress(OSError, ValueError):  # no real file behind it: a test, a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(words: list[str]) -> int:
    """Answer help and version, else parse, work and print."""
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"textus {version('textus')}")
        return 0
    app = build_app()
    asked = words[: words.index("--")] if "--" in words else words
    if not words or any(word in HELP for word in asked):
        print(help_text(app, [word for word in asked if word not in HELP]))
        return 0
    return work(app, words)


def help_text(app: App, words: list[str]) -> str:
    """The page for the verb named by the first words: all verbs, a noun's verbs, or one verb."""
    if not words:
        return overview()
    two = " ".join(words[:2])
    if two in flat_verbs():
        return page(app, two)
    if words[0] not in VERBS:
        raise unknown("verb", words[0], VERBS)
    verb = VERBS[words[0]]
    if not isinstance(verb, dict):
        return page(app, words[0])
    if len(words) > 1 and not words[1].startswith("-"):
        raise unknown(f"verb of {words[0]}", words[1], verb)
    return overview(words[0])


def work(app: App, words: list[str]) -> int:
    """Parse the words, run the verb, print its answer; standard output is kept clean for `--json`."""
    if words[0] in VERBS and isinstance(VERBS[words[0]], dict) and len(words) == 1:
        print(overview(words[0]))
        return 0
    try:
        command, bound, _ = app.parse_args(with_stdin(words), print_error=False, exit_on_error=False)
    except UnknownCommandError as error:
        raise unknown_verb(words) from error
    except CycloptsError as error:
        raise UsageError(explained(error, words)) from error
    as_json = bool(bound.arguments.get("as_json"))
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        answer = command(*bound.args, **bound.kwargs)
    if isinstance(answer, Answer):
        text = json.dumps(answer.data, ensure_ascii=False, default=str) if as_json else answer.text
        # a lone surrogate, as in a file name that is not UTF-8, as its escape
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
        return answer.exit_code
    return answer if isinstance(answer, int) else 0


def with_stdin(words: list[str]) -> list[str]:
    """A single - where a text may stand, as the name of standard input: the parser takes it for an option."""
    if words[0] not in ("predict", "generate"):
        return words
    found = list(words)
    for place, (before, word) in enumerate(pairwise(words), 1):
        if word == "-" and (not before.startswith("--") or before in ("--json", "--force", "--text")):
            found[place] = STDIN
    return found


def unknown_verb(words: list[str]) -> UsageError:
    """The nearest verb, or the nearest verb of a noun."""
    inner = VERBS.get(words[0])
    if isinstance(inner, dict):
        return unknown(f"verb of {words[0]}", words[1], inner)
    return unknown("verb", words[0], VERBS)


def explained(error: CycloptsError, words: list[str]) -> str:
    """What is wrong with the words, and where the flags are explained."""
    verb = " ".join(words[:2]) if " ".join(words[:2]) in flat_verbs() else words[0]
    message = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        needed = error.argument.name
        given = needed.startswith("--") and needed in words
        message = f"{needed} needs a value" if given else f"{verb} needs {needed}"
    elif isinstance(error, UnusedCliTokensError):
        message = f"{verb} does not take {' '.join(map(repr, error.unused_tokens or []))}"
    message = message.removesuffix(".")
    return f"{message}{'' if message.endswith('?') else ';'} see: textus {verb} --help"


def system_trouble(error: OSError) -> str:
    """What the operating system refused, with the file and what to do."""
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; free some; a run keeps its last good checkpoint"
    return f"{error.strerror or error}{where}"


def failed(message: str, code: int) -> int:
    """One line on standard error; the traceback too where TEXTUS_DEBUG asks for it."""
    if os.environ.get("TEXTUS_DEBUG"):
        import traceback

        traceback.print_exc()
    notice("textus: " + " ".join(message.split()))
    return code
