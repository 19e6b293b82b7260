"""A generative adversarial network of text: the critic classifies texts as real or generated.

Sources: Yu et al. 2017 (SeqGAN: policy gradient, Monte-Carlo rollouts, convolutional critic of Kim 2014); Jang et al.
2017 and Nie et al. 2019 (Gumbel-softmax, straight through, temperature coming down); Kool et al. 2019 (the mean of
the other rows as baseline).

The generator is a recurrent language model: for `warmup_steps` steps it learns by maximum likelihood, then for
`critic_steps` only the critic learns, then they take turns, `critic_ratio` steps of the critic for each of the
generator's, whose loss is then likelihood plus `adversarial` times the critic's objective. As a language model the GAN
is its generator, with an exact score. Each document is a text of its own.

Shapes: B rows (texts), T time, V vocabulary, D width, E critic's width, L layers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.models.checks import check_at_least, check_context, check_end_id, check_rate
from textus.models.contract import Capabilities, LanguageModel, Loss, TensorCache, step_seed, token_nll
from textus.models.nn.cross_entropy import cross_entropy
from textus.models.nn.linear import Linear
from textus.models.nn.recurrent import Recurrent
from textus.models.nn.vae_modules import repack_documents, unpack_documents

WINDOWS = (1, 2, 3, 4)
"""Ids that the critic's filters see at a time."""

METHODS = ("policy", "gumbel")


@dataclass(frozen=True)
class GANConfig:
    """What shapes a GAN. `rollout_every`: a text is completed `rollouts` times from each so many-th position, and
    the critic's scores of them are the value of the ids before. The Gumbel temperature comes down from 1 to
    `temperature` in `anneal_steps` steps.
    """

    vocab_size: int
    end_id: int
    context_length: int = 64
    n_layer: int = 1
    d_model: int = 256
    d_critic: int = 64
    dropout: float = 0.1
    method: Literal["policy", "gumbel"] = "policy"
    warmup_steps: int = 1000
    critic_steps: int = 100
    critic_ratio: int = 1
    adversarial: float = 0.5
    rollouts: int = 1
    rollout_every: int = 6
    temperature: float = 0.2
    anneal_steps: int = 1000

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "context_length", "n_layer", "d_model", "d_critic", "critic_ratio", "rollouts",
            "rollout_every", "anneal_steps",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UsageError("out_of_range", f"{name}={getattr(self, name)}: must be at least 1")
        check_at_least(self, 0, "warmup_steps", "critic_steps", "adversarial")
        check_rate(self, "dropout")
        if not 0 < self.temperature <= 1:
            raise UsageError("out_of_range", f"temperature={self.temperature}: must be above 0 and at most 1")
        if self.method not in METHODS:
            raise unknown_name_error("method", self.method, METHODS)
        check_end_id(self)


class GANCache(TensorCache):
    """The generator's state of each row (L, B, D), and how many ids the row has."""

    ROW_DIM: ClassVar = {"state": 1, "lengths": 0}

    def __init__(self, state: Tensor, lengths: Tensor) -> None:
        self.state, self.lengths = state, lengths


class Critic(nn.Module):
    """Scores how real a text looks: convolutions over ids, max pooling, one logit (Kim 2014)."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        width = config.d_critic
        self.embedding = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.filters = nn.ModuleList(nn.Conv1d(width, width, n, padding=n - 1) for n in WINDOWS)
        self.dropout = nn.Dropout(0.25)
        self.out = Linear(len(WINDOWS) * width, 1, bias=True)

    def forward(self, texts: Tensor, alive: Tensor) -> Tensor:
        """Logits (B,) of ids (B, T), or of weights over the vocabulary (B, T, V) that need not be zeros and ones;
        what is not `alive` (B, T) does not count.
        """
        soft = texts.is_floating_point()
        x = texts @ self.embedding.weight if soft else self.embedding(texts)
        x = (x * alive[..., None]).transpose(1, 2)  # (B, E, T)
        ends = alive.sum(1)[:, None, None]
        features = []
        for n, convolution in zip(WINDOWS, self.filters, strict=True):
            seen = torch.relu(convolution(x))  # (B, E, T + n - 1), the window ending at each place
            beyond = torch.arange(seen.shape[2], device=x.device) >= ends + n - 1
            features.append(seen.masked_fill(beyond, 0.0).amax(2))
        logits: Tensor = self.out(self.dropout(torch.cat(features, 1)))
        return logits[:, 0]


def until_eos_mask(ids: Tensor, end_id: int) -> Tensor:
    """True up to and including each row's first end id: (B, T)."""
    ends = (ids == end_id).long()
    return ends.cumsum(1) - ends == 0


def policy_loss(logs: Tensor, values: Tensor, alive: Tensor) -> Tensor:
    """Minus the policy gradient's objective: Σ over living positions of −(value − baseline) log π.

    logs, values and alive (B, T). The baseline of a row is what the other rows are worth on average at the same
    position, so the gradient's expectation is that of the exact one. Divide by B for a mean over texts.
    """
    others = (len(values) - 1) if len(values) > 1 else 1
    baseline = (values.sum(0, keepdim=True) - values) / others
    return -((values - baseline).detach() * logs * alive).sum()


class GAN(LanguageModel):
    """See the module."""

    capabilities = Capabilities(
        precisions=("float32", "bfloat16"), one_document_per_row=True, use_last_checkpoint=True
    )

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.body = Recurrent(config.d_model, config.d_model, config.n_layer, config.dropout)
        self.out = Linear(config.d_model, config.d_model, bias=True)
        self.dropout = nn.Dropout(config.dropout)
        self.critic = Critic(config)

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Shallow, and for texts of at most 64 ids: the critic classifies whole texts."""
        return {"n_layer": 1, "d_model": d_model, "context_length": min(context_length, 64)}

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        """In bfloat16 the head's product of likelihood steps; the rest is in float32 all the same."""
        super().set_compute(precision, attention, step)
        self.precision = getattr(torch, precision)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`generator` and `critic`, which take turns."""
        critic = list(self.critic.parameters())
        known = {id(p) for p in critic}
        return {"generator": [p for p in self.parameters() if id(p) not in known], "critic": critic}

    # ── the generator as a language model ──────────────────────────────────────────────────────

    def hidden(self, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The generator's states (B, T, D) before its head."""
        check_context(ids.shape[1], self.config.context_length)
        return self.read_states(self.dropout(self.embedding(ids)), None)[0]

    def read_states(
        self, x: Tensor, state: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States (B, T, D) of embedded ids (B, T, D), and what is remembered (L, B, D)."""
        hidden, state = self.body(x, state, lengths)
        return self.dropout(self.out(hidden)), state

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) of states (…, D)."""
        return F.linear(hidden, self.embedding.weight)

    def forward(self, ids: Tensor, cache: GANCache | None = None, lengths: Tensor | None = None) -> Tensor:
        """ids (B, T) → logits (B, T, V)."""
        if cache is None:
            return self.logits(self.hidden(ids))
        taken = torch.full_like(cache.lengths, ids.shape[1]) if lengths is None else lengths
        check_context(int((cache.lengths + taken).max()), self.config.context_length)
        hidden, cache.state = self.read_states(self.embedding(ids), cache.state, lengths)
        cache.lengths = cache.lengths + taken
        return self.logits(hidden)

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> GANCache:
        """An empty cache; its size does not depend on `length`."""
        weight = self.embedding.weight
        state = weight.new_zeros(self.config.n_layer, batch_size, self.config.d_model)
        return GANCache(state, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the targets, each document read from its beginning: what the warm-up learns by."""
        rows, _ = unpack_documents(batch)
        hidden = self.hidden(rows.ids).to(self.precision)
        total = cross_entropy(hidden, self.embedding.weight, rows.targets, rows.weights)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """Nats of each target: (B, T)."""
        rows, places = unpack_documents(batch)
        logits = self.logits(self.hidden(rows.ids))
        return repack_documents(token_nll(logits, rows), places, batch), self.capabilities.likelihood

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        """`n` texts without their end ids."""
        generator = torch.Generator(self.embedding.weight.device).manual_seed(derive_seed(seed, "sample"))
        start = torch.full((n, 1), self.config.end_id, device=self.embedding.weight.device)
        ids = self.complete(start, max_tokens or self.config.context_length, generator, temperature)[:, 1:]
        rows = ids.tolist()
        return [row[: row.index(self.config.end_id)] if self.config.end_id in row else row for row in rows]

    @torch.no_grad()
    def complete(
        self, ids: Tensor, n_new: int, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """ids (B, T) that begin with the end id, drawn on: (B, T + n_new); end ids follow an end."""
        whole = F.pad(ids, (0, n_new), value=self.config.end_id)
        rows = (ids[:, 1:] != self.config.end_id).all(1).nonzero()[:, 0]  # those that have not ended
        last, state = ids[rows], None
        for place in range(ids.shape[1], whole.shape[1]):
            if not len(rows):
                break
            hidden, state = self.read_states(self.embedding(last), state)
            weights = (self.logits(hidden[:, -1]) / temperature).softmax(-1)
            last = sample_ids(weights, generator)
            whole[rows, place] = last[:, 0]
            going = last[:, 0] != self.config.end_id
            rows, last, state = rows[going], last[going], state[:, going]
        return whole

    # ── the game ───────────────────────────────────────────────────────────────────────────────

    def step_kind(self, step: int) -> str:
        """Whose step it is: `warm-up`, `critic` or `generator`."""
        config = self.config
        since = step - config.warmup_steps - config.critic_steps
        if since < 0:
            return "warm-up" if step < config.warmup_steps else "critic"
        return "generator" if since % (1 + config.critic_ratio) == config.critic_ratio else "critic"

    def step_schedule(self, steps: int) -> dict[int, int]:
        """The first step of each kind of turn, and how many of `steps` are of that kind."""
        config = self.config
        game = config.warmup_steps + config.critic_steps
        warm_up = min(steps, config.warmup_steps)
        generator = max(0, steps - game) // (1 + config.critic_ratio)
        kinds = {0: warm_up} if config.warmup_steps else {}
        return kinds | {
            config.warmup_steps: steps - warm_up - generator,
            game + config.critic_ratio: generator,
        }

    def backward(self, batch: Batch, step: int) -> tuple[Loss, Sequence[str]]:
        """One turn, as `fit(backward=…)` takes it: gradients of one of the two groups, and its name."""
        batch = batch.to(self.embedding.weight.device)
        turn = self.step_kind(step)
        generator = torch.Generator(batch.ids.device).manual_seed(step_seed(batch, "gan"))
        rows, _ = unpack_documents(batch)
        if turn == "critic":
            loss, name = self.critic_loss(rows, generator), "critic"
            objective = loss.total / loss.weight
        else:
            loss, name = self.loss(batch), "generator"
            objective = loss.total / loss.weight
            if turn == "generator" and self.config.adversarial:
                game = (
                    self.policy(rows, generator)
                    if self.config.method == "policy"
                    else self.gumbel(rows, generator)
                )
                objective = objective + self.config.adversarial * game.mean
                loss.parts = {key: value / game.weight * loss.weight for key, value in game.parts.items()}
        group = self.parameter_groups()[name]
        for parameter, gradient in zip(
            group, torch.autograd.grad(objective, group, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        return Loss(loss.total.detach(), loss.weight, loss.parts), [name]

    def _sample_texts(self, rows: Batch, generator: torch.Generator) -> Tensor:
        """As many texts as there are rows, whole ones (cut ones would favour short texts): ids (B, 1 + T)
        after the start id, T the longest's.
        """
        start = rows.ids.new_full((len(rows.ids), 1), self.config.end_id)
        with without_dropout(self):
            drawn = self.complete(start, self.config.context_length, generator)
        longest = int(until_eos_mask(drawn[:, 1:], self.config.end_id).sum(1).max())
        return drawn[:, : 1 + longest]

    def critic_loss(self, rows: Batch, generator: torch.Generator) -> Loss:
        """Binary cross-entropy over as many drawn texts as real ones; nats, summed over both."""
        drawn = self._sample_texts(rows, generator)[:, 1:]
        real = self.critic(rows.targets, rows.weights > 0)
        made = self.critic(drawn, until_eos_mask(drawn, self.config.end_id))
        total = F.softplus(-real).sum() + F.softplus(made).sum()
        right = float((real > 0).sum() + (made < 0).sum())
        return Loss(total, 2.0 * len(real), {"critic": float(total.detach()), "critic_right": right})

    def policy(self, rows: Batch, generator: torch.Generator) -> Loss:
        """−Σ advantage · log π of drawn texts; advantages in their own standard deviations, mean over ids."""
        drawn = self._sample_texts(rows, generator)
        alive = until_eos_mask(drawn[:, 1:], self.config.end_id)
        with without_dropout(self):
            values = self.values(drawn, generator)
            hidden, _ = self.read_states(self.embedding(drawn[:, :-1]), None)
        logs = -F.cross_entropy(self.logits(hidden).transpose(1, 2), drawn[:, 1:], reduction="none")
        n_alive = float(alive.sum())
        spread = float((values - values.mean(0))[alive].std()) + 1e-6
        reward = float(values[:, -1].mean()) * n_alive
        return Loss(policy_loss(logs, values, alive) / spread, n_alive, {"reward": reward})

    @torch.no_grad()
    def values(self, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """What the critic makes of texts (B, 1 + T) on average, given their ids up to the end of each stretch of
        `rollout_every`: (B, T) probabilities of being real. The whole text counts for its last stretch.
        """
        time = drawn.shape[1] - 1
        values = drawn.new_zeros(len(drawn), time, dtype=torch.float32)
        for low in range(0, time, self.config.rollout_every):
            high = min(time, low + self.config.rollout_every)
            texts = drawn
            if high < time:
                prefix = drawn[:, : high + 1].repeat(self.config.rollouts, 1)
                texts = self.complete(prefix, time - high, generator)
            alive = until_eos_mask(texts[:, 1:], self.config.end_id)
            judged = torch.sigmoid(self.critic(texts[:, 1:], alive))
            values[:, low:high] = judged.view(-1, len(drawn)).mean(0)[:, None]
        return values

    def gumbel(self, rows: Batch, generator: torch.Generator) -> Loss:
        """−log D of texts drawn through straight-through Gumbel-softmax; nats, summed over texts."""
        temperature = self.gumbel_temperature(rows.position)
        x = self.embedding.weight[self.config.end_id].expand(len(rows.ids), 1, -1)
        state = None
        chosen: list[Tensor] = []
        with without_dropout(self):
            ended = torch.zeros(len(rows.ids), dtype=torch.bool, device=rows.ids.device)
            while len(chosen) < self.config.context_length and not bool(ended.all()):
                hidden, state = self.read_states(x, state)
                one = straight_through(self.logits(hidden[:, -1]), temperature, generator)
                chosen.append(one)
                ended |= one.argmax(1) == self.config.end_id
                x = (one @ self.embedding.weight)[:, None]
            texts = torch.stack(chosen, 1)  # (B, T, V)
            alive = until_eos_mask(texts.argmax(2), self.config.end_id)
            judged = self.critic(texts, alive)
        reward = float(torch.sigmoid(judged.detach()).sum())
        return Loss(F.softplus(-judged).sum(), float(len(judged)), {"reward": reward})

    def gumbel_temperature(self, step: int) -> float:
        """At a step: from 1 down to `temperature`, by the same factor each step after the warm-up."""
        since = step - self.config.warmup_steps - self.config.critic_steps
        done = min(1.0, max(0, since) / self.config.anneal_steps)
        return math.exp(done * math.log(self.config.temperature))


def sample_ids(weights: Tensor, generator: torch.Generator) -> Tensor:
    """An id a row, (B, 1), by its weights (B, V), from one random number a row: `multinomial` takes one an id, which
    was nearly all the time of drawing a text.
    """
    total = weights.cumsum(-1)
    at = torch.rand(len(total), 1, generator=generator, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, at, right=True).clamp(max=weights.shape[-1] - 1)


def straight_through(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """An id drawn from softmax(logits) (B, V), as zeros and a one, with the gradient of the soft weights at this
    temperature.
    """
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-9, 1 - 1e-7)
    soft = ((logits - (-uniform.log()).log()) / temperature).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The generator as it will be used, without dropout; the critic too. The mode is put back afterwards."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
