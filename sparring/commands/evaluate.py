"""Evaluating a run that has ended, from its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparring.attacks import Attack
from sparring.attacks.by_name import threat_of
from sparring.commands.judging import (
    BY_DEFAULT,
    OF_PGD,
    OF_WORKERS,
    How,
    Judged,
    behaviour_of,
    digest_of,
    identity_of,
    judged,
    judges_of,
    of_sample,
    owned,
    require_used,
)
from sparring.commands.live import require_passed
from sparring.commands.sources import use_sources
from sparring.config import Config, changes_of, config_of, differences
from sparring.data import Dataset, Sample, require_bytes
from sparring.data import load as load_data
from sparring.data.framing import Framing
from sparring.errors import SparringError, UsageError
from sparring.evaluation.corruptions import corruptions
from sparring.evaluation.curves import curves
from sparring.evaluation.findings import unreached
from sparring.evaluation.judging import Judgement
from sparring.evaluation.margins import ITERATIONS, NORMS, margins
from sparring.evaluation.memory import Results
from sparring.evaluation.robustness import interval
from sparring.evaluation.saving import Saved, require_new_file
from sparring.evaluation.tickets import Judges, examples_at
from sparring.machine.memory import keep_freed_memory
from sparring.machine.threads import cores
from sparring.models import Shape, adopt, build
from sparring.runs import Run, open_run
from sparring.trainer import checkpoints
from sparring.trainer.experiment import Live, methods_of
from sparring.trainer.same_data import of_another_test_set

log = logging.getLogger(__name__)

MAY_CHANGE = ("evaluation.", "corruptions.", "data.root", "trainer.device", "trainer.threads")
CHOICE = ("evaluation.attack", "evaluation.version", "evaluation.mode", "evaluation.targets")  # also evaluation.attacks
NOT_CHOSEN = ("evaluation.square_queries", "corruptions.")  # what most commands have no use for

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """The weights of a run, ready to be evaluated, and the test set; warnings: about either."""

    config: Config
    model: nn.Module
    test: Dataset
    checkpoint: Path
    warnings: tuple[str, ...] = ()

    @property
    def threat(self) -> Attack:
        """The attack that it was trained against, at its full ε."""
        return threat_of(self.config.attack, methods_of(self.config).attack)

    def named(self) -> dict[str, str]:
        """Which weights they are."""
        return {"checkpoint": self.checkpoint.name, "weights": self.config.evaluation.weights}

    def figures(self, found: dict[str, Any]) -> dict[str, Any]:
        """What an evaluation found, with the weights that it is of and all warnings."""
        return {**found, **self.named(), "warnings": [*self.warnings, *found["warnings"]]}


def open_trained(
    run: Run, changes: dict[str, str], *, best: bool = False, may_change: tuple[str, ...] = MAY_CHANGE
) -> Trained:
    """Load the last (or best) checkpoint of `run`: the one place that says which weights are evaluated and exported.

    Raises:
        UsageError: a change touches more than how the model is evaluated, or the run has no average of its weights.
        SparringError: there is no such checkpoint, or it is damaged.
    """
    before, config = config_of(run), config_of(run, changes)
    for name in differences(before, config):
        if not name.startswith(may_change):
            raise UsageError(f"--{name} cannot change here: it is not about how the model is evaluated.")
    require_passed(config, Live())
    use_sources(run, config)
    checkpoint_of(run, best)  # refused, if there is none, before the data are read
    test = load_data(config.data, "test")
    shape, classes = _require_same_images(run, config, test)
    model = build(config.model, shape, classes, config.train.seed, normalize=config.data.normalize)
    path = checkpoint_of(run, best)  # a run that trains has a newer one by now
    _load(path, model, config.evaluation.weights)
    torch.set_num_threads(config.trainer.threads or cores())
    keep_freed_memory()
    if torch.cuda.is_available() and config.trainer.device != "cpu":
        model.to("cuda")
    warnings = (*_unreached(before, path), *of_another_test_set(run, test))
    return Trained(config, model, test, path, warnings)


def _unreached(config: Config, checkpoint: Path) -> list[str]:
    """A warning if the weights were trained at a smaller ε than the run's full one."""
    attack, trained = methods_of(config).attack, checkpoints.counters(checkpoint).get("epsilon")
    if trained is None or not isinstance(attack, Attack):
        return []
    return unreached(trained, attack.epsilon)


def checkpoint_of(run: Run, best: bool) -> Path:
    """The last, or the best, checkpoint.

    Raises:
        SparringError: there is none.
    """
    path = checkpoints.best(run.checkpoints) if best else checkpoints.latest(run.checkpoints)
    if path is None:
        wanted = "best (no held-out examples were evaluated: train.evaluate_every_epochs)" if best else "whole"
        raise SparringError(f"{run.path} has no {wanted} checkpoint; train or resume it first.")
    if reason := checkpoints.damage(path):
        raise SparringError(f"checkpoint {path} is damaged: {reason}. Evaluate the last one instead, or train again.")
    return path


def load_model(
    run: str | Path,
    *,
    best: bool = False,
    weights: Literal["plain", "ema"] = "plain",
    model: nn.Module | None = None,
) -> nn.Module:
    """The network of a run in eval mode, on the CPU; it takes float32 images in [0, 1].

    Args:
        run: the run's folder.
        best: of the checkpoint with the best held-out robust accuracy instead of the last one.
        weights: "ema" for their moving average.
        model: a network like the one that the run was started with, where that was passed from Python.

    Raises:
        UsageError: it is no run, has no such weights, or its model was passed from Python and is not passed here.
        SparringError: there is no such checkpoint, or it is damaged or of another network.
    """
    if weights not in ("plain", "ema"):
        raise UsageError(f"weights = {weights!r}: it must be 'plain' or 'ema'.")
    opened = open_run(Path(run))
    config, path = config_of(opened), checkpoint_of(opened, best)
    require_passed(config, Live(model), data=False)
    use_sources(opened, config)
    shape, classes = _shape_of(opened, config)
    if model is None:
        made = build(config.model, shape, classes, config.train.seed, normalize=config.data.normalize)
    else:
        made = adopt(model, shape, classes, normalize=config.data.normalize)
    _load(path, made, weights)
    return made.eval()


def _require_same_images(run: Run, config: Config, test: Dataset) -> tuple[Shape, int]:
    """Shape of an image and number of classes; refuses a test set of others."""
    shape, classes = _shape_of(run, config)
    if (test.shape, test.classes) != (shape, classes):
        raise UsageError(
            f"data.name = {config.data.name!r}: test images are {test.shape} of {test.classes} classes, and {run.path} "
            f"was trained on {shape} (C, H, W) of {classes}. Give the test set that belongs to the run."
        )
    return shape, classes


def _shape_of(run: Run, config: Config) -> tuple[Shape, int]:
    """Shape of an image and number of classes, as the run noted them; of its data where it did not."""
    noted = run.read_object(run.data.name)
    if noted:
        try:
            channels, height, width = map(int, noted["shape"])
            return (channels, height, width), int(noted["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise SparringError(f"{run.data} is damaged ({error!r}). Delete it, or put back a copy of it.") from error
    test = load_data(config.data, "test")
    return test.shape, test.classes


def evaluate_run(
    run: Run,
    changes: dict[str, str],
    *,
    best: bool = False,
    progress: Progress | None = None,
    save: Path | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """Clean and robust accuracy; also written to the run's evaluation.json. Raises as `open_trained` and `judged`.

    `attack.epsilon` may change too: the result names the ε of the evaluation and that of the training. Where changes
    name `workers.count`, workers attack; verdicts are kept in the run's folder, example by example.

    Args:
        save: npz file for the attacked images, in 8 bits; the result then has the accuracy on these.
    """
    if save is not None:
        require_new_file(save)
    made, what = open_judged(run, changes, best=best)
    config, threat = made.config, made.threat
    if save is not None:
        require_bytes(made.test, f"--save {save}")
    found, judgement, beside = judged(what, replace(how, keep_images=save is not None), progress)
    result = made.figures(found.as_dict()) | beside
    result |= {"epsilon": threat.epsilon, "trained_epsilon": config_of(run).attack.epsilon}
    keep(run, "evaluation.json", result)  # before the images: they may not fit on the disk
    if save is not None:
        saved = _saved(made, judgement)
        correct = saved.correct(made.model, config.evaluation.batch_size)
        saved.write(save, correct)
        count, total = int(correct.sum()), len(correct)
        result |= {"saved": str(save), "saved_accuracy": count / total, "saved_interval": interval(count, total)}
        keep(run, "evaluation.json", result)
    return result


def open_judged(
    run: Run, changes: dict[str, str], *, best: bool = False, chooses: bool = True, unused: Collection[str] = NOT_CHOSEN
) -> tuple[Trained, Judged]:
    """The weights of a run, and what is needed to judge them by tickets. Raises as `open_trained`.

    chooses: the command takes the attack and the radius that are asked for, not its own. unused: groups or names that
    the command refuses, since they have no effect on it.
    """
    own = ("attack.epsilon",) if chooses else ()
    made = open_trained(run, changes, best=best, may_change=(*MAY_CHANGE, *OF_WORKERS, *own))
    by_workers = require_used(changes_of(changes), made.config.evaluation, () if chooses else CHOICE)
    require_used(changes_of(changes), made.config.evaluation, unused)
    _require_epsilon(made.config, made.threat)
    average = made.config.evaluation.weights == "ema"
    what = Judged(
        made.config,
        made.model,
        made.test,
        made.threat,
        digest_of(made.checkpoint / (checkpoints.AVERAGE if average else checkpoints.MODEL)),
        run.path / "verdicts",
        run.read_object(run.sources.name),
        workers=by_workers,
    )
    return made, what


def _saved(made: Trained, judgement: Judgement) -> Saved:
    """The attacked images; those that were wrong without an attack as they are."""
    settings = made.config.evaluation
    sample = Sample(made.test, settings.samples, settings.draw)
    saved = Saved(made.threat.norm, made.threat.epsilon)
    for places in torch.split(judgement.places, settings.batch_size):
        x, y = examples_at(sample, places.tolist())
        images = [judgement.images.get(place, x[row]) for row, place in enumerate(places.tolist())]
        saved(x, y, torch.stack(images))
    return saved


def keep(run: Run, name: str, result: dict[str, Any]) -> None:
    """Write a result into the run's folder. A folder that cannot be written to does not lose the result."""
    try:
        run.write_json(name, result)
    except SparringError as error:
        log.warning("the result is not kept: %s", error)


def _require_epsilon(config: Config, threat: Attack) -> None:
    """Refuse an ε that an attack of the user's own does not take."""
    if threat.epsilon != config.attack.epsilon:
        raise UsageError(
            f"attack.epsilon = {config.attack.epsilon:g}: attack.name = {config.attack.name!r} has its own epsilon, "
            f"{threat.epsilon:g}. Leave attack.epsilon as the run has it."
        )


def curves_of_run(
    run: Run,
    changes: dict[str, str],
    *,
    best: bool = False,
    progress: Progress | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """Robust accuracy against ε and steps; also written to the run's curves.json.

    What is found of each batch is kept in the run's folder. Raises as `open_trained`.
    """
    made, what = open_judged(run, changes, best=best, chooses=False, unused=("evaluation.step_size", "corruptions."))
    settings, seed = made.config.evaluation, made.config.train.seed
    with remembered(what, "curves", {**identity_of(what), **of_sample(settings)}, how) as (judges, results):
        found = curves(made.model, made.test, made.threat, settings, seed, progress, judges, results)
    result = made.figures(found.as_dict())
    keep(run, "curves.json", result)
    return result


def margins_of_run(
    run: Run,
    changes: dict[str, str],
    norm: str | None = None,
    attacks: Sequence[str] = ("fab",),
    *,
    best: bool = False,
    progress: Progress | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """The smallest perturbations that break, under `norm` (by default the run's); also written to margins-NORM.json.

    What is found of each batch is kept in the run's folder. Raises as `open_trained`, and a UsageError for another norm
    or attack than those of `margins`, or a setting of other attacks.
    """
    made, what = open_judged(run, changes, best=best, chooses=False, unused=(*NOT_CHOSEN, *OF_PGD))
    threat, settings, seed = made.threat, made.config.evaluation, made.config.train.seed
    norm = threat.norm if norm is None else norm
    _require_margins(norm, attacks)
    identity = {**identity_of(what), "norm": norm, "seed": seed, "batch_size": settings.batch_size}
    identity |= {"pyautoattack": version("pyautoattack"), "steps": dict(ITERATIONS)}
    epsilon = threat.epsilon if norm == threat.norm else None
    with remembered(what, "margins", identity, how) as (judges, results):
        found = margins(
            made.model,
            made.test,
            norm,
            epsilon=epsilon,
            attacks=attacks,
            seed=seed,
            progress=progress,
            judges=judges,
            results=results,
            **of_sample(settings),
        )
    result = made.figures(found.as_dict(epsilon))
    keep(run, f"margins-{norm}.json", result)
    return result


def _require_margins(norm: str, attacks: Sequence[str]) -> None:
    if norm not in NORMS:
        raise UsageError(f"--norm {norm}: choose one of {', '.join(NORMS)}.")
    for attack in attacks:
        if attack not in ITERATIONS or attacks.count(attack) > 1:
            raise UsageError(f"--attack {','.join(attacks)}: choose {' or '.join(ITERATIONS)}, or both: fab,cw.")
    if "cw" in attacks and norm != "l2":
        raise UsageError(f"--attack cw under {norm}: Carlini and Wagner's attack is for L2. Give --norm l2, or fab.")


@contextmanager
def remembered(
    what: Judged, name: str, identity: Mapping[str, Any], how: How, others: Sequence[Judged] = ()
) -> Iterator[tuple[Judges, Results | None]]:
    """Who judges `what` and the `others`, and the results of an evaluation of this name and identity, which are kept in
    the first one's folder.

    Raises:
        UsageError: as `owned`.
    """
    with ExitStack() as stack:
        judges = stack.enter_context(judges_of([what, *others]))
        behaviour = behaviour_of(what.model, what.test)
        results = owned(stack, Results(what.folder, name, identity, behaviour), how)
        if results is not None:
            results.begin(how.again)
        yield judges, results


def corruptions_of_run(
    run: Run,
    changes: dict[str, str],
    *,
    best: bool = False,
    progress: Progress | None = None,
    how: How = BY_DEFAULT,
) -> dict[str, Any]:
    """Accuracy under common corruptions; also written to the run's corruptions.json.

    What is found of each batch is kept in the run's folder. Raises as `open_trained`.
    """
    made, what = open_judged(run, changes, best=best, chooses=False, unused=(*OF_PGD, "evaluation.square_queries"))
    config = made.config
    with remembered(what, "corruptions", identity_of(what), how) as (judges, results):
        found = corruptions(
            made.model,
            made.test,
            config.data.name,
            config.corruptions.root,
            framing=None if config.data.size is None else Framing(config.data.size, config.data.centre_share),
            **of_sample(config.evaluation),
            seed=config.train.seed,
            progress=progress,
            judges=judges,
            results=results,
        )
    result = made.figures(found.as_dict())
    keep(run, "corruptions.json", result)
    return result


def require_different(runs: Sequence[Run], command: str) -> None:
    """Refuse fewer than two runs, and one that is given twice."""
    paths = [run.path for run in runs]
    if len(paths) < 2:
        raise UsageError(f"{command} needs two runs or more.")
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice; name each run once.")


def names_of(runs: Sequence[Run]) -> list[str]:
    """Folder names where they tell the runs apart, else whole paths."""
    names = [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _load(path: Path, model: nn.Module, weights: Literal["plain", "ema"]) -> None:
    if weights == "plain":
        checkpoints.load_weights(path, model)
        return
    if not (path / checkpoints.AVERAGE).exists():
        raise UsageError(
            f"evaluation.weights = 'ema': {path} holds no average of the weights, the run had train.ema unset. Set "
            f"evaluation.weights to 'plain'."
        )
    checkpoints.load_weights(path, model, checkpoints.AVERAGE)
