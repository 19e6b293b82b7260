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

    reviews = textus.finetune("reviews.csv", model="lstm", out="work/reviews")
    print(reviews.predict("A film to remember.")["label"])
    reviews.predict_file("new.csv", out="work/predictions.csv")

A string is one text and has one answer; lists, DataFrames and files (a `Path`) have a list of answers. Labelled rows
are a file, dictionaries, a DataFrame or a pair (X, y). What cannot be used raises a `TextusError`.

Names are imported when first used, so that `import textus` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textus.api import (
        Run,
        augment,
        build_corpus,
        build_index,
        cloze,
        compare,
        doctor,
        embed,
        evaluate,
        evaluate_together,
        export_model,
        fewshot,
        finetune,
        generate,
        import_model,
        load_tokenizer,
        open_corpus,
        open_index,
        open_run,
        predict,
        predict_together,
        prove_resume,
        pull_model,
        resume,
        show,
        train,
        train_tokenizer,
        tune,
        validate,
        verify,
    )
    from textus.cli.inference import serve
    from textus.core.errors import TextusError
    from textus.generation.sampling import SamplingParams
    from textus.pipelines.search_index import Index

__all__ = [
    "Index",
    "Run",
    "SamplingParams",
    "TextusError",
    "augment",
    "build_corpus",
    "build_index",
    "cloze",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "evaluate_together",
    "export_model",
    "fewshot",
    "finetune",
    "generate",
    "import_model",
    "load_tokenizer",
    "open_corpus",
    "open_index",
    "open_run",
    "predict",
    "predict_together",
    "prove_resume",
    "pull_model",
    "resume",
    "serve",
    "show",
    "train",
    "train_tokenizer",
    "tune",
    "validate",
    "verify",
]

ELSEWHERE = {
    "Index": ("textus.pipelines.search_index", "Index"),
    "SamplingParams": ("textus.generation.sampling", "SamplingParams"),
    "TextusError": ("textus.core.errors", "TextusError"),
    "serve": ("textus.cli.inference", "serve"),
}
"""Public names that do not live in `textus.api`: module and name there."""


class Package(ModuleType):
    """The package: a verb keeps its name where a module of it has the same, such as `augment`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("textus")
    if name not in __all__:
        raise AttributeError(f"module 'textus' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module, attribute = ELSEWHERE.get(name, ("textus.api", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
