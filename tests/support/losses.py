"""The losses in float64 numpy, written out from their papers and authors' code, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BETA = 6.0


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(log_softmax(logits)))


def cross_entropy(logits: Array, labels: Labels) -> float:
    return -float(log_softmax(logits)[np.arange(len(labels)), labels].mean())


def expected_trades(labels: Labels, clean: Array, adv: Array) -> float:
    p, log_p, log_q = softmax(clean), log_softmax(clean), log_softmax(adv)
    total = 0.0
    for i in range(len(labels)):
        for k in range(p.shape[1]):
            total += p[i, k] * (log_p[i, k] - log_q[i, k])
    return cross_entropy(clean, labels) + BETA * total / len(labels)


def expected_mart(labels: Labels, clean: Array, adv: Array) -> float:
    nat, q, count = softmax(clean), softmax(adv), len(labels)
    margin = robust = 0.0
    for i, y in enumerate(labels):
        wrong = max((k for k in range(q.shape[1]) if k != y), key=lambda k: q[i, k])
        margin -= np.log(1.0001 - q[i, wrong] + 1e-12)
        divergence = sum(nat[i, k] * (np.log(nat[i, k]) - np.log(q[i, k] + 1e-12)) for k in range(q.shape[1]))
        robust += divergence * (1.0000001 - nat[i, y])
    return cross_entropy(adv, labels) + margin / count + BETA * robust / count


def expected_jsd(labels: Labels, clean: Array, view1: Array, view2: Array) -> float:
    probabilities = [softmax(logits) for logits in (clean, view1, view2)]
    mixture = np.log(np.clip(sum(probabilities) / 3.0, 1e-7, 1.0))
    divergences = [(p * (np.log(p) - mixture)).sum() / len(labels) for p in probabilities]
    return cross_entropy(clean, labels) + 12.0 * float(sum(divergences)) / 3.0


def expected_kl(_labels: Labels, clean: Array, adv: Array) -> Array:
    p = softmax(clean)
    return np.asarray((p * np.log(p) - p * log_softmax(adv)).sum(axis=1))


def finite_difference(value: Callable[[], float], at: Array, step: float = 1e-5) -> Array:
    """Central differences of `value` in each element of `at`, which is put back."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        kept = at[index]
        at[index] = kept + step
        above = value()
        at[index] = kept - step
        gradient[index] = (above - value()) / (2 * step)
        at[index] = kept
    return gradient
