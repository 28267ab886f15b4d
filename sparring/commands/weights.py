"""Judging weights that no run has made: a file of them, with the network and the data that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparring.attacks.by_name import threat_of
from sparring.commands.judging import OF_WORKERS, How, Judged, Progress, digest_of, judged, require_used
from sparring.commands.live import require_passed
from sparring.commands.sources import sources_of
from sparring.config import changes_of, load
from sparring.data import Sample
from sparring.data import load as load_data
from sparring.errors import UsageError
from sparring.evaluation.normalisation import normalised_outside
from sparring.evaluation.tickets import examples_at
from sparring.machine.memory import keep_freed_memory
from sparring.machine.threads import cores
from sparring.models import build
from sparring.models.starting import load_checkpoint
from sparring.trainer.experiment import Live, methods_of

MEANT = (
    *("evaluation.", "model.", "data.", *OF_WORKERS),
    *("attack.epsilon", "attack.norm", "attack.name", "attack.options", "train.seed"),
    *("trainer.device", "trainer.threads"),
)
DOUBT_EXAMPLES = 256  # on which it is tried whether the network is made for normalised images


def evaluate_weights(
    file: Path, changes: dict[str, str], how: How, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Clean and robust accuracy of a .safetensors file, or of a torch file that holds a state dict.

    changes: settings; `attack.epsilon` must be among them, `model.name` and `data.name` are those of the demo else.
    Verdicts are kept in FILE.verdicts.

    Raises:
        UsageError: the radius is missing, or the weights are of another network or of other classes.
        SparringError: as `judged`.
    """
    what = _opened(file, changes)
    some = Sample(what.test, DOUBT_EXAMPLES)
    doubts = normalised_outside(what.model, *examples_at(some, range(len(some))))
    found, _, beside = judged(what, how, progress)
    result = {**found.as_dict(), **beside, "checkpoint": str(file), "epsilon": what.threat.epsilon}
    return result | {"warnings": [*doubts, *result["warnings"]]}


def _opened(file: Path, changes: dict[str, str]) -> Judged:
    full = changes_of(changes)
    if "attack.epsilon" not in full:
        raise UsageError(
            f"{file} is a file of weights: name the radius that it is judged at, such as --attack.epsilon 0.031, and "
            f"its network and data by --model.name and --data.name."
        )
    for name in full:
        if not name.startswith(MEANT) or name == "evaluation.weights":
            raise UsageError(f"--{name} has no effect on a file of weights. Leave it out.")
    config = load(None, changes)
    by_workers = require_used(full, config.evaluation)
    require_passed(config, Live())
    sources, test = sources_of(config), load_data(config.data, "test")
    model = build(config.model, test.shape, test.classes, config.train.seed, normalize=config.data.normalize)
    if lacking := load_checkpoint(file, model, test.classes):
        raise UsageError(
            f"{file} has {', '.join(lacking)} of another number of classes than the {test.classes} of data.name = "
            f"{config.data.name!r}. Give the data that it was trained on."
        )
    torch.set_num_threads(config.trainer.threads or cores())
    keep_freed_memory()
    if torch.cuda.is_available() and config.trainer.device != "cpu":
        model.to("cuda")
    threat = threat_of(config.attack, methods_of(config).attack)
    folder = file.with_name(f"{file.name}.verdicts")
    return Judged(config, model.eval(), test, threat, digest_of(file), folder, sources, by_workers)
