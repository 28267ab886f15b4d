"""Losses as pure functions of logits [N, K], in float32 unless the logits are float64.

Every divergence is formed from log-probabilities: a probability that underflows to 0 would give NaN gradients to
`F.kl_div`, whose derivative with respect to its target holds log 0.

All refuse wrong arguments by a ValueError that names one. Labels outside the classes are found on the CPU; on a GPU
that would wait for it in each step, and torch's own check ends the program.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LABEL = torch.iinfo(torch.int64).min  # instead of torch's -100, whose examples would count as a loss of 0


def pgd_at(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """PGD-AT (Mądry et al.; Bhat et al.): mean cross-entropy on adversarial examples only.

    logits: [N, K] of the attacked images; labels: int64 [N]; label_smoothing: share of the target in [0, 1] spread
    over all classes; weights: [N] with mean 1, of the examples; returns a scalar.
    """
    _require(labels, logits=logits)
    return weighted_mean(_cross_entropy(logits, labels, label_smoothing), weights)


def trades(
    clean_logits: Tensor,
    adv_logits: Tensor,
    labels: Tensor,
    beta: float,
    *,
    target_logits: Tensor | None = None,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """TRADES (Zhang et al. 2019, eq. 5, β = 1/λ): CE(clean) + β · mean KL(p_clean || p_adv).

    clean_logits, adv_logits: [N, K]; labels: int64 [N]; target_logits: [N, K] of a pass of its own over the clean
    images, whose probabilities are then the p_clean of the KL; label_smoothing: of CE(clean) alone, as by Wang et al.
    2023; weights: see `pgd_at`; returns a scalar. Gradient flows through both sides of the KL, as in the authors' code.
    """
    target = clean_logits if target_logits is None else target_logits
    _require(labels, clean_logits=clean_logits, adv_logits=adv_logits, target_logits=target)
    _require_not_negative("beta", beta)
    divergence = _kl(_log_softmax(target), _log_softmax(adv_logits))
    clean = weighted_mean(_cross_entropy(clean_logits, labels, label_smoothing), weights)
    return clean + beta * weighted_mean(divergence, weights)


def mart(
    clean_logits: Tensor, adv_logits: Tensor, labels: Tensor, beta: float, *, weights: Tensor | None = None
) -> Tensor:
    """MART (Wang et al. 2020, eq. 11, with the constants of the authors' code): boosted CE + β · weighted KL.

    clean_logits, adv_logits: [N, K], K ≥ 2; labels: int64 [N]; weights: see `pgd_at`; returns a scalar. The boosted
    CE adds to the adversarial cross-entropy a margin to the likeliest wrong class; the KL of an example weighs
    1 - p_clean(label), and gradient flows through that weight too.

    Raises:
        ValueError: K is 1, or another argument is wrong.
    """
    _require(labels, clean_logits=clean_logits, adv_logits=adv_logits)
    _require_not_negative("beta", beta)
    if adv_logits.shape[1] < 2:
        raise ValueError("logits of 1 class: MART needs at least 2, since its margin is to the likeliest wrong class.")
    adv_probabilities = _precise(adv_logits).softmax(1)
    clean_log_probabilities = _log_softmax(clean_logits)
    wrong = _likeliest_wrong(adv_probabilities, labels)
    margin = F.nll_loss((1.0001 - adv_probabilities + 1e-12).log(), wrong, reduction="none")
    boosted = weighted_mean(_cross_entropy(adv_logits, labels) + margin, weights)
    true_probabilities = clean_log_probabilities.exp().gather(1, labels[:, None])[:, 0]
    divergence = _kl(clean_log_probabilities, (adv_probabilities + 1e-12).log())
    return boosted + beta * weighted_mean(divergence * (1.0000001 - true_probabilities), weights)


def jsd(
    clean_logits: Tensor, view1_logits: Tensor, view2_logits: Tensor, labels: Tensor, weight: float = 12.0
) -> Tensor:
    """AugMix (Hendrycks et al. 2020, eq. 1, 2): CE(clean) + weight · Jensen-Shannon divergence of the three views.

    clean_logits, view1_logits, view2_logits: [N, K]; labels: int64 [N]; returns a scalar. The mixture M is clamped to
    [1e-7, 1], as in the authors' code.
    """
    _require(labels, clean_logits=clean_logits, view1_logits=view1_logits, view2_logits=view2_logits)
    _require_not_negative("weight", weight)
    views = [_log_softmax(logits) for logits in (clean_logits, view1_logits, view2_logits)]
    log_mixture = torch.stack([view.exp() for view in views]).mean(0).clamp(1e-7, 1).log()
    divergence = torch.stack([_kl(view, log_mixture) for view in views]).mean()
    return _cross_entropy(clean_logits, labels).mean() + weight * divergence


def kl_divergence(adv_logits: Tensor, clean_probabilities: Tensor) -> Tensor:
    """The attack loss of TRADES: KL(p_clean || p_adv) of each example.

    adv_logits, clean_probabilities: [N, K]; returns [N]. A probability of 0 adds 0, and no gradient of it is NaN.
    """
    _require_alike(adv_logits=adv_logits, clean_probabilities=clean_probabilities)
    target = _precise(clean_probabilities)
    log_target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
    return (target * (log_target - _log_softmax(adv_logits))).sum(1)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of [N] values, weighted by `weights` (float [N] with mean 1) if given.

    Raises:
        ValueError: the weights have another shape, which torch would broadcast, or (on the CPU) one is negative or NaN.
    """
    if weights is None:
        return values.mean()
    if not isinstance(weights, Tensor):
        raise ValueError(f"weights = {weights!r}: a tensor [N] of numbers of at least 0 is needed, or None.")
    if weights.shape != values.shape:
        raise ValueError(f"weights of shape {tuple(weights.shape)}: one for each of {len(values)} examples is needed.")
    if weights.device.type == "cpu" and len(weights) and not float(weights.min()) >= 0:  # also of NaN
        raise ValueError(f"weights: the smallest is {float(weights.min()):g}; numbers of at least 0 are needed.")
    return (values * weights).mean()


def _require(labels: Tensor, **logits: Tensor) -> None:
    _require_alike(**logits)
    count, classes = next(iter(logits.values())).shape
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(f"labels: {labels.dtype} {tuple(labels.shape)}; class numbers, int64 [{count}], are needed.")
    if labels.device.type == "cpu" and count > 0:
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels are {low} to {high}; with logits of {classes} classes they are 0 to {classes - 1}."
            )


def _require_alike(**logits: Tensor) -> None:
    (first, rows), *_ = logits.items()
    for name, each in logits.items():
        if each.ndim != 2:
            raise ValueError(f"{name}: shape {tuple(each.shape)}; [N, K], a row for each example, is needed.")
        if each.shape != rows.shape:
            raise ValueError(
                f"{name} of shape {tuple(each.shape)} with {first} of shape {tuple(rows.shape)}: both are of the same "
                f"examples and classes, [N, K]."
            )


def _require_not_negative(name: str, value: float) -> None:
    if not value >= 0:  # written so that NaN is refused
        raise ValueError(f"{name} = {value!r}: a number of at least 0 is needed.")


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    if not 0 <= label_smoothing <= 1:  # torch takes a negative one, or NaN, for none
        raise ValueError(f"label_smoothing = {label_smoothing!r}: a share of the target, from 0 to 1, is needed.")
    return F.cross_entropy(
        _precise(logits), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none"
    )


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _log_softmax(logits: Tensor) -> Tensor:
    return _precise(logits).log_softmax(1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[N]: KL(p || q) from log-probabilities [N, K]."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _likeliest_wrong(probabilities: Tensor, labels: Tensor) -> Tensor:
    """int64 [N]: the class with the highest probability among those that are not the label."""
    second, first = probabilities.argsort(1)[:, -2:].unbind(1)
    return torch.where(first == labels, second, first)
