"""Attack a few images by the attack of a run's evaluation, to look at: its test images, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.attacks import Attack
from sparring.commands.evaluate import MAY_CHANGE, Trained, open_trained
from sparring.data.datasets import class_names_of
from sparring.data.depth import read_rgb
from sparring.errors import UsageError
from sparring.evaluation.pictures import Named, grid
from sparring.evaluation.robustness import attack_for, describe
from sparring.evaluation.showing import Looked, Prediction, attack_images, by_turns, images_at, look
from sparring.models import Shape
from sparring.runs import Run, writing

CHANGEABLE = (*MAY_CHANGE, "attack.epsilon")
GRID = ".png"
COUNT = 10  # test images


@dataclass(frozen=True)
class Opened:
    """The weights of a run with the attack of its evaluation: PGD, or with a norm of its own the run's attack."""

    made: Trained
    attack: Attack

    @property
    def radius(self) -> float | None:
        """The largest change of a pixel; None where the norm gives none."""
        return self.attack.radius if self.attack.norm == "linf" else None

    @property
    def named(self) -> Named:
        """The name of a class, or its number where the data have no names."""
        names = class_names_of(self.made.test)
        return lambda label: names[label] if label < len(names) else str(label)

    def look(self, count: int) -> Looked:
        """Test images to show, at most `count`; see `showing.look`."""
        return look(self.made.model, self.made.test, self.attack, count, seed=self.made.config.train.seed)

    def attacked(self, places: Sequence[int]) -> Looked:
        """These test images, attacked."""
        x, y = images_at(self.made.test, places)
        return attack_images(self.made.model, x, y, places, self.attack, self.made.config.train.seed)


def open_for_attack(run: Run, changes: dict[str, str], *, best: bool = False) -> Opened:
    """Raises as `open_trained`."""
    made = open_trained(run, changes, best=best, may_change=CHANGEABLE)
    return Opened(made, attack_for(made.threat, made.config.evaluation))


def attack_run(
    run: Run,
    changes: dict[str, str],
    files: Sequence[Path] = (),
    *,
    count: int | None = None,
    best: bool = False,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Predictions before and after the attack, image by image, and how many of them are robust, broken and wrong.

    Args:
        files: images; without any `count` test images (10), the classes taking turns. sheet: a PNG file for the
            picture.

    Raises:
        UsageError: a file cannot be read or holds an image of another shape, there are files and a `count`, or `sheet`
            cannot be written.
        SparringError: as `open_trained`.
    """
    if files and count is not None:
        raise UsageError(
            f"--count {count} with --image: it is the number of test images, and all images that are given are "
            f"attacked. Leave one of the two out."
        )
    if sheet is not None:
        _require_picture(sheet)
    opened = open_for_attack(run, changes, best=best)
    if files:
        x = torch.stack([read_image(path, opened.made.test.shape, run) for path in files])
        seed = opened.made.config.train.seed
        looked = attack_images(opened.made.model, x, None, range(len(files)), opened.attack, seed)
    else:
        looked = opened.attacked(by_turns(opened.made.test.labels, COUNT if count is None else count))
    if sheet is not None:
        with writing(sheet.expanduser()):
            grid(looked.shown, opened.radius, opened.named).save(sheet.expanduser())
    result = _as_dict(run, opened, looked, [str(path) for path in files])
    return result if sheet is None else {**result, "grid": str(sheet)}


def _as_dict(run: Run, opened: Opened, looked: Looked, files: Sequence[str]) -> dict[str, Any]:
    counts, named = looked.counts, opened.named
    images = [
        {
            "image": files[each.place] if files else f"test image {each.place}",
            "label": None if each.label is None else named(each.label),
            "before": _prediction(each.before, named),
            "after": _prediction(each.after, named),
            "result": each.kind,
            "largest_change": float((each.attacked - each.clean).abs().max()),
        }
        for each in looked.shown
    ]
    kinds = {kind: counts[kind] for kind in ("robust", "broken", "wrong")}
    beside = {"run": str(run.path), "attack": describe(opened.attack), "samples": len(images), **kinds}
    warnings = [*opened.made.warnings, *looked.warnings]
    return {**beside, **opened.made.named(), "images": images, "warnings": warnings}


def _prediction(found: Prediction, named: Named) -> dict[str, Any]:
    return {"class": None if found.label is None else named(found.label), "confidence": found.confidence}


def read_image(path: Path, shape: Shape, run: Run) -> Tensor:
    """The image of a file, float32 [C, H, W] in [0, 1], which must have the shape that the network takes.

    Raises:
        UsageError: it has another shape, or cannot be read.
    """
    try:
        pixels = np.asarray(read_rgb(path.expanduser()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--image {path}: {getattr(error, 'strerror', None) or error}. Give a picture file."
        ) from error
    grey = bool((pixels == pixels[:, :, :1]).all())
    channels = 1 if grey and shape[0] == 1 else 3
    found = (channels, *pixels.shape[:2])
    if found != shape:
        raise UsageError(
            f"--image {path}: the image is {_said(found)} (channels x height x width), and the network of {run.path} "
            f"takes {_said(shape)}. Give images of that shape."
        )
    return torch.from_numpy(pixels[:, :, :channels].copy()).permute(2, 0, 1).float() / 255


def _said(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _require_picture(path: Path) -> None:
    file = path.expanduser()
    if file.suffix != GRID or not file.parent.is_dir():
        raise UsageError(f"--grid {path}: give the path of a {GRID} file in an existing folder.")
    if file.exists():
        raise UsageError(f"--grid {path}: the file exists; nothing is overwritten. Remove it, or give another name.")
