"""Every function of the Python API with every kind of value as its first argument: it works, or fails in one line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from raising import raises

import textus
from textus import api
from textus.core.errors import TextusError, UsageError

ROWS = [{"text": f"film {i} was {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(12)]
NOT_PATHS: dict[str, Any] = {
    "list": ["a", "b"], "rows": ROWS, "dict": {"text": "a"}, "none": None, "int": 3, "bytes": b"x",
    "pair": (["a"], ["b"]), "nothing": [], "empty": "", "object": object(), "set": {"a"},
}  # fmt: skip
NO_ARGUMENTS = ("doctor", "serve")
WORKS = {("finetune", "rows"), ("tune", "rows"), ("build_corpus", "list"), ("pull", "list")}
FURTHER: dict[str, dict[str, Any]] = {
    "predict": {"given": "x"}, "embed": {"given": "x"}, "generate": {"given": ["x"]}, "evaluate": {"on": "x"},
    "ensemble_evaluate": {"on": "x"}, "ensemble_predict": {"given": "x"}, "build_index": {"bm25": True},
    "fewshot": {"data": "x", "on": "y"}, "finetune": {"model": "linear"}, "tune": {"model": "linear", "trials": 1},
    "train": {"model": "ngram"},
    "chat": {"messages": [{"role": "user", "content": "x"}]}, "search": {"query": "x"},
    "trace_corpus": {"document": "x"}, "ask": {"question": "x"}, "add_to_index": {"files": ["x"]},
    "remove_from_index": {"files": ["x"]}, "calibrate_index": {"on": "x"}, "evaluate_index": {"on": "x"},
    "triples": {"entities": "x", "relations": "x"}, "translate": {"given": "x"}, "summarize": {"given": "x"},
    "robustness": {"on": "x"}, "report_tokenizer": {"corpus": "x"}, "iter_predictions": {"given": "x"},
}  # fmt: skip
FUNCTIONS = [
    name
    for name in textus.__all__
    if name not in NO_ARGUMENTS and name != "pull" and not inspect.isclass(getattr(textus, name))
]


def first_result(result: Any) -> Any:
    """What a function returns, or the first thing that a generator yields."""
    return next(result) if inspect.isgenerator(result) else result


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.finetune(ROWS, model="linear", out=tmp_path_factory.mktemp("linear") / "run")


@pytest.mark.parametrize("kind", NOT_PATHS)
def test_what_is_no_path_is_refused_by_every_verb(kind: str, tmp_path: Path) -> None:
    for function in FUNCTIONS:
        if (function, kind) in WORKS or (function, kind) == ("build_corpus", "empty"):
            continue
        call = getattr(textus, function)
        how = dict(FURTHER.get(function, {}))
        if "out" in inspect.signature(call).parameters:
            how["out"] = tmp_path / ("search" if function == "tune" else "out.jsonl")
        with pytest.raises(TextusError) as error:
            first_result(call(NOT_PATHS[kind], **how))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out.jsonl").exists(), function
        assert not list(tmp_path.glob("*.rows.jsonl")), function


@pytest.mark.parametrize("kind", NOT_PATHS)
def test_what_is_no_text_is_refused_by_a_run(kind: str, trained: Path) -> None:
    run, value = api.open_run(trained), NOT_PATHS[kind]
    for function in ("chat", "generate", "score", "get_task", "robustness"):
        if kind == "empty" and function in ("generate", "score"):
            continue  # an empty text is one
        with pytest.raises(UsageError) as error:
            getattr(run, function)(value)
        assert "\n" not in str(error.value)
    with raises(UsageError, "wrong_type"):
        run.chat("hi")  # type: ignore[arg-type]


def test_a_run_is_as_good_as_its_path(linear: api.Run, trained: Path, tmp_path: Path) -> None:
    assert textus.verify(linear) == textus.verify(linear.path)
    assert textus.load_tokenizer(linear).fingerprint == linear.tokenizer.fingerprint
    assert textus.ensemble_predict([linear, linear], "was good")["label"] == 1
    texts = textus.generate(trained, ["a", "b"], out=tmp_path / "o.jsonl", max_tokens=1)
    assert texts["rows"] == 2
    with raises(UsageError, "wrong_number_of_texts"):
        textus.generate(trained, [("a", "b")], out=tmp_path / "p.jsonl")
    with raises(UsageError, "missing_argument"):
        textus.compare(linear, on=ROWS)
