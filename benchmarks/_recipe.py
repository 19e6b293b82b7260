"""The well-known small CPU recipe for tiny Shakespeare, in plain PyTorch: what `to_188` compares with.

Settings from nanoGPT's README for a computer without a GPU: 4 layers, 4 heads, 128 wide, context 64, batches of 12,
2,000 steps, no dropout, AdamW from 1e-3 by a cosine to 1e-4 after 100 steps of warm-up, second moment 0.99. A GPT-2
block with layer norms without biases, GELU, learned positions and the head tied to the embedding; float32, eager.
Prints CPU-seconds of training and the loss on the last tenth, in whole windows of 64, as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
RATE, LOWEST, WARM_UP, DECAY, BETAS, CLIP = 1e-3, 1e-4, 100, 0.1, (0.9, 0.99), 1.0


class Block(nn.Module):
    """Attention, then feed-forward, each on a normed copy and added."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        batch, time_, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, time_, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Recipe(nn.Module):
    """Characters to logits."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if into_stream else 0.02)

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def rate_at(step: int, steps: int) -> float:
    """Warm-up, then a cosine down."""
    if step < WARM_UP:
        return RATE * (step + 1) / (WARM_UP + 1)
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LOWEST + 0.5 * (1 + math.cos(math.pi * done)) * (RATE - LOWEST)


def train(model: Recipe, ids: Tensor, steps: int) -> None:
    """The 2,000 steps."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim == 2], "weight_decay": DECAY},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)
    for step in range(steps):
        starts = torch.randint(len(ids) - CONTEXT, (BATCH, 1))
        window = ids[starts + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()


@torch.inference_mode()
def loss_on(model: Recipe, ids: Tensor) -> float:
    """Nats per character over every whole window and the rest."""
    total = 0.0
    for start in range(0, len(ids) - 1, CONTEXT * 64):
        part = ids[start : start + CONTEXT * 64 + 1]
        whole = (len(part) - 1) // CONTEXT * CONTEXT
        pieces = [(part[:whole].view(-1, CONTEXT), part[1 : whole + 1])] if whole else []
        if len(part) - 1 > whole:
            pieces.append((part[whole:-1][None], part[whole + 1 :]))
        for inputs, targets in pieces:
            total += float(F.cross_entropy(model(inputs).flatten(0, 1), targets, reduction="sum"))
    return total / (len(ids) - 1)


def main() -> None:
    """`python -m benchmarks._recipe input.txt SEED STEPS`."""
    text, seed, steps = Path(sys.argv[1]).read_text(encoding="utf-8"), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    cut = int(len(ids) * 0.9)
    model = Recipe(len(number))
    started = time.process_time()
    train(model, ids[:cut], steps)
    loop, command = time.process_time() - started, time.process_time()
    nats = loss_on(model.eval(), ids[cut:])
    print(json.dumps({"loop_cpu_seconds": loop, "cpu_seconds": command, "nats_per_character": nats}))


if __name__ == "__main__":
    main()
