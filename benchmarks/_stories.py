"""A plain reading of a llama2.c file: what `textus import` of one is held against."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np


def plain_story(path: Path, n: int) -> list[int]:
    """Greedy ids from a llama2.c file: its format and its arithmetic, one position and one head at a time."""
    data = path.read_bytes()
    width, ff, layers, heads, kv_heads, vocab, _ = struct.unpack_from("<7i", data)
    numbers, at, head = np.frombuffer(data, "<f4", offset=28), 0, width // heads

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += math.prod(shape)
        return numbers[at - math.prod(shape) : at].reshape(shape)

    kv = kv_heads * head
    shapes = [(width,), (width, width), (kv, width), (kv, width), (width, width)]
    shapes += [(width,), (ff, width), (width, ff), (ff, width)]
    table = take(vocab, width)
    norm1, wq, wk, wv, wo, norm2, w1, w2, w3 = (take(layers, *shape) for shape in shapes)
    last = take(width)

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-5) * weight

    def turned(x: np.ndarray, position: int) -> np.ndarray:
        angle = position / 10000.0 ** (np.arange(0, head, 2) / head)
        pairs = x.reshape(-1, head // 2, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        sides = [
            first * np.cos(angle) - second * np.sin(angle),
            first * np.sin(angle) + second * np.cos(angle),
        ]
        return np.stack(sides, -1).reshape(-1, head)

    keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
    values: list[list[np.ndarray]] = [[] for _ in range(layers)]
    ids, token = [], 1
    for position in range(n):
        x = table[token].astype(np.float64)
        for layer in range(layers):
            h = rms(x, norm1[layer])
            keys[layer].append(turned(wk[layer] @ h, position))
            values[layer].append((wv[layer] @ h).reshape(kv_heads, head))
            q, mixed = turned(wq[layer] @ h, position), []
            for number in range(heads):
                group = number * kv_heads // heads
                scores = np.array([k[group] @ q[number] for k in keys[layer]]) / math.sqrt(head)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(sum(w * v[group] for w, v in zip(weights, values[layer], strict=True)))
            x = x + wo[layer] @ np.concatenate(mixed)
            h = rms(x, norm2[layer])
            gate = w1[layer] @ h
            x = x + w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ h))
        token = int((table @ rms(x, last)).argmax())
        if token == 1:
            break
        ids.append(token)
    return ids
