"""A person's results: answers as files with the file's own columns, from files and Python values; written as they come,
and continued after a kill.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import read_table, reviews, written
from raising import raises

import textus
from textus import api
from textus.cli.main import main
from textus.core.console import log_notice, merge_notices
from textus.core.errors import TextusError, UsageError
from textus.data.inputs import trained_columns
from textus.data.labeled import Record
from textus.data.output import OutputLayout

SMALL = ["model.n_layer=1", "model.d_model=16"]


# ── a file of answers ──────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Robustness",
    "Answers come out as a file with the input's columns, line, id and the probability of each class; "
    "a prediction that was killed continues, byte for byte, in bounded memory",
)
@pytest.mark.parametrize("source", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_answers_come_out_as_a_file(
    linear: api.Run,
    reviews_folder: Path,
    tmp_path: Path,
    source: str,
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """U1: the input's columns, line and id, label, the probability of each class."""
    out = tmp_path / f"out.{form}"
    assert main(["predict", str(linear.path), str(reviews_folder / source), "--out", str(out)]) == 0
    assert "predictions are in predicted_label" in capsys.readouterr().err
    if form == "jsonl":
        results = [json.loads(line) for line in out.read_text().splitlines()]
        chances = [row["probabilities"] for row in results]
    else:
        results = read_table(out)
        chances = [{name: float(row[f"probability_{name}"]) for name in "01"} for row in results]
    expected = linear.predict_proba([row["text"] for row in reviews()])
    first = 2 if source == "rows.csv" else 1
    for number, (row, given, chance) in enumerate(zip(results, reviews(), chances, strict=True)):
        assert int(row["line"]) == first + number
        assert {name: str(row[name]) for name in given} == {n: str(v) for n, v in given.items()}
        assert str(row["predicted_label"]) == max(chance, key=lambda name: chance[name])
        assert [chance["0"], chance["1"]] == pytest.approx(expected[number], abs=1e-5)
        assert float(row["probability"]) == pytest.approx(expected[number].max(), abs=1e-5)


def test_rows_of_several_files_have_their_file(linear: api.Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        written(tmp_path / "in" / f"{name}.jsonl", reviews(2))
    linear.predict_file(tmp_path / "in", out=tmp_path / "o.csv")
    results = [(Path(row["file"]).name, row["line"], row["id"]) for row in read_table(tmp_path / "o.csv")]
    assert results == [
        ("a.jsonl", "1", "r0"),
        ("a.jsonl", "2", "r1"),
        ("b.jsonl", "1", "r0"),
        ("b.jsonl", "2", "r1"),
    ]


def test_an_existing_file_is_kept_without_force(
    linear: api.Run, reviews_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    words = ["predict", str(linear.path), str(reviews_folder / "rows.csv"), "--out", str(out)]
    assert main(words) == 2
    assert out.read_text() == "mine"
    assert main([*words, "--force"]) == 0
    assert len(read_table(out)) == 60
    before = out.read_bytes()
    assert main(["predict", str(linear.path), str(out), "--out", str(out), "--force"]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["predict", str(linear.path), "a", "--out", str(tmp_path / "o.xls")]) == 2
    assert "known: .csv, .tsv, .jsonl" in capsys.readouterr().err


def test_the_terminal_shows_line_id_and_text(
    linear: api.Run, reviews_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(linear.path), str(reviews_folder / "rows.csv")]) == 0
    head, _, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["line", "id", "text", "label", "probability"]
    assert first.split()[:4] == ["2", "r0", "film", "0"]


def test_columns_of_the_file_keep_their_names_and_those_of_training_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U2: predict, evaluate and compare read by the columns that the run was trained with."""
    rows = [{"review": row["text"], "stars": row["label"]} for row in reviews()]
    data = written(tmp_path / "r.jsonl", rows)
    run = api.finetune(data, columns="text=review,label=stars", model="linear", out=tmp_path / "run")
    test = tmp_path / "t.csv"
    test.write_text("".join(f"{row['review'].replace(',', '')}\n" for row in [{"review": "review"}, *rows]))
    out = tmp_path / "o.csv"
    assert main(["predict", str(run.path), str(test), "--out", str(out)]) == 0
    assert f"{test}: columns as in training: text=review" in capsys.readouterr().err
    assert list(read_table(out)[0]) == [
        "line", "review", "label", "probability", "probability_0", "probability_1",
    ]  # fmt: skip
    assert [row["label"] for row in read_table(out)] == [str(row["stars"]) for row in rows]
    assert run.evaluate(data, baselines=False)["accuracy"]["value"] == 1
    assert run.predict([{"review": "was good"}])[0]["label"] == 1


@pytest.mark.parametrize(
    ("trained", "names", "column"),
    [
        ("text=review,label=stars", ["review", "stars"], "text=review,label=stars"),
        ("text=review,label=stars", ["review"], "text=review"),
        ("text=review,label=stars", ["text", "label"], None),
        ("0=text,1=label", ["a film", "1"], "0=text,1=label"),
        ("0=text,1=label", ["a film"], "0=text"),
        ("0=text,1=label", ["text", "label"], None),
        (None, ["text"], None),
    ],
)
def test_columns_as_trained(trained: str | None, names: list[str], column: str | None) -> None:
    assert trained_columns(trained, names) == column


def test_a_row_that_cannot_be_read_is_named_before_anything_is_written(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "r.jsonl", [*reviews(600), {"id": "x", "label": 1}])
    out = tmp_path / "o.csv"
    assert main(["predict", str(linear.path), str(data), "--out", str(out)]) == 1
    assert "line 601 has no field 'text'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_killed_and_started_again_it_continues(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C20: the same command; the file is as if never stopped. Another input starts over."""
    data = written(tmp_path / "r.jsonl", reviews(4000))
    out = tmp_path / "o.csv"
    words = ["predict", str(linear.path), str(data), "--out", str(out)]
    slowly = (
        "import sys, time\n"
        "from textus.data import output\n"
        "add = output.PartialFile.add\n"
        "output.PartialFile.add = lambda self, data, rows: (add(self, data, rows), time.sleep(0.2))[0]\n"
        "from textus.cli.main import main\n"
        f"sys.exit(main({words!r}))\n"
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", slowly], stderr=subprocess.PIPE)
    state = tmp_path / "o.csv.part.json"
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["rows"] >= 512):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr
    process.stderr.close()
    assert not out.exists()
    with (tmp_path / "o.csv.part").open("a") as part:
        part.write("half a ro")  # what was being written
    assert main(words) == 0
    assert f"{out}: continued after" in capsys.readouterr().err
    whole = tmp_path / "whole.csv"
    linear.predict_file(data, out=whole)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "r.jsonl", "whole.csv"]


def test_what_is_of_another_input_starts_over(
    linear: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.csv"
    (tmp_path / "o.csv.part").write_text("line,text\n1,of another\n")
    (tmp_path / "o.csv.part.json").write_text('{"fingerprint": "another", "rows": 1, "bytes": 23}')
    linear.predict_file(written(tmp_path / "r.jsonl", reviews(3)), out=out)
    assert "started over" in capsys.readouterr().err
    assert [row["id"] for row in read_table(out)] == ["r0", "r1", "r2"]


def test_memory_does_not_grow_with_the_file(linear: api.Run, tmp_path: Path) -> None:
    """C20: ten times the rows, no more memory."""
    for n in (500, 10_000):
        written(tmp_path / f"{n}.jsonl", [{**row, "more": "x" * 2000} for row in reviews(n)])
    code = (
        "import sys; from textus import api; from textus.core import hardware\n"
        f"run = api.open_run({str(linear.path)!r})\n"
        "for name in ('500', '10000'):\n"
        "    hardware.reset_peak_memory()\n"
        f"    run.predict_file({str(tmp_path)!r} + f'/{{name}}.jsonl', out={str(tmp_path)!r} + f'/{{name}}.csv')\n"
        "    print(hardware.peak_memory_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many - few < 10_000_000  # the rows alone are 20 MB


def test_notices_of_many_batches_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts are summed, numbers within the texts are not; the first place is kept."""
    batches = [((3, 256, 1100), "{a}.csv: line 3"), ((1, 44, 10), "{a}.csv: line 9")]
    with merge_notices():
        for (long, texts, tokens), place in batches:
            log_notice(
                long, " of ", texts, " texts are longer than 128 tokens: ", tokens, " of them are not read"
            )
            log_notice(long, " rows have no text and are left out", first=f"the first is {place}")
            log_notice("12 of 12 windows: as in training")
        assert capsys.readouterr().err == ""
        log_notice(1, " of ", 2, " texts are longer than 64 tokens: ", 3, " of them are not read")
    assert capsys.readouterr().err.splitlines() == [
        "4 of 300 texts are longer than 128 tokens: 1,110 of them are not read",
        "4 rows have no text and are left out; the first is {a}.csv: line 3",
        "12 of 12 windows: as in training",
        "1 of 2 texts are longer than 64 tokens: 3 of them are not read",
    ]
    with merge_notices(show=False):
        log_notice(5, " rows")
    log_notice(1000, " rows", first="the first is line 1")
    assert capsys.readouterr().err == "1,000 rows; the first is line 1\n"


# ── vectors ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["npy", "jsonl", "csv"])
def test_vectors_keep_lines_and_ids(trained: Path, reviews_folder: Path, tmp_path: Path, form: str) -> None:
    """D22: of every text, in order."""
    out, run = tmp_path / f"v.{form}", api.open_run(trained)
    assert main(["embed", str(trained), str(reviews_folder / "rows.csv"), "--out", str(out)]) == 0
    expected = run.embed([row["text"] for row in reviews()])
    if form == "npy":
        vectors = np.load(out)
        rows = [json.loads(line) for line in (tmp_path / "v.npy.rows.jsonl").read_text().splitlines()]
    else:
        rows = read_table(out) if form == "csv" else [json.loads(x) for x in out.read_text().splitlines()]
        vectors = [json.loads(row["vector"]) if form == "csv" else row["vector"] for row in rows]
    assert np.allclose(vectors, expected, atol=1e-5)
    assert [(int(row["line"]), row["id"]) for row in rows] == [(n + 2, f"r{n}") for n in range(60)]


def test_vectors_are_continued_after_a_kill(trained: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "r.jsonl", reviews(600))
    run, out = api.open_run(trained), tmp_path / "v.npy"
    from textus.pipelines.embeddings import embed_file

    calls, make = [], run.vectors_of()

    def broken(texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(texts)

    with pytest.raises(KeyboardInterrupt):
        embed_file(broken, data, out, run=trained)
    assert embed_file(make, data, out, run=trained)["texts"] == 600
    assert np.allclose(np.load(out), run.embed([row["text"] for row in reviews(600)]), atol=1e-5)


# ── Python ─────────────────────────────────────────────────────────────────────────────────────


class Frame:
    """What of a DataFrame is used; pandas itself is no dependency."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.columns = rows, list(rows[0])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


@pytest.mark.promise(
    "Robustness",
    "A path that does not exist is never taken for a text; a string is one text; no flag is ignored",
)
def test_a_string_is_one_text_with_one_answer(linear: api.Run, trained: Path, tmp_path: Path) -> None:
    """U4."""
    texts = ["was good", "was bad"]
    both = linear.predict(texts)
    assert linear.predict(texts[0]) == both[0]
    assert linear.predict({"text": texts[0]}) == both[0]
    for several in (tuple(texts), iter(texts), np.array(texts), Frame([{"text": t} for t in texts])):
        assert linear.predict(several) == both
    assert linear.predict([]) == []
    assert linear.predict_proba(texts[0]).shape == (2,)
    assert linear.predict_proba(texts).sum(1) == pytest.approx([1, 1])
    run = api.open_run(trained)
    assert np.allclose(run.embed(texts)[0], run.embed(texts[0]), atol=1e-6)
    assert run.embed([]).shape == (0, run.model.config.d_model)
    index = textus.build_index(written(tmp_path / "r.jsonl", reviews(5)), bm25=True, out=tmp_path / "index")
    assert index.search("film 3") == index.search(["film 3"])[0]
    assert index.search([]) == []


@pytest.mark.parametrize(
    "given",
    [b"a", None, 3, 2.5, {"a"}, ["a", None], [1, 2], [[]], [Path("x")], ["a", {"text": "b"}]],
    ids=str,
)
def test_what_holds_no_texts_is_refused(given: Any, linear: api.Run, trained: Path) -> None:
    """U4: never a wrong answer, never a bare error."""
    for ask in (linear.predict, linear.predict_proba, api.open_run(trained).embed):
        with pytest.raises(UsageError):
            ask(given)


def test_a_string_that_names_a_file_is_refused(linear: api.Run, reviews_folder: Path) -> None:
    for name in (str(reviews_folder / "rows.csv"), "nothing.csv"):
        with raises(UsageError, "ambiguous_text"):
            linear.predict(name)
    assert len(linear.predict(["nothing.csv"])) == 1


@pytest.mark.parametrize("form", ["rows", "frame", "pair"])
def test_rows_of_python_are_learned_from_and_measured_on(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U5: dictionaries, a DataFrame, (X, y) with an array of numpy's numbers."""
    rows, n = reviews(), 60
    pair = ([row["text"] for row in rows], np.array([row["label"] for row in rows]))
    data = {"rows": rows, "frame": Frame(rows), "pair": pair}[form]
    run = textus.finetune(data, model="linear", out=tmp_path / "run")
    assert f"{n} rows are kept in {tmp_path / 'run.rows.jsonl'}" in capsys.readouterr().err
    assert run.task.labels == ["0", "1"]
    scores = textus.evaluate(run, data, baselines=False)
    assert (scores["rows"], scores["accuracy"]["value"], scores["on"]) == (n, 1, "the rows given")
    assert len(run.predict(Frame(rows))) == n
    assert textus.resume(run.path).task.labels == ["0", "1"]
    with raises(UsageError, "size_mismatch", "1", "2"):
        textus.finetune((["a"], [0, 1]), model="linear", out=tmp_path / "other")
    with pytest.raises(TextusError):
        textus.finetune(["a", "b"], model="linear", out=tmp_path / "other")


def test_every_verb_is_at_the_top_also_where_a_module_has_its_name() -> None:
    """U5, D32."""
    verbs = {
        name for name in vars(api)
        if not name.startswith("_") and getattr(getattr(api, name), "__module__", "").startswith("textus.api")
    }  # fmt: skip
    inner = {"KINDS", "annotations", "answered", "chosen_tokenizer", "fitting_vocab_size", "going_on", "rows_beside",
             "load_tokenizer", "named", "wish_for"}  # fmt: skip
    assert verbs - inner <= set(textus.__all__)
    from textus.augment.augmenter import AugmentConfig
    from textus.evaluation.fewshot import FewShotConfig

    assert AugmentConfig
    assert FewShotConfig
    for name in ("augment", "fewshot", *verbs - inner):
        assert callable(getattr(textus, name)), name
    assert (Path(textus.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("kind", ["linear", "counted", "trained"])
def test_a_wrong_kind_of_run_is_a_plain_error(
    kind: str, request: pytest.FixtureRequest, reviews_folder: Path, story: Path
) -> None:
    """U5: no raw error of a library."""
    fixture = request.getfixturevalue(kind)
    run = fixture if isinstance(fixture, api.Run) else api.open_run(fixture)
    rows = reviews_folder / "rows.jsonl"
    for ask in (
        lambda: run.predict("a"), lambda: run.predict_proba("a"), lambda: run.evaluate(rows, samples=False),
        lambda: run.evaluate(story, samples=False), lambda: run.evaluate(["a text"], samples=False),
        lambda: run.embed("a"), lambda: run.generate("a", max_tokens=1), lambda: run.score("a"),
        lambda: run.evaluate(rows, slices=["id"], samples=False), lambda: run.evaluate(rows, stride=2, samples=False),
    ):  # fmt: skip
        with contextlib.suppress(TextusError):
            ask()  # type: ignore[no-untyped-call]


NAMES = ["label", "line", "file_line", "predicted_label", "predicted_line", "id", "predicted_label_2"]


@pytest.mark.parametrize("answer", [["label"], ["line", "label"], ["predicted_line", "line"]], ids=str)
def test_every_value_of_a_row_has_a_column_of_its_own(
    answer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's columns as they are, the place and the answer under names that are free, whatever they are called."""
    for columns in chain.from_iterable(combinations(NAMES, n) for n in range(len(NAMES) + 1)):
        record = Record({name: f"own {name}" for name in columns}, "a.csv: line 3")
        layout = OutputLayout(answer, None, [record])
        row = layout.row(record, {name: f"answer {name}" for name in answer})
        assert list(row) == layout.names
        assert {name: row[name] for name in columns} == record.values
        assert set(row.values()) == {*record.values.values(), 3, *(f"answer {name}" for name in answer)}
        renamed = [name for name in answer if row.get(name) != f"answer {name}"]
        assert renamed == [name for name in answer if name in columns]
        assert (f"the file already has a column {', '.join(renamed)}" in capsys.readouterr().err) == bool(
            renamed
        )


def test_a_column_that_was_named_keeps_the_file_s_name() -> None:
    """--columns text=label: the text stays in the column label, the answer gets another."""
    record = Record({"text": "a film", "note": "b"}, "a.csv: line 3")
    layout = OutputLayout(["label"], "text=label", [record])
    row = {"line": 3, "label": "a film", "note": "b", "predicted_label": "good"}
    assert layout.row(record, {"label": "good"}) == row
    assert layout.names == list(row)
    layout = OutputLayout(
        ["id"], None, [Record({"_id": "7"}, "a.csv: line 3")]
    )  # its place has the name of an answer
    assert layout.names == ["line", "id", "_id", "predicted_id"]


# ── flags ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "LINEAR", "--on", "ROWS", "--stride", "2"],
        ["evaluate", "LINEAR", "LINEAR", "--ensemble", "mean", "--on", "ROWS", "--stride", "2"],
        ["evaluate", "TEXT", "--columns", "text=a"],
        ["evaluate", "TEXT", "--slice", "id"],
        ["evaluate", "TEXT", "--no-baselines"],
        ["compare", "TEXT", "--columns", "text=a"],
        ["compare", "TEXT", "--task", "classification"],
        ["predict", "LINEAR", "a text", "--columns", "text=a"],
        ["predict", "LINEAR", "a text", "--force"],
        ["predict", "LINEAR", "ROWS", "--text-pair", "b"],
        ["generate", "TEXT", "a", "--force"],
        ["generate", "TEXT", "a", "--columns", "text=a"],
        ["generate", "TEXT", "a", "--file", "ROWS"],
        ["generate", "TEXT", "--file", "ROWS", "--text"],
        ["generate", "TEXT", "--out", "o.csv"],
    ],
    ids=" ".join,
)
def test_no_flag_is_ignored(
    words: list[str], linear: api.Run, trained: Path, reviews_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C14."""
    names = {"LINEAR": str(linear.path), "TEXT": str(trained), "ROWS": str(reviews_folder / "rows.jsonl")}
    assert main([names.get(word, word) for word in words]) == 2
    assert "leave" in (err := capsys.readouterr().err) or "goes with" in err


def test_answers_never_replace_a_column_of_the_file(
    linear: api.Run, reviews_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACK1 7: predictions that are chained keep all earlier ones."""
    other = written(tmp_path / "other.jsonl", [{**row, "label": "nb"[row["label"]]} for row in reviews()])
    letters = api.finetune(other, model="linear", out=tmp_path / "letters")
    table = tmp_path / "0.csv"
    table.write_text("text,label\nfilm 1 was good,1\nfilm 2 was bad,0\n")
    before = read_table(table)
    for number, run in enumerate((linear, letters, linear), 1):
        capsys.readouterr()
        run.predict_file(table, out=tmp_path / f"{number}.csv")
        table, after = tmp_path / f"{number}.csv", read_table(tmp_path / f"{number}.csv")
        assert [{name: row[name] for name in old} for row, old in zip(after, before, strict=True)] == before
        assert [name for name in after[0] if name not in before[0]]
        before = after
    assert "predictions are in predicted_label_3" in capsys.readouterr().err
    names = ("label", "predicted_label", "predicted_label_2", "predicted_label_3")
    assert [[row[name] for name in names] for row in before] == [["1", "1", "b", "1"], ["0", "0", "n", "0"]]
    assert len(set(table.read_text().splitlines()[0].split(","))) == len(before[0])


def test_any_column_of_the_file_is_kept(linear: api.Run, tmp_path: Path) -> None:
    """ATTACK1 7: also what has the name of a place, or of an answer that was renamed."""
    columns = {"text": "was good", "line": "a", "file_line": "b", "label": "c", "predicted_label": "d"}
    data = written(tmp_path / "rows.jsonl", [columns | {"probability": "e"}])
    for form in ("jsonl", "csv"):
        linear.predict_file(data, out=tmp_path / f"o.{form}")
    (table,), report = read_table(tmp_path / "o.csv"), json.loads((tmp_path / "o.jsonl").read_text())
    for row in (table, report):
        assert {name: row[name] for name in columns} == columns
        assert (str(row["predicted_label_2"]), str(row["file_line_2"])) == ("1", "1")
