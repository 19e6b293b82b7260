"""Transformers (Vaswani et al. 2017). Here: `Decoder`, the GPT / Llama / Qwen3 family.

The default is one that Llama or Qwen3 can hold: RMS norms before each part, rotary positions, norms on queries
and keys, gated feed-forward, no biases.
Shapes as in `textus.models.nn.layers`; V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.data.batch import Batch
from textus.models.checks import check_context
from textus.models.contract import Capabilities, HeadedModel, Loss, step_seed, token_nll
from textus.models.kernels import native
from textus.models.nn.attention import DecoderBlock, DecoderConfig, KeyValueCache
from textus.models.nn.cross_entropy import chunk_loss, cross_entropy
from textus.models.nn.layers import ATTENTIONS, causal_mask, first_key, make_norm
from textus.models.nn.linear import Linear
from textus.models.nn.rope import RotaryTable


class Decoder(HeadedModel):
    """A causal Transformer over ids.

    `set_compute` sets the type activations are computed in, how it attends and who does the arithmetic when
    nothing is
    cached: choices of the run, not of the model, that change only rounding (and speed).
    """

    capabilities = Capabilities(
        precisions=("float32", "bfloat16", "float16"), step_kinds=("eager", "compiled", "native")
    )

    config: DecoderConfig
    matrix_modules = ("blocks",)
    blocks: Any  # nn.ModuleList of Block

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.attention = "plain"
        self.native = False
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.position == "learned":
            self.position: Any = nn.Embedding(config.context_length, config.d_model)
            nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layer))
        self.norm: Any = make_norm(config.norm, config.d_model, config.norm_eps)
        self.head = None if config.tie_head else Linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        if config.position == "rotary":
            self.rotary = RotaryTable(
                config.context_length, config.d_head, config.rope_theta, config.rope_scaling
            )
        self._init_weights()

    def _init_weights(self) -> None:
        """Outputs into the residual stream and the head start at zero, as do modded-nanogpt's: the first
        step is uniform.
        """
        nn.init.normal_(self.embedding.weight, std=0.02 if self.config.tie_head else 1.0)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def set_compute(self, precision: str, attention: str, step: str) -> None:
        super().set_compute(precision, attention, step)
        attentions = native.ATTENTIONS if step == "native" else ATTENTIONS
        if attention not in attentions:
            raise unknown_name_error("attention", attention, attentions)
        if step == "native" and (why := self.native_unsupported_reason()):
            raise UsageError(
                "unsupported_kernel",
                f"step 'native' cannot compute this model: {why}; use 'eager' or 'compiled'",
            )
        if step == "native" and attention not in self.native_attentions():
            raise UsageError(
                "unsupported_kernel",
                f"attention 'tiled' needs a processor with AVX512-BF16 and heads a multiple of 32 wide, these are"
                f" {self.config.d_head}; use 'plain'",
            )
        self.native = step == "native"
        self.precision = torch.bfloat16 if self.native else getattr(torch, precision)
        self.attention = attention
        if step == "compiled":
            for block in self.blocks:  # all alike: compiled once, and a new process finds it in torch's cache
                block.compile()

    def native_unsupported_reason(self) -> str | None:
        """What `kernels.native.NativeBlock` does not have that this model needs, or None."""
        config = self.config
        if (
            config.norm != "rms"
            or config.activation != "swiglu"
            or config.position != "rotary"
            or config.bias
        ):
            return "the kernels know RMS norm, SwiGLU and rotary positions without biases only"
        if config.context_length > native.LONGEST or config.d_head > native.WIDEST:
            return f"the kernels hold at most {native.LONGEST} positions and heads {native.WIDEST} wide"
        if self.embedding.weight.device.type != "cpu":
            return "the kernels run on CPUs"
        return native.build_error()

    def native_attentions(self) -> list[str]:
        """The attentions the kernels have here for heads of this width, the likeliest first."""
        return ["tiled", "plain"] if native.tiles_fit(self.config.d_head) else ["plain"]

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        *,
        documents: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Last states (B, T, D) of ids (B, T); attention stays inside `documents` (B, T) where given.

        `seed` is what the kernels draw dropout from; without them torch's own state is.
        """
        check_context(ids.shape[1], self.config.context_length)
        positions = torch.arange(ids.shape[1], device=ids.device)
        x, angles = self._embed(ids, positions, ids.shape[1])
        if self.native:
            return self._hidden_native(x, documents, seed)
        x = self.dropout(x)
        allowed = causal_mask(ids.shape[1], documents, self.config.window).to(ids.device)
        attend = ATTENTIONS[self.attention]
        for block in self.blocks:
            x = block(x, angles, allowed, attend)
        return self.norm(x)

    def _hidden_native(self, x: Tensor, documents: Tensor | None, seed: int) -> Tensor:
        """`hidden` by the kernels: the same sums, block by block, in bfloat16."""
        config, (batch, time, width) = self.config, x.shape
        dropout = config.dropout if self.training else 0.0
        sizes = (batch, time, config.n_head, config.n_kv_head, config.d_head)
        shape = native.BlockShape(sizes, eps=self.norm.eps, dropout=dropout, attention=self.attention)
        cos, sin = self.rotary.first(time)
        angles = (cos.contiguous(), sin.contiguous())
        first = first_key(batch, time, documents, config.window)
        rows, delta = x.flatten(0, 1), None
        if dropout:
            rows = native.NativeDropout.apply(rows, dropout, seed)
        for number, block in enumerate(self.blocks):
            place = seed + 1 + 2 * number  # each of a block's two dropouts has a seed of its own
            rows, delta = native.NativeBlock.apply(
                rows, delta, angles, first, shape, place, *block.native_weights()
            )
        return native.AddNorm.apply(rows, delta, self.norm.weight, self.norm.eps).view(batch, time, width)

    def forward(
        self, ids: Tensor, cache: KeyValueCache | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        if cache is None:
            return self._logits(self.hidden(ids))
        return self._logits(self._hidden_cached(ids, cache, lengths))

    def _embed(
        self, ids: Tensor, positions: Tensor, length: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """States (B, T, D) before the first block, and the angles for positions (T,) or (B, T) below `length`."""
        x = self.embedding(ids).to(self.precision)
        if self.config.position == "learned":
            x = x + self.position(positions).to(self.precision)
        angles = None
        if self.config.position == "rotary":
            table = self.rotary.first(max(length, 1))
            cos, sin = (part[positions].unsqueeze(-2).to(self.precision) for part in table)
            angles = (cos, sin)
        return x, angles

    # ── reading on from a cache ────────────────────────────────────────────────────────────────

    def new_cache(self, batch_size: int, length: int, source: Tensor | None = None) -> KeyValueCache:
        config = self.config
        shape = (config.n_layer, batch_size, length, config.n_kv_head, config.d_head)
        device = self.embedding.weight.device
        k, v = (torch.zeros(shape, dtype=self.precision, device=device) for _ in range(2))
        return KeyValueCache(k, v, torch.zeros(batch_size, dtype=torch.long, device=device))

    def _hidden_cached(self, ids: Tensor, cache: KeyValueCache, lengths: Tensor | None) -> Tensor:
        column = torch.arange(ids.shape[1], device=ids.device)
        positions = cache.lengths[:, None] + column  # (B, T)
        real = column < lengths[:, None] if lengths is not None else torch.ones_like(ids, dtype=torch.bool)
        length = int((cache.lengths + real.sum(1)).max())
        check_context(length, self.config.context_length)
        if length > cache.k.shape[2]:
            raise UsageError(
                "context_exceeded",
                f"{length} ids exceed this cache's capacity of {cache.k.shape[2]}",
            )
        row, col = real.nonzero(as_tuple=True)
        slots = (row, col, positions[row, col])
        positions = positions.clamp(max=max(length - 1, 0))  # padding may point past the end
        x, angles = self._embed(ids, positions, length)
        mask = self._cached_mask(positions, length)
        for layer, block in enumerate(self.blocks):

            def store(k: Tensor, v: Tensor, layer: int = layer) -> tuple[Tensor, Tensor]:
                cache.write(layer, k, v, slots)
                return cache.k[layer, :, :length], cache.v[layer, :, :length]

            x = block.cached(x, angles, mask, store)
        cache.lengths += real.sum(1)
        return self.norm(x)

    def _cached_mask(self, positions: Tensor, length: int) -> Tensor:
        """(B, 1, T, S): keys at or before each query's position, within the window."""
        key = torch.arange(length, device=positions.device)
        mask = key <= positions[:, :, None]
        if self.config.window is not None:
            mask &= key > positions[:, :, None] - self.config.window
        return mask[:, None]

    # ── learning ───────────────────────────────────────────────────────────────────────────────

    def loss(self, batch: Batch) -> Loss:
        seed = step_seed(batch, "dropout") & 0x7FFFFFFF
        hidden = self.hidden(batch.ids, documents=batch.documents, seed=seed)
        compute = native.chunk_loss if self.native else chunk_loss
        total = cross_entropy(hidden, self.head_weight, batch.targets, batch.weights, compute)
        return Loss(total, float(batch.weights.sum()))

    def score(self, batch: Batch) -> tuple[Tensor, str]:
        logits = self._logits(self.hidden(batch.ids, documents=batch.documents))
        return token_nll(logits, batch), self.capabilities.likelihood
