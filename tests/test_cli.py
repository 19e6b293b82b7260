"""The command line as people and scripts meet it: exit codes, one-line errors, clean JSON, a quick start."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from textus.cli import demo
from textus.cli.help import flat_commands, overview
from textus.cli.main import main
from textus.core.errors import RunError
from textus.core.io import check_output_dir

TEXTUS = str(Path(sys.executable).parent / "textus")
HEAVY = ("torch", "numpy", "pydantic", "rich")


def words_for(*words: object) -> list[str]:
    return [str(word) for word in words]


def run(*words: object, stdin: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """A real `textus` process; its output captured."""
    return subprocess.run(
        [TEXTUS, *words_for(*words)],
        input=stdin,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def complaint(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """The one line of a command that fails with this exit code; nothing on standard output."""
    assert main(words_for(*words)) == code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("textus: ")
    assert "Traceback" not in err
    return last


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    """What a command answers with --json: standard output must be one object."""
    assert main([*words_for(*words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ── a quick start ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", ["import textus", "from textus.cli.main import main; main(['--help'])"])
def test_starting_imports_nothing_heavy(code: str) -> None:
    check = f"{code}; import sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_check_of_imports_can_fail() -> None:
    check = "import textus; textus.Index; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.promise(
    "Architecture", "`import textus` and `textus --help` take at most 0.3 s and import nothing heavy"
)
@pytest.mark.parametrize("command", [[sys.executable, "-c", "import textus"], [TEXTUS, "--help"]])
def test_starting_takes_less_than_three_tenths_of_a_second(command: list[str]) -> None:
    """Of the processor's time, the fastest of five: cores that are shared with other tests stretch it, nothing shortens
    it.
    """

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


# ── help ───────────────────────────────────────────────────────────────────────────────────────


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in flat_commands())
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("name", sorted(flat_commands()))
def test_every_verb_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: textus {name}")
    assert f"textus {name}" in shown.splitlines()[-1]


def test_a_noun_alone_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus"]) == 0
    assert capsys.readouterr().out == overview("corpus") + "\n"


def test_no_words_at_all_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage: textus COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("textus 0.")


# ── wrong words: exit code 2, one line, the nearest right word ─────────────────────────────────


@pytest.mark.promise("Command line", "Wrong words get one line with the nearest right one, and exit code 2")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "c"], "did you mean 'train'?"),
        (["corpus", "biuld"], "did you mean 'build'?"),
        (["tokenizer", "trane", "--help"], "did you mean 'train'?"),
        (["evalute", "--help"], "did you mean 'evaluate'?"),
        (["train", "c", "--out", "r", "--prest", "1min"], "--preset"),
        (["train", "c"], "train needs --out"),
        (["train", "--out", "r"], "train needs CORPUS"),
        (["train", "c", "--out"], "--out needs a value"),
        (["train", "c", "--out", "r", "--steps", "many"], '"many"'),
        (["train", "c", "d", "--out", "r"], "train does not take 'd'"),
        (["train", "c", "--out", "r", "--preset", "10mins"], "did you mean '10min'?"),
        (["train", "c", "--out", "r", "--model", "decodr"], "did you mean 'decoder'?"),
        (["tokenizer", "train", "c", "--out", "t", "--kind", "bbpe"], "did you mean 'bpe'?"),
        (["corpus", "build", "--out", "c"], "no source"),
        (["corpus", "build", ".", "--out", "c", "--set", "min_char=3"], "min_chars"),
        (["corpus", "build", ".", "--out", "c", "--set", "min_chars"], "has no '='"),
        (["compare"], "at least one run"),
        (["serve"], "at least one run"),
        (["bench", "trian"], "benchmark"),
    ],
)
def test_wrong_words(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in complaint(capsys, 2, *words)
    assert list(tmp_path.iterdir()) == []


# ── what the work can meet: exit code 1 ────────────────────────────────────────────────────────


def test_a_folder_that_is_no_corpus_or_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is not a corpus" in complaint(capsys, 1, "corpus", "show", tmp_path)
    for command in ("generate", "evaluate", "show", "resume", "verify", "compare", "serve", "chat"):
        assert str(tmp_path) in complaint(capsys, 1, command, tmp_path)


def test_an_empty_folder_of_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in complaint(capsys, 1, "corpus", "build", tmp_path / "empty", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_corpus_by_the_command_line(
    capsys: pytest.CaptureFixture[str], story: Path, tmp_path: Path
) -> None:
    made = answer(capsys, "corpus", "build", story, "--out", tmp_path / "c")
    assert made["train"]["chars"] + made["validation"]["chars"] == len(story.read_text())
    why = answer(capsys, "corpus", "trace", tmp_path / "c", story)
    assert why["kept"][0]["source"] == str(story)
    assert "no document 'nothing'" in complaint(capsys, 1, "corpus", "trace", tmp_path / "c", "nothing")
    assert "exists already" in complaint(capsys, 2, "corpus", "build", story, "--out", tmp_path / "c")
    assert answer(capsys, "corpus", "build", story, "--out", tmp_path / "c", "--force") == made


def test_a_tokenizer_by_the_command_line(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    made = answer(capsys, "tokenizer", "train", corpus, "--kind", "char", "--out", tmp_path / "t")
    assert made["kind"] == "char"
    assert "exists already" in complaint(capsys, 2, "tokenizer", "train", corpus, "--out", tmp_path / "t")
    again = answer(capsys, "tokenizer", "report", tmp_path / "t", corpus)
    assert again == made


def test_generate(capsys: pytest.CaptureFixture[str], counted: Path) -> None:
    words = ("generate", counted, "Once upon", "--temperature", "0", "--max-tokens", "5")
    result = answer(capsys, *words)
    assert main(words_for(*words)) == 0
    assert capsys.readouterr().out == f"Once upon{result['text']}\n"
    assert result["text"]


def test_out_of_range_sampling(capsys: pytest.CaptureFixture[str], counted: Path) -> None:
    message = complaint(capsys, 2, "generate", counted, "a", "--temperature", "-1")
    assert "temperature=-1.0" in message


def test_a_prompt_longer_than_the_context(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    message = complaint(capsys, 2, "generate", trained, "word " * 5000)
    assert "context" in message


def test_chat_reads_a_pipe(counted: Path) -> None:
    done = run("chat", counted, "--max-tokens", "5", stdin="Once upon a time\n\nthere was\n")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 2
    assert "not to chat" in done.stderr


def test_evaluate_and_compare(
    capsys: pytest.CaptureFixture[str], counted: Path, trained: Path, story: Path
) -> None:
    result = answer(capsys, "evaluate", counted, "--on", story)
    assert set(result["bits_per_byte"]) == {"value", "low", "high", "n"}
    compared = answer(capsys, "compare", counted, trained, "--on", story)
    row = next(row for row in compared["rows"] if row["name"] == counted.name)
    assert row["bits_per_byte"]["value"] == pytest.approx(result["bits_per_byte"]["value"])
    assert "nowhere.txt" in complaint(capsys, 1, "evaluate", counted, "--on", "nowhere.txt")
    for words in (("evaluate", counted, "--on", story), ("compare", counted, trained)):
        assert main(words_for(*words)) == 0
        assert "bits per byte" in capsys.readouterr().out


@pytest.mark.promise(
    "Training",
    "`resume` continues to the same bytes: `resume --prove` compares them, and the proof can fail",
)
def test_train_and_resume(
    capsys: pytest.CaptureFixture[str], trained: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("train", corpus, "--model", "ngram", "--out", tmp_path / "r")
    assert answer(capsys, *words)["family"] == "ngram"
    assert "exists already" in complaint(capsys, 2, *words)
    assert main(words_for("resume", trained)) == 0
    assert "finished" in capsys.readouterr().err
    assert answer(capsys, "resume", trained, "--prove")["identical"] is True


@pytest.mark.promise("Training", "A run is not resumed on another corpus, nor read with another tokenizer")
def test_resume_with_another_corpus(
    capsys: pytest.CaptureFixture[str], trained: Path, corpus: Path, tmp_path: Path
) -> None:
    mine, other = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(trained, mine)
    (tmp_path / "text.txt").write_text("another text\n" * 50)
    assert main(words_for("corpus", "build", tmp_path / "text.txt", "--out", other)) == 0
    record = json.loads((mine / "run.json").read_text())
    record["status"], record["corpus"]["path"] = "training", str(other)
    (mine / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert "another corpus" in complaint(capsys, 1, "resume", mine)


def test_show_doctor_verify(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert answer(capsys, "show", trained)
    assert answer(capsys, "verify", trained)
    assert "torch" in str(answer(capsys, "doctor"))
    for words in (("show", trained), ("verify", trained), ("doctor",)):
        assert main(words_for(*words)) == 0
        assert capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that counts words: a fine-tuned run in a second."""
    from textus import api

    folder = tmp_path_factory.mktemp("task")
    rows = [
        f"{word} film {n},{label}" for word, label in (("good", "pos"), ("bad", "neg")) for n in range(20)
    ]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return api.finetune(folder / "rows.csv", model="linear", task="classification", out=folder / "run").path


@pytest.mark.promise(
    "Robustness",
    "Hosts and origins are refused until they are allowed; what cannot be served is refused at the start",
)
def test_serve_refuses_at_the_start_what_it_cannot_serve(
    capsys: pytest.CaptureFixture[str], tagged: Path, counted: Path, corpus: Path, tmp_path: Path
) -> None:
    """U7, C15, M12: a fine-tuned run and an encoder, also beside one that can be served."""
    complained = complaint(capsys, 2, "serve", counted, tagged, "--port", 0)
    assert "was fine-tuned for classification" in complained
    assert f"textus predict {tagged}" in complained
    settings = ("--set", "model.n_layer=1", "--set", "model.d_model=32", "--set", "model.n_head=2")
    encoder = tmp_path / "encoder"
    words = ("train", corpus, "--model", "encoder", "--tokenizer", "char", "--steps", 2, "--out", encoder)
    assert main(words_for(*words, *settings)) == 0
    capsys.readouterr()
    complained = complaint(capsys, 2, "serve", encoder, "--port", 0)
    assert "encoder cannot be served" in complained


def test_serve_refuses_names_that_are_none(capsys: pytest.CaptureFixture[str], counted: Path) -> None:
    """M9"""
    for flag, value in (("--allow-host", "http://lab"), ("--allow-origin", "lab")):
        assert f"{flag} {value}: not a" in complaint(capsys, 2, "serve", counted, "--port", 0, flag, value)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], counted: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in complaint(capsys, 2, "serve", counted, "--port", port)


# ── the process ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Command line", "With `--json` standard output is one object")
def test_json_keeps_standard_output_clean(story: Path, tmp_path: Path) -> None:
    done = run("corpus", "build", story, "--out", tmp_path / "c", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["path"] == str(tmp_path / "c")
    assert "too few" in done.stderr  # what is told on the way


def test_an_error_is_one_line_unless_debugging(tmp_path: Path) -> None:
    plain = run("corpus", "show", tmp_path)
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.count("\n") == 1
    debugged = run("corpus", "show", tmp_path, env={**os.environ, "TEXTUS_DEBUG": "1"})
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_for_the_output(corpus: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [TEXTUS, "corpus", "show", str(corpus)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("textus: no space left")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([TEXTUS, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_serve_answers_until_ctrl_c(counted: Path, trained: Path) -> None:
    started = subprocess.Popen(
        [TEXTUS, "serve", str(counted), str(trained), "--port", "0", "--allow-host", "lab.example"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    address = re.search(r"http://[\d.:]+", started.stderr.readline())
    assert address
    named = urllib.request.Request(f"{address[0]}/health", headers={"Host": "lab.example"})
    assert json.load(urllib.request.urlopen(named, timeout=30))["models"] == ["counted", "trained"]
    with urllib.request.urlopen(f"{address[0]}/v1/models", timeout=30) as reply:
        assert [model["id"] for model in json.load(reply)["data"]] == ["counted", "trained"]
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=30)[1] == "stopped\n"
    assert started.returncode in (0, 130)


def test_ctrl_c_is_one_line_and_130(counted: Path) -> None:
    started = subprocess.Popen(
        [TEXTUS, "chat", str(counted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    assert "not to chat" in started.stderr.readline()  # it is waiting for a question now
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=30)
    assert started.returncode == 130
    assert stderr == "textus: stopped [interrupted]\n"


# ── planned, and never suggested ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "summary"),
    [
        (
            ["compress", "work/run"],
            "textus compress is planned and does not exist yet (see the README); today: ",
        ),
        (["explain", "work/run", "x"], "textus explain is planned and does not exist yet"),
        (["explain", "--help"], "textus explain is planned"),
        (
            ["train", "c", "--out", "r", "--workers", "4"],
            "unknown option --workers: the number of workers is",
        ),
        (["serve", "r", "--api-key=x"], "unknown option --api-key: the server has no keys"),
    ],
)
def test_what_is_planned_is_named_as_that(
    words: list[str], summary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """U15"""
    message = complaint(capsys, 2, *words)
    assert summary in message
    assert "did you mean" not in message


@pytest.mark.parametrize("flag", ["--farce", "--forc", "--workforce", "--fore", "--FORCE"])
def test_force_is_never_suggested(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """U15: it would replace what was not meant."""
    assert "--force" not in complaint(capsys, 2, "train", "c", "--out", "r", flag).replace(flag, "")


def test_help_and_version_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    """U15"""
    for word, flag in (
        (["help"], ["--help"]),
        (["version"], ["--version"]),
        (["help", "train"], ["train", "--help"]),
    ):
        assert main(word) == 0
        shown = capsys.readouterr().out
        assert main(flag) == 0
        assert capsys.readouterr().out == shown
    assert main(["bench", "--help"]) == 0
    assert "Usage: textus bench WHAT ARGUMENTS… [flags]" in capsys.readouterr().out  # C26


def test_the_demonstration_holds_its_folder_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, steps = tmp_path / "demo", []

    def refused(*step: Any) -> None:
        steps.append(step)
        with pytest.raises(RunError, match=f"{out} is in use"):
            check_output_dir(out, force=True, kind="demo")

    monkeypatch.setattr(demo, "run_step", refused)
    monkeypatch.setattr(demo, "print_summary", lambda *_: None)
    demo.demo(out=out, serve=False, dispatch=lambda words: 0)
    assert len(steps) == len(demo.STEPS)
    check_output_dir(out, force=True, kind="demo")
