"""What an encoder gains from being pre-trained here, for an hour at most: SST-2, against the same encoder from scratch.

`textus train --model encoder` reads `gutenberg_prose` in small letters and with its lines joined, as SST-2 is
written. Then both sides are fine-tuned alike: the rate and the number of epochs are chosen for each on the dev set
with seeds of their own, out of one grid; then five seeds each, and the accuracies on the test set are compared in
pairs. The interval is over the seeds (t, 4 degrees of freedom); a second one is over test sentences.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks._material import books, corpus, pretrained_encoder, sst2, tokenizer
from benchmarks._runner import Bench, begin, over_five_seeds, over_rows, show, spread
from textus.core import hardware
from textus.core.config import from_dict
from textus.core.console import cpu_seconds
from textus.core.io import read_json
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.models.encoder import Encoder, EncoderConfig
from textus.models.nn.heads import SequenceHead
from textus.runs.store import load, open_run, read_tokenizer

SIDES = ("pretrained", "scratch")
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (100,)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
EPOCHS = (3, 6)
BATCH = 32
LONGEST = 128
SETTINGS = (
    "model.n_layer=4",
    "model.d_model=256",
    "model.n_head=4",
    f"model.context_length={LONGEST}",
    "model.dropout=0",
    "model.mask_rate=0.3",
    "train.batch_size=64",
)
"""As `--set` takes them. Without dropout both cores share each batch; with more hidden, a short training learns more
from each window (Wettig et al. 2023).
"""

Example = tuple[list[int], int]
Setting = tuple[float, int]
"""Rate and epochs."""


# ── pre-training ───────────────────────────────────────────────────────────────────────────────


def pretrain(bench: Bench) -> Path:
    """The pre-trained run; an interrupted one is resumed, `--again` starts a new one."""
    out = bench.work / f"run-{bench.options.preset}"
    if (out / "run.json").exists() and not bench.options.again:
        bench.textus("resume", out)
        return out
    lower = bench.work / "lower"
    lower.mkdir(exist_ok=True)
    for book in books()[: 2 if bench.smoke else None]:
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", book.read_text(encoding="utf-8").lower())
        (lower / book.name).write_text(text, encoding="utf-8")
    built = corpus(bench, bench.work / "corpus", lower)
    pieces = tokenizer(bench, bench.work / "wordpiece", built, "wordpiece", 8192)
    return pretrained_encoder(bench, out, built, pieces, SETTINGS)


# ── fine-tuning ────────────────────────────────────────────────────────────────────────────────


def joined(text: str) -> str:
    """SST-2 is cut as the Penn Treebank is; books are not. The blank makes the first word spelled as any other."""
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m))\b", r"\1", text)
    return " " + re.sub(r" ([,.;:!?])", r"\1", text).replace("-lrb-", "(").replace("-rrb-", ")")


def examples(run: Path, split: str, most: int | None) -> list[Example]:
    """EOT, text, EOT; and the label."""
    pieces = read_tokenizer(open_run(run))
    rows, end = sst2(split, most), pieces.end_id
    encoded = pieces.encode_batch([joined(row["text"]) for row in rows])
    return [
        ([end, *ids[: LONGEST - 2], end], int(row["label"])) for ids, row in zip(encoded, rows, strict=True)
    ]


def batch_of(rows: list[Example]) -> Batch:
    """Padded with the first id of each row."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + row[:1] * (length - len(row)) for row, _ in rows])
    mask = torch.arange(length) < torch.tensor([len(row) for row, _ in rows])[:, None]
    return Batch(ids, ids, mask.float(), mask=mask, labels=torch.tensor([label for _, label in rows]))


def batches(rows: list[Example], random: np.random.Generator) -> Iterator[Batch]:
    """All rows once, those of like length together (within pools of twenty batches)."""
    order = random.permutation(len(rows))
    found = []
    for start in range(0, len(rows), 20 * BATCH):
        pool = sorted(order[start : start + 20 * BATCH], key=lambda place: len(rows[place][0]))
        found += [pool[low : low + BATCH] for low in range(0, len(pool), BATCH)]
    for number in random.permutation(len(found)):
        yield batch_of([rows[place] for place in found[number]])


def start(run: Path, side: str, seed: int) -> tuple[Encoder, SequenceHead]:
    """An encoder and a new head on the mean of its states."""
    config = replace(from_dict(EncoderConfig, open_run(run).record["config"]), dropout=0.1)
    torch.manual_seed(derive_seed(seed, "weights"))
    encoder, head = Encoder(config), SequenceHead(config.d_model, 2)
    if side == "pretrained":
        encoder.load_state_dict(load(run)[0].state_dict())
    if {"avx512_bf16", "amx_bf16"} & set(hardware.isa_flags()):
        encoder.set_compute("bfloat16", "plain", "eager")
    return encoder, head


def finetune(run: Path, side: str, seed: int, how: Setting, most: int | None) -> dict[str, Any]:
    """AdamW, a tenth of warm-up, then in a straight line to zero; right or wrong for each test sentence."""
    torch.set_num_threads(1)
    used, (rate, epochs) = cpu_seconds(), how
    train, dev, test = (examples(run, split, most) for split in ("train", "dev", "test"))
    encoder, head = start(run, side, seed)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    random, done = np.random.default_rng(seed), 0
    steps = epochs * -(-len(train) // BATCH)
    for _ in range(epochs):
        for batch in batches(train, random):
            factor = min(1.0, 10 * (done + 1) / steps) * (1 - done / steps)
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.zero_grad()
            head.loss(encoder.hidden(batch.ids, batch.mask), batch).mean.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            done += 1
    found = {name: right(encoder, head, rows) for name, rows in (("dev", dev), ("test", test))}
    return {
        "side": side, "seed": seed, "rate": rate, "epochs": epochs,
        "dev": mean(found["dev"]), "test": mean(found["test"]),
        "test_right": "".join(map(str, found["test"])), "cpu_seconds": round(cpu_seconds() - used, 1),
    }  # fmt: skip


@torch.inference_mode()
def right(encoder: Encoder, head: SequenceHead, rows: list[Example]) -> list[int]:
    """1 where the likelier class is the label, else 0, in the order of rows."""
    encoder.eval()
    head.eval()
    found = []
    for start in range(0, len(rows), 64):
        batch = batch_of(rows[start : start + 64])
        guess = head.predict(encoder.hidden(batch.ids, batch.mask), batch.mask).argmax(-1)
        found += (guess == batch.labels).int().tolist()
    return found


# ── comparing ──────────────────────────────────────────────────────────────────────────────────


def all_runs(bench: Bench, run: Path, wanted: list[tuple[str, int, Setting]]) -> list[dict[str, Any]]:
    """These fine-tunings, one on each core at a time; each is written as soon as it is done."""
    runs = bench.part("runs")
    keys = [f"{side} seed {seed} rate {rate:g} epochs {epochs}" for side, seed, (rate, epochs) in wanted]
    with ProcessPoolExecutor(hardware.usable_cores(), mp_context=get_context("spawn")) as pool:
        started = {
            key: pool.submit(finetune, run, *arguments, 200 if bench.smoke else None)
            for key, arguments in zip(keys, wanted, strict=True)
            if key not in runs
        }
        for key, future in started.items():
            bench.once(runs, key, future.result)
    return [runs[key] for key in keys]


def tune(bench: Bench, run: Path) -> dict[str, Setting]:
    """For each side the (rate, epochs) of the best mean on the dev set."""
    grid = list(product(RATES, EPOCHS))[: 1 if bench.smoke else None]
    runs = all_runs(
        bench, run, [(side, seed, how) for side in SIDES for how in grid for seed in TUNING_SEEDS]
    )

    def dev(side: str, how: Setting) -> float:
        return mean(r["dev"] for r in runs if (r["side"], r["rate"], r["epochs"]) == (side, *how))

    return {side: max(grid, key=lambda how: dev(side, how)) for side in SIDES}


def compare(bench: Bench, run: Path) -> dict[str, Any]:
    """Five seeds a side at its best setting, and the difference with both intervals, in points."""
    best = tune(bench, run)
    runs = {side: all_runs(bench, run, [(side, seed, best[side]) for seed in SEEDS]) for side in SIDES}
    tests = {side: [100 * r["test"] for r in runs[side]] for side in SIDES}
    pairs = [a - b for a, b in zip(tests["pretrained"], tests["scratch"], strict=True)]
    answers = [np.asarray([list(map(int, r["test_right"])) for r in runs[side]]) for side in SIDES]
    return {
        "chosen": {side: {"rate": best[side][0], "epochs": best[side][1]} for side in SIDES},
        **{side: spread(tests[side], 2) for side in SIDES},
        "difference": over_five_seeds(pairs),
        "over_sentences": over_rows(*(100 * rows.mean(0) for rows in answers)),
        "pairs": [round(pair, 2) for pair in pairs],
    }


def main() -> None:
    """Pre-train, tune, compare."""
    budget = {"default": "1h", "help": "the budget of pre-training"}
    bench = begin("encoder_pretraining", __doc__, preset=budget)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run = pretrain(bench)
    record = read_json(run / "run.json")
    names = ("config", "compute", "steps", "seconds", "cpu_seconds", "best", "command", "files")
    pretraining = {name: record[name] for name in names}
    if bench.result.get("pretraining") != pretraining:  # other weights: earlier measurements do not apply
        bench.result = {"pretraining": pretraining}
    bench.result |= compare(bench, run)
    bench.save()
    rows = [
        [side, *(f"{bench.result[side][name]:.2f}" for name in ("median", "min", "max")), bench.result["chosen"][side]]
        for side in SIDES
    ]  # fmt: skip
    for name in ("difference", "over_sentences"):
        rows.append([name, *(f"{bench.result[name][part]:+.2f}" for part in ("value", "low", "high")), ""])
    header = ["", "median | value", "least | low", "most | high", "chosen"]
    show("SST-2, accuracy on the test set, %", header, rows)


if __name__ == "__main__":
    main()
