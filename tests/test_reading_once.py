"""Each command reads its data file once: a corpus is tokenized, opened and hashed once, a labelled file parsed once.

The opens are counted by an audit hook in a process of its own, so that no cache of this one can hide any.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from labelled import reviews, written

from textus import api

COUNTING = """
import json, os, sys
opened = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        opened.append(os.path.realpath(os.fsdecode(arguments[0])))
sys.addaudithook(watch)
from pathlib import Path
from textus import api
try:
    exec(sys.argv[1])
finally:
    Path(sys.argv[2]).write_text(json.dumps(opened))
"""


def opens(code: str, log: Path) -> Counter[str]:
    """How often a process that runs `code` opens each file, by its name."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, code, str(log)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "stopped" in done.stderr, done.stderr
    return Counter(Path(path).name for path in json.loads(log.read_text()))


def train_tokenizer(corpus: Path, out: Path, kind: str) -> Path:
    api.train_tokenizer(corpus, kind=kind, out=out)
    return out


@pytest.fixture(scope="module")
def tokenized(story: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus with validation text, and a tokenizer."""
    folder = tmp_path_factory.mktemp("once")
    text = story.read_text(encoding="utf-8")
    file = folder / "many.txt"
    file.write_text("\n\n".join(f"Chapter {n}. {text}" for n in range(40)), encoding="utf-8")
    corpus = api.build_corpus(file, out=folder / "corpus").path
    return corpus, train_tokenizer(corpus, folder / "tokenizer", "char")


SMALL = "overrides=['model.n_layer=1', 'model.d_model=32', 'model.n_head=2']"


@pytest.mark.parametrize("model", ["decoder", "ngram"])
def test_train_and_resume_read_the_ids_once(tokenized: tuple[Path, Path], tmp_path: Path, model: str) -> None:
    corpus, tokenizer = tokenized
    out = tmp_path / "run"
    options = f"steps=6, checkpoint_every=3, {SMALL}" if model == "decoder" else ""
    train = f"api.train({str(corpus)!r}, tokenizer={str(tokenizer)!r}, model={model!r}, out={str(out)!r}, {options})"
    opens(train, tmp_path / "first.json")  # makes the ids
    again = opens(train.replace("out=", "force=True, out="), tmp_path / "again.json")
    files = ("train.ids", "validation.ids") if model == "decoder" else ("train.ids",)
    assert {name: again[name] for name in ("train.jsonl", *files)} == {"train.jsonl": 0} | dict.fromkeys(
        files, 1
    )

    record = json.loads((out / "run.json").read_text())
    record["status"] = "training"
    (out / "run.json").write_text(json.dumps(record))
    (out / "model.safetensors").unlink()
    resumed = opens(f"api.resume({str(out)!r})", tmp_path / "resume.json")
    assert {name: resumed[name] for name in files} == dict.fromkeys(files, 1)


def test_tokenizing_reads_the_text_once(tokenized: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, _ = tokenized
    other = train_tokenizer(corpus, tmp_path / "tokenizer", "word")
    train = f"api.train({str(corpus)!r}, tokenizer={str(other)!r}, out={str(tmp_path / 'run')!r}, steps=2, {SMALL})"
    counts = opens(train, tmp_path / "opens.json")
    assert (counts["train.jsonl"], counts["validation.jsonl"]) == (1, 1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Rows to train on and to test on."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = reviews(90)
    return written(folder / "rows.jsonl", rows[:60]), written(folder / "test.jsonl", rows[60:90])


TINY = "epochs=1, overrides=['model.d_model=16', 'model.n_layer=1', 'train.checkpoint_every=1']"


@pytest.mark.parametrize("options", [f"model='lstm', {TINY}", "model='linear'"])
def test_finetune_evaluate_and_resume_read_the_rows_once(
    labelled: tuple[Path, Path], tmp_path: Path, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows, test = labelled
    out = tmp_path / "run"
    counts = opens(f"api.finetune({str(rows)!r}, out={str(out)!r}, {options})", tmp_path / "finetune.json")
    assert counts["rows.jsonl"] == 1
    evaluated = opens(f"api.open_run({str(out)!r}).evaluate(Path({str(test)!r}))", tmp_path / "evaluate.json")
    assert (evaluated["rows.jsonl"], evaluated["test.jsonl"]) == (1, 1)

    record = json.loads((out / "run.json").read_text())
    record["status"] = "training"
    (out / "run.json").write_text(json.dumps(record))
    (out / "model.safetensors").unlink()
    resumed = opens(f"api.resume({str(out)!r})", tmp_path / "resume.json")
    assert resumed["rows.jsonl"] == 1


def test_several_tasks_read_each_file_once(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    rows, test = labelled
    settings = TINY.replace("epochs=1", "epochs=1, model='lstm'")
    code = (
        f"api.finetune({str(rows)!r}, out={str(tmp_path / 'run')!r}, extra_tasks=['other:classification={test}'],"
        f" {settings})"
    )
    counts = opens(code, tmp_path / "opens.json")
    assert (counts["rows.jsonl"], counts["test.jsonl"]) == (1, 1)
