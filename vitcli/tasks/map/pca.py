"""Principal components: the directions in which the rows differ most.

The covariance is exact (Jolliffe, Principal Component Analysis, 2002): the rows are rounded to 20
bits, and the products of integers are summed without rounding. For rows that are too wide for a
covariance matrix, randomized subspace iteration finds the same directions (Halko, Martinsson,
Tropp, 2011, algorithm 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitcli.tasks.map.rows import QUANTUM_BITS, Floats, Rows, Tick, quantum_of

MAX_WIDTH = 2048  # wider rows are left to subspace iteration
PASSES, EXTRA = 7, 10  # of subspace iteration: passes over the rows, additional directions
AXIS_DECIMALS = 8  # LAPACK's last digits depend on the number of threads


@dataclass(frozen=True, slots=True)
class Components:
    """axes: (D, C), orthonormal; mean: (D,). explained: (C,), the shares of the variance."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: tuple[float, ...]

    def project(self, vectors: Floats) -> NDArray[np.float64]:
        """Return coordinates along the axes.  (n, D) -> (n, C)"""
        centred = vectors - self.mean
        columns = [np.einsum("nd,d->n", centred, axis) for axis in self.axes.T]  # not BLAS: ordered
        return np.stack(columns, axis=1)


def passes_of(width: int) -> int:
    """The number of times that `components` reads all rows."""
    return 1 if width <= MAX_WIDTH else 2 + PASSES


def components(rows: Rows, number: int, seed: int, tick: Tick) -> Components:
    """Find the first principal components of rows. Each axis points to where its number of the
    largest size is positive. Missing ones, where rows or dimensions are too few, are zero."""
    quantum = quantum_of(rows.largest, QUANTUM_BITS)
    if rows.width <= MAX_WIDTH:
        mean, values, vectors, total = _exact(rows, quantum, tick)
    else:
        mean, values, vectors, total = _randomized(rows, number, seed, quantum, tick)
    found = min(number, vectors.shape[1])
    axes = np.zeros((rows.width, number))
    axes[:, :found] = vectors[:, :found]
    signs = np.sign(axes[np.abs(axes).round(AXIS_DECIMALS - 1).argmax(axis=0), np.arange(number)])
    axes = np.round(axes * np.where(signs < 0, -1, 1), AXIS_DECIMALS)
    shares = np.zeros(number)
    if total > 0:
        shares[:found] = values[:found].clip(0) / total
    return Components(mean, axes, tuple(np.round(shares, 6).tolist()))


def _exact(
    rows: Rows, quantum: float, tick: Tick
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    total = np.zeros((rows.width, rows.width))
    sums = np.zeros(rows.width)
    for _, block in rows.blocks(tick):
        integers = np.rint(block / quantum, dtype=np.float64)
        total += integers.T @ integers
        sums += integers.sum(axis=0)
    mean = sums / rows.count
    covariance = (total / rows.count - np.outer(mean, mean)) * quantum**2
    values, vectors = np.linalg.eigh(covariance)
    return mean * quantum, values[::-1], vectors[:, ::-1], float(np.trace(covariance))


def _randomized(
    rows: Rows, number: int, seed: int, quantum: float, tick: Tick
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    sums, squares = np.zeros(rows.width), 0.0
    for _, block in rows.blocks(tick):
        integers = np.rint(block / quantum, dtype=np.float64)
        sums += integers.sum(axis=0)
        squares += float(np.einsum("nd,nd->", integers, integers))
    mean = sums / rows.count * quantum
    total = squares / rows.count * quantum**2 - float(mean @ mean)
    size = min(rows.width, number + EXTRA)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((rows.width, size)))[0]
    for _ in range(PASSES):
        image = np.zeros_like(basis)
        for _, block in rows.blocks(tick):
            centred = block - mean
            image += centred.T @ (centred @ basis)
        basis = np.linalg.qr(image)[0]
    small = np.zeros((size, size))
    for _, block in rows.blocks(tick):
        part = (block - mean) @ basis
        small += part.T @ part
    values, turns = np.linalg.eigh(small / rows.count)
    return mean, values[::-1], basis @ turns[:, ::-1], total
