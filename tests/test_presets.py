"""From a wish to a plan: words are checked, what is measured is recorded, and a budget is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from textus import tokenizers
from textus.core.config import from_dict
from textus.core.console import cpu_seconds
from textus.core.errors import RunError, UsageError
from textus.core.io import read_json, write_json
from textus.data.corpus import open_corpus
from textus.data.token_dataset import TokenizedCorpus
from textus.training import autotune, planner, pretrain
from textus.training.autotune import micro_batches
from textus.training.config import PretrainConfig
from textus.training.planner import SIZES, Plan, plan_neural, size_for
from textus.training.trainer import ComputeConfig, TrainSettings

TINY = (
    "model.n_layer=1",
    "model.d_model=16",
    "model.n_head=2",
    "model.context_length=32",
    "train.batch_size=4",
)


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> tokenizers.Tokenizer:
    return tokenizers.train("char", open_corpus(corpus).texts("train"))


@pytest.fixture(scope="session")
def tokenizer_path(tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenized(corpus: Path, tokenizer: tokenizers.Tokenizer) -> TokenizedCorpus:
    return TokenizedCorpus(open_corpus(corpus), tokenizer)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of three seconds, on one core."""
    monkeypatch.setattr(planner.hardware, "usable_cores", lambda: 1)


def train(corpus: Path, *, tokenizer: Path, out: Path, force: bool = False, **options: Any) -> Path:
    return pretrain.train(corpus, out, PretrainConfig(**options), tokenizer=tokenizer, force=force)


def plan(tokenized: TokenizedCorpus, **options: Any) -> Plan:
    options.setdefault("overrides", TINY)
    return plan_neural(PretrainConfig(**options), tokenized, cpu_seconds())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preset": "10mins"},
            "unknown preset '10mins'; did you mean '10min'? known: 1min, 10min, 1h, overnight",
        ),
        ({"preset": "0min"}, "unknown preset '0min'"),
        ({"preset": "1min", "steps": 5}, "--preset decides depth and steps"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"depth": -1}, "--depth -1: must be at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0"),
        ({"overrides": ("modle.n_layer=2",)}, "unknown group of settings 'modle'; did you mean 'model'"),
        ({"overrides": ("model.n_layers=2",)}, "'model.n_layers'; did you mean 'model.n_layer'"),
        ({"overrides": ("model.n_layer",)}, "has no '='"),
        ({"overrides": ("model.n_layer=two",)}, "model.n_layer='two'"),
        ({"overrides": ("optim.rat=2",)}, "optim.rat'; did you mean"),
        ({"overrides": ("optim.optimiser=adamv",)}, "unknown optimiser 'adamv'; did you mean 'adam'"),
        ({"overrides": ("optim.rate=-1",)}, "optim.rate=-1.0: must be above 0"),
        ({"overrides": ("train.log=1",)}, "did you mean 'log_every'"),
        ({"overrides": ("compute.stepp=eager",)}, "did you mean 'step'"),
        ({"overrides": ("model.d_model=30", "model.n_head=4")}, "d_model=30 must split into n_head=4"),
    ],
)
def test_wrong_words_get_one_line_and_nothing_is_written(
    options: dict[str, Any], message: str, corpus: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    if "overrides" in options:
        options = {**options, "overrides": list(options["overrides"]), "steps": 1}
    with pytest.raises(UsageError) as error:
        train(corpus, tokenizer=tokenizer_path, out=tmp_path / "run", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.promise("Training", "Only presets measure; choices and settings are recorded and kept")
def test_steps_take_the_fixed_rule_and_measure_nothing(
    tokenized: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(autotune, "time_step", refuse)
    first, again = (plan(tokenized, steps=5) for _ in range(2))
    assert (first.train, first.compute, first.model) == (again.train, again.compute, again.model)
    assert (first.train.steps, first.clock, first.measured) == (5, None, {})
    with pytest.raises(AssertionError, match="measured"):
        plan(tokenized, preset="3s")


def test_settings_have_the_last_word(tokenized: TokenizedCorpus) -> None:
    chosen = (*TINY, "train.steps=9", "train.log_every=3", "compute.step=eager", "compute.precision=float32")
    result = plan(tokenized, overrides=(*chosen, "optim.rate=0.5", "optim.optimiser=adamw"))
    assert (result.train.steps, result.train.log_every, result.train.batch_size) == (9, 3, 4)
    assert (result.train.optim.rate, result.train.optim.optimiser) == (0.5, "adamw")
    assert result.compute == ComputeConfig("float32", "plain", "eager")
    assert (result.model.n_layer, result.model.d_model, result.model.context_length) == (1, 16, 32)


@pytest.mark.promise(
    "Families", "Each optimiser has a default learning rate; the record holds it; earlier runs keep theirs"
)
@pytest.mark.parametrize(("optimiser", "rate"), [("muon", 0.03), ("adamw", 0.001), ("sgd", 0.1)])
def test_the_record_reports_the_rate_that_is_taken(
    optimiser: str, rate: float, corpus: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    words = [*TINY, f"optim.optimiser={optimiser}"]
    out = train(corpus, tokenizer=tokenizer_path, out=tmp_path / "run", steps=1, overrides=tuple(words))
    assert read_json(out / "run.json")["settings"]["optim"]["rate"] == rate


def test_a_run_of_before_keeps_the_rate_it_was_started_with() -> None:
    """Its record has the rate that every optimiser had then."""
    kept = {"steps": 4, "optim": {"optimiser": "adamw", "rate": 0.03, "other_rate": 0.006}}
    assert from_dict(TrainSettings, kept).optim.own_rate == 0.03


def test_sizes_grow_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner.hardware, "matmul_rate", lambda *_, **__: 1e11)
    results = [size_for(PretrainConfig(), budget) for budget in (10, 100, 1e3, 1e5, 1e7)]
    sizes = [(result.n_layer, result.d_model) for result in results]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 4
    assert [most for most, _ in SIZES] == sorted(most for most, _ in SIZES)
    deep = [size_for(PretrainConfig(depth=depth), None) for depth in (2, 8)]
    assert [(item.n_layer, item.d_model) for item in deep] == [(2, 128), (8, 512)]


@pytest.mark.parametrize("rows", [1, 2, 3, 32, 96])
@pytest.mark.parametrize("length", [1, 128, 512, 8192])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_micro_batches_are_within_the_rows(rows: int, length: int, workers: int) -> None:
    pieces = micro_batches(rows * length, rows, workers)
    assert 1 <= pieces <= rows
    assert pieces % workers == 0 or pieces == rows


@pytest.mark.usefixtures("seconds")
def test_a_preset_records_what_it_measured_and_keeps_its_budget(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = cpu_seconds()
    out = train(corpus, tokenizer=tokenizer_path, out=tmp_path / "run", preset="3s", overrides=TINY)
    used = cpu_seconds() - started
    record = read_json(out / "run.json")
    assert used < 12  # not a speed: a clock nobody looks at would run much longer
    assert record["status"] == "finished"
    assert record["budget"] == {"budget": 3.0}
    times = record["measured"]["cpu_seconds_by_choice"]
    choices = record["compute"]
    way = f"{choices['step']} {choices['precision']} {choices['attention']}"
    assert times[way] == min(times.values())  # told to a tenth of a millisecond, so that two may be alike
    assert record["steps"] >= 20
    err = capsys.readouterr().err
    assert "--preset 3s: 3 s of CPU time" in err
    assert f"the fastest is {way} with " in err


def test_choices_of_another_run_are_taken_as_they_are(
    trained: Path, tokenized: TokenizedCorpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    kept = {"precision": "float32", "attention": "fused", "step": "eager", "device": "cpu", "workers": 2}
    write_json(run / "run.json", {**read_json(run / "run.json"), "compute": kept})
    assert plan(tokenized, steps=5, compute_from=run).compute == ComputeConfig(**kept)  # type: ignore[arg-type]
    with raises(RunError, "not_a_run", "nowhere"):
        plan(tokenized, steps=5, compute_from=tmp_path / "nowhere")


def test_an_output_that_exists_is_refused(trained: Path, corpus: Path, tokenizer_path: Path) -> None:
    before = (trained / "run.json").read_bytes()
    with raises(UsageError, "already_exists"):
        train(corpus, tokenizer=tokenizer_path, out=trained, steps=1, overrides=TINY)
    assert (trained / "run.json").read_bytes() == before


@pytest.mark.promise("Families", "Wrong words replace no finished run, `--force` or not")
@pytest.mark.parametrize(
    ("assignment", "messages"),
    [
        ("compute.precision=banana", ("unknown_name", "precision")),
        ("train.context_length=300", ("incompatible_settings",)),
        ("model.vocab_size=20", ("conflicting_options",)),
        ("train.micro_batches=0", ("out_of_range", "micro_batches", "0")),
        ("train.steps=0", ("out_of_range", "steps", "0")),
    ],
)
def test_wrong_words_replace_no_finished_run(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, assignment: str, messages: tuple[str, ...]
) -> None:
    out = train(corpus, tokenizer=tokenizer_path, out=tmp_path / "run", steps=1, overrides=TINY)
    kept = (out / "model.safetensors").read_bytes()
    with raises(UsageError, *messages):
        train(corpus, tokenizer=tokenizer_path, out=out, steps=1, overrides=(*TINY, assignment), force=True)
    assert (out / "model.safetensors").read_bytes() == kept


@pytest.mark.promise("Families", "Texts end with the end token of the tokenizer")
@pytest.mark.parametrize("family", ["ngram", "hmm", "vae", "gan", "seq2seq", "encoder-decoder", "encoder"])
def test_texts_end_as_the_tokenizer_requires(
    family: str, corpus: Path, tokenizer_path: Path, tokenizer: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    answer = rf"^model.end_id={tokenizer.end_id + 1}: the tokenizer ends texts with id {tokenizer.end_id}; leave the"
    words: dict[str, Any] = {"model": family, "tokenizer": tokenizer_path, "out": tmp_path / "run"}
    with pytest.raises(UsageError, match=answer):
        train(corpus, overrides=(f"model.end_id={tokenizer.end_id + 1}",), **words)
    assert not (tmp_path / "run").exists()
