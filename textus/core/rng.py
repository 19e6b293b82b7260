"""Random numbers that follow from a seed and counters."""

from __future__ import annotations

import hashlib

# ── randomness ─────────────────────────────────────────────────────────────────────────────────


def derive_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for one use of randomness: a hash of the run's seed and what it is for.

    Streams made this way do not depend on each other, nor on the order in which they are used.
    """
    text = ":".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(seed: int, *keys: int | str) -> float:
    """One number in [0, 1) from a counter-based stream."""
    return (derive_seed(seed, *keys) >> 10) / float(1 << 53)
