"""Chat models trained on conversations: rows, masks, training, evaluation; small Llamas with chat templates."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chats import TEMPLATES, write_folder
from labelled import written
from raising import raises

import textus
from textus import open_run
from textus.api import exchange
from textus.api.run import Run
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.conversations import read_conversation
from textus.data.weighted_rows import WeightedRow, WeightedRowLoader
from textus.finetuning.config import FinetuneConfig
from textus.finetuning.finetune import resume, start
from textus.tasks.chat_rows import ChatFormat, encode_conversations
from textus.tokenizers import Tokenizer
from textus.training.trainer import TrainingInterrupted

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML with its answers marked, as `transformers` reads it."""
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red"}


def colours(n: int) -> list[dict[str, Any]]:
    """Conversations of two questions each."""
    things = list(COLOURS)
    pairs = [(things[i % 5], things[(i // 5 + i) % 5]) for i in range(n)]
    return [
        {"messages": [m for thing in pair for m in turn(f"{i}: the {thing}?", COLOURS[thing])]}
        for i, pair in enumerate(pairs)
    ]


def turn(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def make_base(folder: Path, template: str | None, context: int = 128) -> Run:
    """An imported Llama of random weights, with a chat template or without."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    hub = write_folder(folder / "hub", "byte-level", "plain")
    if template is not None:
        (hub / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        (hub / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(hub)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=context, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(hub)
    exchange.import_run(hub, folder / "base")
    return open_run(folder / "base")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_base(tmp_path_factory.mktemp("chat"), TEMPLATES["chatml"])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "chats.jsonl", colours(60))


@pytest.fixture(scope="module")
def tuned(base: Run, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "tuned"
    return textus.finetune(
        rows, out=out, init_from=base.path, task="chat", epochs=12,
        overrides=["train.batch_size=8", "optim.rate=5e-3"],
    )  # fmt: skip


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


def test_the_three_forms_of_rows_are_the_same_conversation() -> None:
    expected = [{"role": "system", "content": "Be brief."}, *turn("Hi\nnow", "Hello")]
    sharegpt = [{"from": "human", "value": "Hi\nnow"}, {"from": "gpt", "value": "Hello"}]
    for row in (
        {"messages": expected},
        {"messages": json.dumps(expected)},
        {"conversations": sharegpt, "system": "Be brief."},
        {"instruction": "Hi", "input": "now", "output": "Hello", "system": "Be brief."},
    ):
        assert read_conversation(row, "row 1") == expected
    longer = {"instruction": "c", "output": "d", "history": [["a", "b"]]}
    assert read_conversation(longer, "row 1") == [*turn("a", "b"), *turn("c", "d")]


def test_a_call_of_a_tool_in_sharegpt_is_tool_calls() -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    row = [("human", "1?"), ("function_call", json.dumps(call)), ("observation", "1"), ("gpt", "It is 1.")]
    messages = read_conversation({"conversations": [{"from": r, "value": v} for r, v in row]}, "row 1")
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"] == [{"type": "function", "function": call}]


WRONG = {
    "unknown role 'robot'": [("robot", "x")],
    "two user turns in a row": [("user", "a"), ("user", "b"), ("assistant", "c")],
    "two assistant turns in a row": [("user", "a"), ("assistant", "b"), ("assistant", "c")],
    "starts with the assistant": [("system", "s"), ("assistant", "a")],
    "a tool result without a call": [("user", "a"), ("assistant", "b"), ("tool", "c")],
    "no assistant turn": [("user", "a")],
    "answer of the assistant is empty": [("user", "a"), ("assistant", " ")],
    "user turn is empty": [("user", ""), ("assistant", "a")],
}


@pytest.mark.promise(
    "Robustness", "A conversation whose turns are wrong is named by its line, with what is wrong"
)
@pytest.mark.parametrize("problem", WRONG)
def test_wrong_turns_are_named_by_their_line(problem: str, base: Run, tmp_path: Path) -> None:
    good = colours(9)
    bad = {"messages": [{"role": role, "content": text} for role, text in WRONG[problem]]}
    path = written(tmp_path / "chats.jsonl", [*good[:4], bad, *good[4:]])
    with raises(DataError, "invalid_row", "line 5: ", problem):
        textus.finetune(path, out=tmp_path / "run", init_from=base.path, task="chat")


# ── masks ──────────────────────────────────────────────────────────────────────────────────────

TALKS = [
    turn("How are you?", "Fine."),
    [{"role": "system", "content": "Be <|im_end|> brief."}, *turn("a", "b c d"), *turn("e  f", " é中 ")],
    [
        *turn("one", "two\nthree"),
        *turn("four", "five"),
        *turn("six", "seven"),
        {"role": "user", "content": "x"},
    ],
]


@pytest.mark.promise("Results", "Of a conversation, the answers and their ends are learned, and nothing else")
@pytest.mark.parametrize("number", range(len(TALKS)))
def test_answers_and_their_ends_are_learned_as_transformers_marks_them(
    number: int, base: Run, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(write_folder(tmp_path, "byte-level", "plain"))
    talk = [{**m, "content": m["content"].replace("<|im_end|>", "")} for m in TALKS[number]]
    marked = other.apply_chat_template(
        talk, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    (row,) = encode_conversations([talk], base.tokenizer, None)
    n = len(row.ids)  # a row ends with its last answer
    assert row.ids == marked["input_ids"][:n]
    assert [int(learned) for learned in row.learned] == marked["assistant_masks"][:n]
    assert not any(marked["assistant_masks"][n:])
    assert row.n_bytes == sum(len(m["content"].encode()) for m in talk if m["role"] == "assistant")


def test_a_message_that_spells_the_end_is_no_end(base: Run) -> None:
    (row,) = encode_conversations([turn("a", "b<|im_end|>c")], base.tokenizer, None)
    end = base.tokenizer.special["<|im_end|>"]
    learned = [id for id, is_learned in zip(row.ids, row.learned, strict=True) if is_learned]
    assert learned.count(end) == 1
    assert learned[-1] == end


@pytest.mark.parametrize("style", ["llama 3", "zephyr", "mistral", "qwen thinking", "phi 3", "gemma"])
def test_what_is_learned_follows_what_a_prompt_has(style: str, tmp_path: Path) -> None:
    """Each answer is read after exactly what the model is given when it answers."""
    tokenizer = open_template(tmp_path, TEMPLATES[style])
    talk = [*turn("one", "two"), *turn("three", "four")]
    rows = encode_conversations([talk], tokenizer, None)
    learned = "".join(
        tokenizer.decode([id for id, is_learned in zip(row.ids, row.learned, strict=True) if is_learned])
        for row in rows
    )
    assert learned.replace("<think>", "").replace("</think>", "").split() in (["two", "four"], ["twofour"])
    form = ChatFormat(tokenizer)
    prompt = form.prompt_ids(talk[:3])
    assert rows[-1].ids[: len(prompt)] == prompt
    assert not rows[-1].learned[len(prompt) - 1]


def open_template(folder: Path, template: str) -> Tokenizer:
    from textus import tokenizers

    hub = write_folder(folder, "byte-level", "plain")
    (hub / "chat_template.jinja").write_text(template, encoding="utf-8")
    return tokenizers.load(hub)


def test_long_conversations_are_cut_at_whole_turns(base: Run, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [*turn("a", "b"), *turn("c", "d" * 50)]
    (one,) = encode_conversations([turn("a", "b")], base.tokenizer, None)
    rows = encode_conversations([whole, turn("a", "b" * 90), turn("e", "f")], base.tokenizer, len(one.ids))
    assert rows[0].ids == one.ids
    assert [row.number for row in rows] == [0, 2]
    err = capsys.readouterr().err
    assert "1 of 3 conversations are longer than the context" in err
    assert "1 of 3 conversations are left out" in err
    with raises(DataError, "context_exceeded"):
        encode_conversations([whole], base.tokenizer, 3)


def test_templates_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    endless = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    with raises(UsageError, "template_unsupported", "end-of-turn"):
        ChatFormat(open_template(tmp_path / "a", endless))
    other = "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    other += "{% if add_generation_prompt %}{{ 'a' * 99 }}{% endif %}"
    with raises(UsageError, "template_unsupported", "otherwise"):
        ChatFormat(open_template(tmp_path / "b", other))


def test_a_base_without_a_template_is_refused(tmp_path: Path, rows: Path) -> None:
    bare = make_base(tmp_path, None)
    assert not bare.supports_chat
    with raises(UsageError, "template_missing"):
        textus.finetune(rows, out=tmp_path / "run", init_from=bare.path, task="chat")


def test_a_system_message_that_the_template_cannot_write_begins_the_first_user_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = open_template(tmp_path, TEMPLATES["gemma"])
    talk = [{"role": "system", "content": "Be brief."}, *turn("one", "two")]
    (row,) = encode_conversations([talk], tokenizer, None)
    assert "Be brief.\n\none" in tokenizer.decode(row.ids)
    assert "writes no system message: in 1 conversations" in capsys.readouterr().err


def test_calls_are_json_text_where_the_template_writes_none(
    base: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    (row,) = encode_conversations([talk], base.tokenizer, None)
    assert '{"name": "add", "arguments": {"a": 1}}' in base.tokenizer.decode(row.ids)
    assert "writes no calls of tools: 1" in capsys.readouterr().err


def test_batches_have_every_row_once_with_its_weights() -> None:
    given = [WeightedRow(list(range(1, n + 1)), [k >= n - 2 for k in range(n)]) for n in (3, 7, 4, 5, 6)]
    loader = WeightedRowLoader(given, 0, batch_size=2, seed=0, shuffle=False)
    seen = []
    for step in range(loader.n_batches):
        batch = loader.batch(step)
        for ids, targets, weights in zip(batch.ids, batch.targets, batch.weights, strict=True):
            n = int((targets > 0).sum()) + 1
            seen.append(n)
            assert [*ids.tolist()[: n - 1], n] == list(range(1, n + 1))
            assert weights.tolist() == [float(n - 2 < t) for t in targets.tolist()]
    assert sorted(seen) == [3, 4, 5, 6, 7]


# ── training ───────────────────────────────────────────────────────────────────────────────────


def test_a_tuned_run_is_a_chat_run_that_answers(tuned: Run) -> None:
    assert tuned.supports_chat
    assert tuned.tasks == []
    outcome = tuned.record["held_out"]["chat"]
    assert outcome["better"]
    assert outcome["figure"] == "bits_per_byte"
    assert outcome["value"] < 0.7 * outcome["baseline"]
    answers = tuned.chat([{"role": "user", "content": "3: the coal?"}], temperature=0, max_tokens=20)
    assert answers in COLOURS.values()


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_methods_train_what_they_name(method: str, base: Run, rows: Path, tmp_path: Path) -> None:
    run = textus.finetune(
        rows, out=tmp_path / "run", init_from=base.path, task="chat", method=method, epochs=2,
        overrides=["method.layers=1"] if method == "frozen" else [],
    )  # fmt: skip
    assert run.record["method"] == method
    assert run.supports_chat
    assert isinstance(run.chat(turn("a", "b")[:1], max_tokens=3), str)


@pytest.mark.promise("Training", "A chat training that is stopped continues to the same bytes")
def test_a_stopped_training_continues_to_the_same_bytes(base: Run, rows: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(data=rows, task="chat", init_from=base.path, method="lora", epochs=3)
    whole = start(config, tmp_path / "whole")

    def stop(number: int, metrics: dict[str, Any]) -> None:
        if number == 2:  # the first is of the untuned model
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        start(config, tmp_path / "cut", watch=stop)
    resume(tmp_path / "cut")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "cut")]
    assert weights[0] == weights[1]
    records = [open_run(folder).record["held_out"] for folder in (whole, tmp_path / "cut")]
    assert records[0] == records[1]


def test_a_family_that_reads_sources_apart_is_refused(rows: Path, tmp_path: Path) -> None:
    with raises(UsageError, "unsupported_model", "decoder"):
        textus.finetune(rows, out=tmp_path / "run", model="encoder-decoder", task="chat")


def test_a_new_decoder_learns_to_chat(rows: Path, tmp_path: Path) -> None:
    small = ["model.n_layer=1", "model.d_model=32"]
    run = textus.finetune(rows, out=tmp_path / "run", model="decoder", task="chat", epochs=1, overrides=small)
    assert run.supports_chat
    assert isinstance(run.chat(turn("a", "b")[:1], max_tokens=3), str)


# ── evaluation ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Results", "A chat run is compared with the run it began from, on the same answers")
def test_bits_per_byte_of_answers_are_those_of_transformers_next_to_the_base(
    tuned: Run, base: Run, tmp_path: Path
) -> None:
    """The base's figure is computed by `transformers` too, from its folder."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    held = written(tmp_path / "held.jsonl", colours(70)[60:])
    result = textus.evaluate(tuned.path, held, out=tmp_path / "page")
    ours, (theirs,) = result["bits_per_byte"], result["baselines"].values()
    assert ours["low"] <= ours["value"] <= ours["high"]
    assert ours["n"] == 10
    assert theirs["difference"]["low"] > 0
    assert theirs["reduction"] == pytest.approx(
        1 - ours["value"] / theirs["bits_per_byte"]["value"], abs=1e-5
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(base.record["imported"]["path"])
    nats = n_bytes = 0.0
    talks = [row["messages"] for row in colours(70)[60:]]
    for row in encode_conversations(talks, base.tokenizer, None):
        ids = torch.tensor([row.ids])
        with torch.inference_mode():
            costs = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        nats += float(costs[torch.tensor(row.learned[1:])].sum())
        n_bytes += row.n_bytes
    assert theirs["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-4)
    imported = textus.evaluate(base.path, held, task="chat")
    assert imported["bits_per_byte"] == theirs["bits_per_byte"]
    assert "baselines" not in imported


def test_the_page_has_answers_before_and_after(
    tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = written(tmp_path / "held.jsonl", colours(70)[60:])
    words = ["evaluate", str(tuned.path), "--on", str(held), "--out", str(tmp_path / "page")]
    assert main([*words, "--task", "chat", "--set", "task.shown=3", "--set", "task.max_tokens=5"]) == 0
    assert "bits per byte" in capsys.readouterr().out.replace("_", " ")
    result = json.loads((tmp_path / "page" / "evaluation.json").read_text(encoding="utf-8"))
    assert len(result["answers"]) == 3
    page = (tmp_path / "page" / "evaluation.html").read_text(encoding="utf-8")
    for name in ("prompt", "before", "after", "reference"):
        assert f">{name}</th>" in page
    for answer in result["answers"]:
        assert answer["prompt"] in page
        assert answer["reference"] in COLOURS.values()


def test_a_base_that_changed_is_left_out_of_the_evaluation(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_base(tmp_path, TEMPLATES["chatml"])
    run = textus.finetune(rows, out=tmp_path / "run", init_from=own.path, task="chat", epochs=1)
    shutil.rmtree(own.path)
    result = textus.evaluate(run.path, rows)
    assert "baselines" not in result
    assert result["rows_trained_on"] > 0
    assert "skipping the model it began from" in capsys.readouterr().err
    with raises(UsageError, "missing_argument"):
        textus.evaluate(run.path)


def test_conversations_that_do_not_fit_are_no_part_of_the_figure(
    base: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"messages": turn("a", "b" * 500)}
    plain = textus.evaluate(base.path, colours(6), task="chat")
    assert textus.evaluate(base.path, [*colours(6), long], task="chat")["rows"] == 6
    assert "1 of 7 conversations are left out" in capsys.readouterr().err
    assert plain["bits_per_byte"]["n"] == 6


@pytest.mark.promise("Server", "A run that was trained on conversations is served as a chat model")
def test_a_tuned_run_is_served_as_a_chat_model(tuned: Run) -> None:
    import httpx
    from served import running

    from textus.serving import ServedModel

    model = ServedModel(
        "tuned", tuned.model, tuned.tokenizer, created=1, chat=tuned.supports_chat, context_length=128
    )
    body = {"model": "tuned", "messages": turn("3: the coal?", "")[:1], "temperature": 0, "max_tokens": 20}
    with running(model) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] in COLOURS.values()
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_command_chats_with_a_tuned_run(tuned: Run) -> None:
    command = [str(Path(sys.executable).with_name("textus")), "chat", str(tuned.path), "--temperature", "0"]
    done = subprocess.run(command, input="3: the coal?\n", capture_output=True, text=True, check=True)
    assert done.stdout.strip() in COLOURS.values()


def test_the_command_trains_and_names_the_next_one(
    base: Run, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "finetune",
        str(rows),
        "--task",
        "chat",
        "--from",
        str(base.path),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--set", "train.steps=2"]) == 0
    assert f"next: textus chat {tmp_path / 'run'}" in capsys.readouterr().out
