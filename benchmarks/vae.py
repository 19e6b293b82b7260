"""What a VAE's latent keeps of sentences about films: active units, reconstruction, and the bound compared with the
nats of the same decoder without a latent.

Measured on SST-2's test sentences of 4 to 24 words. The decoder without a latent is the GAN family's generator in its
warm-up: the same embedding, recurrent stack and head, trained by likelihood alone on the same batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU

from benchmarks._runner import Bench, begin, show
from benchmarks._sentences import Sentences, batches_of, prepare, train
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


def tokens_of(batches: list[Batch]) -> np.ndarray:
    """How many tokens each text has, its end included."""
    return np.concatenate([batch.weights.sum(1).double().numpy() for batch in batches])


@torch.inference_mode()
def per_text(model: LanguageModel, batches: list[Batch]) -> np.ndarray:
    """Nats of each text by the model's own score."""
    return np.concatenate([model.score(batch)[0].sum(1).double().numpy() for batch in batches])


def bleu(model: VAE, tokenizer: Tokenizer, batches: list[Batch]) -> dict[str, Any]:
    """BLEU of texts reconstructed from the means of their latents, over the tokenizer's words; unknown ones never
    match.
    """
    texts, references, unknown = [], [], tokenizer.unk_id
    for batch in batches:
        lengths = batch.weights.sum(1).long()
        texts += [" ".join(map(str, ids)) for ids in model.reconstruct(batch.targets, lengths)]
        for row, length in zip(batch.targets.tolist(), lengths.tolist(), strict=True):
            references.append(" ".join("unknown" if id == unknown else str(id) for id in row[: length - 1]))
    score = BLEU(tokenize="none", force=True).corpus_score(texts, [references], n_bootstrap=1000)
    return {"value": score.score, "low": score._mean - score._ci, "high": score._mean + score._ci}


@torch.inference_mode()
def figures(model: VAE, tokenizer: Tokenizer, batches: list[Batch], alone: np.ndarray) -> dict[str, Any]:
    """All scores of one VAE; `alone` are the nats of each text without a latent."""
    tokens = tokens_of(batches)
    bound = per_text(model, batches)
    tight = np.concatenate([model.bound(batch, SAMPLES).double().numpy() for batch in batches])
    means = torch.cat([model.encode(batch.targets, batch.weights.sum(1).long())[0] for batch in batches])
    return {
        "active_units": active_units(means),
        "d_latent": model.config.d_latent,
        "kl_nats_per_text": model.validation_metrics(batches)["kl_per_text"],
        "reconstruction_bleu": bleu(model, tokenizer, batches),
        "nats_per_token": interval(bootstrap(bound, tokens), len(bound)),
        f"nats_per_token_bound_of_{SAMPLES}": interval(bootstrap(tight, tokens), len(tight)),
        "bound_minus_no_latent": interval(paired_bootstrap(tight, alone, tokens), len(tight)),
        "samples": [tokenizer.decode(ids) for ids in model.sample(5, temperature=0.7)],
        "interpolation": between(model, tokenizer, batches[len(batches) // 2]),
    }


def between(model: VAE, tokenizer: Tokenizer, batch: Batch) -> list[str]:
    """The way from the first text of a batch to its last, and both as they are."""
    ends = [batch.targets[row][batch.weights[row] > 0] for row in (0, -1)]
    steps = [tokenizer.decode(ids) for ids in model.interpolate(*ends, 5)]
    first, last = (tokenizer.decode(ids[:-1].tolist()) for ids in ends)
    return [first, *steps, last]


def measure(name: str, bench: Bench, sentences: Sentences, steps: int, alone: np.ndarray) -> dict[str, Any]:
    """Train one variant if needed, and measure it; `alone` are the nats of each text without a latent."""
    tiny = {"model.d_model": 16, "model.n_head": 2, "model.d_latent": 8} if bench.smoke else {}
    folder = name.replace(", ", "-").replace(" ", "-")
    out, cpu = train(bench, sentences, "vae", folder, steps, **{**VARIANTS[name], **tiny})
    model, tokenizer, record = load(out)
    assert isinstance(model, VAE)
    return {
        "cpu_seconds": cpu,
        "settings": {key: str(value) for key, value in VARIANTS[name].items()},
        "weights_at_step": record["weights"]["step"],
        **figures(model, tokenizer, batches_of(sentences.test, tokenizer, CONTEXT), alone),
    }


def main() -> None:
    """The decoder alone, then the chosen variants."""
    about_steps = {"type": int, "default": STEPS, "help": f"steps of every training ({STEPS})"}
    bench = begin("vae", __doc__, only=VARIANTS, flag="--variant", steps=about_steps)
    torch.set_num_threads(1)
    steps, tiny = (20, {"model.d_model": 16}) if bench.smoke else (bench.options.steps, {})
    sentences, result = prepare(bench), bench.result
    settings = {**SHAPE, "model.warmup_steps": steps, **tiny}
    out, cpu = train(bench, sentences, "gan", "no-latent", steps, **settings)
    decoder, tokenizer, _ = load(out)
    batches = batches_of(sentences.test, tokenizer, CONTEXT)
    alone = per_text(decoder, batches)
    nats = interval(bootstrap(alone, tokens_of(batches)), len(alone))
    variants = bench.part("variants")
    result |= {
        "steps": steps,
        "sentences": len(alone),
        "no_latent": {"cpu_seconds": cpu, "nats_per_token": nats},
    }
    for name in bench.chosen(VARIANTS):
        bench.once(variants, name, measure, name, bench, sentences, steps, alone)
    rows = [["no latent", "", "", "", f"{nats['value']:.3f}", ""]]
    for name, scores in variants.items():
        figures = {
            "kl_nats_per_text": ".1f", "reconstruction_bleu": ".1f", "nats_per_token": ".3f",
            f"nats_per_token_bound_of_{SAMPLES}": ".3f",
        }  # fmt: skip
        values = [scores[key]["value"] if isinstance(scores[key], dict) else scores[key] for key in figures]
        cells = [f"{value:{spec}}" for value, spec in zip(values, figures.values(), strict=True)]
        rows.append([name, f"{scores['active_units']} of {scores['d_latent']}", *cells])
    header = ["", "active units", "KL/text", "BLEU", "−ELBO/token", f"bound of {SAMPLES}"]
    show("VAE, SST-2 test sentences of 4 to 24 words", header, rows)


if __name__ == "__main__":
    main()
