"""The tree of commands: names → functions, which import what they need when they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cyclopts import App

from textus.cli.asking import ask, index_calibrate
from textus.cli.augment import augment, cloze, fewshot, tune
from textus.cli.chat import chat
from textus.cli.corpus import corpus_build, corpus_show, corpus_trace, tokenizer_report, tokenizer_train
from textus.cli.demo import demo
from textus.cli.exchange import export, import_, pull
from textus.cli.index import embed, index_add, index_build, index_evaluate, index_remove, search
from textus.cli.inference import (
    compare,
    doctor,
    evaluate,
    generate,
    predict,
    robustness,
    serve,
    show,
    triples,
    verify,
)
from textus.cli.rewriting import summarize, translate
from textus.cli.train import bench, finetune, resume, train
from textus.cli.validate import validate
from textus.core.plugins import load_plugins

COMMANDS: dict[str, Callable[..., Any] | dict[str, Callable[..., Any]]] = {
    "demo": demo,
    "corpus": {"build": corpus_build, "show": corpus_show, "trace": corpus_trace},
    "tokenizer": {"train": tokenizer_train, "report": tokenizer_report},
    "train": train,
    "resume": resume,
    "validate": validate,
    "augment": augment,
    "cloze": cloze,
    "finetune": finetune,
    "tune": tune,
    "predict": predict,
    "triples": triples,
    "translate": translate,
    "summarize": summarize,
    "fewshot": fewshot,
    "embed": embed,
    "index": {
        "build": index_build,
        "add": index_add,
        "remove": index_remove,
        "evaluate": index_evaluate,
        "calibrate": index_calibrate,
    },
    "search": search,
    "ask": ask,
    "generate": generate,
    "chat": chat,
    "evaluate": evaluate,
    "robustness": robustness,
    "compare": compare,
    "import": import_,
    "export": export,
    "pull": pull,
    "serve": serve,
    "show": show,
    "verify": verify,
    "doctor": doctor,
    "bench": bench,
}
"""In the order in which a model is made; a dictionary is a group of commands."""


SMALLER = "train a smaller model (textus train CORPUS --depth 2), or import one that is quantized (GGUF)"
PLANNED = {
    "compress": SMALLER,
    "quantize": SMALLER,
    "quantise": SMALLER,
    "prune": SMALLER,
    "distill": SMALLER,
    "distil": SMALLER,
    "explain": "see where a run is wrong: textus evaluate RUN --on FILE --out FOLDER",
    "privacy": "remove personal data before textus corpus build",
    "anonymize": "remove personal data before textus corpus build",
    "onnx": "textus export RUN --to hf",
    "distribute": "training uses one machine",
}
"""Planned commands (see the README) → what to do today."""
PLANNED_FLAGS = {
    "--workers": "the number of workers is measured with --preset, and kept in the run",
    "--jobs": "the number of workers is measured with --preset, and kept in the run",
    "--api-key": "the server has no keys; it listens on this machine unless --host opens it",
    "--keys": "the server has no keys; it listens on this machine unless --host opens it",
    "--device": "a GPU that torch can use is taken by itself (textus doctor names it)",
    "--gpu": "a GPU that torch can use is taken by itself (textus doctor names it)",
    "--int8": SMALLER,
    "--int4": SMALLER,
}
"""Flags that users expect and that do not exist → the alternative."""


def all_commands() -> dict[str, Callable[..., Any] | dict[str, Callable[..., Any]]]:
    """The built-in commands, then those that installed packages register under `textus.commands`: functions, whose
    docstrings are their help.
    """
    return COMMANDS | load_plugins("textus.commands", COMMANDS)


def build_app(
    commands: Mapping[str, Callable[..., Any] | dict[str, Callable[..., Any]]] | None = None,
) -> App:
    """The command-line parser. `textus.cli.main` prints help and versions itself, so that rich is never
    imported."""
    app = create_node("textus")
    for name, command in (commands or all_commands()).items():
        if isinstance(command, dict):
            group = create_node(name)
            for subcommand, function in command.items():
                group.command(function, name=subcommand, help_flags=[], version_flags=[])
            app.command(group)
        else:
            app.command(command, name=name, help_flags=[], version_flags=[])
    return app


def create_node(name: str) -> App:
    """A parser node without flags of its own."""
    return App(name=name, help_flags=[], version_flags=[], suppress_keyboard_interrupt=False)
