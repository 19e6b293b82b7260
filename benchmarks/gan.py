"""Quality and diversity of a GAN's sentences at temperatures 0.7 to 1.2, against its own maximum-likelihood start.

Fluency is nats a token under an n-gram model of other film reviews, lower is better; diversity is distinct-4 (higher
is better), counted over as many 4-grams for all, and self-BLEU (lower is better). What counts is fluency at equal
diversity: for each temperature of a player, the start's fluency is read off its own curve at the player's diversity.
`more likelihood` is the start trained on as long, on the same batches at the same rate: what the game itself is
worth. Points are means over samples; intervals are a bootstrap over the samples of both sides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._runner import Bench, begin, show
from benchmarks._sentences import Sentences, batches_of, prepare, train
from textus.core.io import read_json
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.bucketing import BucketLoader
from textus.data.corpus import open_corpus
from textus.data.token_dataset import load_or_tokenize
from textus.metrics.resampling import ngrams
from textus.models.contract import LanguageModel
from textus.models.gan import GAN
from textus.models.registry import build
from textus.runs.store import create_run, load, open_run
from textus.tokenizers import Tokenizer
from textus.training.optim import OptimSettings
from textus.training.trainer import TrainSettings, fit

CONTEXT = 32
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
SHAPE = {"model.context_length": CONTEXT, "model.d_model": 256, "model.dropout": 0.3, "optim.rate": 0.003}
START = 4000
GAME = 1200
"""Steps of the game, after `CRITIC` steps in which only the critic learns."""
CRITIC = 200
RATE, CRITIC_RATE = 0.0005, 0.002
PLAYERS: dict[str, dict[str, Any]] = {
    "more likelihood": {"adversarial": 0.0},
    "policy": {"method": "policy", "adversarial": 0.1},
    "gumbel": {"method": "gumbel", "adversarial": 0.1},
}
GRAMS = 8_000
"""4-grams of a sample that are looked at: the more there are, the fewer are distinct."""


def play(name: str, start: Path, bench: Bench, sentences: Sentences) -> Path:
    """A player that starts from the start's weights, or the finished one of an earlier time."""
    out = bench.work / name.replace(" ", "-")
    if bench.finished(out):
        return out
    started, tokenizer, record = load(start)
    steps, critic = (12, 4) if bench.smoke else (bench.options.game, CRITIC)
    phases = {"warmup_steps": 0, "critic_steps": critic, "anneal_steps": steps}
    config = {**record["config"], **PLAYERS[name], **phases}
    model = build("gan", config)
    model.load_state_dict(started.state_dict())
    optim = OptimSettings(
        optimiser="adamw", rate=RATE, other_rate=CRITIC_RATE, weight_decay=0.0, decay=1.0, warmup=20
    )
    settings = TrainSettings(
        steps=critic + steps, batch_size=64, context_length=CONTEXT, seed=1, optim=optim, log_every=20,
        checkpoint_every=200,
    )  # fmt: skip
    store = load_or_tokenize(open_corpus(sentences.train), tokenizer)
    loader = BucketLoader(store, batch_size=64, context_length=CONTEXT, seed=1)
    about = {name: record[name] for name in ("tokenizer", "corpus", "compute")}
    about |= {"family": "gan", "config": config, "settings": {"optim.rate": RATE}, "parent": str(start)}
    run = open_run(out) if (out / "run.json").exists() else create_run(out, about, tokenizer)
    fit(model, loader, settings=settings, run=run, backward=GAN.backward)
    return out


def self_bleu(texts: Sequence[Sequence[int]], most: int = 4) -> float:
    """BLEU of every text with all others as references, counts pooled over texts, in percent (Zhu et al. 2018)."""
    logs = []
    for n in range(1, most + 1):
        counts = [Counter(ngrams(text, n)) for text in texts]
        first: Counter[Any] = Counter()
        second: Counter[Any] = Counter()
        for text_counts in counts:
            for gram, count in text_counts.items():
                high, low = first[gram], second[gram]
                first[gram], second[gram] = max(high, count), max(low, min(high, count))
        matched = total = 0
        for text_counts in counts:
            for gram, count in text_counts.items():
                others = second[gram] if first[gram] == count else first[gram]
                matched += min(count, others)
                total += count
        logs.append(math.log(max(matched, 1e-9) / max(total, 1)))
    return 100 * math.exp(sum(logs) / most)


@torch.inference_mode()
def fluency(judge: LanguageModel, texts: Sequence[Sequence[int]], end_id: int) -> float:
    """Nats a token, ends included, under the judge."""
    nats = tokens = 0.0
    for text in texts:
        ids = torch.tensor([[end_id, *text, end_id]])
        nats += float(judge.score(Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, len(text) + 1)))[0].sum())
        tokens += len(text) + 1
    return nats / tokens


def point(texts: list[list[int]], judge: LanguageModel, end_id: int) -> dict[str, float]:
    """Figures of one sample of texts."""
    texts = [text for text in texts if text]
    grams = [gram for text in texts for gram in ngrams(text, 4)][:GRAMS]
    return {
        "distinct_4": len(set(grams)) / max(1, len(grams)),
        "self_bleu": self_bleu(texts),
        "fluency": fluency(judge, texts, end_id),
        "tokens": sum(map(len, texts)) / len(texts),
    }


def curve(model: LanguageModel, judge: LanguageModel, bench: Bench) -> list[dict[str, Any]]:
    """A point for each temperature, each of several independent samples."""
    assert isinstance(model, GAN)
    n, draws = (20, 2) if bench.smoke else (1000, bench.options.draws)
    seeds = [derive_seed(draw, "curve") & 0xFFFF for draw in range(draws)]
    return [
        {
            "temperature": temperature,
            "draws": [
                point(model.sample(n, temperature=temperature, seed=seed), judge, model.config.end_id)
                for seed in seeds
            ],
        }
        for temperature in TEMPERATURES
    ]


def at_equal(
    player: list[dict[str, Any]], start: list[dict[str, Any]], measure: str, times: int = 1000
) -> dict[str, Any] | None:
    """How much less fluent (nats a token; below zero is better) the player is than the start at equal diversity, on
    average over the temperatures at which the start's curve reaches its diversity, with a 95 % interval; None where it
    reaches none.

    Read off between temperatures on log(1 − distinct-4) and log(self-BLEU), in which the curves are straight lines.
    """
    random, sides = np.random.default_rng(0), [table_of(points, measure) for points in (player, start)]
    value = apart(*(side.mean(1) for side in sides))
    drawn = [
        apart(*(side[:, random.integers(side.shape[1], size=side.shape[1])].mean(1) for side in sides))
        for _ in range(times)
    ]
    known = [distance for distance in drawn if distance is not None]
    if value is None or len(known) < times / 2:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "n": sides[0].shape[1]}


def table_of(points: list[dict[str, Any]], measure: str) -> np.ndarray:
    """(temperatures, draws, 2): where each sample is on the axis of the measure, and its fluency."""
    return np.asarray(
        [[(along(draw, measure), draw["fluency"]) for draw in point["draws"]] for point in points]
    )


def apart(player: np.ndarray, start: np.ndarray) -> float | None:
    """The mean distance in fluency of the player's points (temperatures, 2) from the start's line, where it reaches."""
    x, y = start[np.argsort(start[:, 0])].T
    inside = [fluent - np.interp(place, x, y) for place, fluent in player if x[0] <= place <= x[-1]]
    return float(np.mean(inside)) if inside else None


def along(point: dict[str, float], measure: str) -> float:
    """Where a point is on the axis of a measure."""
    if measure == "distinct_4":
        return math.log(max(1 - point["distinct_4"], 1e-6))
    return math.log(max(point["self_bleu"], 1e-6))


def judge_of(bench: Bench, sentences: Sentences) -> LanguageModel:
    """An n-gram model of the other reviews."""
    out = bench.work / "judge"
    if not (out / "run.json").exists():
        bench.train(
            "train",
            sentences.other,
            model="ngram",
            set="model.order=4",
            tokenizer=sentences.tokenizer,
            out=out,
        )
    return load(out)[0]


def real(judge: LanguageModel, tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """The same figures of people's sentences."""
    batches = batches_of(texts, tokenizer, CONTEXT)
    ids = [
        row[: int(weights.sum()) - 1]
        for batch in batches
        for row, weights in zip(batch.targets.tolist(), batch.weights, strict=True)
    ]
    return point(ids, judge, tokenizer.end_id)


def measure(name: str, start: Path, bench: Bench, sentences: Sentences) -> dict[str, Any]:
    """A player's curve, and its distance from the start's."""
    out, start_curve = play(name, start, bench, sentences), bench.result["start"]["curve"]
    points = curve(load(out)[0], judge_of(bench, sentences), bench)
    return {
        "settings": PLAYERS[name],
        "cpu_seconds": read_json(out / "run.json")["cpu_seconds"],
        "curve": points,
        "at_equal_distinct_4": at_equal(points, start_curve, "distinct_4"),
        "at_equal_self_bleu": at_equal(points, start_curve, "self_bleu"),
    }


def main() -> None:
    """The start, the chosen players, and their curves."""
    bench = begin(
        "gan", __doc__, only=PLAYERS, flag="--player",
        start={"type": int, "default": START, "help": f"steps of the start ({START})"},
        game={"type": int, "default": GAME, "help": f"steps of the game ({GAME})"},
        draws={"type": int, "default": 20, "help": "samples of 1,000 sentences at each temperature (20)"},
    )  # fmt: skip
    torch.set_num_threads(1)
    sentences = prepare(bench)
    tiny = {"model.d_model": 16, "model.d_critic": 8} if bench.smoke else {}
    steps = 20 if bench.smoke else bench.options.start
    start, cpu = train(
        bench, sentences, "gan", "start", steps, **{**SHAPE, "model.warmup_steps": steps, **tiny}
    )
    if "start" not in bench.result:
        model, tokenizer, _ = load(start)
        judge = judge_of(bench, sentences)
        bench.result["start"] = {"steps": steps, "cpu_seconds": cpu, "curve": curve(model, judge, bench)}
        bench.result["people"] = real(judge, tokenizer, sentences.test)
    for name in bench.chosen(PLAYERS):
        bench.once(bench.part("players"), name, measure, name, start, bench, sentences)
    table(bench.result)


def table(result: dict[str, Any]) -> None:
    """Medians over draws, and the differences at equal diversity."""
    columns = {"fluency": ".3f", "distinct_4": ".3f", "self_bleu": ".1f", "tokens": ".1f"}
    points = [
        (
            name,
            point["temperature"],
            {key: np.median([draw[key] for draw in point["draws"]]) for key in columns},
        )
        for name, player in {"start": result["start"], **result["players"]}.items()
        for point in player["curve"]
    ]
    points.append(("people", "", result["people"]))
    rows = [
        [name, temperature, *(f"{figures[key]:{spec}}" for key, spec in columns.items())]
        for name, temperature, figures in points
    ]
    header = ["", "temperature", "nats/token (judge)", "distinct-4", "self-BLEU", "tokens"]
    show("GAN, sentences about films", header, rows)
    for name, player in result["players"].items():
        print(f"  {name}: nats/token above the start at equal distinct-4 {player['at_equal_distinct_4']},")
        print(f"    at equal self-BLEU {player['at_equal_self_bleu']}")


if __name__ == "__main__":
    main()
