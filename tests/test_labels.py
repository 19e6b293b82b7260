"""Labels as users' files have them: numbers, truth values, lists, separators (D16, D17), held-out rows (D18)."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from labelled import written
from raising import raises

from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.labeled import Record, stream_records
from textus.data.skipping import BadRows
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.data import hold_out, read_data, split_rows
from textus.tasks.classification import Classification, ClassificationSettings
from textus.tasks.labels import (
    find_separator,
    label_name,
    likely_typos,
    merge_spellings,
    parse_list,
    similar_names,
)
from textus.tasks.registry import task_class


def records(labels: list[Any], text: Callable[[int], str] = "text {}".format) -> list[Record]:
    return [Record({"text": text(n), "label": label}, f"row {n}") for n, label in enumerate(labels)]


def table(path: Path, labels: list[Any]) -> Path:
    """The labels as csv, jsonl or parquet, by the name."""
    rows = [{"text": f"text number {n}", "label": label} for n, label in enumerate(labels)]
    if path.suffix == ".csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(out.getvalue(), newline="")
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ── D16: one class ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Robustness",
    "Values of one number are one class in csv, jsonl and parquet; separators of several labels are "
    "recognised and reported",
)
@pytest.mark.parametrize(
    ("suffix", "labels", "expected"),
    [
        ("csv", ["1", "1.0", "0", "0.0", "1"], ["0", "1"]),
        ("csv", ["1.0", "2.00", "1", "2.5"], ["1", "2.00", "2.5"]),
        ("csv", ["True", "true", "FALSE", "False"], ["false", "true"]),
        ("csv", ["1", "True", "0", "false"], ["0", "1"]),
        ("csv", ["1", "True", "2", "2"], ["1", "2", "True"]),
        ("csv", ["007", "7", "7.0"], ["007", "7"]),
        ("csv", ["1e2", "100", "3"], ["3", "100"]),
        ("csv", ["9007199254740992", "9007199254740993"], ["9007199254740992", "9007199254740993"]),
        ("csv", ["one", " one", "two"], ["one", "two"]),
        ("jsonl", [1, 1.0, "1", 0, "0.0"], ["0", "1"]),
        ("jsonl", [True, "True", False, "false"], ["false", "true"]),
        ("jsonl", [True, 1, 0, False], ["0", "1"]),
        ("parquet", [1.0, 0.0, 1.0], ["0", "1"]),
        ("parquet", [Decimal("1.50"), Decimal("2.00")], ["1.50", "2.00"]),
        ("parquet", ["1", "1.0", "0"], ["0", "1"]),
    ],
)  # fmt: skip
def test_values_of_one_number_are_one_class(
    suffix: str, labels: list[Any], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D16, in every reader; what was merged is reported with counts."""
    given = list(stream_records(table(tmp_path / f"rows.{suffix}", labels)))
    task = Classification.from_records(ClassificationSettings(), given)
    assert task.labels == expected
    examples = task.make_examples(given, labelled=True)
    assert Counter(example.label for example in examples) == dict(
        zip(task.labels, task.label_counts, strict=True)
    )
    ways = len({repr(label) for label in labels})
    assert ("labels written in several ways" in capsys.readouterr().err) == (ways > len(expected))


def test_a_file_written_otherwise_is_scored_by_the_same_classes(capsys: pytest.CaptureFixture[str]) -> None:
    task = Classification(ClassificationSettings(), ["0", "1"])
    examples = task.make_examples(records(["1.0", 0, True, "false", "2"]), labelled=True)
    assert [example.label for example in examples] == ["1", "0", "1", "0", "2"]
    assert "1 labels were never seen in training (2)" in capsys.readouterr().err
    truths = Classification(ClassificationSettings(), ["False", "True"])
    assert [example.label for example in truths.make_examples(records([1, "true", 0]), labelled=True)] == [
        "True",
        "True",
        "False",
    ]


def test_counts_of_what_was_merged_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D16 by the command."""
    labels = [("1", "0")[n % 2] + ("" if n % 3 else ".0") for n in range(60)]
    data = table(tmp_path / "fl.csv", labels)
    assert main(["finetune", str(data), "--model", "linear", "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["labels"] == ["0", "1"]
    assert sum(record["label_counts"]) == 54
    assert "'1.0' " in capsys.readouterr().err


@pytest.mark.parametrize("label", ["", "  ", None, float("nan"), [], {}, b"x"])
def test_labels_that_name_nothing_are_refused(label: Any) -> None:
    with raises(DataError, "invalid_row", "row 7"):
        label_name(label, "row 7")


def test_names_that_look_like_one_are_reported_not_merged() -> None:
    counts = Counter(
        {"Pos": 3, "pos": 50, "ｐｏｓ": 1, "po\u200bs": 1, "new york": 4, "new_york": 2, "-1": 5, "1": 5}
    )
    assert merge_spellings(counts) == {name: name for name in counts}
    assert similar_names(counts) == [["pos", "Pos", "ｐｏｓ", "po\u200bs"], ["new york", "new_york"]]
    often = Counter(
        {"positive": 90, "postive": 2, "positvie": 1, "negative": 80, "class10": 90, "class11": 2, "ab": 1}
    )
    assert set(likely_typos(often)) == {("postive", "positive"), ("positvie", "positive")}


# ── D17: several labels ────────────────────────────────────────────────────────────────────────

MULTI = ClassificationSettings(multi=True)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["pos|film", "neg|film"], ["film", "neg", "pos"]),
        (["pos, film", "neg, film"], ["film", "neg", "pos"]),
        (["pos;film", "neg;film"], ["film", "neg", "pos"]),
        (["正面，电影", "负面，电影"], ["正面", "电影", "负面"]),
        (["a|b, c", "b, c|a"], ["a", "b, c"]),
        (["a", "b", "a,b", "c", "b,c", "a,c", "c", "a"], ["a", "b", "c"]),
        (["Smith, John", "Miller", "Jones", "Brown"], ["Brown", "Jones", "Miller", "Smith, John"]),
        ([["a", "b"], ["b"], []], ["a", "b"]),
        (["['neg', 'en']", "['pos', 'en']"], ["en", "neg", "pos"]),
        (['["neg", "e\\u006e"]', "[]", '["pos"]'], ["en", "neg", "pos"]),
        (["['neg' 'en']", '["it\'s", "pos"]'], ["en", "it's", "neg", "pos"]),
        (["a|a", "b|a "], ["a", "b"]),
    ],
)  # fmt: skip
def test_separators_are_recognised(labels: list[Any], expected: list[str]) -> None:
    given = records(labels)
    task = Classification.from_records(MULTI, given)
    assert sorted(task.labels) == sorted(expected)
    assert {name for example in task.make_examples(given, labelled=True) for name in example.label} == set(
        expected
    )


def test_the_separator_is_reported_kept_and_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    """D17: what was recognised is a line; a row alone is read as those the classes are from."""
    task = Classification.from_records(MULTI, records(["pos, film", "neg, film"]))
    assert "labels are separated by ',', which 2 of 2 rows have" in capsys.readouterr().err
    assert task.settings.separator == ","
    (example,) = task.make_examples(records(["film, pos"]), labelled=True)
    assert example.label == ("film", "pos")
    chosen = Classification.from_records(
        ClassificationSettings(multi=True, separator="/"), records(["a/b,c", "b,c/d"])
    )
    assert chosen.labels == ["a", "b,c", "d"]
    assert capsys.readouterr().err == ""
    Classification.from_records(MULTI, records(["a", "b"]))
    assert "no row has a bar" in capsys.readouterr().err
    with raises(UsageError, "incompatible_settings"):
        Classification.from_records(ClassificationSettings(separator=","), records(["a", "b"]))


def test_a_list_of_one_label_is_that_label() -> None:
    """D17: doccano writes one label as a list."""
    given = records([["pos"], "['neg']", "pos"])
    task = Classification.from_records(ClassificationSettings(), given)
    assert [example.label for example in task.make_examples(given, labelled=True)] == ["pos", "neg", "pos"]
    with raises(DataError, "invalid_row", "row 1", "2"):
        Classification.from_records(ClassificationSettings(), records([["pos"], ["pos", "neg"]]))


@pytest.mark.parametrize("text", ["[INST]", "[a, b]", "(1, 2)", "['a', ['b']]", "['a", "a]", ""])
def test_other_texts_are_no_lists(text: str) -> None:
    assert parse_list(text, quoted=True) is None


def test_no_separator_is_found_among_plain_names() -> None:
    assert find_separator(["News, World", "Sport", "Business", "Sci/Tech"]) is None


# ── D18: held-out rows ─────────────────────────────────────────────────────────────────────────

DATA: dict[str, Callable[[int], dict[str, Any]]] = {
    "classification": lambda n: {"text": f"film {n}", "label": n % 3},
    "regression": lambda n: {"text": f"film {n}", "score": n % 5},
    "similarity": lambda n: {"text": f"film {n}", "text_pair": f"movie {n}", "score": n % 5},
    "question-answering": lambda n: {
        "question": f"which {n}?", "context": f"It is number {n // 3}.",
        "answers": {"text": ["It"], "answer_start": [0]},
    },
    "tagging": lambda n: {"tokens": ["Ann", "left", str(n)], "tags": ["B-P", "O", "O"]},
    "relations": lambda n: {
        "text": f"Ann met Bob {n}", "entities": [[0, 3, "p"], [8, 11, "p"]],
        "relations": [{"head": 0, "relation": "met", "tail": 1}] if n % 2 else [],
    },
}  # fmt: skip


@pytest.mark.promise("Robustness", "Some rows are held out and some are left, for every seed, in every task")
@pytest.mark.parametrize("name", DATA)
def test_some_rows_are_held_out_and_some_are_left_for_every_seed(name: str) -> None:
    """D18: 200 seeds, up to 60 rows."""
    cls = task_class(name)
    settings = cls.config()
    least = max(
        cls.min_rows, {"similarity": 4, "relations": 4}.get(name, 0)
    )  # two scores, two relations, in each part
    for n_rows in (least, least + 1, 7, 12, 20, 60):
        given = [Record(DATA[name](n), f"row {n}") for n in range(n_rows)]
        for seed in range(200 if n_rows in (12, 60) else 30):
            train, held = hold_out(
                cls, settings, given, FinetuneConfig(data=Path("rows"), task=name, seed=seed)
            )
            assert held
            assert train
            assert len(held) + len(train) == n_rows
            assert abs(len(held) - n_rows / 10) <= (3 if name == "question-answering" else 2)
            assert cls.can_split(settings, train, held), (n_rows, seed)


@pytest.mark.parametrize("name", ["classification", "tagging", "question-answering"])
@pytest.mark.parametrize("n_rows", [3, 12, 60])
def test_rows_that_share_their_text_are_held_out_too(
    name: str, n_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """D18: all rows had the same tokens, and none was held out, or all."""
    alike = {
        "classification": lambda n: {"text": "film", "label": "ab"[n % 2]},
        "tagging": lambda n: {"tokens": ["Ann", "left"], "tags": [("B-P", "B-Q")[n % 2], "O"]},
        "question-answering": lambda n: DATA[name](0) | {"question": f"which {n}?"},
    }
    cls = task_class(name)
    given = [Record(alike[name](n), f"row {n}") for n in range(n_rows)]
    for seed in range(30):
        train, held = hold_out(
            cls, cls.config(), given, FinetuneConfig(data=Path("rows"), task=name, seed=seed)
        )
        assert len(held) == max(1, round(n_rows / 10))
        assert len(train) == n_rows - len(held)
    assert "rows have the same" in capsys.readouterr().err


def test_no_class_vanishes_from_the_rows_to_learn_from() -> None:
    given = records([f"class {n % 12}" for n in range(18)])
    for seed in range(200):
        train, held = hold_out(
            Classification,
            ClassificationSettings(),
            given,
            FinetuneConfig(data=Path("rows"), task="x", seed=seed),
        )
        assert {record.values["label"] for record in train} == {f"class {n}" for n in range(12)}
        assert len(held) == 2


def test_copies_stay_with_their_rows_and_more_rows_move_few() -> None:
    given = records(list("ab") * 200)
    first = {record.where for record in split_rows(given, 0)[1]}
    assert len(first) == 40
    again = {record.where for record in split_rows(given[::-1], 0)[1]}
    assert again == first
    assert (
        len(
            first
            & {record.where for record in split_rows([*given, *records(["c"] * 10, "new {}".format)], 0)[1]}
        )
        >= 38
    )


@pytest.mark.parametrize("name", DATA)
def test_too_few_rows_are_named_with_the_number_and_the_remedy(name: str, tmp_path: Path) -> None:
    cls = task_class(name)
    data = written(tmp_path / "rows.jsonl", [DATA[name](n) for n in range(cls.min_rows - 1)])
    pattern = rf"has {cls.min_rows - 1} rows?: {name} needs at least {cls.min_rows} .*--dev FILE"
    with pytest.raises(DataError, match=pattern):
        read_data(cls, cls.config(), FinetuneConfig(data=data, task=name))


@pytest.mark.parametrize("name", ["similarity", "relations"])
def test_rows_that_differ_too_little_to_be_split_are_named(name: str, tmp_path: Path) -> None:
    cls = task_class(name)
    data = written(tmp_path / "rows.jsonl", [DATA[name](n) for n in range(2)])
    with raises(DataError, "too_few_rows", "2"):
        read_data(cls, cls.config(), FinetuneConfig(data=data, task=name))


# ── D24: all bad rows ──────────────────────────────────────────────────────────────────────────

BAD: dict[str, list[dict[str, Any]]] = {
    "classification": [{"label": ""}, {"label": None}, {"text": None}, {"label": ["a", "b"]}],
    "regression": [{"score": "good"}, {"score": "1,5"}, {"score": None}, {"score": True}, {"score": "1_000"}],
    "similarity": [{"score": "much"}, {"text_pair": None}, {"score": ""}],
    "question-answering": [
        {"answers": {"text": ["Rome"], "answer_start": [3]}}, {"answers": {"text": [""], "answer_start": [0]}},
        {"context": None}, {"answers": "It"}, {"answers": {"text": ["It"], "answer_start": [None]}},
    ],
    "tagging": [{"tags": ["O"]}, {"tags": None}, {"tokens": ["a", "", "c"]}, {"tags": ["O", "O", 1]}],
    "relations": [
        {"entities": [[0, 3, "p"], [5, 5, "p"]]}, {"relations": [{"head": 0, "relation": "met", "tail": 7}]},
        {"entities": [[0, 300, "p"]]}, {"relations": None},
    ],
}  # fmt: skip


@pytest.mark.promise(
    "Robustness",
    "All bad rows are listed at once and can be left out; contradictory labels are reported, in every task",
)
@pytest.mark.parametrize("name", BAD)
def test_all_bad_rows_are_listed_and_can_be_left_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D24: every bad row by its line, at once; left out where that is asked, and reported."""
    cls = task_class(name)
    rows = [DATA[name](n) for n in range(40)]
    places = [3 + 4 * n for n in range(len(BAD[name]))]
    for place, change in zip(places, BAD[name], strict=True):
        rows[place] |= change
    data = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(BadRows) as caught:
        read_data(cls, cls.config(), FinetuneConfig(data=data, task=name))
    assert [row.where.rpartition(" ")[2] for row in caught.value.rows] == [str(place + 1) for place in places]
    assert f"{len(places)} of 40 rows cannot be used" in str(caught.value)
    assert all(f"line {place + 1}" in str(caught.value) for place in places)
    assert "--skip-invalid" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadRows):
        read_data(cls, cls.config(), FinetuneConfig(data=data, task=name, skip_invalid="5%"))
    capsys.readouterr()
    kept = read_data(cls, cls.config(), FinetuneConfig(data=data, task=name, skip_invalid="20%"))
    assert len(kept.train) + len(kept.dev) == 40 - len(places)
    assert f"{len(places)} of 40 rows cannot be used and are left out" in capsys.readouterr().err


def test_many_bad_rows_are_counted_and_ten_kinds_are_listed(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"film {n}", "label": n % 2} for n in range(60)]
    for n in range(30):  # 15 kinds of two rows
        rows[n] = {"text": f"film {n}", f"column {n % 15}": "pos"}
    with raises(BadRows, "column_not_found") as caught:
        read_data(
            Classification,
            ClassificationSettings(),
            FinetuneConfig(data=written(tmp_path / "r.jsonl", rows), task="classification"),
        )
    assert str(caught.value).count("has no field 'label'") == 10
    assert str(caught.value).count("(2 rows; also line ") == 10
    data = written(tmp_path / "all.jsonl", [{"review": "a", "label": 1}] * 3)
    with raises(BadRows, "column_not_found", "3"):
        read_data(
            Classification,
            ClassificationSettings(),
            FinetuneConfig(data=data, task="classification", skip_invalid="all"),
        )


@pytest.mark.parametrize("spelled", ["5", "0%", "101%", "some", "", "nan%"])
def test_a_share_that_is_none_is_refused(
    spelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = table(tmp_path / "rows.csv", list("ab") * 10)
    words = [
        "finetune",
        str(data),
        "--model",
        "linear",
        "--out",
        str(tmp_path / "run"),
        "--skip-invalid",
        spelled,
    ]
    assert main(words) == 2
    assert f"--skip-invalid {spelled}" in capsys.readouterr().err


def test_an_answer_that_is_once_elsewhere_is_moved_there(capsys: pytest.CaptureFixture[str]) -> None:
    """D24: `Rome` stands once in the context, so there is one place it can mean."""
    cls = task_class("question-answering")
    context = "In 1900 Anna moved to Rome. The town was quiet, the town was old."
    values = {"question": "Where?", "context": context}
    rows = [
        Record(values | {"answers": [{"text": text, "start": 5}]}, f"row {text}") for text in ("Rome", "town")
    ]
    (example,) = cls.from_records(cls.config(), rows[:1]).make_examples(rows[:1], labelled=True)
    assert example.label.spans == ((22, 26),)
    assert "1 answers are not at the given offset" in capsys.readouterr().err
    with raises(DataError, "invalid_span", "'town'", "5"):
        cls.from_records(cls.config(), rows).make_examples(rows, labelled=True)
