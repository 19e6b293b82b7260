"""Textus: from raw text to a language model that is trained, measured and served, on an ordinary computer.

One straight line; every stage from `train` on reads a run folder and writes a run folder or a report::

    text ─ corpus ─ tokenizer ─ loader ─ model ─ train ─ run ─┬─ generate, chat
         documents    ids       batches  logits               ├─ evaluate, compare
                                                              └─ serve

In Python, the same verbs as on the command line::

    import textus

    corpus = textus.build_corpus("books/", out="work/corpus")
    run = textus.train(corpus, preset="10min", out="work/run")
    print(run.generate("It was a", max_tokens=50, temperature=0.8))
    print(run.evaluate()["bits_per_byte"])

Names are imported when first used, so that `import textus` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textus.api import (
        Run,
        build_corpus,
        compare,
        doctor,
        open_corpus,
        open_run,
        resume,
        show,
        train,
        train_tokenizer,
        validate,
        verify,
    )
    from textus.cli.using import serve
    from textus.common import TextusError
    from textus.generation import Sampling
    from textus.tokenizer import load as load_tokenizer

__all__ = [
    "Run",
    "Sampling",
    "TextusError",
    "build_corpus",
    "compare",
    "doctor",
    "load_tokenizer",
    "open_corpus",
    "open_run",
    "resume",
    "serve",
    "show",
    "train",
    "train_tokenizer",
    "validate",
    "verify",
]

ELSEWHERE = {
    "Sampling": ("textus.generation", "Sampling"),
    "TextusError": ("textus.common", "TextusError"),
    "serve": ("textus.cli.using", "serve"),
    "load_tokenizer": ("textus.tokenizer", "load"),
}
"""Public names that do not live in `textus.api`: module and name there."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("textus")
    if name not in __all__:
        raise AttributeError(f"module 'textus' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module, attribute = ELSEWHERE.get(name, ("textus.api", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
