"""Variational autoencoders of text: a text is encoded as one latent vector and decoded from it.

Sources: Kingma and Welling 2014 (the bound, reparameterisation); Bowman et al. 2016 (recurrent decoder, annealed KL,
word dropout); Kingma et al. 2016 (free bits); Burda et al. 2016 (importance-weighted bound, active units); Long et
al. 2019 (max-pooling the encoder against collapse).

Each row of a batch, or each document packed in one, is a text with a latent of its own, z ~ N(0, I); the encoder
reads its targets. `score` is the negative evidence lower bound, its KL spread evenly over the text's tokens. As a
language model (`forward`) it is the mixture p(x) = 1/K Σ p(x | z_k) of `n_draws` fixed draws of the prior, weighed
by the likelihood of the ids so far under each: a proper distribution, in which a prompt chooses among latents.

Shapes: B rows (texts), T time, V vocabulary, D width, Z latent, C the decoder's condition (Z, or Z + D with a
source), K draws, L layers, S source positions.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.rng import derive_seed
from textus.data.batch import Batch
from textus.data.bucketing import source_mask
from textus.models.checks import check_at_least, check_context, check_end_id, check_rate
from textus.models.contract import Capabilities, LanguageModel, Loss, TensorCache, step_seed, token_nll
from textus.models.nn.cross_entropy import cross_entropy
from textus.models.nn.linear import Linear
from textus.models.nn.vae_modules import Bodies, State, real_positions, repack_documents, unpack_documents

LOGITS = 1 << 24
"""Logits of all draws held at a time (64 MB)."""

ACTIVE = 0.01
"""A unit of the latent is active where its posterior mean varies at least so much over texts (Burda et al. 2016)."""

COLLAPSED = 0.1
"""Nats of KL per text below which the latent carries no information."""


@dataclass(frozen=True)
class VAEConfig:
    """What shapes a VAE. `free_bits` are nats of each latent dimension that cost nothing in training; over the
    first `anneal_steps` steps the KL's weight grows from 0 to 1; `word_dropout` hides ids from the decoder.
    """

    vocab_size: int
    end_id: int
    context_length: int = 64
    body: Literal["gru", "transformer"] = "gru"
    n_layer: int = 1
    n_head: int = 4
    d_model: int = 256
    d_latent: int = 32
    dropout: float = 0.1
    word_dropout: float = 0.3
    free_bits: float = 0.1
    anneal_steps: int = 1000
    n_draws: int = 16
    conditional: bool = False

    def __post_init__(self) -> None:
        check_at_least(
            self, 1, "vocab_size", "context_length", "n_layer", "n_head", "d_model", "d_latent", "n_draws"
        )
        check_rate(self, "dropout", "word_dropout")
        check_at_least(self, 0, "free_bits", "anneal_steps")
        if self.body not in ("gru", "transformer"):
            raise unknown_name_error("body", self.body, ["gru", "transformer"])
        if self.d_model % 2:
            raise UsageError(
                "incompatible_settings",
                f"d_model={self.d_model}: must be even, a half for each direction of the encoder",
            )
        check_end_id(self)


# ── the latent ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution with independent dimensions: mean and log-variance (B, Z)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The point that standard normal noise (…, B, Z) becomes: differentiable in mean and variance."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self, prior: Gaussian) -> Tensor:
        """KL(self ‖ prior) of each dimension: (B, Z) nats."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() / prior.log_variance.exp()
        return 0.5 * (ratio.exp() + distance - 1 - ratio)

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) summed over dimensions: z (…, B, Z) → (…, B)."""
        distance = (z - self.mean).square() / self.log_variance.exp()
        return -0.5 * (distance + self.log_variance + math.log(2 * math.pi)).sum(-1)


def noise_for(ids: Tensor, real: Tensor, width: int) -> Tensor:
    """Standard normal noise (B, Z) that is a hash of each row's real ids: a score depends neither on neighbours
    nor on order.
    """
    rows = []
    for row, keep in zip(ids.cpu(), real.cpu(), strict=True):
        digest = hashlib.blake2b(row[keep].numpy().tobytes(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        rows.append(torch.randn(width, generator=generator))
    return torch.stack(rows).to(ids.device)


def active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means (N, Z) vary over texts by more than `ACTIVE`."""
    return int((means.var(0, correction=0) > ACTIVE).sum())


# ── the cache ──────────────────────────────────────────────────────────────────────────────────


class VAECache(TensorCache):
    """K draws per row: the decoder's state of each, and the log-likelihood of the row so far under each."""

    ROW_DIM: ClassVar = {"condition": 0, "evidence": 0, "last": 0, "lengths": 0}

    def __init__(
        self, state: State, condition: Tensor, evidence: Tensor, last: Tensor, lengths: Tensor
    ) -> None:
        self.state = state  # of B K decoder rows, a row's draws next to each other
        self.condition = condition  # (B, K, C)
        self.evidence = evidence  # (B, K) log p(ids so far | z)
        self.last = last  # (B, K, D) the decoder's last states
        self.lengths = lengths  # (B,)

    def select(self, rows: list[int]) -> Self:
        cache, n = super().select(rows), self.condition.shape[1]
        cache.state = self.state.select([row * n + draw for row in rows for draw in range(n)])
        return cache

    def join(self, other: Self) -> Self:
        cache = super().join(other)
        cache.state = self.state.join(other.state)
        return cache


# ── the model ──────────────────────────────────────────────────────────────────────────────────


class VAE(LanguageModel):
    """See the module. The embedding has one row more than the vocabulary, for hidden words, and is the head too."""

    capabilities = Capabilities(
        likelihood="bound", precisions=("float32", "bfloat16"), one_document_per_row=True
    )
    draws: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        width, latent = config.d_model, config.d_latent
        sources = 1 if config.conditional else 0
        self.capabilities = replace(self.capabilities, needs_source=config.conditional)
        self.embedding = nn.Embedding(config.vocab_size + 1, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.encoder, self.decoder = Bodies[config.body](config)
        self.posterior = Linear(width * (1 + sources), 2 * latent, bias=True)
        self.prior = Linear(width, 2 * latent, bias=True) if config.conditional else None
        self.dropout = nn.Dropout(config.dropout)
        draws = torch.randn(config.n_draws, latent, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("draws", draws, persistent=False)

    @classmethod
    def config_for_size(cls, n_layer: int, d_model: int, context_length: int) -> dict[str, Any]:
        """Shallow, and for texts of at most 64 ids: a latent of a few dozen numbers holds no more."""
        return {
            **super().config_for_size(n_layer, d_model, context_length),
            "n_layer": max(1, n_layer // 4),
            "context_length": min(context_length, 64),
        }

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        """In bfloat16 the head's product, which is most of the work; the rest is in float32 all the same."""
        super().set_compute(precision, attention, step)
        self.precision = getattr(torch, precision)

    # ── encoding ───────────────────────────────────────────────────────────────────────────────

    def hidden(self, ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The encoder's states (B, T, D) of ids (B, T); `mask` is False on padding. The recurrent one reads any
        length.
        """
        if self.config.body == "transformer":
            check_context(ids.shape[1], self.config.context_length)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        hidden: Tensor = self.encoder(self.dropout(self.embedding(ids)), real)
        return hidden

    def encode(
        self, ids: Tensor, lengths: Tensor | None = None, source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, Z) of the latent of each row of ids (B, T), from its first `lengths`
        ids.
        """
        posterior = self._posterior(ids, real_positions(ids, lengths), self._context(source, len(ids)))
        return posterior.mean, posterior.log_variance

    def _pooled(self, ids: Tensor, real: Tensor) -> Tensor:
        """The greatest of each feature over the real positions: (B, D); zero without any."""
        hidden = self.hidden(ids, real).masked_fill(~real[..., None], -torch.inf)
        return torch.where(real.any(1)[:, None], hidden.amax(1), 0.0)

    def _posterior(self, ids: Tensor, real: Tensor, context: Tensor | None) -> Gaussian:
        pooled = self._pooled(ids, real)
        joined = pooled if context is None else torch.cat([pooled, context], 1)
        return Gaussian(*self.posterior(joined).chunk(2, 1))

    def _context(self, source: Tensor | None, rows: int) -> Tensor | None:
        """What is taken from sources (B, S), each read up to its first end id: (B, D); without any, from `rows`
        empty ones.
        """
        if not self.config.conditional:
            return None
        if source is None:
            source = torch.full((rows, 1), self.config.end_id, device=self.draws.device)
        return self._pooled(source, source_mask(source, self.config.end_id))

    def _prior(self, context: Tensor | None, like: Tensor) -> Gaussian:
        """N(0, I), or the prior given the source; `like` (B, …) has the number of rows."""
        if self.prior is None or context is None:
            zero = like.new_zeros(len(like), self.config.d_latent)
            return Gaussian(zero, zero)
        return Gaussian(*self.prior(context).chunk(2, 1))

    def _condition(self, z: Tensor, context: Tensor | None) -> Tensor:
        """The decoder's condition (…, B, C) for z (…, B, Z)."""
        return z if context is None else torch.cat([z, context.expand(*z.shape[:-1], -1)], -1)

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        """−ELBO in nats, with its parts; in training the KL is annealed and has free bits, and words are
        hidden.
        """
        rows, _ = unpack_documents(batch)
        real = real_positions(rows.ids, mask=rows.mask)
        if self.training:
            generator = torch.Generator().manual_seed(step_seed(batch, "vae"))
            noise = torch.randn(len(rows.ids), self.config.d_latent, generator=generator).to(rows.ids.device)
            hide = torch.rand(rows.ids.shape, generator=generator).to(rows.ids.device)
            ids = rows.ids.masked_fill(hide < self.config.word_dropout, self.config.vocab_size)
        else:
            noise, ids = noise_for(rows.targets, real, self.config.d_latent), rows.ids
        hidden, kl = self._decoder_states(rows, ids, real, noise)
        reconstruction = cross_entropy(hidden.to(self.precision), self._head(), rows.targets, rows.weights)
        share = rows.weights.sum(1) / (rows.weights > 0).sum(1).clamp(min=1)  # 1 where all weights are
        kl_total = (kl.sum(1) * share).sum()
        objective = kl_total
        if self.training:
            free = (kl.clamp(min=self.config.free_bits).sum(1) * share).sum()
            objective = free * self.kl_weight(batch.position)
        parts = {"reconstruction": float(reconstruction.detach()), "kl": float(kl_total.detach())}
        return Loss(reconstruction + objective, float(batch.weights.sum()), parts)

    def kl_weight(self, step: int) -> float:
        """The KL's weight at a step, linear from 0 to 1."""
        return min(1.0, step / self.config.anneal_steps) if self.config.anneal_steps else 1.0

    def _decoder_states(self, rows: Batch, ids: Tensor, real: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's states (B, T, D) at a draw of each row's latent, and the KL (B, Z)."""
        check_context(ids.shape[1], self.config.context_length)
        context = self._context(rows.source, len(rows.ids))
        posterior = self._posterior(rows.targets, real, context)
        condition = self._condition(posterior.sample(noise), context)
        hidden = self.decoder(self.dropout(self.embedding(ids)), condition)
        return self.dropout(hidden), posterior.kl(self._prior(context, noise))

    def _head(self) -> Tensor:
        return self.embedding.weight[: self.config.vocab_size]

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        """−ELBO at one draw that is a hash of the text, its KL spread evenly over the text's targets: (B, T)
        nats.
        """
        rows, places = unpack_documents(batch)
        real = real_positions(rows.ids, mask=rows.mask)
        hidden, kl = self._decoder_states(
            rows, rows.ids, real, noise_for(rows.targets, real, self.config.d_latent)
        )
        logits = F.linear(hidden, self._head())
        spread = kl.sum(1) / (rows.weights > 0).sum(1).clamp(min=1)
        return repack_documents(
            token_nll(logits, rows) + spread[:, None] * rows.weights, places, batch
        ), self.capabilities.likelihood

    def bound(self, batch: Batch, n_samples: int = 1, seed: int = 0) -> Tensor:
        """Nats of each text (B,), one a row, by the importance-weighted bound of `n_samples` draws: it falls towards
        −log p(x) as they grow (Burda et al. 2016). Batches of packed documents are refused.
        """
        if batch.documents is not None:
            raise UsageError(
                "incompatible_settings",
                "a bound is of whole texts; give one text a row, not packed documents",
            )
        real = real_positions(batch.ids, mask=batch.mask)
        context = self._context(batch.source, len(batch.ids))
        posterior = self._posterior(batch.targets, real, context)
        prior = self._prior(context, posterior.mean)
        generator = torch.Generator().manual_seed(derive_seed(seed, "bound"))
        x, logs = self.embedding(batch.ids), []
        for _ in range(n_samples):
            noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
            z = posterior.sample(noise)
            logits = F.linear(self.decoder(x, self._condition(z, context)), self._head())
            nats = token_nll(logits, batch).sum(1)
            logs.append(prior.log_density(z) - posterior.log_density(z) - nats)
        return math.log(n_samples) - torch.logsumexp(torch.stack(logs), 0)

    @torch.no_grad()
    def _posteriors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The posterior means (N, Z) of the texts of a batch, and their KL (N,) in nats."""
        rows, _ = unpack_documents(batch)
        real = real_positions(rows.ids, mask=rows.mask)
        context = self._context(rows.source, len(rows.ids))
        posterior = self._posterior(rows.targets, real, context)
        counted = (rows.weights > 0).any(1)
        kl = posterior.kl(self._prior(context, posterior.mean)).sum(1)
        return posterior.mean[counted], kl[counted]

    def validation_metrics(self, batches: list[Batch]) -> dict[str, Any]:
        """KL per text (nats), and active units."""
        means, kls = zip(*map(self._posteriors, batches), strict=True)
        return {
            "kl_per_text": round(float(torch.cat(kls).mean()), 4),
            "active_units": active_units(torch.cat(means)),
        }

    def per_text_metrics(self, batch: Batch) -> dict[str, Tensor]:
        """KL of each text."""
        return {"kl_per_text": self._posteriors(batch)[1]}

    def diagnose(self, metrics: dict[str, Any]) -> str | None:
        """Whether the latent has collapsed."""
        kl, units = metrics.get("kl_per_text"), metrics.get("active_units")
        if kl is None or (kl >= COLLAPSED and units):
            return None
        return (
            f"the latent has collapsed (KL {kl:.3f} nats a text, {units} of {self.config.d_latent} units active): the"
            " decoder ignores it; increase model.free_bits, model.word_dropout or model.anneal_steps"
        )

    # ── as a language model ────────────────────────────────────────────────────────────────────

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> VAECache:
        """Rows that have seen nothing, with the prior's `n_draws` draws each."""
        like = self.draws.new_zeros(batch_size, 1)
        context = self._context(source, batch_size)
        z = self._prior(context, like).sample(self.draws[:, None])  # (K, B, Z)
        return self._cache_at(self._condition(z, context).transpose(0, 1), length)

    def _cache_at(self, condition: Tensor, length: int) -> VAECache:
        """A cache for conditions (B, K, C)."""
        rows, draws = condition.shape[:2]
        return VAECache(
            self.decoder.init_state(condition.flatten(0, 1), length),
            condition,
            condition.new_zeros(rows, draws),
            condition.new_zeros(rows, draws, self.config.d_model),
            torch.zeros(rows, dtype=torch.long, device=condition.device),
        )

    def forward(self, ids: Tensor, cache: VAECache | None = None, lengths: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, T, V) of the mixture of all draws."""
        start = self.new_cache(len(ids), 0) if cache is None else cache
        seen = ids.shape[1] if lengths is None else lengths
        longest = int((start.lengths + seen).max()) if len(ids) else 0
        check_context(longest, self.config.context_length)
        n_draws = start.condition.shape[1]
        x = self.embedding(ids).repeat_interleave(n_draws, 0)
        condition = start.condition.flatten(0, 1)
        if cache is None:
            hidden = self.decoder(x, condition)
            return self._mix(hidden.unflatten(0, (-1, n_draws)), ids, start)[0]
        many = None if lengths is None else lengths.repeat_interleave(n_draws)
        hidden = self.decoder.step(x, condition, cache.state, many).unflatten(0, (-1, n_draws))
        logits, evidence = self._mix(hidden, ids, cache)
        taken = torch.full_like(cache.lengths, ids.shape[1]) if lengths is None else lengths
        place = (taken - 1).clamp(min=0)[:, None, None].expand(-1, n_draws, 1)
        fresh = (taken > 0)[:, None]
        cache.evidence = torch.where(fresh, evidence.gather(2, place)[..., 0], cache.evidence)
        last = hidden.gather(2, place[..., None].expand(-1, -1, -1, hidden.shape[3]))[:, :, 0]
        cache.last = torch.where(fresh[..., None], last, cache.last)
        cache.lengths = cache.lengths + taken
        return logits

    def _mix(self, hidden: Tensor, ids: Tensor, start: VAECache) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) and evidence (B, K, T) from the states (B, K, T, D) of all draws."""
        rows, n_draws, time, _ = hidden.shape
        before = torch.where(start.lengths[:, None] > 0, self._logs(start.last, ids[:, :1]), 0.0)
        step = max(1, LOGITS // max(1, rows * n_draws * self.config.vocab_size))
        mixed, evidence = [], []
        now = start.evidence + before  # (B, K) with the piece's first id
        for low in range(0, time, step):
            logs = F.linear(hidden[:, :, low : low + step], self._head()).log_softmax(-1)  # (B, K, t, V)
            following = ids[:, low + 1 : low + 1 + logs.shape[2]]
            index = following[:, None, :, None].expand(-1, n_draws, -1, 1)
            gained = logs[:, :, : following.shape[1]].gather(3, index)[..., 0]
            known = torch.cat([now[..., None], gained], 2).cumsum(2)
            evidence.append(known[:, :, : logs.shape[2]])
            now = known[:, :, -1]
            belief = evidence[-1].log_softmax(1)
            mixed.append(torch.logsumexp(belief[..., None] + logs, 1))
        return torch.cat(mixed, 1), torch.cat(evidence, 2)

    def _logs(self, last: Tensor, ids: Tensor) -> Tensor:
        """log p(id | z) after the last states: last (B, K, D), ids (B, 1) → (B, K)."""
        logs = F.linear(last, self._head()).log_softmax(-1)
        return logs.gather(2, ids[:, None].expand(-1, last.shape[1], -1))[..., 0]

    # ── from latents to texts ──────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        *,
        source: Tensor | None = None,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        """The text of each latent (B, Z), without its end id: greedy, or drawn at a temperature above 0."""
        most = min(max_tokens or self.config.context_length, self.config.context_length)
        cache = self._cache_at(self._condition(z, self._context(source, len(z)))[:, None], most)
        generator = torch.Generator(z.device).manual_seed(derive_seed(seed, "decode"))
        ids = torch.full((len(z), 1), self.config.end_id, device=z.device)
        chosen = []
        for _ in range(most):
            logs = self(ids, cache)[:, -1]
            if temperature:
                ids = torch.multinomial((logs / temperature).softmax(-1), 1, generator=generator)
            else:
                ids = logs.argmax(-1, keepdim=True)
            chosen.append(ids)
            if (torch.cat(chosen, 1) == self.config.end_id).any(1).all():
                break
        return [cut_at_eos(row, self.config.end_id) for row in torch.cat(chosen, 1).tolist()]

    def reconstruct(
        self, ids: Tensor, lengths: Tensor | None = None, source: Tensor | None = None
    ) -> list[list[int]]:
        """The texts ids (B, T) decoded greedily from the means of their latents."""
        with torch.no_grad():
            mean, _ = self.encode(ids, lengths, source)
        return self.decode(mean, source=source)

    def sample(self, n: int, *, temperature: float = 1.0, seed: int = 0) -> list[list[int]]:
        """`n` texts from latents drawn from N(0, I): not only the `n_draws` of `forward`."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "sample"))
        z = torch.randn(n, self.config.d_latent, generator=generator).to(self.draws.device)
        return self.decode(z, temperature=temperature, seed=seed)

    def interpolate(self, first: Tensor, second: Tensor, n: int) -> list[list[int]]:
        """`n` texts interpolated linearly between the latents of two texts (T,), both included."""
        if n < 2:
            raise UsageError(
                "out_of_range", f"{n} texts between two; give 2 or more, the ends are among them"
            )
        with torch.no_grad():
            ends = [self.encode(ids[None])[0] for ids in (first, second)]
        way = torch.linspace(0, 1, n, device=ends[0].device)[:, None]
        return self.decode((1 - way) * ends[0] + way * ends[1])


def cut_at_eos(ids: list[int], end_id: int) -> list[int]:
    """The ids before the first end id."""
    return ids[: ids.index(end_id)] if end_id in ids else ids
