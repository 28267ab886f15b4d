"""Bounds of a ReLU network's values over a box of images: by intervals, and by linear relaxation (CROWN).

All in float64. Every bound is moved outwards by `OUTWARDS` times (1 + the sum of the absolute terms that it is made
of), which is some thousand times what a sum of some thousand terms loses to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from sparring.evaluation.relu_network import Array, ReluNetwork

OUTWARDS = 1e-9
ROWS_AT_ONCE = 1024  # linear functions that are carried back together
RATE, DECAY = 0.3, 0.85  # of the steps of the lower lines' slopes


class Bounds(NamedTuple):
    """lower ≤ value ≤ upper, float64 [n] each."""

    lower: Array
    upper: Array

    @property
    def unstable(self) -> Any:
        """Indices of the values whose sign is not known, int64."""
        return np.flatnonzero((self.lower < 0) & (self.upper > 0))

    def within(self, other: Bounds) -> Bounds:
        """What both say."""
        return Bounds(np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper))


class Lines(NamedTuple):
    """Lines around max(0, z): lower_slope · z ≤ max(0, z) ≤ slope · z + offset. Of an unstable ReLU any lower slope in
    [0, 1] is right. float64 [n] each; unstable: 0 or 1."""

    slope: Array
    offset: Array
    lower_slope: Array
    unstable: Array


def box_of(image: Array, epsilon: float) -> Bounds:
    """The images in [0, 1] of which no pixel is further than `epsilon` from that of `image`, float64 [n]."""
    return Bounds(np.maximum(image - epsilon, 0.0), np.minimum(image + epsilon, 1.0))


def by_intervals(network: ReluNetwork, box: Bounds) -> list[Bounds]:
    """Bounds of all preactivations z_i, the logits last, each layer by those of the layer before."""
    found: list[Bounds] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        centre, radius = (box.upper + box.lower) / 2, (box.upper - box.lower) / 2
        size = abs(weight)
        middle, reach = weight @ centre + bias, size @ radius
        outwards = OUTWARDS * (1 + size @ abs(centre) + reach + abs(bias))
        found.append(Bounds(middle - reach - outwards, middle + reach + outwards))
        box = Bounds(np.maximum(found[-1].lower, 0), np.maximum(found[-1].upper, 0))
    return found


def by_crown(network: ReluNetwork, box: Bounds, *, steps: int = 0) -> list[Bounds]:
    """The same by CROWN, within the intervals. Only what these leave unstable is bounded again, and the logits.

    steps: see `lower_bounds`.
    """
    return tightened(network, box, by_intervals(network, box), range(1, len(network.weights)), steps=steps)


def tightened(
    network: ReluNetwork, box: Bounds, bounds: Sequence[Bounds], layers: range, *, steps: int = 0
) -> list[Bounds]:
    """`bounds`, with those of these layers bounded again by CROWN where they are unstable, one after the other."""
    found = list(bounds)
    for layer in layers:
        known, last = found[layer], layer == len(found) - 1
        which = np.arange(len(known.lower)) if last else known.unstable
        rows = sparse.eye_array(len(known.lower), format="csr")[which]
        ends = lower_bounds(network, box, found, sparse.vstack([rows, -rows]), layer=layer, steps=steps)
        lower, upper = known.lower.copy(), known.upper.copy()
        lower[which], upper[which] = ends[: len(which)], -ends[len(which) :]
        found[layer] = known.within(Bounds(lower, upper))
    return found


def lower_bounds(
    network: ReluNetwork,
    box: Bounds,
    bounds: Sequence[Bounds],
    rows: Any,
    *,
    layer: int = -1,
    steps: int = 0,
    held: Array | None = None,
) -> Array:
    """Lower bounds of `rows` @ z_layer over the box, float64 [k]: linear functions are carried back to the image.

    CROWN (Zhang et al. 2018) with the adaptive lower slopes of its section 3.3, and then the best of `steps` more
    passes in which each row's slopes follow its bound's gradient (Xu et al. 2021).

    Args:
        bounds: of the preactivations of all layers before `layer`.
        rows: sparse float64 [k, n_layer].
        held: float64 [n] of -1, 0 and 1: only images count at which the preactivations before `layer` are at most 0
            where it is -1, and at least 0 where it is 1. Each pass prices these conditions (Wang et al. 2021).
    """
    layer %= len(network.weights)
    lines = [lines_of(each) for each in bounds[:layer]]
    rows = sparse.csr_array(rows)
    parts = [
        _best(network, box, lines, rows[first : first + ROWS_AT_ONCE], steps, held)
        for first in range(0, rows.shape[0], ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *parts])


def lines_of(bounds: Bounds) -> Lines:
    """The lines within these bounds; below an unstable ReLU z or 0, whichever cuts off the smaller area."""
    lower, upper = bounds
    unstable = (lower < 0) & (upper > 0)
    width = np.where(unstable, upper - lower, 1)
    slope = np.where(unstable, upper / width, upper > 0)
    offset = np.where(unstable, -upper * lower / width, 0)
    lower_slope = np.where(unstable, upper >= -lower, upper > 0)
    return Lines(slope, offset, lower_slope.astype(np.float64), unstable.astype(np.float64))


class _Carried(NamedTuple):
    """Rows that were carried back: their lower bounds [k], their slopes in the image, sparse [k, n_0], and the rising
    part of their slopes in each layer's activations, sparse [k, n_i]."""

    bounds: Array
    slopes: Any
    rising: list[Any]


def _best(
    network: ReluNetwork, box: Bounds, lines: Sequence[Lines], rows: Any, steps: int, held: Array | None
) -> Array:
    lower_slopes, prices = [each.lower_slope for each in lines], np.zeros((rows.shape[0], 1))
    weights = 0.0 if held is None else abs(rows @ network.weights[len(lines)]).toarray()  # a price is as large
    carried = _carried_back(network, box, lines, lower_slopes, None, rows)
    best = carried.bounds
    for step in range(steps if lines else 0):
        rate = RATE * DECAY**step
        lower_slopes, last = _stepped(network, box, lines, lower_slopes, carried, rate)
        if held is not None:
            prices = held * np.maximum(held * prices - rate * weights * np.sign(held * last), 0)
        carried = _carried_back(network, box, lines, lower_slopes, None if held is None else prices, rows)
        best = np.maximum(best, carried.bounds)
    return best


def _carried_back(
    network: ReluNetwork,
    box: Bounds,
    lines: Sequence[Lines],
    lower_slopes: Sequence[Array],
    prices: Array | None,
    rows: Any,
) -> _Carried:
    """lower_slopes: of each layer [n_i], or [k, n_i] for each row its own. prices: subtracted from the slopes in the
    last preactivations, [k, n]: positive where these are at least 0, negative where they are at most 0."""
    constant, size, slopes = np.zeros(rows.shape[0]), np.ones(rows.shape[0]), rows
    parts: list[Any] = []
    for layer in reversed(range(len(lines) + 1)):
        if layer < len(lines):
            rising = slopes.maximum(0)
            falling = slopes - rising
            shift = falling @ lines[layer].offset
            constant, size = constant + shift, size - shift
            slopes = (falling.multiply(lines[layer].slope) + rising.multiply(lower_slopes[layer])).tocsr()
            if prices is not None and layer == len(lines) - 1:
                slopes = slopes - sparse.csr_array(prices)
            parts.insert(0, rising)
        bias = network.biases[layer]
        constant, size = constant + slopes @ bias, size + abs(slopes) @ abs(bias)
        slopes = slopes @ network.weights[layer]
    rising = slopes.maximum(0)
    found = constant + rising @ box.lower + (slopes - rising) @ box.upper
    outwards = OUTWARDS * (size + abs(slopes) @ np.maximum(abs(box.lower), abs(box.upper)))
    return _Carried(found - outwards, slopes, parts)


def _stepped(
    network: ReluNetwork,
    box: Bounds,
    lines: Sequence[Lines],
    lower_slopes: Sequence[Array],
    carried: _Carried,
    step: float,
) -> tuple[list[Array], Array]:
    """Lower slopes [k, n_i] after a step along the sign of each bound's gradient; the last preactivations [k, n].

    The bound is the value of linear functions at the worst image, so its gradient by a slope is what rises there times
    the preactivation there.
    """
    values = np.where(carried.slopes.toarray() >= 0, box.lower, box.upper)
    found, z = list[Array](), values
    for layer, (each, slope) in enumerate(zip(lines, lower_slopes, strict=True)):
        z = (network.weights[layer] @ values.T).T + network.biases[layer]
        rising = carried.rising[layer].toarray()
        found.append(np.clip(slope + step * np.sign(rising * z) * each.unstable, 0, 1))
        values = np.where(rising > 0, slope * z, each.slope * z + each.offset)
    return found, z
