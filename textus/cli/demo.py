"""The whole pipeline on text that this machine already has; each step is a public command, printed with its reason."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.params import Force, option
from textus.core.console import log_notice
from textus.core.io import check_output_dir, mark_folder
from textus.core.locks import exclusive_lock

Folder = Annotated[Path, option("Where everything is made.", metavar="FOLDER")]


def demo(
    *,
    out: Folder = Path("demo"),
    serve: Annotated[bool, Parameter(help="Serve the page at the end.", negative="--no-serve")] = True,
    preset: Annotated[str, option("The decoder's time budget.")] = "1min",
    port: Annotated[int, option("The port of the page.")] = 8000,
    force: Force = False,
    dispatch: Annotated[Callable[[list[str]], int], Parameter(parse=False)],
) -> None:
    """Make a model from text this machine has, measure it, serve a page to try it.

    Example: textus demo
    """
    started = time.monotonic()
    check_output_dir(out, force=force, kind="demo")
    shutil.rmtree(out, ignore_errors=True)
    mark_folder(out, "demo")
    write_documents(out / "documents.jsonl")
    with exclusive_lock(out):
        for why, command in STEPS:
            run_step(dispatch, why, [argument.format(out=out, preset=preset) for argument in command.split()])
    print_summary(out, time.monotonic() - started)
    if serve:
        why, command = PAGE
        run_step(dispatch, why, [argument.format(out=out, port=port) for argument in command.split()])


def write_documents(path: Path) -> None:
    """The language reference and the standard library's docstrings, one document per line."""
    from textus.data.corpus import demo_documents

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for document in demo_documents():
            file.write(
                json.dumps({"text": document.text, "source": document.source}, ensure_ascii=False) + "\n"
            )


STEPS = [
    (
        "Text: Python's language reference and docstrings, repaired; a tenth is kept apart to measure on.",
        "corpus build {out}/documents.jsonl --out {out}/corpus",
    ),
    (
        "Tokens: byte-level BPE learns which pieces of words are frequent; nothing is unknown to it.",
        "tokenizer train {out}/corpus --kind bpe --vocab-size 4096 --out {out}/tokenizer",
    ),
    (
        "A yardstick: an n-gram counts what followed the last few tokens. A network has to beat it.",
        "train {out}/corpus --model ngram --tokenizer {out}/tokenizer --out {out}/ngram",
    ),
    (
        "The network: a Transformer decoder; its size and rates come from measuring this machine.",
        "train {out}/corpus --tokenizer {out}/tokenizer --preset {preset} --out {out}/decoder",
    ),
    (
        "Which is better: both predict the same bytes, which neither has seen; fewer bits are better.",
        "compare {out}/decoder {out}/ngram --out {out}/report",
    ),
    (
        "A sample: the decoder continues a text.",
        "generate {out}/decoder Returns --max-tokens 60 --seed 1",
    ),
]
"""The reason and the command of each step."""

PAGE = (
    "A page to try them in, and an OpenAI-compatible API behind it. Ctrl-C stops it.",
    "serve {out}/decoder {out}/ngram --port {port}",
)


def run_step(dispatch: Callable[[list[str]], int], why: str, argv: list[str]) -> None:
    """Show the reason and the command, then run it; a step that fails ends the demo with its exit code."""
    log_notice(f"\n# {why}\n$ textus {shlex.join(argv)}")
    original, sys.argv = sys.argv, ["textus", *argv]  # a run records the command that makes it
    try:
        code = dispatch(argv)
    finally:
        sys.argv = original
    if code:
        sys.exit(code)


def print_summary(out: Path, seconds: float) -> None:
    """Print what was made, how good it is, and how to start with one's own text."""
    comparison = json.loads((out / "report" / "comparison.json").read_text())
    lines = [
        "",
        f"Done in {seconds / 60:.1f} minutes. In {out}/:",
        "  corpus      the text, with where each document came from",
        "  tokenizer   text to numbers and back",
        "  ngram       a run: counts of what follows what",
        "  decoder     a run: a Transformer",
        "  report      comparison.html, for a browser",
        "",
        *(
            f"  {row['name']:10}{row['bits_per_byte']['value']:.3f} bits per byte"
            for row in comparison["rows"]
        ),
        f"Which is better: {' '.join(comparison['verdict'])}",
        "",
        "With your own text:",
        "  textus corpus build FOLDER --out work/corpus",
        "  textus train work/corpus --preset 10min --out work/run",
        '  textus generate work/run "It was a"',
    ]
    print("\n".join(lines), flush=True)
