"""Kinds of gradients that projections are judged by, and the error of the cosines they leave."""

from __future__ import annotations

import numpy as np

VECTORS = 64
SHAPE = (128, 1024)
"""Of the parameter: 131,072 entries, as rank 128 of LoRA has at width 1,024."""


def gauss(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((VECTORS, *SHAPE), dtype=np.float32)


def lora_like(rng: np.random.Generator) -> np.ndarray:
    """Sums of 32 outer products, the columns of heavy-tailed size, half of each vector common to all."""
    columns = rng.standard_t(3, SHAPE[1]).astype(np.float32)

    def products(count: int) -> np.ndarray:
        left = rng.standard_normal((count, SHAPE[0], 32), dtype=np.float32)
        right = rng.standard_normal((count, 32, SHAPE[1]), dtype=np.float32) * columns
        return np.asarray(left @ right)

    return products(VECTORS) + products(1)


def strided(rng: np.random.Generator) -> np.ndarray:
    """A hot channel: every 1,024th entry, one column, is a hundred times as large."""
    vectors = gauss(rng)
    vectors[:, :, 7] *= 100
    return vectors


def sparse(rng: np.random.Generator) -> np.ndarray:
    """64 entries of each vector, of 256 places that all share."""
    places = rng.choice(SHAPE[0] * SHAPE[1], 256, replace=False)
    vectors = np.zeros((VECTORS, SHAPE[0] * SHAPE[1]), np.float32)
    for vector in vectors:
        vector[rng.choice(places, 64, replace=False)] = rng.standard_normal(64)
    return vectors.reshape(VECTORS, *SHAPE)


FAMILIES = {"gauss": gauss, "LoRA-like": lora_like, "strided": strided, "64-sparse": sparse}


def distortion(vectors: np.ndarray, sketches: np.ndarray) -> float:
    """RMSE over all pairs of the sketches' cosine, times √proj_dim; dense theory says 0.7 to 1."""
    pairs = np.triu_indices(len(vectors), 1)
    error = _cosines(sketches)[pairs] - _cosines(vectors.reshape(len(vectors), -1))[pairs]
    return float(np.sqrt(np.mean(error**2) * sketches.shape[1]))


def _cosines(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide @ wide.T)
