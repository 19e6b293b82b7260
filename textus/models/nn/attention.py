"""Attention, its cache of keys and values, and the block of a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.models.nn.layers import GATED, POSITIONS, make_feed_forward, make_norm, plain_attention
from textus.models.nn.linear import Linear
from textus.models.nn.rope import RopeScaling, rotate

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

CacheSlot = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stores one layer's new keys and values and returns all it has."""

BIASES = {"qkv": ("qkv",), "attention": ("qkv", "out"), "feed_forward": ("feed_forward",)}
"""What `bias` names → the linear maps that have one."""


@dataclass(frozen=True)
class DecoderConfig:
    """What shapes a decoder.

    0 is derived: `n_kv_head` as many as heads, `d_head` what the width gives each head, `d_ff` 8/3 width (gated)
    or 4 width, `norm_eps` 1e-6 (rms) or 1e-5. `bias` is everywhere or nowhere, or on the named linear maps only.
    """

    vocab_size: int
    context_length: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_kv_head: int = 0
    d_model: int = 384
    d_head: int = 0
    d_ff: int = 0
    position: Literal["rotary", "learned", "none"] = "rotary"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 0.0
    activation: str = "swiglu"
    qk_norm: bool = True
    tie_head: bool = False
    bias: bool | Literal["qkv", "attention", "feed_forward"] = False
    dropout: float = 0.0
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if not self.n_kv_head:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if not self.norm_eps:
            object.__setattr__(self, "norm_eps", 1e-6 if self.norm == "rms" else 1e-5)
        if not self.d_ff:
            gated = self.activation in GATED
            object.__setattr__(
                self, "d_ff", -(-8 * self.d_model // 3 // 32) * 32 if gated else 4 * self.d_model
            )
        for name in (
            "vocab_size",
            "context_length",
            "n_layer",
            "n_head",
            "d_model",
            "n_kv_head",
            "d_ff",
            "window",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError("out_of_range", f"{name}={value}: must be at least 1")
        if self.position not in POSITIONS:
            raise unknown_name_error("position", self.position, POSITIONS)
        if not self.rope_theta > 0:
            raise UsageError("out_of_range", f"rope_theta={self.rope_theta}: must be above 0")
        if not self.d_head:
            if self.d_model % self.n_head:
                raise UsageError(
                    "incompatible_settings",
                    f"d_model={self.d_model} must split into n_head={self.n_head} heads of even width",
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_head)
        if self.d_head < 2 or self.d_head % 2:
            raise UsageError(
                "incompatible_settings",
                f"d_model={self.d_model} must split into n_head={self.n_head} heads of even width,"
                f" not {self.d_head}",
            )
        if self.n_head % self.n_kv_head:
            raise UsageError(
                "incompatible_settings",
                f"n_head={self.n_head} must be a multiple of n_kv_head={self.n_kv_head}",
            )
        if not 0 <= self.dropout < 1:
            raise UsageError("out_of_range", f"dropout={self.dropout}: must be at least 0 and below 1")

    def has_bias(self, linear: Literal["qkv", "out", "feed_forward"]) -> bool:
        """Whether that linear map of a block has a bias."""
        return self.bias is True or linear in BIASES.get(str(self.bias), ())


class KeyValueCache:
    """Keys and values of every layer, each row at its own length: k and v (L, B, S, G, K), lengths (B,)."""

    can_rewind = True

    def __init__(self, k: Tensor, v: Tensor, lengths: Tensor) -> None:
        self.k, self.v, self.lengths = k, v, lengths

    def select(self, rows: list[int]) -> KeyValueCache:
        index = torch.tensor(rows, dtype=torch.long, device=self.k.device)
        return KeyValueCache(self.k[:, index], self.v[:, index], self.lengths[index])

    def reorder(self, rows: list[int]) -> KeyValueCache:
        """As `select`, but this cache is used up: only rows that change are copied, and only what they hold."""
        if len(rows) > len(self.lengths):
            return self.select(rows)
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        if moved:
            longest = int(self.lengths.max())
            new, old = torch.tensor(moved, device=self.k.device).T
            for part in (self.k[:, :, :longest], self.v[:, :, :longest]):
                part.index_copy_(1, new, part.index_select(1, old))
            self.lengths[new] = self.lengths[old]
        n = len(rows)
        return KeyValueCache(self.k[:, :n], self.v[:, :n], self.lengths[:n])

    def join(self, other: KeyValueCache) -> KeyValueCache:
        capacity = max(self.k.shape[2], other.k.shape[2])
        keys = [_reserve(part, capacity) for part in (self.k, other.k)]
        values = [_reserve(part, capacity) for part in (self.v, other.v)]
        return KeyValueCache(
            torch.cat(keys, 1), torch.cat(values, 1), torch.cat([self.lengths, other.lengths])
        )

    def write(self, layer: int, k: Tensor, v: Tensor, slots: tuple[Tensor, Tensor, Tensor]) -> None:
        """Store new keys and values (B, T, G, K): `slots` are (row in batch, column in batch, position) of
        the real ones.
        """
        row, column, position = slots
        self.k[layer, row, position] = k[row, column]
        self.v[layer, row, position] = v[row, column]


def _reserve(part: Tensor, capacity: int) -> Tensor:
    if part.shape[2] == capacity:
        return part
    grown = part.new_zeros(*part.shape[:2], capacity, *part.shape[3:])
    grown[:, :, : part.shape[2]] = part
    return grown


class SelfAttentionLayer(nn.Module):
    """Multi-head attention, optionally with fewer key-value heads (Ainslie et al. 2023).

    One product makes queries, keys and values: rows [:H K] queries, then G K keys, then G K values.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        heads = {"q": config.n_head, "k": config.n_kv_head, "v": config.n_kv_head}
        parts = {name: n * config.d_head for name, n in heads.items()}
        self.qkv = Linear(config.d_model, sum(parts.values()), bias=config.has_bias("qkv"), parts=parts)
        self.out = Linear(config.n_head * config.d_head, config.d_model, bias=config.has_bias("out"))
        norm = partial(make_norm, config.norm, config.d_head, config.norm_eps)
        self.q_norm = norm() if config.qk_norm else nn.Identity()
        self.k_norm = norm() if config.qk_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, K), keys and values (B, T, G, K), normed and turned to their positions."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.d_head))
        q, k, v = qkv.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=2)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attend: Attend) -> Tensor:
        """Mix values (B, S, G, K) for queries (B, T, H, K): (B, T, D)."""
        if self.n_kv_head != self.n_head:
            k = k.repeat_interleave(self.n_head // self.n_kv_head, dim=2)
            v = v.repeat_interleave(self.n_head // self.n_kv_head, dim=2)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)  # (B, H, T, K)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.attention: Any = SelfAttentionLayer(config)
        self.feed_forward_norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.feed_forward: Any = make_feed_forward(
            config.activation,
            config.d_model,
            config.d_ff,
            bias=config.has_bias("feed_forward"),
            dropout=config.dropout,
        )

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor, attend: Attend
    ) -> Tensor:
        q, k, v = self.attention.project(self.attention_norm(x), angles)
        x = x + self.attention.attend(q, k, v, mask, attend)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def native_weights(self) -> list[Any]:
        """The weights in the order `kernels.native.NativeBlock` takes them."""
        attention = self.attention
        head_norms = [getattr(norm, "weight", None) for norm in (attention.q_norm, attention.k_norm)]
        return [
            self.attention_norm.weight, attention.qkv.weight, *head_norms, attention.out.weight,
            self.feed_forward_norm.weight, self.feed_forward.gate_up.weight, self.feed_forward.down.weight,
        ]  # fmt: skip

    def cached(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, mask: Tensor, store: CacheSlot
    ) -> Tensor:
        """The same with the past's keys and values read from, and this step's written to, the cache."""
        q, k, v = self.attention.project(self.attention_norm(x), angles)
        k, v = store(k, v)  # (B, S, G, K): the past and this step
        x = x + self.attention.attend(q, k, v, mask, plain_attention)
        return x + self.feed_forward(self.feed_forward_norm(x))
