"""What a VAE's latent tells of sentences about films: active units, reconstruction, and the bound beside the nats of
the same decoder without a latent.

Measured on SST-2's test sentences of 4 to 24 words. The decoder without a latent is the GAN family's generator in its
warm-up: the same embedding, recurrent stack and head, taught by likelihood alone on the same batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU

from benchmarks._measuring import Bench, begin, show
from benchmarks._sentences import Sentences, prepared, rows_of, trained
from textus.data.batch import Batch
from textus.metrics.resampling import bootstrap, interval, paired_bootstrap
from textus.models.contract import LanguageModel
from textus.models.vae import VAE, active_units
from textus.runs.store import load
from textus.tokenizers import Tokenizer

CONTEXT = 32
SHAPE = {
    "model.context_length": CONTEXT, "model.d_model": 256, "model.n_layer": 1, "model.dropout": 0.3,
    "optim.rate": 0.003,
}  # fmt: skip
LATENT = {**SHAPE, "model.d_latent": 32, "model.word_dropout": 0.2, "model.anneal_steps": 1500}
VARIANTS = {
    "gru": {**LATENT, "model.free_bits": 0.1},
    "gru, more free bits": {**LATENT, "model.free_bits": 0.5},
    "transformer": {
        **LATENT, "model.free_bits": 0.1, "model.body": "transformer", "model.n_layer": 2, "model.n_head": 4,
        "optim.rate": 0.001,
    },
}  # fmt: skip
STEPS = 4000
SAMPLES = 50
"""Draws of the importance-weighted bound."""


@torch.inference_mode()
def per_text(model: LanguageModel, batches: list[Batch]) -> np.ndarray:
    """Nats of each text by the model's own score."""
    return np.concatenate([model.score(batch)[0].sum(1).double().numpy() for batch in batches])


def bleu(model: VAE, read: Tokenizer, batches: list[Batch]) -> dict[str, Any]:
    """BLEU of texts told again from the means of their latents, over the tokenizer's words; unknown ones never
    match.
    """
    told, wanted = [], []
    for batch in batches:
        lengths = batch.weights.sum(1).long()
        for ids, row, length in zip(
            model.reconstruct(batch.targets, lengths), batch.targets.tolist(), lengths.tolist(), strict=True
        ):
            told.append(" ".join(str(id) for id in ids))
            wanted.append(" ".join("unknown" if id == read.unk_id else str(id) for id in row[: length - 1]))
    metric = BLEU(tokenize="none", force=True)
    found = metric.corpus_score(told, [wanted], n_bootstrap=1000)
    estimated = found._mean, found._ci
    return {"value": found.score, "low": estimated[0] - estimated[1], "high": estimated[0] + estimated[1]}


@torch.inference_mode()
def figures(model: VAE, read: Tokenizer, batches: list[Batch], alone: np.ndarray) -> dict[str, Any]:
    """Everything told of one VAE; `alone` are the nats of each text without a latent."""
    tokens = np.concatenate([batch.weights.sum(1).double().numpy() for batch in batches])
    bound = per_text(model, batches)
    tight = np.concatenate([model.bound(batch, SAMPLES).double().numpy() for batch in batches])
    means = torch.cat([model.encode(batch.targets, batch.weights.sum(1).long())[0] for batch in batches])
    return {
        "active_units": active_units(means),
        "d_latent": model.config.d_latent,
        "kl_nats_per_text": model.validation_metrics(batches)["kl_per_text"],
        "reconstruction_bleu": bleu(model, read, batches),
        "nats_per_token": interval(bootstrap(bound, tokens), len(bound)),
        f"nats_per_token_bound_of_{SAMPLES}": interval(bootstrap(tight, tokens), len(tight)),
        "bound_minus_no_latent": interval(paired_bootstrap(tight, alone, tokens), len(tight)),
        "samples": [read.decode(ids) for ids in model.sample(5, temperature=0.7)],
        "interpolation": between(model, read, batches[len(batches) // 2]),
    }


def between(model: VAE, read: Tokenizer, batch: Batch) -> list[str]:
    """The way from the first text of a batch to its last, and both as they are."""
    ends = [batch.targets[row][batch.weights[row] > 0] for row in (0, -1)]
    way = [read.decode(ids) for ids in model.interpolate(*ends, 5)]
    first, last = (read.decode(each[:-1].tolist()) for each in ends)
    return [first, *way, last]


def measure(name: str, bench: Bench, sentences: Sentences, alone: LanguageModel) -> dict[str, Any]:
    """Train one variant if need be, and measure it."""
    tiny = {"model.d_model": 16, "model.n_head": 2, "model.d_latent": 8} if bench.smoke else {}
    folder = name.replace(", ", "-").replace(" ", "-")
    out, cpu = trained(bench, sentences, "vae", folder, steps(bench), **{**VARIANTS[name], **tiny})
    model, read, record = load(out)
    assert isinstance(model, VAE)
    batches = rows_of(sentences.test, read, CONTEXT)
    nats = per_text(alone, batches)
    return {
        "cpu_seconds": cpu,
        "settings": {key: str(value) for key, value in VARIANTS[name].items()},
        "weights_at_step": record["weights"]["step"],
        **figures(model, read, batches, nats),
    }


def steps(bench: Bench) -> int:
    """Steps of every training."""
    if bench.smoke:
        return 20
    return int(bench.options.steps)


def without_latent(bench: Bench, sentences: Sentences) -> tuple[Path, float]:
    """The same decoder, taught by likelihood alone."""
    tiny = {"model.d_model": 16} if bench.smoke else {}
    count = steps(bench)
    return trained(
        bench, sentences, "gan", "no-latent", count, **{**SHAPE, "model.warmup_steps": count, **tiny}
    )


def main() -> None:
    """The decoder alone, then the variants asked for; all of them without a word."""
    bench = begin(
        "vae", __doc__,
        variant={"choices": tuple(VARIANTS), "help": "only this one"},
        steps={"type": int, "default": STEPS, "help": f"steps of every training ({STEPS})"},
    )  # fmt: skip
    torch.set_num_threads(1)
    sentences = prepared(bench)
    out, cpu = without_latent(bench, sentences)
    alone, read, _ = load(out)
    batches = rows_of(sentences.test, read, CONTEXT)
    nats = per_text(alone, batches)
    tokens = np.concatenate([batch.weights.sum(1).double().numpy() for batch in batches])
    result = bench.kept() or {"variants": {}}
    result |= {
        "steps": steps(bench),
        "sentences": len(nats),
        "no_latent": {"cpu_seconds": cpu, "nats_per_token": interval(bootstrap(nats, tokens), len(nats))},
    }
    for name in VARIANTS:
        if bench.options.variant in (None, name) and name not in result["variants"]:
            result["variants"][name] = measure(name, bench, sentences, alone)
            bench.save(result)
    rows = [["no latent", "", "", "", f"{result['no_latent']['nats_per_token']['value']:.3f}", ""]]
    for name, each in result["variants"].items():
        rows.append(
            [name, f"{each['active_units']} of {each['d_latent']}", f"{each['kl_nats_per_text']:.1f}",
             f"{each['reconstruction_bleu']['value']:.1f}", f"{each['nats_per_token']['value']:.3f}",
             f"{each[f'nats_per_token_bound_of_{SAMPLES}']['value']:.3f}"]
        )  # fmt: skip
    header = ["", "active units", "KL/text", "BLEU", "−ELBO/token", f"bound of {SAMPLES}"]
    show("VAE, SST-2 test sentences of 4 to 24 words", header, rows)


if __name__ == "__main__":
    main()
