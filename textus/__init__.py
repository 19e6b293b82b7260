"""Textus: from raw text to a language model that is trained, evaluated and served, on an ordinary computer.

One pipeline; every stage from `train` on reads a run folder and writes a run folder or a report::

    text ─ corpus ─ tokenizer ─ loader ─ model ─ train ─ run ─┬─ generate, chat
         documents    ids       batches  logits               ├─ evaluate, compare
                                                              └─ serve

In Python, one function per command of the command line::

    import textus

    corpus = textus.build_corpus("books/", out="work/corpus")
    run = textus.train(corpus, preset="10min", out="work/run")
    print(run.generate("It was a", max_tokens=50, temperature=0.8))
    print(run.evaluate()["bits_per_byte"])

    reviews = textus.finetune("reviews.csv", model="lstm", out="work/reviews")
    print(reviews.predict("A film to remember.")["label"])
    reviews.predict_file("new.csv", out="work/predictions.csv")

A string is one text and has one prediction; lists, DataFrames and files (a `Path`) have a list of them. Labelled rows
are a file, dictionaries, a DataFrame or a pair (X, y). Options are keywords, or a config object such as
`PretrainConfig`. What cannot be used raises a `TextusError`.

Names are imported when first used, so that `import textus` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textus.api import *  # noqa: F403


class Package(ModuleType):
    """The package: the function `augment` keeps its name when the subpackage of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "augment" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("textus")
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'textus' has no attribute {name!r}")
    api = import_module("textus.api")
    if name not in ("__all__", *api.__all__):
        raise AttributeError(f"module 'textus' has no attribute {name!r}; it has: {', '.join(api.__all__)}")
    return getattr(api, name)


def __dir__() -> list[str]:
    return [*import_module("textus.api").__all__, "__version__"]
