"""Attacked images to look at: what a network says of each before and after the attack."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, frozen
from sparring.data import Dataset, batch
from sparring.data.sampling import stratified
from sparring.evaluation.findings import findings_of, out_of_reach, too_small, warnings_of
from sparring.evaluation.fooled import fooled_on
from sparring.evaluation.outcomes import Outcomes, attacked_outcomes, joined, logits_of, variation
from sparring.machine.devices import device_of
from sparring.models.forward import plain
from sparring.objectives.predictions import are_finite

T = TypeVar("T")
Kind = Literal["robust", "broken", "wrong"]
MOST = 256  # test images among which the shown ones are chosen
AT_ONCE = 32
FIRST = 4  # images that are attacked, however long it takes


class Prediction(NamedTuple):
    """The class that a network predicts, and its probability; None where its logits are not finite: no class."""

    label: int | None
    confidence: float | None


@dataclass(frozen=True)
class Shown:
    """An image, float32 [C, H, W] in [0, 1] on the CPU, before and after an attack.

    place: its index in the test set, or among the user's own images. label: its class; None: unknown, the attack leads
    away from the prediction.
    """

    place: int
    label: int | None
    before: Prediction
    after: Prediction
    clean: Tensor
    attacked: Tensor

    @property
    def kind(self) -> Kind:
        """robust: right after the attack too; broken: no longer; wrong: without an attack already."""
        label = self.before.label if self.label is None else self.label
        if self.before.label is None or self.before.label != label:
            return "wrong"
        return "robust" if self.after.label == label else "broken"


@dataclass(frozen=True)
class Looked:
    """The images that are shown, and how many of those that were attacked for them are of each kind.

    warnings: what may make these kinds wrong, as beside the figure of an evaluation.
    """

    shown: tuple[Shown, ...]
    counts: Counter[str]
    warnings: tuple[str, ...] = ()


def attack_images(
    model: nn.Module, x: Tensor, labels: Tensor | None, places: Sequence[int], attack: Attack, seed: int
) -> Looked:
    """Attack a batch as an evaluation does: what is wrong without an attack is not attacked. All of it is shown.

    Args:
        x: float32 [N, C, H, W] in [0, 1]. labels: int64 [N]; None: the predictions. places: of each image.
    """
    found, outcomes = _attacked(model, x, labels, places, attack, seed)
    return _looked(found, found, model, outcomes, attack, seed)


def _attacked(
    model: nn.Module, x: Tensor, labels: Tensor | None, places: Sequence[int], attack: Attack, seed: int
) -> tuple[list[Shown], Outcomes]:
    """The images of a batch, and what became of them, on the CPU."""
    model = plain(model)
    x = x.to(device_of(model))
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        before = _predictions(model, x)
        y = torch.tensor([each.label or 0 for each in before]) if labels is None else labels
        outcomes, images = attacked_outcomes(model, x, y.to(x.device), attack, seed, places[0])
        outcomes = replace(outcomes, varies=variation(model, x))
        after = _predictions(model, images)
    known = [None] * len(y) if labels is None else labels.tolist()
    columns = zip(places, known, before, after, x.cpu(), images.detach().cpu(), strict=True)
    return [Shown(*each) for each in columns], outcomes.cpu()


def _looked(
    shown: Sequence[Shown], found: Sequence[Shown], model: nn.Module, outcomes: Outcomes, attack: Attack, seed: int
) -> Looked:
    """What is shown of the images that were attacked, with the same warnings as beside an evaluation's figure."""
    warnings = [*warnings_of(findings_of(outcomes)), *out_of_reach(attack), *too_small(attack.epsilon)]
    if bool(outcomes.robust.any()):
        x = torch.stack([each.clean for each in found])[outcomes.robust]
        with torch.inference_mode(False), torch.enable_grad():
            warnings += fooled_on(model, x, outcomes.labels[outcomes.robust], attack, seed)
    return Looked(tuple(shown), Counter(each.kind for each in found), tuple(warnings))


def _predictions(model: nn.Module, x: Tensor) -> list[Prediction]:
    logits = logits_of(model, x).float()
    confidence, label = logits.softmax(1).max(1)
    rows = zip(label.tolist(), confidence.tolist(), are_finite(logits).tolist(), strict=True)
    return [Prediction(*each) if finite else Prediction(None, None) for *each, finite in rows]


def images_at(dataset: Dataset, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images, float32 [N, C, H, W] in [0, 1], and labels."""
    return batch(dataset, torch.tensor(places), augment="none", seed=0, epoch=0)


def look(
    model: nn.Module,
    dataset: Dataset,
    attack: Attack,
    count: int,
    *,
    seed: int = 0,
    seconds: float = 20.0,
) -> Looked:
    """Attack test images, class after class, until there are robust and broken ones to show, at most `count`.

    seconds: about how long it may take; a slow network gets fewer images, not a weaker attack.
    """
    limit, order = time.monotonic() + seconds, by_turns(dataset.labels, MOST)
    found: list[Shown] = []
    parts: list[Outcomes] = []
    size: int = FIRST
    while size > 0 and len(found) < len(order):
        began, places = time.monotonic(), order[len(found) : len(found) + size]
        batch_found, outcomes = _attacked(model, *images_at(dataset, places), places, attack, seed)
        found, parts = [*found, *batch_found], [*parts, outcomes]
        kinds = Counter(each.kind for each in found)
        if min(kinds["robust"], kinds["broken"]) >= count / 2:
            break
        now = time.monotonic()
        size = min(4 * size, AT_ONCE, int((limit - now) * size / max(now - began, 1e-9)))
    return _looked(chosen(found, count), found, model, joined(parts), attack, seed)


def by_turns(labels: Tensor, most: int) -> list[int]:
    """Indices of at most `most` examples, the classes taking turns."""
    by_class: dict[int, list[int]] = {}
    for place in stratified(labels, min(most, len(labels))).tolist():
        by_class.setdefault(int(labels[place]), []).append(place)
    return list(_turns(by_class[label] for label in sorted(by_class)))


def chosen(found: Sequence[Shown], count: int) -> list[Shown]:
    """At most `count`: robust and broken ones by turns, of many classes; wrong ones for want of others."""
    pools = [[each for each in found if each.kind == kind] for kind in ("robust", "broken")]
    taken: list[Shown] = []
    used: Counter[int | None] = Counter()
    while len(taken) < count and (left := [pool for pool in pools if pool] or [_wrong(found, taken)])[0]:
        for pool in left:
            next_one = min(pool, key=lambda each: used[each.label])
            pool.remove(next_one)
            taken.append(next_one)
            used[next_one.label] += 1
    return sorted(taken[:count], key=lambda each: (-1 if each.label is None else each.label, each.place))


def _wrong(found: Sequence[Shown], taken: Sequence[Shown]) -> list[Shown]:
    return [each for each in found if each.kind == "wrong" and not any(each is other for other in taken)]


def _turns(groups: Iterable[Sequence[T]]) -> Iterable[T]:
    """One of each group, then the second of each, and so on."""
    listed = list(groups)
    for turn in range(max(map(len, listed), default=0)):
        yield from (group[turn] for group in listed if turn < len(group))
