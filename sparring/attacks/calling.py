"""Call of an attack by a user: arguments are checked, and the model's state is restored."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparring.attacks.gradients import GradientCheck
from sparring.attacks.iteration import frozen, perturb
from sparring.attacks.norms import NORMS, perturbed, sizes
from sparring.errors import UsageError
from sparring.machine.devices import of_other_precision
from sparring.machine.modes import alone_with

if TYPE_CHECKING:
    from sparring.attacks.attack import Attack


def attacked(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None,
    return_delta: bool,
) -> Tensor:
    """See `Attack.__call__`."""
    require_batch(model, images, labels)
    require_ball(attack, images)
    require_slope(attack)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is a {type(generator).__name__}: a torch.Generator is needed, or None.")
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    with alone_with(model), torch.inference_mode(False), torch.enable_grad(), frozen(model):
        clean = images.detach()
        x, y = clean.clone(), labels.clone()  # a tensor made in inference mode cannot be in a graph
        _require_classes(model, x, y)
        check = GradientCheck(len(y), y.device)
        delta = perturb(model, x, y, attack, generator, check=check).to(images.dtype)
        require_within(attack, clean, delta)  # x may be another now: an attack may change what it gets
        result = delta if return_delta else perturbed(clean, delta)
    _warn(check)
    return result.detach()


def _warn(check: GradientCheck) -> None:
    """Say that the attack was weaker than it seems; Python shows the same sentence once for each line that calls."""
    met = {"of exactly zero": check.zero, "with entries that are not finite, which count as 0": check.non_finite}
    for what, examples in met.items():
        if bool(examples.any()):
            warnings.warn(
                f"the attack met gradients {what}: some of its images may be easier than they could be. Look in the "
                f"model for rounding, saturation, or a slope that is infinite; sparring.evaluate counts such examples.",
                RuntimeWarning,
                stacklevel=4,
            )


def require_slope(attack: Attack) -> None:
    """Refuse an attack that begins where the gradient of its loss is zero.

    Raises:
        ValueError: it does.
    """
    if attack.maximised.needs_clean and attack.start == "zero":
        raise ValueError(
            "loss = 'kl' with start = 'zero': at the clean image its gradient is zero, and the attack would follow "
            "rounding. Set start to 'gaussian' or 'uniform', or loss to 'ce'."
        )


def require_batch(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Check that the arguments are a batch of images for the model.

    Raises:
        ValueError: an argument is wrong; it is named.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: a torch.nn.Module is needed.")
    _require_images(images)
    _require_labels(labels, len(images))
    devices = {"images": images.device, "labels": labels.device, **_device_of(model)}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"devices differ: {where}. Move all to one device by .to(device).")
    _require_values(images, labels)


def _require_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
        found = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ValueError(f"images: {found}; a tensor [N, C, H, W] with N ≥ 1 is needed.")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images are {images.dtype}: float32 or float64 in [0, 1] is needed. Divide uint8 images by 255."
        )


def _require_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (count,):
        found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels: {found}; class numbers, int64 [{count}], are needed.")


def _require_values(images: Tensor, labels: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(images.detach()))
    if low != low:
        raise ValueError("images contain NaN. Remove or repair them.")
    if not (low >= 0 and high <= 1):  # written so that NaN is refused
        raise ValueError(
            f"images are in [{low:.7g}, {high:.7g}]: [0, 1] is needed. Divide grey levels by 255. If the images are "
            f"normalised, leave out that step and put sparring.Normalize(mean, std) before the model."
        )
    if int(labels.min()) < 0:  # cross_entropy ignores -100: such an example would not be attacked
        raise ValueError(f"labels: the smallest is {int(labels.min())}; class numbers begin at 0.")


def _require_classes(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    """Check on the first image that the model takes such images and tells all classes of the labels apart."""
    try:
        with torch.no_grad():
            logits = model(x[:1].clone())
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(
            f"images: model cannot take {x.dtype} images of {tuple(x.shape[1:])} ({type(error).__name__}: {error})."
            f"{of_other_precision(model)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model returns {found} for one image: logits of shape (1, classes) are needed.")
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels: the largest is {int(labels.max())}, but model returns {logits.shape[1]} logits.")


def _device_of(model: nn.Module) -> dict[str, torch.device]:
    first = next(chain(model.parameters(), model.buffers()), None)
    return {} if first is None else {"model": first.device}


def require_within(attack: Attack, x: Tensor, delta: Tensor) -> None:
    """A backstop: what an attack makes that leaves its ball is that of another one, and so is its figure.

    Raises:
        UsageError: the perturbations have another shape than x, [N, C, H, W], or one is outside, or not finite.
    """
    named = f"attack {attack.name or type(attack).__name__}"
    if delta.shape != x.shape:
        raise UsageError(
            f"{named}: it made perturbations of shape {tuple(delta.shape)} of images of shape {tuple(x.shape)}. Return "
            f"one for each image from its `initial`, `step` and `project`."
        )
    if attack.norm not in NORMS or len(delta) == 0:
        return
    size = float(sizes(perturbed(x, delta) - x, attack.norm).max())
    if not size <= attack.radius * (1 + 1e-4) + 1e-6:  # written so that NaN is refused
        raise UsageError(
            f"{named}: it made a perturbation of norm {size:.6g} in a ball of {attack.radius:.6g} ({attack.norm}), so "
            f"robust accuracy would be that of a larger ball. Project in its `project` and `initial`."
        )


def require_ball(attack: Attack, images: Tensor) -> None:
    """Refuse a ball that is larger than the distance between any two images.

    Raises:
        ValueError: about epsilon.
    """
    largest = attack.largest(tuple(images.shape[1:]))
    if attack.epsilon > largest * (1 + 1e-6):
        raise ValueError(
            f"epsilon = {attack.epsilon:g} under {attack.norm}: two images of shape {tuple(images.shape[1:])} "
            f"in [0, 1] are at most {largest:.4g} apart. Divide a radius in grey levels by 255."
        )
