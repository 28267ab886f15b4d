"""Attacked images as they are saved: in 8 bits, inside the ball, and evaluated as they are in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.attacks.norms import l2_norms, per_example
from sparring.data import scaled
from sparring.errors import UsageError
from sparring.evaluation.outcomes import clean_outcomes
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.runs import writing

ROUNDING = 1e-6  # of a radius, in pixel intensities


class Saved:
    """The attacked images of an evaluation, collected batch by batch as uint8 [N, C, H, W], and their labels."""

    def __init__(self, norm: str, radius: float) -> None:
        self.norm, self.radius = norm, radius
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    def __call__(self, x: Tensor, labels: Tensor, attacked: Tensor) -> None:
        """Keep the attacked images of a batch; see `outcomes`."""
        self._images.append(in_eight_bits(x, attacked, self.norm, self.radius).cpu())
        self._labels.append(labels.cpu())

    def correct(self, model: nn.Module, batch_size: int) -> Tensor:
        """bool [N]: the images as they are saved are classified correctly."""
        model, device, found = plain(model), device_of(model), []
        images, labels = torch.cat(self._images), torch.cat(self._labels)
        with frozen(model):
            for some in torch.split(torch.arange(len(labels)), batch_size):
                x, y = scaled(images[some]).to(device), labels[some].to(device)
                found.append(clean_outcomes(model, x, y).clean.cpu())
        return torch.cat(found)

    def write(self, path: Path, correct: Tensor) -> None:
        """Write `images` (uint8 [N, H, W, C]), `labels` and `correct` to a new npz file; see `correct`.

        Raises:
            SparringError: it cannot be written; then there is no file.
        """
        images = torch.cat(self._images).permute(0, 2, 3, 1).contiguous()
        labels = torch.cat(self._labels)
        with writing(path):
            path.touch(exist_ok=False)
            try:
                np.savez_compressed(path, images=images.numpy(), labels=labels.numpy(), correct=correct.numpy())
            except OSError:
                path.unlink()
                raise


def in_eight_bits(x: Tensor, attacked: Tensor, norm: str, radius: float) -> Tensor:
    """uint8 [N, C, H, W]: the attacked images in grey levels, inside the ball around the clean ones.

    Under L∞ each value is the nearest grey level inside the ball. Otherwise it is the nearest one, or, where the image
    would leave the ball, the next one towards the clean image.

    Args:
        x, attacked: float32 [N, C, H, W] in [0, 1], clean images (multiples of 1/255) and attacked ones.
    """
    clean = (x * 255).round()
    exact = attacked * 255 - clean
    if norm == "linf":
        most = int((radius + ROUNDING) * 255)
        steps = exact.round().clamp(-most, most)
    else:
        steps = exact.trunc()  # no farther than the attacked image, whatever the norm
        if norm == "l2":
            inside = l2_norms(exact.round()) <= (radius + ROUNDING) * 255
            steps = torch.where(per_example(inside), exact.round(), steps)
    return (clean + steps).clamp(0, 255).to(torch.uint8)


def require_new_file(path: Path) -> None:
    """Refuse a file that exists, that has another name than an npz file, or whose folder does not exist.

    Raises:
        UsageError: about --save.
    """
    if path.suffix != ".npz":
        raise UsageError(f"--save {path}: the images are written to an npz file. Give a name that ends in .npz.")
    if path.exists():
        raise UsageError(f"--save {path}: the file exists; nothing is overwritten. Remove it, or give another name.")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}. Make it, or give another name.")
