"""Rolling evaluation: a small AutoAttack on held-out training examples, piece by piece, while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparring.attacks import Attack
from sparring.config import EvaluationSettings
from sparring.data import Dataset, Sample
from sparring.errors import SparringError
from sparring.evaluation.autoattack import NEEDED_CLASSES, attacks_for
from sparring.evaluation.panels import AutoAttackPanel
from sparring.evaluation.strikes import Look, Strike
from sparring.evaluation.tickets import examples_at, in_batches
from sparring.machine.devices import device_of
from sparring.models.forward import plain

SMALL = ("apgd-ce", "apgd-t")


class Questions(NamedTuple):
    """What is judged by what: the same in the trainer and in all workers. pieces: places in the sample, of each one."""

    sample: Sample
    panel: AutoAttackPanel
    pieces: tuple[tuple[int, ...], ...]

    @property
    def identity(self) -> str:
        """Figures of two versions can be compared where this is the same."""
        return f"{self.panel.description} on {len(self.sample)} examples, {self.sample.fingerprint}"


class Answer(NamedTuple):
    """Of the examples of a piece, in order: correct on the clean image; correct after every attack too."""

    clean: tuple[bool, ...]
    robust: tuple[bool, ...]


def questions(settings: EvaluationSettings, heldout: Dataset, threat: Attack, seed: int) -> Questions:
    """What the settings ask of the weights, within the ball of `threat`.

    Raises:
        SparringError: an attack needs more classes than there are.
    """
    sample = Sample(heldout, settings.rolling_samples)
    attacks = attacks_of(settings, heldout.classes)
    panel = AutoAttackPanel(threat.norm, threat.epsilon, heldout.classes, seed, attacks=attacks)
    return Questions(sample, panel, tuple(in_batches(len(sample), settings.rolling_batch)))


def attacks_of(settings: EvaluationSettings, classes: int) -> tuple[str, ...]:
    """The attacks by name.

    Raises:
        SparringError: one that is asked for needs more classes.
    """
    chosen = settings.rolling_attacks
    try:
        return attacks_for(classes, chosen=chosen) if chosen else _small(classes)
    except SparringError as error:
        raise SparringError(f"evaluation.rolling_attacks: {error}") from error


def _small(classes: int) -> tuple[str, ...]:
    return tuple(name for name in SMALL if classes >= NEEDED_CLASSES.get(name, 2))


def answer(model: nn.Module, asked: Questions, number: int) -> Answer:
    """Judge the examples of a piece: the verdicts of an evaluation in mode fast, in batches of this size."""
    places = asked.pieces[number]
    device, model = device_of(model), plain(model)
    x, y = (each.to(device) for each in examples_at(asked.sample, places))
    looked = Look()([model], x, y, None)
    sound = (looked.clean & ~looked.non_finite_logits).tolist()
    correct = dict(zip(places, sound, strict=True))
    _strike(model, asked.panel, x, y, places, correct)
    return Answer(tuple(looked.clean.tolist()), tuple(correct.values()))


def _strike(
    model: nn.Module, panel: AutoAttackPanel, x: Tensor, y: Tensor, places: Sequence[int], correct: dict[int, bool]
) -> None:
    """Attack what is correct, and note what is so no more."""
    alive = [place for place in places if correct[place]]
    if not alive:
        return
    rows = torch.tensor([places.index(place) for place in alive], device=x.device)
    blow = Strike(panel, panel.names, (), tuple(alive), places[0])([model], x[rows], y[rows], None)
    for entry in blow.entries:
        for verdict in entry.verdicts:
            correct[verdict.example] &= verdict.broken_by is None and "non_finite_logits" not in verdict.flags
