"""Transfer: models on the adversarial examples of others, as a matrix of runs, or one run and a folder of sources."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.attacks import Attack
from sparring.commands.evaluate import Trained, keep, names_of, open_judged, remembered, require_different
from sparring.commands.judging import BY_DEFAULT, How, Judged, digest_of, identity_of, of_sample
from sparring.config import Config
from sparring.errors import SparringError, UsageError
from sparring.evaluation.panels import Restarts
from sparring.evaluation.robustness import attack_for
from sparring.evaluation.transfer import Member, from_sources, require_same_data, transfer
from sparring.models.starting import load_checkpoint
from sparring.runs import Run, open_run

WEIGHTS = (".safetensors", ".pt", ".pth")
Progress = Callable[[str], None]


def transfer_runs(
    runs: Sequence[Run],
    changes: dict[str, str],
    *,
    best: bool = False,
    as_trained: bool = False,
    progress: Progress | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """The transfer matrix of the runs, attacked as the first one's evaluation settings say. What is found of each batch
    is kept in the first one's folder.

    Args:
        as_trained: each source attacks as it was trained, by its own steps and step size.

    Raises:
        UsageError: fewer than two runs, one given twice, or runs of different data or threats.
        SparringError: as `open_trained`.
    """
    require_different(runs, "transfer")
    pairs = [open_judged(run, changes, best=best, chooses=False) for run in runs]
    opened, whats = [made for made, _ in pairs], [what for _, what in pairs]
    members = [_member(name, made) for name, made in zip(names_of(runs), opened, strict=True)]
    first = opened[0].config
    attacks = [member.threat if as_trained else attack_for(member.threat, first.evaluation) for member in members]
    identity = {
        **_of_transfer(first, attacks),
        "networks": [identity_of(what) for what in whats],
        "as_trained": as_trained,
    }
    with remembered(whats[0], "transfer", identity, how, whats[1:]) as (judges, results):
        found = transfer(members, first.evaluation, first.train.seed, as_trained, progress, judges, results).as_dict()
    of_runs = [f"{member.name}: {text}" for member, made in zip(members, opened, strict=True) for text in made.warnings]
    return {**found, "warnings": [*of_runs, *found["warnings"]]}


def _member(name: str, made: Trained) -> Member:
    return Member(name, made.model, made.test, made.threat, made.config.data.name, made.checkpoint.name)


def _of_transfer(config: Config, attacks: Sequence[Attack]) -> dict[str, Any]:
    """What results of a transfer depend on beside the networks."""
    settings, seed = config.evaluation, config.train.seed
    described = [{**Restarts(attack, seed).identity, "restarts": attack.restarts} for attack in attacks]
    return {"attacks": described, **of_sample(settings)}


def transfer_from(
    run: Run,
    folder: Path,
    changes: dict[str, str],
    *,
    best: bool = False,
    progress: Progress | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """Accuracy of a run on the adversarial examples of every run and file of weights in `folder`, within its own ball;
    also written to its transfer.json. Results are kept by source, so that new ones may be added.

    Weights are taken for those of the run's network. What cannot be a source is in `passed_over`, with the reason.

    Raises:
        UsageError: the folder has no source.
        SparringError: as `open_trained`, of the run itself.
    """
    if not folder.is_dir():
        raise UsageError(f"--from {folder}: it is no folder.")
    made, what = open_judged(run, changes, best=best, chooses=False)
    target, passed_over = _member(run.path.name, made), dict[str, str]()
    found: list[tuple[Member, Judged]] = []
    for path in sorted(folder.iterdir()):
        if path.resolve() == run.path.resolve() or not (path.is_dir() or path.suffix in WEIGHTS):
            continue
        try:
            found.append(_source(path, target, what, changes, best))
        except SparringError as error:
            passed_over[path.name] = str(error)
    if not found:
        reasons = "".join(f" {name}: {reason}" for name, reason in passed_over.items())
        raise UsageError(f"--from {folder}: there is no run and no file of weights that can be a source.{reasons}")
    config, members = made.config, [target, *(member for member, _ in found)]
    whats = [what, *(judged for _, judged in found)]
    attack = attack_for(target.threat, config.evaluation)
    identity = {**_of_transfer(config, [attack]), "target": identity_of(what)}
    keys = [json.dumps(identity_of(each), sort_keys=True) for each in whats]
    with remembered(what, "transfer-from", identity, how, whats[1:]) as (judges, results):
        figures = from_sources(members, keys, config.evaluation, config.train.seed, progress, judges, results)
    result = {**made.figures(figures.as_dict()), "folder": str(folder), "passed_over": passed_over}
    keep(run, "transfer.json", result)
    return result


def _source(path: Path, target: Member, what: Judged, changes: dict[str, str], best: bool) -> tuple[Member, Judged]:
    """A run of the folder, or the target's network with the weights of a file.

    Raises:
        SparringError: it cannot be opened, or its test set is another.
    """
    if path.is_dir():
        made, judged = open_judged(open_run(path), changes, best=best, chooses=False)
        member = _member(path.name, made)
        require_same_data([target, member])
        return member, judged
    model = copy.deepcopy(what.model)
    if lacking := load_checkpoint(path, model, target.test.classes):
        raise UsageError(f"it has {', '.join(lacking)} of another number of classes than {target.test.classes}")
    member = replace(target, name=path.name, model=model, checkpoint=path.name)
    return member, replace(what, model=model, weights=digest_of(path))
