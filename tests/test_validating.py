"""`textus validate`: bad rows, labels, duplicates, contradictions, leakage and lengths, as the command, in Python, and
inside `finetune` (D24, D25)."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelled import written
from raising import raises

import textus
from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.labeled import stream_records
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.data import read_data
from textus.tasks.registry import TASKS, task_class

GOOD = [
    {"text": f"the film number {n} was {('good', 'bad')[n % 2]}", "label": ("pos", "neg")[n % 2]}
    for n in range(60)
]


def kinds(results: dict[str, Any]) -> dict[str, int]:
    """Kind of warning → how often it was seen."""
    return {warning["kind"]: warning["count"] for warning in results["warnings"]}


def message(results: dict[str, Any], kind: str) -> str:
    """The line of a warning."""
    return next(warning["message"] for warning in results["warnings"] if warning["kind"] == kind)


def test_good_rows_have_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "rows.jsonl", GOOD)
    assert main(["validate", str(data)]) == 0
    out = capsys.readouterr().out
    assert "60 rows, 60 usable for classification" in out
    assert "columns: text from 'text', label from 'label'" in out
    assert "classes: 2 (neg 30, pos 30)" in out
    assert "errors: 0, warnings: 0; usable" in out
    assert kinds(textus.validate(data)) == {}


@pytest.mark.promise("Robustness", "The next command of `validate` has every flag and works")
def test_the_next_command_reads_the_rows_as_they_were_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The `finetune` that is named has every flag that was given, quoted for a shell, and works."""
    rows = [{"the text": row["text"], "mark": row["label"]} for row in GOOD]
    data, dev = written(tmp_path / "my rows.jsonl", rows), written(tmp_path / "dev.jsonl", rows[:6])
    flags = ["--model", "linear", "--columns", "text=the text,label=mark", "--encoding", "utf-8"]
    assert main(["validate", str(data), "--dev", str(dev), *flags]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: textus ")
    words = shlex.split(command.replace("FOLDER", shlex.quote(str(tmp_path / "run"))))
    assert {str(dev), *flags} <= set(words)
    assert main(words) == 0
    capsys.readouterr()
    main(["validate", str(data), "--columns", "text=the text,label=mark", "--set", "task.multi=true"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert "--set task.multi=true --columns 'text=the text,label=mark' " in line


def test_rows_bad_for_one_reason_share_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line has their number and the first places; --json has a row each, `finetune` the same line."""
    rows = [{"text": row["text"]} if n in range(10, 16) else row for n, row in enumerate(GOOD)]
    data = written(tmp_path / "rows.jsonl", [*rows, {"label": "pos"}])
    line = "line 11 has no field 'label'; it has 'text'"
    places = "(6 rows; also line 12, line 13, line 14 and 2 more)"
    assert main(["validate", str(data)]) == 1
    (first, second) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("error: ")]
    assert line in first
    assert first.endswith(places)
    assert "line 61" in second
    assert "rows; also" not in second
    assert len(textus.validate(data)["errors"]) == 7
    assert main(["finetune", str(data), "--model", "linear", "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "7 of 61 rows cannot be used" in err
    assert err.count("has no field 'label'") == 1
    assert places in err


def test_bad_rows_are_all_listed_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """D24: lines that cannot be read and rows the task refuses, in the order of the file, of both files."""
    lines = [json.dumps(row) for row in GOOD]
    lines[4], lines[9], lines[30] = (
        '{"text": "a", "label": ""}',
        "{not json",
        '{"text": null, "label": "pos"}',
    )
    data, dev = tmp_path / "rows.jsonl", tmp_path / "dev.jsonl"
    data.write_text("\n".join(lines) + "\n")
    dev.write_text(json.dumps(GOOD[0] | {"text": "another"}) + "\n" + '{"text": "b", "label": null}\n')
    assert main(["validate", str(data), "--dev", str(dev), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [error["where"].rpartition(": ")[2] for error in report["errors"]] == [
        "line 5",
        "line 10",
        "line 31",
        "line 2",
    ]
    assert [error["file"] for error in report["errors"]] == [str(data)] * 3 + [str(dev)]
    assert (report["files"]["train"]["rows"], report["files"]["train"]["usable"]) == (60, 57)
    assert report["files"]["dev"]["invalid"] == 1
    assert report["classes"] == {"neg": 29, "pos": 28}
    assert main(["validate", str(data), "--dev", str(dev)]) == 1
    out = capsys.readouterr().out
    assert out.count("error: ") == 4
    assert "errors: 4, " in out
    assert "--skip-invalid all" in out
    words = ["finetune", str(data), "--dev", str(dev), "--model", "linear", "--out", str(tmp_path / "run")]
    assert main(words) == 1
    assert "4 of 62 rows cannot be used" in capsys.readouterr().err
    assert main([*words, "--skip-invalid", "50%"]) == 0
    assert capsys.readouterr().err.count("left out (--skip-invalid)") == 2


def test_columns_are_named_as_they_were_taken(tmp_path: Path) -> None:
    rows = [{"id": n, "review": row["text"], "stars": row["label"]} for n, row in enumerate(GOOD)]
    data = written(tmp_path / "rows.jsonl", rows)
    file = textus.validate(data, columns="text=review,label=stars")["files"]["train"]
    assert file["columns"] == {"text": "review", "label": "stars"}
    assert file["not_read"] == ["id"]
    result = textus.validate(data)
    assert not result["ok"]
    assert len(result["errors"]) == 60
    assert "has no field 'text'" in result["errors"][0]["message"]


def test_labels_that_look_wrong_are_warnings(tmp_path: Path) -> None:
    odd = [("Pos", "x"), (" pos", "y"), ("ｐｏｓ", "z"), ("positve", "u"), ("nan", "v"), ("once", "w")]
    rows = [row | {"label": "positive" if row["label"] == "neg" else "pos"} for row in GOOD]
    data = written(tmp_path / "rows.jsonl", [*rows, *({"text": text, "label": label} for label, text in odd)])
    result = textus.validate(data)
    assert result["ok"]
    assert kinds(result) == {"alike": 1, "misspelt": 1, "missing": 1, "single": 5}
    assert message(result, "alike").endswith(
        "'pos' (31) and 'Pos' (1) and 'ｐｏｓ' (1); did you mean one class?"
    )
    assert "'positve' (1) and 'positive' (30)" in message(result, "misspelt")
    assert "'nan' (1)" in message(result, "missing")
    assert any("pos: 'pos' 30 times, ' pos' 1 times" in line for line in result["files"]["train"]["warnings"])


def test_several_labels_in_one_are_seen(tmp_path: Path) -> None:
    rows = [row | {"label": f"{row['label']}, film"} for row in GOOD]
    data = written(tmp_path / "rows.jsonl", rows)
    assert "--set task.multi=true" in message(textus.validate(data), "several labels")
    result = textus.validate(data, overrides=["task.multi=true"])
    assert result["classes"] == {"film": 60, "neg": 30, "pos": 30}


# ── the same text twice ────────────────────────────────────────────────────────────────────────

CONTRADICTIONS: dict[str, Callable[[int, bool], dict[str, Any]]] = {
    "classification": lambda n, other: {
        "text": f"Zoë  saw {n}" if other else f"Zoe\u0308 saw {n} ", "label": n % 2 ^ other,
    },
    "classification of pairs": lambda n, other: {
        "premise": f"a {n}", "hypothesis": "b", "label": ("yes", "no")[n % 2 ^ other],
    },
    "regression": lambda n, other: {"text": f"a {n}", "score": n % 5 + 0.5 * other},
    "similarity": lambda n, other: {"text": f"a {n}", "text_pair": "b", "score": n % 5 + 0.5 * other},
    "tagging": lambda n, other: {"tokens": ["Ann", str(n)], "tags": [("B-P", "B-Q")[other], "O"]},
    "question-answering": lambda n, other: {
        "question": "who?", "context": f"Ann met Bob {n}",
        "answers": {"text": [("Ann", "Bob")[other]], "answer_start": [8 * other]},
    },
    "relations": lambda n, other: {
        "text": f"Ann met Bob {n}", "entities": [[0, 3, "p"], [8, 11, "p"]],
        "relations": [{"head": 0, "relation": ("met", "knows")[other], "tail": 1}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictory_labels_are_reported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D25, in every task: how many texts, and the first two places; `validate` and `finetune` say the same. Copies of
    a row are counted apart.
    """
    row, task = CONTRADICTIONS[name], name.partition(" ")[0]
    rows = [row(n, False) for n in range(30)] + [row(n, True) for n in range(10, 22)] + [row(29, False)]
    data = written(tmp_path / "rows.jsonl", rows)
    result = textus.validate(data, task=task)
    assert result["ok"]
    assert kinds(result)["contradiction"] == 12
    assert kinds(result)["duplicate"] == 1
    expected = f"12 texts have different labels; the first is {data}: line 11 and {data}: line 31"
    assert message(result, "contradiction").startswith(expected)
    capsys.readouterr()
    cls = task_class(task)
    read_data(cls, cls.config(), FinetuneConfig(data=data, task=task))
    assert "12 texts have different labels" in capsys.readouterr().err
    plain = written(tmp_path / "plain.jsonl", rows[:30])
    assert "contradiction" not in kinds(textus.validate(plain, task=task))


def test_the_order_of_several_labels_is_no_contradiction(tmp_path: Path) -> None:
    rows = [{"text": f"a {n}", "label": ["x", "y"]} for n in range(9)] + [
        {"text": "a 3", "label": ["y", "x"]}
    ]
    result = textus.validate(written(tmp_path / "rows.jsonl", rows), overrides=["task.multi=true"])
    assert "contradiction" not in kinds(result)
    assert kinds(result)["duplicate"] == 1


def test_leaks_and_labels_of_one_file_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between every two files, after normalisation."""
    decomposed = {"text": "the  film number 4 was good", "label": "pos"}
    data = written(
        tmp_path / "train.jsonl",
        [*GOOD, {"text": "odd one", "label": "odd"}, {"text": "two", "label": "odd"}],
    )
    dev = written(
        tmp_path / "dev.jsonl",
        [decomposed, {"text": "new", "label": "neg"}, {"text": "mine", "label": "new"}],
    )
    test = written(tmp_path / "test.jsonl", [{"text": "mine ", "label": "pos"}, GOOD[0], GOOD[1]])
    assert main(["validate", str(data), "--dev", str(dev), "--test", str(test), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    leaks = [warning["message"] for warning in report["warnings"] if warning["kind"] == "leak"]
    assert [line.partition(";")[0] for line in leaks] == [
        "1 of the 3 rows that choose the weights have a text that is trained on too",
        "2 of the 3 rows of test have a text that is in train too",
        "1 of the 3 rows of test have a text that is in dev too",
    ]
    assert leaks[0].endswith(f"the first is {dev}: line 1, as {data}: line 5")
    one_sided = [
        warning["message"] for warning in report["warnings"] if warning["kind"] == "only in one file"
    ]
    assert one_sided == [
        "'new': only in dev (1), not in train", "'odd': in train (2), not in dev", "'odd': in train (2), not in test",
    ]  # fmt: skip


# ── lengths ────────────────────────────────────────────────────────────────────────────────────


def test_lengths_are_held_against_the_model(tmp_path: Path) -> None:
    long = [row | {"text": row["text"] + " word" * (400 if n < 5 else 0)} for n, row in enumerate(GOOD)]
    data = written(tmp_path / "rows.jsonl", long)
    assert "5 of 60 texts are longer than 256 words" in message(textus.validate(data), "length")
    assert "length" not in kinds(textus.validate(data, model="lstm"))
    assert "length" not in kinds(textus.validate(data, model="linear"))
    assert "longer than 100 words" in message(
        textus.validate(data, model="lstm", overrides=["task.longest=100"]), "length"
    )
    han = written(
        tmp_path / "han.jsonl", [{"text": "好" * (10 + 300 * (n < 2)), "label": n % 2} for n in range(9)]
    )
    assert "2 of 9 texts are longer than 256 characters" in message(textus.validate(han), "length")


def test_lengths_are_counted_in_the_tokens_of_a_run(tmp_path: Path) -> None:
    small = (
        "train.steps=1",
        "model.n_layer=1",
        "model.d_model=8",
        "model.n_head=2",
        "model.context_length=16",
    )
    data = written(tmp_path / "rows.jsonl", GOOD[:10])
    api.finetune(data, model="encoder", tokenizer="char", overrides=small, out=tmp_path / "run")
    result = textus.validate(data, init_from=tmp_path / "run")
    assert "10 of 10 texts are longer than 16 tokens" in message(result, "length")
    with raises(UsageError, "conflicting_options", "lstm"):
        textus.validate(data, init_from=tmp_path / "run", model="lstm")


# ── what cannot be checked at all ──────────────────────────────────────────────────────────────


def test_a_task_that_cannot_use_a_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one.jsonl", [row | {"label": "a"} for row in GOOD])
    assert main(["validate", str(one)]) == 1
    assert "there is nothing to learn" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"missing\.csv"):
        textus.validate(tmp_path / "missing.csv")
    assert main(["validate", str(one), "--task", "classifcation"]) == 2
    assert "did you mean 'classification'" in capsys.readouterr().err
    assert main(["validate", str(one), "--set", "model.d_model=8"]) == 2


def test_rows_without_a_text_are_counted(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", [*GOOD, {"text": "  ", "label": "pos"}])
    file = textus.validate(data)["files"]["train"]
    assert file["left_out"] == {"without a text": 1}
    assert (file["rows"], file["usable"]) == (61, 60)


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    text = "text,label\n" + "".join(f"egyenlő méltósága {n},{'ab'[n % 2]}\n" for n in range(20))
    data = tmp_path / "rows.csv"
    data.write_bytes(text.encode("cp1250"))
    assert textus.validate(data, encoding="cp1250")["ok"]
    run = api.finetune(data, model="linear", encoding="cp1250", out=tmp_path / "run")
    assert run.record["corpus"]["encoding"] == "cp1250"
    cls = task_class("classification")
    assert (
        read_data(cls, cls.config(), FinetuneConfig(data=data, task="classification", encoding="cp1250"))
        .train[0]
        .texts[0]
        .startswith("egyenlő")
    )


@pytest.mark.promise(
    "Robustness",
    "All bad rows are listed at once and can be left out; contradictory labels are reported, in every task",
)
def test_evaluate_lists_all_bad_rows_and_leaves_them_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D24: a file to be measured on has bad rows too."""
    api.finetune(written(tmp_path / "rows.jsonl", GOOD), model="linear", out=tmp_path / "run")
    rows = [row | {"label": ""} if n in (3, 7, 20) else row for n, row in enumerate(GOOD)]
    test = written(tmp_path / "test.jsonl", rows)
    words = ["evaluate", str(tmp_path / "run"), "--on", str(test), "--no-baselines"]
    capsys.readouterr()
    assert main(words) == 1
    assert "3 of 60 rows cannot be used" in (answer := capsys.readouterr().err)
    assert all(f"line {n}" in answer for n in (4, 8, 21))
    assert main([*words, "--skip-invalid", "1%"]) == 1
    capsys.readouterr()
    assert main([*words, "--skip-invalid", "5%", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 57
    assert "3 of 60 rows cannot be used and are left out" in err
    assert main([*words, "--skip-invalid", "3"]) == 2
    unread = written(tmp_path / "unread.jsonl", [GOOD[0] | {"text": None}, GOOD[1], GOOD[2] | {"text": 5}])
    assert main(["predict", str(tmp_path / "run"), str(unread)]) == 1
    assert "2 of 3 rows cannot be used" in capsys.readouterr().err


UNREADABLE = {
    "csv with cells too many": ("v.csv", "text\na,b\nc,d\n", "line 2 has 2 columns"),
    "objects on one line": ("v.jsonl", '{"text": "a", "label": "b"}{"text": "c"}\n', "line 1 is not JSON"),
    "single quotes": ("v.jsonl", "{'text': 'a'}\n{'text': 'b'}\n", "line 1 is not JSON"),
    "arrays": ("v.jsonl", '["a", 1]\n["b", 0]\n', "line 1 is list"),
    "pretty-printed": ("v.jsonl", '{\n  "text": "a"\n}\n', "line 1 is not JSON"),
    "dangling relations": (
        "v.jsonl",
        '{"text": "Ann", "entities": [{"id": 1, "start_offset": 0, "end_offset": 3, "label": "p"}],'
        ' "relations": [{"from_id": 1, "to_id": 9, "type": "met"}]}\n',
        "has a relation with an entity 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reason", UNREADABLE)
def test_a_file_without_a_readable_row_is_an_error_of_its_first_line(
    reason: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 1: no row can be read; `validate` and `finetune` name the line, as --dev too, and advise nothing that
    cannot help."""
    name, text, complaint = UNREADABLE[reason]
    data = tmp_path / name
    data.write_text(text)
    assert main(["validate", str(data), "--task", task]) == 1
    shown = capsys.readouterr().out
    assert complaint in shown
    assert " 0 usable" in shown
    assert "--skip-invalid" not in shown
    words = ["finetune", str(data), "--task", task, "--model", "gru", "--out", str(tmp_path / "run")]
    assert main(words) == 1
    assert complaint in capsys.readouterr().err


def test_a_dev_file_without_a_readable_row_is_an_error(tmp_path: Path) -> None:
    good = [{"text": row["text"], "score": number} for number, row in enumerate(GOOD)]
    data, dev = written(tmp_path / "rows.jsonl", good), tmp_path / "dev.csv"
    dev.write_text("text\na,b\n")
    result = textus.validate(data, task="regression", dev=dev)
    assert [error["file"] for error in result["errors"]] == [str(dev)]
    assert "line 2 has 2 columns" in result["errors"][0]["message"]


# ── rows that were not accepted ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answer", ["reject", "ignore"])
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_rows_that_were_not_accepted_in_prodigy_are_left_out_of_every_task(
    name: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 4: rows answered reject or ignore are counted and left out by validate, finetune and evaluate."""
    task, make = name.partition(" ")[0], CONTRADICTIONS[name]
    good = [make(n, False) | {"answer": "accept"} for n in range(20)]
    data = written(tmp_path / "rows.jsonl", [*good, *(make(n, True) | {"answer": answer} for n in range(7))])
    result = textus.validate(data, task=task)
    assert result["ok"]
    assert "contradiction" not in kinds(result)
    file = result["files"]["train"]
    assert (file["rows"], file["usable"]) == (27, 20)
    assert file["left_out"] == {"not accepted in Prodigy": 7}
    cls = task_class(task)
    read = read_data(cls, cls.config(), FinetuneConfig(data=data, task=task))
    assert len(read.train) + len(read.dev) == 20
    line = "7 of 27 rows were answered reject or ignore in Prodigy and are left out; the first is"
    assert f"{line} {data}: line 21" in capsys.readouterr().err
    records = list(stream_records(data))
    assert len(read.task.make_examples(records, labelled=True)) == 20
    assert line in capsys.readouterr().err
    assert len(read.task.make_examples(records, labelled=False)) == 27


def test_rejected_rows_with_tokens_are_left_out_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 4: Prodigy's rows for entities have its tokens; with all of them rejected none is left."""
    text = {"text": "Ann ran", "tokens": [{"text": "Ann", "start": 0, "end": 3, "id": 0}]}
    row = text | {"spans": [{"start": 0, "end": 3, "label": "PER"}], "_task_hash": 1}
    rows = [row | {"text": f"Ann ran {n}", "answer": ("accept", "reject")[n % 3 == 2]} for n in range(30)]
    result = textus.validate(written(tmp_path / "rows.jsonl", rows), task="tagging")
    assert result["ok"]
    assert result["classes"] == {"PER": 20}
    none = written(tmp_path / "none.jsonl", [item | {"answer": "ignore"} for item in rows])
    assert main(["validate", str(none), "--task", "tagging"]) == 1
    assert "30 of 30 rows were answered reject or ignore in Prodigy, the first" in capsys.readouterr().out


def test_an_answer_of_another_kind_is_no_verdict(tmp_path: Path) -> None:
    """An answer to a question that is the word reject, and a column of other answers, take no row away."""
    prompts = [
        {"question": "do what?", "context": f"we reject {n}", "answer": "reject", "answer_start": 3}
        for n in range(5)
    ]
    result = textus.validate(written(tmp_path / "asked.jsonl", prompts), task="question-answering")
    assert result["files"]["train"]["usable"] == 5
    rows = [row | {"answer": ("reject", "maybe")[n % 2]} for n, row in enumerate(GOOD)]
    assert textus.validate(written(tmp_path / "rows.jsonl", rows))["files"]["train"]["usable"] == 60


# ── a folder with parts ────────────────────────────────────────────────────────────────────────

PARTS = {
    "tables": ("train.jsonl", "test.jsonl", "dev.jsonl"),
    "shards": ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl", "data/validation-00000.jsonl"),
    "folders": ("train/a.jsonl", "test/a.jsonl", "val/a.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("packed", [False, True])
def test_parts_to_measure_on_are_left_out_of_a_folder(
    name: str, packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 11: of train, test and dev in one folder or archive train alone is trained on, and a line says so."""
    folder = tmp_path / "set"
    train, test, dev = (folder / item for item in PARTS[name])
    for path in (train, test, dev):
        path.parent.mkdir(parents=True, exist_ok=True)
    written(train, GOOD[:40])
    written(test, GOOD[40:52])
    written(dev, GOOD[52:])
    with dev.open("a") as file:
        file.write("no row\n")
    data = Path(shutil.make_archive(str(folder), "zip", folder)) if packed else folder
    result = textus.validate(data)
    assert (result["files"]["train"]["rows"], result["files"]["train"]["usable"]) == (40, 40)
    assert result["errors"] == []
    cls = task_class("classification")
    read = read_data(cls, cls.config(), FinetuneConfig(data=data, task="classification"))
    assert {item.texts[0] for item in (*read.train, *read.dev)} == {row["text"] for row in GOOD[:40]}
    line = capsys.readouterr().err
    assert "(12 rows)" in line
    assert "(9 rows)" in line
    assert line.startswith(f"{data}: left out of training, as held-out parts: ")
    if packed:
        return
    run = tmp_path / "run"
    assert main(["finetune", str(data), "--model", "linear", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--on", str(test)]) == 0
    assert "a text that is also in" not in capsys.readouterr().err
    assert main(["evaluate", str(run), "--on", str(train)]) == 0
    assert "40 of the 40 rows have a text that is also in" in capsys.readouterr().err


def test_texts_of_classes_in_parts_are_those_to_train_on(tmp_path: Path) -> None:
    for number, row in enumerate(GOOD):
        path = tmp_path / "set" / ("train", "test")[number >= 40] / row["label"] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    assert textus.validate(tmp_path / "set")["classes"] == {"neg": 20, "pos": 20}


@pytest.mark.parametrize("names", [("test.jsonl", "dev.jsonl"), ("train.jsonl", "more.jsonl"), ("a", "b")])
def test_a_folder_without_both_parts_is_read_whole(names: tuple[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        path = tmp_path / "set" / name / "rows.jsonl"
        path.parent.mkdir(parents=True)
        written(path, GOOD[number * 30 : (number + 1) * 30])
    assert textus.validate(tmp_path / "set")["files"]["train"]["rows"] == 60
