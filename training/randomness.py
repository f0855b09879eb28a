"""Random numbers that depend on what they are for, and on nothing else.

Noise, timesteps and dropping are keyed by seed, step and sample, so that a run that was interrupted, or that is spread
over more processes, draws what an uninterrupted run on one process would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*key: object) -> torch.Generator:
    """A CPU generator whose state is a hash of the key."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
