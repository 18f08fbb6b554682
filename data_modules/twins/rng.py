"""Counter-based randomness: every drawn number depends only on (dataset, split, index, seed) and on its own name.

Neither the order in which images are drawn nor the other images of a batch change anything, and adding a random
number to a twin leaves all others as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection of 64-bit words whose outputs pass randomness tests on a counter."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _word(*parts: object) -> np.uint64:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


class Rng:
    """Named random numbers for a batch of images, one independent stream for each image.

    Args:
        keys: ``[B]`` 64-bit words, one for each image.
    """

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.keys = keys

    @classmethod
    def for_items(cls, dataset: str, split: str, indices: NDArray[np.int64], seed: int = 0) -> Rng:
        """The streams of the given items of a split."""
        start = _word(dataset, split, seed)
        with np.errstate(over="ignore"):
            return cls(_mix(start + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN))

    def __len__(self) -> int:
        return len(self.keys)

    def fork(self, name: str) -> Rng:
        """Independent streams for a part of the image, so that two parts may use the same names."""
        return Rng(self._words("fork/" + name, 1)[:, 0])

    def _words(self, name: str, count: int) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            base = _mix(self.keys ^ _word(name))
            return _mix(base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
        """``[B, *shape]`` float32 in [low, high)."""
        words = self._words(name, int(np.prod(shape, dtype=np.int64))).reshape(len(self), *shape)
        unit = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return (np.float32(low) + unit * np.float32(high - low)).astype(np.float32)

    def normal(self, name: str, *shape: int) -> NDArray[np.float32]:
        """``[B, *shape]`` float32, standard normal (Box-Muller)."""
        radius = np.sqrt(-2.0 * np.log(1.0 - self.uniform(name + "/r", *shape)))
        return (radius * np.cos(np.float32(2 * np.pi) * self.uniform(name + "/a", *shape))).astype(np.float32)

    def integers(self, name: str, high: int | NDArray[np.int64], *shape: int) -> NDArray[np.int64]:
        """``[B, *shape]`` int64 in 0..high-1; ``high`` may be an array that broadcasts to the result."""
        drawn = np.floor(self.uniform(name, *shape).astype(np.float64) * high).astype(np.int64)
        return np.minimum(drawn, np.asarray(high) - 1)

    def permutation(self, name: str, n: int) -> NDArray[np.int64]:
        """``[B, n]`` an independent permutation of 0..n-1 for each image."""
        return np.argsort(self._words(name, n), axis=1, kind="stable")
