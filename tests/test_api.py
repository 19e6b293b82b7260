"""The verbs in Python: the public names, and a run that generates, talks, scores and evaluates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from raising import raises

import textus
from textus import api
from textus.api import training
from textus.api.inference import unique_names
from textus.core.errors import RunError, UsageError
from textus.core.io import FOLDER_MARKERS, check_output_dir, write_json

# ── the public face ────────────────────────────────────────────────────────────────────────────


def test_public_names_are_few_sorted_and_there() -> None:
    assert textus.__all__ == sorted(textus.__all__)
    assert len(textus.__all__) <= 80
    for name in textus.__all__:
        assert getattr(textus, name).__doc__, f"{name} has no docstring"
        assert name in dir(textus)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="open_run"):
        textus.open_runs  # noqa: B018
    assert not hasattr(textus, "nothing")


def test_the_version_is_the_package_s() -> None:
    assert textus.__version__.split(".")[0].isdigit()


# ── text ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("n_bytes", "entries"), [(0, 320), (1_000, 320), (130_000, 512), (1_000_000, 4096), (10**9, 8192)]
)
def test_the_vocabulary_fits_the_corpus(n_bytes: int, entries: int) -> None:
    assert training.fitting_vocab_size(n_bytes) == entries


def test_the_chosen_tokenizer(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "corpus"
    shutil.copytree(corpus, mine, ignore=shutil.ignore_patterns("tokenizers", "tokens"))
    sized = training.chosen_tokenizer(mine, None)
    assert "byte-level BPE" in capsys.readouterr().err  # a choice made for someone is told
    assert api.load_tokenizer(sized).kind == "bpe"
    assert api.load_tokenizer(training.chosen_tokenizer(mine, "char")).kind == "char"
    assert training.chosen_tokenizer(mine, str(sized)) == sized
    with raises(UsageError, "unknown_name", "'char'"):
        training.chosen_tokenizer(mine, "chars")


@pytest.mark.promise("Command line", "Nothing is overwritten without `--force`")
def test_nothing_is_overwritten_by_accident(corpus: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("mine")
    for make in (api.train_tokenizer, api.train):
        with raises(UsageError, "already_exists"):
            make(corpus, out=precious)
    assert (precious / "notes.txt").read_text() == "mine"


# ── runs ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["counted", "trained"])
def run(request: pytest.FixtureRequest) -> api.Run:
    """A run of each family."""
    return api.open_run(request.getfixturevalue(request.param))


def test_a_run_continues_a_text(run: api.Run) -> None:
    text = run.generate("Once upon", temperature=0, max_tokens=12)
    assert text
    assert "".join(run.stream("Once upon", temperature=0, max_tokens=12)) == text
    assert run.generate("Once upon", seed=3, max_tokens=12) == run.generate(
        "Once upon", seed=3, max_tokens=12
    )


@pytest.mark.promise("Generation", "A run writes what the reference loop writes")
def test_what_it_writes_is_what_the_reference_loop_writes(run: api.Run) -> None:
    from textus.generation.sampling import generate

    ids = run.tokenizer.encode("Once upon")
    sampling = textus.SamplingParams(max_tokens=20, seed=5)
    wanted = run.tokenizer.decode(generate(run.model, ids, sampling, run.tokenizer.end_id))
    assert run.generate("Once upon", max_tokens=20, seed=5) == wanted


def test_stop_strings_end_it_and_are_left_out(run: api.Run) -> None:
    whole = run.generate("Once upon", temperature=0, max_tokens=20)
    stop = whole[4:6]
    stopped = run.generate("Once upon", temperature=0, max_tokens=20, stop=stop)
    assert stopped == whole[: whole.index(stop)]


def test_sampling_words_are_checked_before_anything_is_read(run: api.Run) -> None:
    with raises(UsageError, "unknown_name", "'temperature'"):
        run.generate("a", temprature=1)
    with raises(UsageError, "out_of_range", "top_p", "2"):
        run.generate("a", top_p=2)


def test_a_run_that_continues_texts_answers_with_the_next_line(run: api.Run) -> None:
    assert not run.supports_chat
    answer = run.chat([{"role": "user", "content": "Once upon a time"}], max_tokens=30)
    assert "\n" not in answer


def test_old_messages_are_left_out_loudly(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = api.open_run(trained)
    context = run.model.config.context_length
    old = {"role": "user", "content": "a" * (context // 2)}
    run.chat([old, old, old, {"role": "user", "content": "the fox"}], max_tokens=3)
    assert "oldest messages were left out" in capsys.readouterr().err


def test_evaluate_on_a_file_and_on_the_validation_split(run: api.Run, story: Path) -> None:
    for on in (story, None):
        scores = run.evaluate(on, samples=False)
        bits = scores["bits_per_byte"]
        assert 0 < bits["low"] <= bits["value"] <= bits["high"] < 20
    score = run.score(story.read_text())
    assert len(score.nats) == len(run.tokenizer.encode(story.read_text()))


def test_a_corpus_that_changed_is_not_measured_on(
    counted: Path, corpus: Path, tmp_path: Path, story: Path
) -> None:
    from textus.core.io import read_json, write_json

    mine = tmp_path / "run"
    shutil.copytree(counted, mine)
    record = read_json(mine / "run.json")
    record["corpus"]["fingerprint"] = "0" * 16
    write_json(mine / "run.json", record)
    with raises(RunError, "data_changed"):
        api.Run(mine).evaluate()


def test_compare_writes_its_report(counted: Path, trained: Path, tmp_path: Path) -> None:
    result = api.compare([counted, trained], out=tmp_path / "report")
    assert {row["name"] for row in result["rows"]} == {"counted", "trained"}
    page = (tmp_path / "report" / "comparison.html").read_text()
    assert "counted" in page
    assert "trained" in page
    assert (tmp_path / "report" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_name_keep_apart(tmp_path: Path) -> None:
    runs = [api.Run(tmp_path / "a" / "run"), api.Run(tmp_path / "b" / "run"), api.Run(tmp_path / "c")]
    assert list(unique_names(runs)) == [str(runs[0].path), str(runs[1].path), "c"]


@pytest.mark.promise(
    "Training",
    "`resume` continues to the same bytes: `resume --prove` compares them, and the proof can fail",
)
def test_the_proof_of_resuming_can_fail(trained: Path, tmp_path: Path) -> None:
    from textus.core.io import read_json, write_json
    from textus.runs.store import hashes

    mine = tmp_path / "run"
    shutil.copytree(trained, mine)
    assert api.verify_determinism(mine)["resumed_from_step"] > 0
    data = bytearray((mine / "model.safetensors").read_bytes())
    data[-1] ^= 1  # a run that says it ended elsewhere than its checkpoints lead to
    (mine / "model.safetensors").write_bytes(bytes(data))
    write_json(mine / "run.json", {**read_json(mine / "run.json"), "files": hashes(mine)})
    with raises(RunError, "not_reproduced"):
        api.verify_determinism(mine)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_show_reports_parameters_and_history(trained: Path) -> None:
    summary = api.show(trained)
    assert summary["parameters"]["total"] == sum(p.numel() for p in api.open_run(trained).model.parameters())
    assert summary["mermaid"].startswith("flowchart")


def test_a_run_shows_itself_in_a_notebook(run: api.Run) -> None:
    assert "<table>" in run._repr_html_()
    assert "Run(" in repr(run)


@pytest.mark.promise(
    "Training", "A run with a flipped byte, a missing file, an older or a newer format is refused"
)
@pytest.mark.parametrize("damage", ["flip", "remove", "older", "newer"])
def test_a_damaged_run_is_refused(counted: Path, tmp_path: Path, damage: str) -> None:
    mine = tmp_path / "run"
    shutil.copytree(counted, mine)
    weights, record = mine / "model.safetensors", mine / "run.json"
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == "remove":
        weights.unlink()
    else:
        record.write_text(
            record.read_text().replace('"version": 2', f'"version": {0 if damage == "older" else 99}')
        )
    with pytest.raises(RunError):
        api.verify(mine)
    with pytest.raises(RunError):
        api.open_run(mine).generate("a")
    assert api.verify(counted)


@pytest.mark.promise("Training", "A model that memorises a one-page story is reported")
@pytest.mark.slow
def test_a_story_of_one_page_is_learned_by_heart_and_that_is_reported(
    story: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.n_layer=2", "model.d_model=64", "model.n_head=2"]
    run = textus.train(corpus, tokenizer="char", out=tmp_path / "run", steps=150, overrides=small)
    err = capsys.readouterr().err
    assert "expect it to be memorised" in err
    assert "too few to choose weights by" in err
    report = " ".join(
        ("Once upon a time" + run.generate("Once upon a time", temperature=0, max_tokens=60)).split()
    )
    assert report in " ".join(story.read_text().split())


@pytest.mark.promise("Families", "`--force` replaces only a folder of the same kind")
@pytest.mark.parametrize("there", FOLDER_MARKERS)
@pytest.mark.parametrize("wanted", FOLDER_MARKERS)
def test_force_replaces_only_its_own_kind(tmp_path: Path, there: str, wanted: str) -> None:
    """A run holds a tokenizer too, and is none."""
    folder = tmp_path / "folder"
    folder.mkdir()
    check_output_dir(folder, force=True, kind=wanted)  # empty
    samples = {int: 1, str: "x", dict: {}}
    for kind in {there, "tokenizer"} if there in ("run", "export") else {there}:
        name, keys = FOLDER_MARKERS[kind]
        write_json(folder / name, {key: samples.get(value, value) for key, value in keys.items()})
    if there == wanted:
        check_output_dir(folder, force=True, kind=wanted)
        return
    with raises(UsageError, "already_exists", there):
        check_output_dir(folder, force=True, kind=wanted)


@pytest.mark.promise("Robustness", "`--force` replaces no folder of somebody else")
def test_force_replaces_no_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear all")
    for out in (tmp_path / "letters", tmp_path / "letters" / "dear.txt", tmp_path):
        with raises(UsageError, "already_exists", "run"):
            check_output_dir(out, force=True)
    for kind, (name, keys) in FOLDER_MARKERS.items():  # C2: files of the same names, not by us
        mine = tmp_path / kind
        mine.mkdir()
        (mine / "dear.txt").write_text("Dear all")
        for theirs in ("{}", "[]", "no JSON", json.dumps({**dict.fromkeys(keys, 1.5), "name": "mine"})):
            (mine / name).write_text(theirs)
            with raises(UsageError, "already_exists", kind):
                check_output_dir(mine, force=True, kind=kind)
        (mine / "documents.jsonl").write_text('{"text": "mine"}')
        (mine / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        with raises(UsageError, "already_exists", kind):
            check_output_dir(mine, force=True, kind=kind)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear all"
