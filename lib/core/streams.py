"""Independent streams of random numbers, one for each purpose and for each crystal that is sampled.

A stream follows from the seed of a run and from what it is for, by :class:`numpy.random.SeedSequence`; no sum of a seed
and a number, of which two could be the same, stands anywhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_CPU = torch.device("cpu")


def sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, such as ("epoch", 3); any two differ."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return np.random.SeedSequence(seed, spawn_key=np.frombuffer(digest, np.uint32).tolist())


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Numpy's generator of a purpose."""
    return np.random.default_rng(sequence(seed, *purpose))


def torch_stream(device: torch.device, seed: int, *purpose: str | int) -> torch.Generator:
    """Torch's generator of a purpose, on a device."""
    return torch.Generator(device).manual_seed(int(sequence(seed, *purpose).generate_state(1, np.uint64)[0]))


@dataclass(frozen=True)
class CrystalStreams:
    """A stream for each crystal of a batch, from which as many numbers are taken as the crystal itself needs.

    What a crystal gets depends neither on the others of its batch nor on the padding that they make necessary.
    """

    streams: Sequence[np.random.Generator]  # B generators, one a crystal
    rows: Tensor  # (B, R) which rows of a state are the crystal's own; padding gets zeros

    def draw(self, kind: str, like: Tensor) -> Tensor:
        """Numbers in the shape of states `like` (B, R, C), "standard_normal" or uniform ("random")."""
        shapes = [(n_rows, like.shape[2]) for n_rows in self.rows.sum(1).tolist()]
        drawn = [getattr(s, kind)(shape, dtype=np.float32) for s, shape in zip(self.streams, shapes, strict=True)]
        numbers = torch.from_numpy(np.concatenate(drawn)).to(like)
        return torch.zeros_like(like).masked_scatter(self.rows[:, :, None], numbers)


Streams = torch.Generator | CrystalStreams


def normal(like: Tensor, streams: Streams) -> Tensor:
    """N(0, 1) in the shape of states (B, R, C), from one stream or from one a crystal."""
    if isinstance(streams, CrystalStreams):
        return streams.draw("standard_normal", like)
    return torch.randn(like.shape, generator=streams, device=like.device)


def uniform(like: Tensor, streams: Streams) -> Tensor:
    """U(0, 1), as :func:`normal`."""
    if isinstance(streams, CrystalStreams):
        return streams.draw("random", like)
    return torch.rand(like.shape, generator=streams, device=like.device)
