"""The `Example:` of every public function runs as printed, and every command of the command line is such a function."""

from __future__ import annotations

import csv
import doctest
import inspect
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

import textus
from textus import api
from textus.cli.help import flat_commands

DOG = "the dog sat on the log and the cat sat on the mat"
FILMS = [
    (f"a {word} film {i}", label) for i in range(8) for word, label in (("good", "good"), ("bad", "bad"))
]


def write_csv(path: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of all examples: the files and runs they are about."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("examples")
        patch.chdir(path)
        Path("books").mkdir()
        for name in ("one", "two", "three"):
            Path(f"books/{name}.txt").write_text(
                f"Book {name}.\n\n" + f"{DOG} {name}.\n" * 40, encoding="utf-8"
            )
        rows = [("a good film", "good"), ("a bad film", "bad")]
        rows += [(f"a {label} film, number {i}", label) for i in range(15) for label in ("good", "bad")]
        write_csv("reviews.csv", ("text", "label"), rows)
        write_csv(
            "films.csv", ("text",), [("a good film",), ("a bad film",), ("a long play",), ("a short book",)]
        )
        write_csv(
            "queries.csv", ("text", "document"), [("good film", "a good film"), ("bad film", "a bad film")]
        )
        vectors = ["good 1 0 0", "fine 1 0.1 0", "bad 0 1 0", "poor 0 1 0.1", "film 0 0 1", "movie 0 0.1 1"]
        Path("vectors.txt").write_text("\n".join(vectors) + "\n", encoding="utf-8")
        textus.build_corpus("books", out="work/corpus")
        small = {
            "tokenizer": "char",
            "steps": 4,
            "overrides": ["model.n_layer=1", "model.d_model=16", "model.n_head=2"],
        }
        textus.train("work/corpus", out="work/run", **small)
        textus.train("work/corpus", out="work/run2", **small, seed=1)
        textus.export("work/run", out="work/exported")
        textus.finetune("reviews.csv", out="work/reviews", model="linear")
        textus.finetune("reviews.csv", out="work/reviews2", model="linear", seed=1)
        textus.build_index("films.csv", out="work/index", bm25=True)
        numbers = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
        pairs = [
            (" ".join(text), " ".join(numbers[word] for word in text)) for text in product(numbers, repeat=2)
        ]
        pairs += [*numbers.items()]
        write_csv("numbers.csv", ("source", "target"), pairs * 12)
        titles = [
            (f"{one} {two} {three}. A long text.", numbers[one])
            for one, two, three in product(numbers, repeat=3)
        ]
        write_csv("titles.csv", ("source", "target"), titles * 3)
        for file, out, goal in (
            ("numbers.csv", "numbers", "translate"),
            ("titles.csv", "headlines", "summarize"),
        ):
            settings = [
                f"task.goal={goal}",
                "task.beams=2",
                "model.n_layer=1",
                "model.d_model=32",
                "model.dropout=0",
            ]
            textus.finetune(
                file,
                out=f"work/{out}",
                task="text2text",
                model="encoder-decoder",
                epochs=25,
                overrides=settings,
            )
        yield path


EXAMPLES = {
    name: match[1]
    for name in api.__all__
    if inspect.isfunction(getattr(api, name))
    and (match := re.search(r"Example:\n((?: {4}.*\n?|\n)+)", inspect.getdoc(getattr(api, name)) or ""))
}
SKIPPED = {"pull": "downloads a model", "serve": "does not end", "triples": "needs two trained taggers"}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SKIPPED])
def test_the_example_of_a_function_runs_as_printed(name: str, folder: Path) -> None:
    parser = doctest.DocTestParser()
    test = parser.get_doctest(EXAMPLES[name], {"textus": textus, "Path": Path}, name, None, None)
    assert test.examples
    output = list[str]()
    result = doctest.DocTestRunner(verbose=False).run(test, out=output.append)
    assert result.failed == 0, "".join(output)


def test_a_wrong_example_is_seen(folder: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        ">>> textus.show('work/run')['family']\n'ngram'\n", {"textus": textus}, "", None, None
    )
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1


def test_every_function_has_an_example() -> None:
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    assert functions == set(EXAMPLES)


COMMAND_FUNCTIONS = {
    "demo": None,
    "bench": None,
    "corpus build": "build_corpus",
    "corpus show": "show_corpus",
    "corpus trace": "trace_corpus",
    "tokenizer train": "train_tokenizer",
    "tokenizer report": "report_tokenizer",
    "index build": "build_index",
    "index add": "add_to_index",
    "index remove": "remove_from_index",
    "index calibrate": "calibrate_index",
    "index evaluate": "evaluate_index",
    "import": "import_model",
}
"""Command → its function where that has another name; None: a program, not a step of one."""


@pytest.mark.parametrize("command", flat_commands())
def test_every_command_is_a_function_of_the_package(command: str) -> None:
    name = COMMAND_FUNCTIONS.get(command, command)
    assert name is None or name in EXAMPLES, f"textus {command} has no function; add it to textus.api"
