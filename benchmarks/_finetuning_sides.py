"""The two sides of `finetuning_speed`: each function runs alone in a process, on one thread.

Both begin with the same encoder, read the same rows in batches as large, cut texts at the same length and compute in
bfloat16; the peer's weights are ours, exported, so that its dropout is ours too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

LONGEST, BATCH, RATE = 128, 32, 1e-4
FIRST = 10
"""Steps until both sides are warm; what is told is measured after them."""


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What the function gives, in a new process."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def read(path: Path) -> list[tuple[str, int]]:
    """Text and label of each row."""
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(text, int(label)) for text, label in rows]


def accuracy(guessed: list[int], rows: list[tuple[str, int]]) -> float:
    """In per cent."""
    return 100 * sum(a == b for a, (_, b) in zip(guessed, rows, strict=True)) / len(rows)


# ── fine-tuning ────────────────────────────────────────────────────────────────────────────────


def train_textus(start: Path, data: dict[str, Path], out: Path, steps: int, seed: int) -> dict[str, Any]:
    """`textus finetune` as it comes, but for the batch, the rate, the length and the number of steps."""
    import json

    from textus import api

    settings = [
        f"task.longest={LONGEST}", f"train.batch_size={BATCH}", f"optim.rate={RATE}", f"train.steps={steps}",
        f"train.evaluate_every={steps}", f"train.log_every={FIRST}",
    ]  # fmt: skip
    named = "0=text,1=label"
    run = api.finetune(
        data["train"],
        init_from=start,
        dev=data["dev"],
        columns=named,
        out=out,
        seed=seed,
        overrides=settings,
        force=True,
    )
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = {line["step"]: line["cpu_seconds"] for line in lines if "loss" in line}
    rows = read(data["test"])
    guessed = [int(each["label"]) for each in run.predict([text for text, _ in rows])]
    return {
        "samples_per_cpu_second": (steps - FIRST) * BATCH / (spent[steps] - spent[FIRST]),
        "test": accuracy(guessed, rows), "choices": run.record["compute"],
    }  # fmt: skip


def train_peer(
    start: Path, data: dict[str, Path], out: Path, steps: int, seed: int, *, attention: str
) -> dict[str, Any]:
    """The Trainer of `transformers`: bfloat16, dynamic padding, rows of like length together, fused AdamW."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        start, num_labels=2, attn_implementation=attention
    )
    rows = [
        {**tokenizer(text, truncation=True, max_length=LONGEST), "labels": label} for text, label in read(data["train"])
    ]  # fmt: skip
    spent: dict[int, float] = {}

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            spent[state.global_step] = time.process_time()

    asked = transformers.TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE, seed=seed,
        warmup_steps=steps // 10, weight_decay=0.01, bf16=True, use_cpu=True, optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    collate = transformers.DataCollatorWithPadding(tokenizer)
    transformers.Trainer(
        model=model, args=asked, train_dataset=rows, data_collator=collate, callbacks=[Clock()]
    ).train()
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    tested = read(data["test"])
    guessed = by_hand(model, tokenizer, [text for text, _ in tested], BATCH)
    return {
        "samples_per_cpu_second": (steps - FIRST) * BATCH / (spent[steps] - spent[FIRST]),
        "test": accuracy(guessed, tested),
    }


# ── classifying ────────────────────────────────────────────────────────────────────────────────


def classify_textus(run: Path, file: Path, copies: int) -> dict[str, Any]:
    """`Run.predict` of all texts; the model is read before, and a few texts are asked first."""
    from textus import api
    from textus.training.pretrain import set_up_process

    set_up_process()
    opened, rows = api.open_run(run), read(file)
    texts = [text for text, _ in rows] * copies
    opened.predict(texts[:64])
    started = time.process_time()
    answers = opened.predict(texts)
    spent = time.process_time() - started
    guessed = [int(each["label"]) for each in answers[: len(rows)]]
    return {"texts_per_cpu_second": len(texts) / spent, "test": accuracy(guessed, rows)}


def classify_peer(folder: Path, file: Path, copies: int, how: tuple[str, str, int]) -> dict[str, Any]:
    """The pipeline of `transformers`, or its model called by hand, in bfloat16, texts sorted by length; `how` is
    which of them, how it attends, and texts a batch.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    way, attention, batch = how
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=attention
    ).eval()
    rows = read(file)
    texts = [text for text, _ in rows] * copies
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)

    def ask(texts: list[str]) -> list[int]:
        if way == "by hand":
            return by_hand(model, tokenizer, texts, batch)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        answers = pipeline([texts[at] for at in order], batch_size=batch, truncation=True, max_length=LONGEST)
        found = {
            at: int(each["label"].removeprefix("LABEL_")) for at, each in zip(order, answers, strict=True)
        }
        return [found[at] for at in range(len(texts))]

    ask(texts[:64])
    started = time.process_time()
    guessed = ask(texts)
    spent = time.process_time() - started
    return {"texts_per_cpu_second": len(texts) / spent, "test": accuracy(guessed[: len(rows)], rows)}


def by_hand(model: Any, tokenizer: Any, texts: list[str], batch: int) -> list[int]:
    """The likelier label of each text, batches of like length, without a pipeline."""
    import torch

    ids = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
    order = sorted(range(len(texts)), key=lambda at: len(ids[at]))
    found = [0] * len(texts)
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            places = order[first : first + batch]
            padded = tokenizer.pad({"input_ids": [ids[at] for at in places]}, return_tensors="pt")
            for at, guess in zip(places, model(**padded).logits.argmax(-1).tolist(), strict=True):
                found[at] = guess
    return found
