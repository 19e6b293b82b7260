"""Training steps of the LSTM, the encoder and the encoder–decoder compared with the same networks made of torch's and
transformers' parts, in turns, one thread.

The same shapes and the same optimiser (fused AdamW) on both sides; a step is a batch's loss, gradients, clipping and
update. A peer runs in float32 and under bfloat16 autocast (`torch.nn.LSTM` also with all weights in bfloat16), as it
is and compiled; its best two ways by a first look take the turns, and the faster of them in each round counts.
The encoder's peers: `BertForMaskedLM`, and `nn.TransformerEncoder` with a head on the hidden positions only, as ours.
The encoder–decoder's: `BartForConditionalGeneration` and `T5ForConditionalGeneration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._rows import ranged
from benchmarks._runner import Bench, begin, cpu_time, paired_ratios, show, spread, take_turns
from textus.core.console import log_notice
from textus.core.memory import keep_freed_memory
from textus.data.batch import Batch
from textus.models.registry import build
from textus.models.registry import family as family_of
from textus.training.gradients import GradientAccumulator, clip
from textus.training.optim import OptimSettings, make_optimisers

ROUNDS = 9
FINALISTS = 2
HIDDEN_SHARE = 0.15
DROPOUT = 0.1
"""Of the encoder–decoder, on both sides; the others have none."""

Step = Callable[[], None]
LossOf = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """A batch and a network; `length` is of the source too."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    rows: int
    length: int


SHAPES = {
    "lstm": Shape(66, 2, 512, 1, 32, 256),
    "encoder": Shape(8192, 4, 256, 4, 64, 128),
    "encoder-decoder": Shape(8000, 3, 256, 4, 256, 16),
}
TINY = {
    "lstm": Shape(66, 1, 32, 1, 4, 16),
    "encoder": Shape(99, 1, 32, 2, 4, 16),
    "encoder-decoder": Shape(99, 1, 32, 2, 4, 8),
}


def ids_of(shape: Shape, seed: int = 0) -> Tensor:
    """Random ids (rows, length + 1), none of them 0, which ends texts."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(1, shape.vocabulary, (shape.rows, shape.length + 1), generator=random)


# ── ours ───────────────────────────────────────────────────────────────────────────────────────


def ours(family: str, shape: Shape, step_kind: str) -> Step:
    """A step of `fit`'s parts, in bfloat16."""
    config: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "n_layer": shape.layers, "d_model": shape.width, "n_head": shape.heads,
        "context_length": shape.length, "dropout": DROPOUT if family == "encoder-decoder" else 0.0,
    }  # fmt: skip
    if family == "lstm":
        config = {name: config[name] for name in ("vocab_size", "n_layer", "d_model")}
    model = build(family, config)
    model.set_compute("bfloat16", "plain", step_kind)
    gradients = GradientAccumulator(model, 1)
    settings = OptimSettings(optimiser="adamw", rate=1e-3)
    optimisers = make_optimisers(model.parameter_groups(), settings)
    ids = ids_of(shape)
    weights = torch.ones(shape.rows, shape.length)
    starts = torch.ones(ids[:, 1:].shape, dtype=torch.bool) if family == "encoder" else None
    source = ids_of(shape, 1)[:, 1:] if family == "encoder-decoder" else None
    batch = Batch(ids[:, :-1], ids[:, 1:], weights, source=source, word_starts=starts)

    def step() -> None:
        gradients.compute(batch, 1)
        for group in model.parameter_groups().values():
            clip(group, settings.clip)
        for optimiser in optimisers.values():
            optimiser.step()

    return step


# ── peers ──────────────────────────────────────────────────────────────────────────────────────


class TorchLSTM(nn.Module):
    """Embedding, `nn.LSTM`, linear head; nats per target."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.lstm = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.ids = ids_of(shape)

    def forward(self) -> Tensor:
        """The loss of the batch."""
        logits = self.head(self.lstm(self.embedding(self.ids[:, :-1]))[0])
        return F.cross_entropy(logits.flatten(0, 1).float(), self.ids[:, 1:].flatten())


class Hidden(nn.Module):
    """The batch of a masked language model: what is hidden, drawn anew at every step as ours is."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.targets = ids_of(shape)[:, 1:].contiguous()

    def draw(self) -> tuple[Tensor, Tensor]:
        """Ids with 0 for a mask, and which positions are hidden; the same number at every step."""
        n = round(HIDDEN_SHARE * self.targets.numel())
        hidden = torch.zeros(self.targets.numel(), dtype=torch.bool)
        hidden[torch.randperm(len(hidden))[:n]] = True
        hidden = hidden.view_as(self.targets)
        return self.targets.masked_fill(hidden, 0), hidden


class TorchEncoder(Hidden):
    """`nn.TransformerEncoder` with learned positions and a tied head that reads the hidden positions only."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Parameter(torch.zeros(shape.length, shape.width))
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, 4 * shape.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(
            layer, shape.layers, nn.LayerNorm(shape.width), enable_nested_tensor=False
        )

    def forward(self) -> Tensor:
        """The loss of the batch."""
        ids, hidden = self.draw()
        states = self.body(self.embedding(ids) + self.position)
        logits = F.linear(states[hidden], self.embedding.weight)
        return F.cross_entropy(logits.float(), self.targets[hidden])


class Bert(Hidden):
    """`BertForMaskedLM` of transformers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        from transformers import BertConfig, BertForMaskedLM

        self.model = BertForMaskedLM(
            BertConfig(
                vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads, intermediate_size=4 * shape.width, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0, max_position_embeddings=shape.length,
            )
        )  # fmt: skip

    def forward(self) -> Tensor:
        """The loss of the batch."""
        ids, hidden = self.draw()
        return self.model(input_ids=ids, labels=self.targets.masked_fill(~hidden, -100)).loss


class Pairs(nn.Module):
    """An encoder–decoder of transformers on our batch."""

    def __init__(self, shape: Shape, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.source, self.targets = ids_of(shape, 1)[:, 1:].contiguous(), ids_of(shape)[:, 1:].contiguous()

    def forward(self) -> Tensor:
        """The loss of the batch."""
        return self.model(input_ids=self.source, labels=self.targets).loss


def bart(shape: Shape) -> Pairs:
    """`BartForConditionalGeneration` of transformers."""
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=shape.vocabulary, d_model=shape.width, encoder_layers=shape.layers, dropout=DROPOUT,
        decoder_layers=shape.layers, encoder_attention_heads=shape.heads, decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.width, decoder_ffn_dim=4 * shape.width, max_position_embeddings=shape.length,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    return Pairs(shape, BartForConditionalGeneration(config))


def t5(shape: Shape) -> Pairs:
    """`T5ForConditionalGeneration` of transformers."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=shape.vocabulary, d_model=shape.width, d_kv=shape.width // shape.heads, num_heads=shape.heads,
        d_ff=4 * shape.width, num_layers=shape.layers, dropout_rate=DROPOUT, use_cache=False,
    )  # fmt: skip
    config.decoder_start_token_id = 0
    return Pairs(shape, T5ForConditionalGeneration(config))


PEERS: dict[str, dict[str, Callable[[Shape], nn.Module]]] = {
    "lstm": {"torch.nn": TorchLSTM},
    "encoder": {"torch.nn": TorchEncoder, "Bert": Bert},
    "encoder-decoder": {"Bart": bart, "T5": t5},
}


def theirs(make: Callable[[Shape], nn.Module], shape: Shape, way: str) -> Step:
    """A peer's step, in one of its ways: arithmetic, then eager or compiled."""
    kind, _, mode = way.partition(" ")
    model = make(shape).to(torch.bfloat16 if kind == "bfloat16" else torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if mode == "compiled" else model

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            loss = forward()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def ways(family: str, *, compiled: bool) -> list[str]:
    """How a peer can run."""
    kinds = ["float32", "autocast", *(["bfloat16"] if family == "lstm" else [])]
    modes = ["eager", *(["compiled"] if compiled and family != "lstm" else [])]
    return [f"{kind} {mode}" for kind in kinds for mode in modes]


# ── taking turns ───────────────────────────────────────────────────────────────────────────────


def best_of(steps: dict[str, Step], count: int) -> dict[str, float]:
    """Those that are fastest by the better of two steps, after one that warms up: name → CPU-seconds."""
    seconds: dict[str, float] = {}
    for name, step in steps.items():
        step()
        seconds[name] = min(cpu_time(step), cpu_time(step))
        log_notice(f"{name}: {seconds[name]:.3f} CPU-seconds a step")
    return dict(sorted(seconds.items(), key=lambda pair: pair[1])[:count])


def measure(family: str, bench: Bench) -> dict[str, Any]:
    """Tokens per CPU-second of ours and of the finalists, in turns; the ratio to the better of them each round."""
    shape = (TINY if bench.smoke else SHAPES)[family]
    mine = {
        f"ours {kind}": ours(family, shape, kind)
        for kind in family_of(family)[0].capabilities.step_kinds
        if not bench.smoke or kind == "eager"
    }
    peers = {
        f"{name} {way}": theirs(make, shape, way)
        for name, make in PEERS[family].items()
        for way in ways(family, compiled=not bench.smoke)
    }
    ours_name = next(iter(best_of(mine, 1)))
    finalists = list(best_of(peers, FINALISTS))
    sides = {ours_name: mine[ours_name], **{name: peers[name] for name in finalists}}
    seconds = take_turns(sides, 2 if bench.smoke else ROUNDS)
    tokens = shape.rows * shape.length
    fastest_peer = [min(times) for times in zip(*(seconds[name] for name in finalists), strict=True)]
    return {
        "shape": vars(shape),
        "ours": ours_name,
        "ratio": paired_ratios(fastest_peer, seconds[ours_name]),
        "tokens_per_cpu_second": {
            name: spread([tokens / value for value in times], 0) for name, times in seconds.items()
        },
    }


def main() -> None:
    """Every family, or the chosen one."""
    bench = begin("family_speed", __doc__, only=SHAPES, flag="--family")
    keep_freed_memory()
    torch.set_num_threads(1)
    families = bench.part("families")
    for family in bench.chosen(SHAPES):
        bench.once(families, family, measure, family, bench)
    for family, scores in families.items():
        rows = [[name, f"{rate['median']:,.0f}"] for name, rate in scores["tokens_per_cpu_second"].items()]
        ratio = ranged(scores["ratio"])
        show(f"{family}, a training step: {ratio} × the best peer", ["side", "tokens per CPU-second"], rows)


if __name__ == "__main__":
    main()
