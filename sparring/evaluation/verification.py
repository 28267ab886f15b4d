"""Is one image robust? Exactly: a proof for all images of its ball, or one of them that is misclassified.

Bounds first, since they are cheap, then bounds in cases, and a mixed-integer program for the classes that both leave
open.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from sparring.errors import SparringError
from sparring.evaluation.branching import above_in_all_cases
from sparring.evaluation.mixed_integer import PROOF_MARGIN, Program, least_margin, program_of
from sparring.evaluation.relaxation import Bounds, box_of, by_crown, lower_bounds, tightened
from sparring.evaluation.relu_network import Array, ReluNetwork

Image = NDArray[np.float32]
Verdict = Literal["broken", "verified", "timed out", "undecided"]
By = Literal["crown", "cases", "mip", ""]
STEPS = 10  # of the slopes of CROWN's lower lines
ROUNDING = 1e-6  # by which a value in a bound's network may leave it


class Proof(NamedTuple):
    """What is known of an image's ball.

    verdict: broken: an image in it is misclassified; verified: none is; timed out: the time was up before; undecided:
    the least margin is nearer to 0 than the arithmetic allows to tell.
    by: what found it. image: float32 [n_0], the misclassified one. seconds: of this process' processor.
    """

    verdict: Verdict
    by: By
    seconds: float
    image: Image | None = None


@dataclass(frozen=True)
class Prover:
    """Decides images of a network. Only the solver may be interrupted: bounds take their time, which is short.

    epsilon: radius of the ball under L∞, in pixel intensities. timeout_s: processor seconds for each image.
    """

    network: ReluNetwork
    epsilon: float
    timeout_s: float

    def __call__(self, image: Image, label: int, seen: Sequence[Image] = ()) -> Proof:
        """Decide a flattened image, float32 [n_0] in [0, 1], that is classified correctly.

        seen: images of its ball on which the bounds are tried, such as what an attack made of it.

        Raises:
            SparringError: the bounds do not hold on one of these images.
        """
        began = time.process_time()
        box = box_of(image.astype(np.float64), self.epsilon)
        verdict, by, found = self._decided(box, label, [image, *seen], began + self.timeout_s)
        return Proof(verdict, by, time.process_time() - began, found)

    def _decided(
        self, box: Bounds, label: int, seen: Sequence[Image], deadline: float
    ) -> tuple[Verdict, By, Image | None]:
        bounds = by_crown(self.network, box)
        require_contains(self.network, box, bounds, seen)
        rows, others = margin_rows(self.network.classes, label)
        open_ = np.flatnonzero(lower_bounds(self.network, box, bounds, rows) <= PROOF_MARGIN)
        if len(open_):
            bounds = tightened(self.network, box, bounds, range(1, len(bounds) - 1), steps=STEPS)
            require_contains(self.network, box, bounds, seen)
            margins = lower_bounds(self.network, box, bounds, rows[open_], steps=STEPS)
            likeliest = np.argsort(margins)  # to be broken: they are tried first
            open_ = open_[likeliest[margins[likeliest] <= PROOF_MARGIN]]
        if not len(open_):
            return "verified", "crown", None
        left = [place for place in open_ if not self._above_in_cases(box, bounds, rows[[place]], deadline)]
        if not left:
            return "verified", "cases", None
        return self._by_program(program_of(self.network, box, bounds), box, label, others[left].tolist(), deadline)

    def _above_in_cases(self, box: Bounds, bounds: Sequence[Bounds], row: Any, deadline: float) -> bool:
        """Cases may take half of the time that is left."""
        until = (time.process_time() + deadline) / 2
        return above_in_all_cases(self.network, box, bounds, row, PROOF_MARGIN, until)

    def _by_program(
        self, program: Program, box: Bounds, label: int, others: Sequence[int], deadline: float
    ) -> tuple[Verdict, Literal["mip", ""], Image | None]:
        weights, biases = self.network.weights[-1].toarray(), self.network.biases[-1]
        left: list[Verdict] = []
        for other in others:
            row, offset = weights[label] - weights[other], float(biases[label] - biases[other])
            found = least_margin(program, row, offset, deadline)
            if found.above:
                continue
            if found.image is not None and is_broken(self.network, image := inside(found.image, box), label):
                return "broken", "mip", image
            left.append("timed out" if time.process_time() > deadline else "undecided")
        if left:
            return ("timed out" if "timed out" in left else "undecided"), "", None
        return "verified", "mip", None


def margin_rows(classes: int, label: int) -> tuple[Any, NDArray[np.int64]]:
    """The rows that make of logits the label's margin over each other class, sparse [K − 1, K]; these classes."""
    others = np.array([each for each in range(classes) if each != label])
    rows = -np.eye(classes)[others]
    rows[:, label] += 1
    return sparse.csr_array(rows), others


def require_contains(network: ReluNetwork, box: Bounds, bounds: Sequence[Bounds], images: Sequence[Image]) -> None:
    """Check that the values of these images lie within the bounds; of those outside the box nothing is said.

    Raises:
        SparringError: a bound is wrong, and so would be every proof by it.
    """
    inputs = np.stack(images).astype(np.float64)
    inputs = inputs[((inputs >= box.lower) & (inputs <= box.upper)).all(1)]
    for layer, (values, each) in enumerate(zip(network.preactivations(inputs), bounds, strict=True)):
        beyond = np.maximum(each.lower - values, values - each.upper)
        if len(inputs) and not beyond.max() <= ROUNDING * (1 + np.abs(values).max()):
            raise SparringError(
                f"a bound of affine map {layer + 1} is wrong by {beyond.max():.3g}: an image of the ball has a value "
                f"outside it. Nothing is verified by such bounds; this is a bug of Sparring."
            )


def inside(image: Array, box: Bounds) -> Image:
    """The nearest float32 image whose pixels lie in the box exactly."""
    low, high = box.lower.astype(np.float32), box.upper.astype(np.float32)
    low = np.where(low < box.lower, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > box.upper, np.nextafter(high, np.float32(-np.inf)), high)
    found: Image = np.clip(image.astype(np.float32), low, high)
    return found


def is_broken(network: ReluNetwork, image: Image, label: int) -> bool:
    """Whether the network itself, in float32 and in float64, has a higher logit than the label's."""
    return all(_misclassified(network, image, label, dtype) for dtype in (torch.float32, torch.float64))


def _misclassified(network: ReluNetwork, image: Image, label: int, dtype: torch.dtype) -> bool:
    layers = copy.deepcopy(network.layers).to(dtype)
    with torch.no_grad():
        logits = layers(torch.from_numpy(image).to(dtype).view(1, *network.shape))[0]
    others = logits[torch.arange(len(logits)) != label]
    return bool(others.max() > logits[label])
