"""How a model is fine-tuned: which weights move and how fast, what the run keeps of it, and when it stops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from test_finetuning import sentences, written

from textus import api
from textus.core.errors import UsageError
from textus.models.nn.lora import lora_layers
from textus.runs.store import load, open_run
from textus.tasks.encoding import collate, encode_examples, input_template

FEW = ("train.batch_size=8", "compute.precision=float32")
ENCODER = [
    "model.n_layer=2", "model.d_model=32", "model.n_head=2", "model.position=learned", "model.norm_first=false",
    "model.bias=true", "model.activation=gelu-exact", "model.mlm_transform=true", "model.segments=2", "model.mask_id=2",
    "optim.warmup=2", "model.context_length=32", "train.context_length=32", "train.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "train.jsonl", sentences(240))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that has read such sentences; no weight of it is where it began."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("\n".join(row["text"] for row in sentences(300, seed=9)))
    built = api.build_corpus(folder / "text.txt", out=folder / "corpus", split="none")
    return api.train(
        built, model="encoder", tokenizer="word", steps=150, overrides=ENCODER, out=folder / "encoder"
    ).path


@pytest.fixture(scope="module")
def lora(encoder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    out = tmp_path_factory.mktemp("runs") / "lora"
    how = ["method.rank=16", "method.dropout=0.05", "optim.rate=0.01"]
    return api.finetune(rows, init_from=encoder, method="lora", out=out, epochs=6, overrides=[*FEW, *how])


def moved(run: api.Run) -> set[str]:
    """The weights of a run that are not its parent's, heads aside."""
    before = load(Path(run.record["parent"]))[0].state_dict()
    after = load(run.path, merged=False)[0].state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# ── which weights move ─────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "A method trains exactly the parameters it names: adapters and heads, the last layers, lower layers less",
)
def test_lora_learns_the_task_and_leaves_every_weight_as_it_was(lora: api.Run, tmp_path: Path) -> None:
    assert lora.record["method"] == "lora"
    assert lora.record["method_settings"] == {"rank": 16, "alpha": 16.0, "dropout": 0.05, "targets": "all"}
    assert moved(lora) == set()
    test = written(tmp_path / "test.jsonl", sentences(60, seed=1))
    assert lora.evaluate(test)["accuracy"]["value"] > 0.8  # a third by chance
    apart = load(lora.path, merged=False)[0]
    assert all(b.abs().max() > 0 for part in lora_layers(apart).values() for b in part.b.values())


@pytest.mark.promise(
    "Tasks",
    "LoRA begins as the model was, merges without changing it, and `peft` computes the same from what "
    "is exported, in every form that `transformers` has; a fault in the rows is seen",
)
def test_merged_on_load_it_answers_the_same(lora: api.Run) -> None:
    apart, tokenizer, _ = load(lora.path, merged=False)
    assert not lora_layers(lora.model)
    task = lora.task
    request = encode_examples(
        task,
        [task.example_from_text((item,), item) for item in ("a grand film", "dull")],
        tokenizer,
        input_template(apart.config, tokenizer),
    )
    batch = collate(task, request, tokenizer.pad_id)

    def logits(model: Any) -> torch.Tensor:
        hidden = model.hidden(batch.ids, batch.mask, batch.segments)
        return model.heads["classification"](hidden, batch.mask)

    with torch.no_grad():
        torch.testing.assert_close(logits(lora.model), logits(apart), atol=1e-5, rtol=1e-5)


@pytest.mark.promise(
    "Tasks",
    "Fine-tuning by LoRA, or ended by patience, resumes to the same bytes; patience ends any training "
    "at the same step, is reported, and keeps the best weights",
)
def test_broken_off_and_resumed_lora_ends_in_the_same_bytes(lora: api.Run) -> None:
    assert api.verify_determinism(lora.path)["identical"]


def test_peft_reads_the_exported_adapters(lora: api.Run, encoder: Path, tmp_path: Path) -> None:
    import transformers
    from peft import PeftModel

    api.export(encoder, out=tmp_path / "base")
    api.export(lora.path, to="peft", out=tmp_path / "adapter")
    base = transformers.BertModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    whole = transformers.BertForMaskedLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    ids = torch.tensor(
        [[tokenizer.eos_token_id, *tokenizer("a grand film").input_ids, tokenizer.eos_token_id]]
    )
    head = lora.model.heads["classification"]
    with torch.no_grad():
        hidden = theirs(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        mine = lora.model.hidden(ids)  # type: ignore[operator]
        torch.testing.assert_close(head(mine), head(hidden), atol=1e-5, rtol=1e-5)
        plain = base.eval()(input_ids=ids).last_hidden_state
        assert (head(plain) - head(hidden)).abs().max() > 1e-2
        merged = theirs.merge_and_unload()(input_ids=ids).logits
        torch.testing.assert_close(lora.model(ids), merged, atol=1e-5, rtol=1e-5)


def test_only_adapters_are_exported_as_adapters(encoder: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model"):
        api.export(encoder, to="peft", out=tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_lora_run_can_be_begun_from_again(lora: api.Run, rows: Path, tmp_path: Path) -> None:
    again = api.finetune(
        rows, init_from=lora.path, out=tmp_path / "run", epochs=1, overrides=[*FEW, "optim.rate=1e-6"]
    )
    merged, after = lora.model.state_dict(), again.model.state_dict()
    assert merged.keys() == after.keys()
    name = "blocks.1.attention.qkv.weight"
    torch.testing.assert_close(after[name], merged[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("layers", "moves"), [(0, set()), (1, {"1"}), (2, {"0", "1"})])
def test_frozen_moves_the_head_and_the_last_layers(
    layers: int, moves: set[str], encoder: Path, rows: Path, tmp_path: Path
) -> None:
    run = api.finetune(
        rows, init_from=encoder, method="frozen", out=tmp_path / "run", epochs=1,
        overrides=[*FEW, f"method.layers={layers}"],
    )  # fmt: skip
    assert {name.split(".")[1] for name in moved(run)} == moves
    assert all(name.startswith("blocks.") for name in moved(run))
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert any("accuracy" in line for line in log)


@pytest.mark.parametrize("family", ["lstm", "decoder"])
def test_frozen_is_for_every_family(family: str, rows: Path, tmp_path: Path) -> None:
    small = ["model.n_layer=1", "model.d_model=32", "train.batch_size=8"]
    whole = api.finetune(rows, model=family, out=tmp_path / "whole", epochs=1, overrides=small)
    run = api.finetune(rows, init_from=whole.path, method="frozen", out=tmp_path / "run", epochs=1)
    assert moved(run) <= {"heads.classification.out.weight", "heads.classification.out.bias"}
    assert api.verify_determinism(run.path)["identical"]


@pytest.mark.slow
def test_layers_further_down_move_less(encoder: Path, rows: Path, tmp_path: Path) -> None:
    def change(name: str, *settings: str) -> dict[str, float]:
        one_step = ["train.steps=1", "optim.warmup=0", "optim.weight_decay=0", "optim.optimiser=adam"]
        run = api.finetune(
            rows, init_from=encoder, out=tmp_path / name, overrides=[*FEW, *one_step, *settings]
        )
        before, after = load(encoder)[0].state_dict(), run.model.state_dict()
        parts = ("blocks.1.feed_forward.up.weight", "blocks.0.feed_forward.up.weight", "norm.weight")
        return {part: float((after[part] - before[part]).abs().median()) for part in parts}

    alike, less = change("alike"), change("less", "optim.layer_decay=0.5")
    shares = [
        less[part] / alike[part] for part in alike
    ]  # Adam's first step is the rate, whatever the gradient
    assert shares == pytest.approx([0.5, 0.25, 0.125], rel=0.05)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"method": "lorra"}, "unknown method 'lorra'; did you mean 'lora'"),
        ({"method": "lora", "init_from": None, "model": "lstm"}, "name its run with --from RUN"),
        ({"overrides": ["method.rank=8"]}, "full has no settings"),
        ({"method": "frozen", "overrides": ["method.rank=8"]}, "unknown setting 'rank'"),
        ({"method": "frozen", "overrides": ["method.layers=9"]}, "method.layers=9: this model has 2 layers"),
        ({"method": "lora", "overrides": ["method.targets=query"]}, "unknown projection in method.targets"),
        ({"overrides": ["optim.layer_decay=0"]}, "optim.layer_decay=0.0: must be above 0"),
        ({"overrides": ["train.patience=-1"]}, "train.patience=-1: must be at least 0"),
        ({"overrides": ["train.patience=2", "train.evaluate_every=0"]}, "evaluated at the end only"),
    ],
)
def test_wrong_words_are_named_before_anything_is_written(
    words: dict[str, Any], complaint: str, encoder: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        api.finetune(rows, **{"init_from": encoder, "out": tmp_path / "run", **words})
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_adapters_are_never_passed_over_by_kernels(trained: Path, rows: Path, tmp_path: Path) -> None:
    with raises(UsageError, "conflicting_options"):
        api.finetune(
            rows, init_from=trained, method="lora", out=tmp_path / "run", overrides=["compute.step=native"]
        )


# ── when it stops ──────────────────────────────────────────────────────────────────────────────

STILL = ("optim.rate=1e-9", "optim.schedule=constant", "train.patience=2", "train.evaluate_every=5")


def test_patience_ends_a_training_that_finds_nothing_better(
    encoder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = api.finetune(rows, init_from=encoder, out=tmp_path / "run", epochs=3, overrides=[*FEW, *STILL])
    assert run.record["best"]["step"] == 0  # the solved head
    assert run.record["steps"] == 10  # two more evaluations
    assert run.record["weights"]["step"] == 0
    err = capsys.readouterr().err
    assert "2 evaluations in a row found nothing better than step 0: stopped at step 10 of" in err
    assert api.verify_determinism(run.path)["identical"]


def test_killed_before_the_last_evaluation_it_stops_at_the_same_step(
    encoder: Path, rows: Path, tmp_path: Path
) -> None:
    every = ("train.checkpoint_every=5",)
    run = api.finetune(
        rows, init_from=encoder, out=tmp_path / "run", epochs=3, overrides=[*FEW, *STILL, *every]
    )
    assert run.record["steps"] == 10
    weights = (run.path / "model.safetensors").read_bytes()
    opened = open_run(run.path)
    (run.path / "model.safetensors").unlink()
    opened.record.pop("files")
    opened.record["status"] = "training"
    opened.write_record()  # as if killed between the checkpoint of step 10 and its evaluation
    api.resume(run.path)
    assert open_run(run.path).record["steps"] == 10
    assert (run.path / "model.safetensors").read_bytes() == weights


def test_patience_waits_while_it_gets_better(encoder: Path, rows: Path, tmp_path: Path) -> None:
    settings = [*FEW, "optim.rate=0.003", "train.patience=30", "train.evaluate_every=5", "train.steps=40"]
    run = api.finetune(rows, init_from=encoder, out=tmp_path / "run", overrides=settings)
    assert run.record["steps"] == 40


def test_pre_training_has_patience_too(corpus: Path, story: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text(story.read_text() * 9)
    built = api.build_corpus(long, out=tmp_path / "corpus", split="tail:0.3")
    small = ["model.n_layer=1", "model.d_model=32", "model.n_head=2", "train.context_length=32"]
    still = ["optim.optimiser=sgd", *STILL]
    run = api.train(built, tokenizer="char", steps=60, overrides=[*small, *still], out=tmp_path / "run")
    assert run.record["steps"] < 60
    with raises(UsageError, "incompatible_settings"):
        api.train(corpus, tokenizer="char", steps=9, overrides=["train.patience=1"], out=tmp_path / "none")
    shutil.rmtree(run.path)
