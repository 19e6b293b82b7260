"""What an encoder gains from being pre-trained here, for an hour at most: SST-2, against the same encoder from scratch.

`textus train --model encoder` reads `gutenberg_prose` in small letters and with its lines joined, as SST-2 is
written. Then both sides are fine-tuned alike: the rate and the number of epochs are chosen for each on the dev set
with seeds of their own, out of one grid; then five seeds each, and the accuracies on the test set are compared in
pairs. The interval is over the seeds (t, 4 degrees of freedom); a second one is over test sentences. Whatever was
measured already is taken.
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
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks._measuring import DATA, Bench, begin, corpus, show, spread, textus, tokenizer
from textus.core import hardware
from textus.core.config import from_dict
from textus.core.console import cpu_seconds, log_notice
from textus.core.io import read_json
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.metrics.resampling import paired_bootstrap
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
T_975 = 2.776
"""Student's t for an interval of 95 % from five differences."""

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


# ── pre-training ───────────────────────────────────────────────────────────────────────────────


def pretrain(bench: Bench) -> Path:
    """The pre-trained run; an unfinished one is gone on with, with `--again` a new one is begun."""
    out = bench.work / f"run-{bench.options.preset}"
    log = bench.work / "log.txt"
    if (out / "run.json").exists() and not bench.options.again:
        textus(["resume", out], log=log)
        return out
    lower = bench.work / "lower"
    lower.mkdir(exist_ok=True)
    books = sorted((DATA / "gutenberg_prose").glob("*-*.txt"))
    for book in books[:2] if bench.smoke else books:
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", book.read_text(encoding="utf-8").lower())
        (lower / book.name).write_text(text, encoding="utf-8")
    built = corpus(bench.work / "corpus", lower)
    pieces = tokenizer(bench.work / "wordpiece", built, "--kind", "wordpiece", "--vocab-size", "8192")
    budget = ["--steps", "30"] if bench.smoke else ["--preset", bench.options.preset]
    words: list[str | Path] = ["train", built, "--model", "encoder", "--tokenizer", pieces, *budget]
    smaller = ("model.n_layer=2", "model.d_model=64", "model.n_head=2") if bench.smoke else ()
    words += [word for each in (*SETTINGS, *smaller) for word in ("--set", each)]
    textus([*words, "--out", out, "--force"], log=log)
    return out


# ── fine-tuning ────────────────────────────────────────────────────────────────────────────────


def joined(text: str) -> str:
    """SST-2 is cut as the Penn Treebank is; books are not. The blank makes the first word spelled as any other."""
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m))\b", r"\1", text)
    return " " + re.sub(r" ([,.;:!?])", r"\1", text).replace("-lrb-", "(").replace("-rrb-", ")")


def examples(run: Path, split: str, most: int | None) -> list[Example]:
    """EOT, text, EOT; and the label."""
    pieces = read_tokenizer(open_run(run))
    rows = [line.rsplit("\t", 1) for line in (DATA / "sst2" / f"{split}.tsv").read_text().splitlines()][:most]
    encoded = pieces.encode_batch([joined(text) for text, _ in rows])
    end = pieces.end_id
    return [
        ([end, *ids[: LONGEST - 2], end], int(label)) for ids, (_, label) in zip(encoded, rows, strict=True)
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
        encoder.compute_with("bfloat16", "plain", "eager")
    return encoder, head


def finetune(run: Path, side: str, seed: int, how: tuple[float, int], most: int | None) -> dict[str, Any]:
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


def all_runs(
    bench: Bench, run: Path, wanted: list[tuple[str, int, tuple[float, int]]], data: dict[str, Any]
) -> list[dict[str, Any]]:
    """These fine-tunings, one on each core at a time; each is written as soon as it is done."""
    runs: dict[str, Any] = data.setdefault("runs", {})
    keys = [f"{side} seed {seed} rate {rate:g} epochs {epochs}" for side, seed, (rate, epochs) in wanted]
    with ProcessPoolExecutor(hardware.usable_cores(), mp_context=get_context("spawn")) as pool:
        waiting = {
            key: pool.submit(finetune, run, *each, 200 if bench.smoke else None)
            for key, each in zip(keys, wanted, strict=True)
            if key not in runs
        }
        for key, each in waiting.items():
            runs[key] = each.result()
            log_notice(f"{key}: dev {runs[key]['dev']:.4f}, test {runs[key]['test']:.4f}")
            bench.save(data)
    return [runs[key] for key in keys]


def tuned(bench: Bench, run: Path, data: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """For each side the (rate, epochs) of the best mean on the dev set."""
    grid = list(product(RATES, EPOCHS))[: 1 if bench.smoke else None]
    wanted = [(side, seed, how) for side in SIDES for how in grid for seed in TUNING_SEEDS]
    found = all_runs(bench, run, wanted, data)

    def dev(side: str, how: tuple[float, int]) -> float:
        return mean(r["dev"] for r in found if (r["side"], r["rate"], r["epochs"]) == (side, *how))

    return {side: max(grid, key=lambda how: dev(side, how)) for side in SIDES}


def compare(bench: Bench, run: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Five seeds a side at its best setting, and the difference with both intervals, in points."""
    best = tuned(bench, run, data)
    found = {side: all_runs(bench, run, [(side, seed, best[side]) for seed in SEEDS], data) for side in SIDES}
    tests = {side: [100 * r["test"] for r in found[side]] for side in SIDES}
    pairs = [a - b for a, b in zip(tests["pretrained"], tests["scratch"], strict=True)]
    half = T_975 * stdev(pairs) / len(pairs) ** 0.5
    answers = {side: np.asarray([list(map(int, r["test_right"])) for r in found[side]]) for side in SIDES}
    rows = [100.0 * answers[side].mean(0) for side in SIDES]
    value, low, high = paired_bootstrap(*rows, np.ones(len(rows[0])))
    return {
        "chosen": {side: {"rate": best[side][0], "epochs": best[side][1]} for side in SIDES},
        **{side: spread(tests[side], 2) for side in SIDES},
        "difference": {"value": mean(pairs), "low": mean(pairs) - half, "high": mean(pairs) + half, "n": len(pairs)},
        "over_sentences": {"value": value, "low": low, "high": high, "n": len(rows[0])},
        "pairs": [round(each, 2) for each in pairs],
    }  # fmt: skip


def main() -> None:
    """Pre-train, tune, compare."""
    bench = begin(
        "encoder_pretraining", __doc__, preset={"default": "1h", "help": "the budget of pre-training"}
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run = pretrain(bench)
    record = read_json(run / "run.json")
    names = ("config", "compute", "steps", "seconds", "cpu_seconds", "best", "command", "files")
    told, kept = {name: record[name] for name in names}, bench.kept()
    if kept.get("pretraining") != told:  # other weights: what was measured on the old ones is void
        kept = {}
    data = {**kept, "pretraining": told}
    data |= compare(bench, run, data)
    bench.save(data)
    rows = [
        [side, *(f"{data[side][name]:.2f}" for name in ("median", "min", "max")), data["chosen"][side]]
        for side in SIDES
    ]
    for name in ("difference", "over_sentences"):
        figure = data[name]
        rows.append([name, f"{figure['value']:+.2f}", f"{figure['low']:+.2f}", f"{figure['high']:+.2f}", ""])
    show(
        "SST-2, accuracy on the test set, %",
        ["", "median | value", "least | low", "most | high", "chosen"],
        rows,
    )


if __name__ == "__main__":
    main()
