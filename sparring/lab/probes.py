"""Looks at what trained runs did on the way, at data, and at the virtual clock; each from a point to plain figures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.errors import UsageError

if TYPE_CHECKING:
    from sparring.config import Config
    from sparring.lab.study import Point
    from sparring.lab.work import Place

Figures = dict[str, Any]
ORACLE_STEPS = 10  # as the oracle allocator
CLASSES = ("outlier", "boundary", "robust")
SHOWN = 12  # images of a strip
TAIL = 0.01  # of a class, the points farthest from its centre (Kaufmann et al., appendix A.1)
COMPONENTS = 50
CLOCK_STEPS, CLOCK_WARM_UP = 400, 100


def classes_over_time(point: Point, place: Place) -> Figures:
    """Shares and mean signed variance of outliers, boundary and robust examples at each checkpoint of a run.

    The classes are the outcome of ten PGD steps (Hua et al., Figs. 3 and 4). Options: samples, of training examples.
    """
    from sparring.allocators.bullettrain import signed_variance
    from sparring.allocators.oracle import classify_by_attack
    from sparring.attacks import PGD
    from sparring.objectives.predictions import correct

    config, x, y = _examples(point, place, "train", int(point.options["samples"]))
    attack = PGD(epsilon=config.attack.epsilon, steps=ORACLE_STEPS)
    found: dict[str, list[float | None]] = {"step": []}
    for step, model in _checkpoints(point, place):
        attacked = attack(model, x, y, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = model(x)
            classes = classify_by_attack(correct(logits, y), correct(model(attacked), y))
        variance = signed_variance(logits, y)
        found["step"].append(step)
        for number, name in enumerate(CLASSES):
            here = classes == number
            found.setdefault(f"{name}_share", []).append(float(here.double().mean()))
            found.setdefault(f"{name}_variance", []).append(float(variance[here].mean()) if here.any() else None)
    return {"samples": len(x), "series": found}


def cycling(point: Point, place: Place) -> Figures:
    """How the perturbations of the same images move between the checkpoints of a run (Bhat et al., Fig. 6).

    similarity: mean cosine of an image's perturbations `lag` checkpoints apart. common: mean cosine of different
    images' perturbations at the same checkpoint. strip: one image as attacked at the last checkpoints, in base64.
    Options: samples, of test images.
    """
    from sparring.attacks import PGD

    config, x, y = _examples(point, place, "test", int(point.options["samples"]))
    attack = PGD(epsilon=config.attack.epsilon, steps=config.attack.steps, start="zero")
    steps, deltas = [], []
    for step, model in _checkpoints(point, place):
        steps.append(step)
        deltas.append(attack(model, x, y, return_delta=True))
    flat = F.normalize(torch.stack(deltas).flatten(2), dim=2)  # [checkpoints, images, pixels]
    similarity = [float((flat[lag:] * flat[: len(flat) - lag]).sum(2).mean()) for lag in range(len(flat))]
    products = flat @ flat.transpose(1, 2)
    others = products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1)
    count = flat.shape[1]
    strip = [((x[0] + delta[0]).clamp(0, 1) * 255).round().to(torch.uint8) for delta in deltas[-SHOWN:]]
    return {
        "steps": steps,
        "similarity": similarity,
        "common": float((others / (count * (count - 1))).mean()),
        "shape": list(x.shape[1:]),
        "strip": [base64.b64encode(bytes(image.flatten().tolist())).decode() for image in strip],
        "samples": count,
    }


def embedding(point: Point, place: Place) -> Figures:
    """Density and separation of the classes of a data set in a t-SNE of its 50 principal components.

    Kaufmann et al., appendix A.1. Each axis has variance 1. density: points of a class for the area of their convex
    hull, mean over the classes; separation: squared distance of a class's centre to the nearest other one, mean. Of
    each class the 1 % farthest from its centre are left out. Options: samples; kept_of_run: of the examples that the
    needed run kept; shown, so many points that are kept for a picture. Needs scikit-learn.
    """
    from scipy.spatial import ConvexHull
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    images, labels = _of_data(point, place)
    reduced = PCA(min(COMPONENTS, *images.shape), random_state=0).fit_transform(images.numpy())
    flat = torch.from_numpy(TSNE(2, random_state=0, init="pca").fit_transform(reduced)).double()
    flat = (flat - flat.mean(0)) / flat.std(0)
    clouds = [_without_tail(flat[labels == label]) for label in sorted(set(labels.tolist()))]
    centres = torch.stack([cloud.mean(0) for cloud in clouds])
    apart = torch.cdist(centres, centres).square().fill_diagonal_(float("inf")).min(1).values
    shown = int(point.options["shown"])
    densities = [len(cloud) / ConvexHull(cloud.numpy()).volume for cloud in clouds]
    return {
        "samples": len(labels),
        "density": sum(densities) / len(densities),
        "separation": float(apart.mean()),
        "shown": [
            [round(float(x), 2), round(float(y), 2), int(label)]
            for (x, y), label in zip(flat[:shown], labels[:shown], strict=True)
        ],
    }


def on_the_clock(point: Point, place: Place) -> Figures:
    """Speed-up of the settings' devices over the synchronous loop on one of them, by the virtual clock.

    Options: split, the devices are divided as `sparring explain --devices` proposes.
    """
    from sparring.commands.splits import best_split, works_of
    from sparring.config import load
    from sparring.engines.virtual.clock import clocked
    from sparring.engines.virtual.rivals import data_parallel
    from sparring.trainer.experiment import build_experiment

    config = load(None, {**point.settings, "engine": "virtual"})
    devices, examples = config.workers.count + 1, config.train.batch_size * config.train.shards_per_step
    works = works_of(config, CLOCK_STEPS * config.train.shards_per_step, config.train.batch_size)
    alone_s = _pace(data_parallel(config, [[work] for work in works]))
    if devices == 1:
        return {"speed_up": 1.0, "staleness": 0.0}
    if point.options.get("split"):
        split = best_split(config, build_experiment(config).plan, devices, 0)
        return {
            "speed_up": split.examples_per_second * alone_s / config.train.batch_size,
            "staleness": split.staleness,
            "split": f"{split.trainers} + {split.workers}, {split.shards_per_step} x {split.batch_size}",
        }
    run = clocked(config, works)
    return {
        "speed_up": examples / _pace(run.ends) * alone_s / config.train.batch_size,
        "staleness": sum(run.staleness) / len(run.staleness),
    }


def _pace(ends: Any) -> float:
    """Seconds of a step once the pipeline is full."""
    return float((ends[-1] - ends[CLOCK_WARM_UP - 1]) / (len(ends) - CLOCK_WARM_UP))


def _without_tail(cloud: Tensor) -> Tensor:
    distance = (cloud - cloud.mean(0)).norm(dim=1)
    return cloud[distance <= distance.quantile(1 - TAIL)]


def _of_data(point: Point, place: Place) -> tuple[Tensor, Tensor]:
    """Images as rows in [0, 1] and labels: of a data set, or of those examples that the needed run kept."""
    from sparring.config import config_of
    from sparring.config import load as load_config
    from sparring.data import Sample, Subset
    from sparring.data import load as load_data

    run = place.run_of(point.needs[0]) if point.needs else None
    config = load_config(None, place.with_data(point.settings)) if run is None else config_of(run)
    data = load_data(config.data, "train")
    if run is not None:
        kept = run.read_json(run.kept.name)
        if kept is None:
            raise UsageError(f"{run.path} has pruned nothing.")
        data = Subset(data, torch.tensor(kept["indices"]))
    sample = Sample(data, min(int(point.options["samples"]), len(data)))
    images = sample.images(torch.arange(len(sample)))
    scaled = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    return scaled.flatten(1).float(), sample.labels


def _examples(point: Point, place: Place, split: Any, samples: int) -> tuple[Config, Tensor, Tensor]:
    """Settings of the needed run, and so many of its examples, each class in its share: float32 [N, C, H, W]."""
    from sparring.config import config_of
    from sparring.data import Sample
    from sparring.data import load as load_data
    from sparring.evaluation.tickets import examples_at

    config = config_of(place.run_of(point.needs[0]))
    sample = Sample(load_data(config.data, split), samples)
    return config, *examples_at(sample, range(len(sample)))


def _checkpoints(point: Point, place: Place) -> Iterator[tuple[int, nn.Module]]:
    """The step and the network of each checkpoint of the needed run, the oldest first; one network is loaded anew."""
    from sparring.commands.evaluate import load_model
    from sparring.trainer import checkpoints

    run = place.run_of(point.needs[0])
    model = load_model(run.path)
    for path in checkpoints.steps_in(run.checkpoints):
        checkpoints.load_weights(path, model)
        yield int(checkpoints.counters(path)["step"]), model.eval()
