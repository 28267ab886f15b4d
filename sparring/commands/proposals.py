"""What `sparring suggest` tries, what it takes from each round of trials, and the recipe that it writes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import tomli_w

from sparring.config import Config, differences, overridden

RATES = {"adam": (0.001, 0.003, 0.01), "sgd": (0.03, 0.1, 0.3)}
WARMUPS = (0.0, 0.3, 0.6)
LEAST_STEPS = 40  # of a trial: fewer say nothing of a schedule
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A short training and its figures: PGD-10 and clean accuracy on `samples` held-out training examples.

    warnings: what may make them wrong.
    """

    changes: Changes
    robust: float
    clean: float
    samples: int
    steps: int
    seconds: float
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "changes": dict(self.changes), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Round:
    """Trials of equal length in which some settings differed. kept: the trial whose settings are taken."""

    names: tuple[str, ...]
    trials: tuple[Trial, ...]
    kept: Trial

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"settings": list(self.names), "trials": [trial.as_dict() for trial in self.trials]}

    @property
    def reason(self) -> str:
        """What was tried, and with what outcome, the best first."""
        ordered = sorted(self.trials, key=lambda trial: -trial.robust)
        found = "; ".join(f"{_values(trial.changes, self.names)}: {100 * trial.robust:.1f} %" for trial in ordered)
        return f"PGD-10 on {self.kept.samples} held-out examples after about {self.kept.seconds:.0f} s each: {found}."


def pick(incumbent: Trial | None, trials: Sequence[Trial]) -> Trial:
    """The best trial; the incumbent unless another is better by more than one standard error of the difference."""
    best = max(trials, key=lambda trial: (trial.robust, trial.clean))
    if incumbent is None:
        return best
    return best if best.robust - incumbent.robust > standard_error(best, incumbent) else incumbent


def standard_error(one: Trial, other: Trial) -> float:
    """Of the difference of two shares of different examples: an upper bound, since both have the same ones."""
    return sqrt(sum(trial.robust * (1 - trial.robust) / trial.samples for trial in (one, other)))


def rates() -> list[Changes]:
    """Optimizers with peak rates a factor of three apart."""
    return [{"optimizer.name": name, "optimizer.lr": rate} for name, found in RATES.items() for rate in found]


def batches(config: Config) -> list[Changes]:
    """Half and twice the batch; twice also with twice the rate."""
    size, rate = config.train.batch_size, config.optimizer.lr
    found: list[Changes] = [{"train.batch_size": max(2, size // 2)}, {"train.batch_size": 2 * size}]
    return [*found, {"train.batch_size": 2 * size, "optimizer.lr": 2 * rate}]


def attacks(config: Config) -> list[Changes]:
    """Half and twice the attack steps, for an attack that has several; other warm-ups of ε."""
    steps, single = config.attack.steps, config.attack.name in ("fgsm", "fgsm-rs", "n-fgsm")
    numbers = () if single else (max(1, steps // 2), 2 * steps)
    warmups = [share for share in WARMUPS if share != config.attack.warmup]
    return [*({"attack.steps": number} for number in numbers), *({"attack.warmup": share} for share in warmups)]


def sized(config: Config, examples: int, heldout: int, dataset: int) -> Config:
    """A run that trains on about so many examples, of a dataset of `dataset` without the held-out ones."""
    wanted = max(examples, LEAST_STEPS * config.train.batch_size)
    epochs = ceil(wanted / dataset)
    limit = max(2 * config.train.batch_size, wanted // epochs)
    size = {"train.epochs": epochs, "data.limit": None if limit >= dataset else limit + heldout}
    return overridden(config, {name: value for name, value in size.items() if value is not None})


def recipe_text(head: Sequence[str], config: Config, reasons: Mapping[str, str]) -> str:
    """The settings that differ from the defaults as TOML, each with its reason above it.

    head: comments at the top. reasons: by dotted name; such a setting stands there even where it is the default.
    """
    changed = [name for name, (_, value) in differences(Config(), config).items() if value is not None]
    names = list(dict.fromkeys([*changed, *reasons]))
    lines = [f"# {line}".rstrip() for line in head]
    plain = [name for name in names if "." not in name]
    for group in ("", *dict.fromkeys(name.partition(".")[0] for name in names if "." in name)):
        members = plain if not group else [name for name in names if name.startswith(f"{group}.")]
        lines += ["", *([f"[{group}]"] if group else [])] if members else []
        for name in members:
            lines += [f"# {part}" for part in wrapped(reasons.get(name, ""))]
            lines.append(tomli_w.dumps({name.rpartition(".")[2]: _value(config, name)}).rstrip())
    return "\n".join(lines).strip() + "\n"


def shown(value: object) -> str:
    """A setting's value as in a sentence."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def wrapped(text: str, width: int = 116) -> list[str]:
    """Lines of no more than `width` characters."""
    lines, line = list[str](), ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines


def _value(config: Config, name: str) -> Any:
    found: Any = config.model_dump(mode="json", exclude_none=True)
    for part in name.split("."):
        found = found[part]
    return found


def _values(changes: Changes, names: Sequence[str]) -> str:
    return " ".join(shown(changes[name]) for name in names)
