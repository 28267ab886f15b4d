"""An attack: its ball, starting point, step rule, number of steps, and projection.

An attack of your own is a subclass that overrides what differs: `initial`, `state` and `step`, `project`, `steps`. All
of these work per example, so that the attack also works in slots and under in-flight exchange.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import ClassVar, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from sparring.attacks.calling import attacked
from sparring.attacks.losses import CROSS_ENTROPY, LOSSES, AttackLoss
from sparring.attacks.norms import NORMS, ascend, project, project_ball, random_start

Start = Literal["zero", "uniform", "gaussian", "given"]
FIXED_STARTS = ("zero", "given")  # the same in every attempt
State = dict[str, Tensor]  # state of a step rule per example, [N, ...]
GAUSSIAN = 0.001  # standard deviation of the start of TRADES and MART, in pixel intensities
A = TypeVar("A", bound="Attack")


class AttackRecord(NamedTuple):
    """Description of the attack that made a shard; it is sent and recorded. Radii in pixel intensities."""

    name: str
    norm: str
    epsilon: float
    radius: float
    steps: int


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent; the base class of all attacks.

    Args:
        epsilon: radius ε of the ball, in pixel intensities of images in [0, 1].
        norm: "linf" or "l2".
        steps: gradient steps κ.
        step_size: α; by default `relative_step` times ε.
        restarts: number of independent starts. For each example the perturbation with the highest loss is kept.
        start: "zero"; "uniform" in the ball; "gaussian": 0.001·N(0, 1), not projected; "given" by the caller (zero for
            examples without one). By default uniform.
        loss: the loss that is maximised: an `AttackLoss`, "ce", or "kl" (divergence from the clean prediction). By
            default cross-entropy; in training, the attack loss of the objective.
        clamp_start: clamp x + δ to [0, 1] before the first step. By default true, but not for the gaussian start.

    By position the norm may also come first: PGD("l2", 0.5, 10).

    Raises:
        ValueError: an argument out of its bounds.
    """

    epsilon: float
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    start: Start | None = None
    loss: AttackLoss | str | None = None
    clamp_start: bool | None = None

    name: ClassVar[str] = ""
    norms: ClassVar[tuple[str, ...]] = NORMS
    makes_views: ClassVar[bool] = False  # AugMix: views of the images instead of perturbations

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        if isinstance(self.epsilon, str) and not isinstance(self.norm, str):
            norm, epsilon = self.epsilon, self.norm
            object.__setattr__(self, "norm", norm)
            object.__setattr__(self, "epsilon", epsilon)
        if self.start is None:
            object.__setattr__(self, "start", "uniform")
        if self.clamp_start is None:
            object.__setattr__(self, "clamp_start", self.start != "gaussian")
        if not isinstance(self.loss, AttackLoss):
            object.__setattr__(self, "loss", _loss(self.loss))
        self._check()
        for name, kind in (("epsilon", float), ("steps", int), ("restarts", int)):  # numbers of numpy are none of JSON
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.step_size is not None:
            object.__setattr__(self, "step_size", float(self.step_size))

    @property
    def radius(self) -> float:
        """Radius of the ball that bounds every perturbation: ε, except for attacks that are not projected to it."""
        return self.epsilon

    @property
    def relative_step(self) -> float:
        """The default step size relative to ε: 2.5/κ (Mądry et al.; Bhat et al.)."""
        return 2.5 / self.steps

    @property
    def alpha(self) -> float:
        """The step size α, in pixel intensities."""
        return self.relative_step * self.epsilon if self.step_size is None else self.step_size

    @property
    def maximised(self) -> AttackLoss:
        """The loss that the attack maximises."""
        return self.loss if isinstance(self.loss, AttackLoss) else CROSS_ENTROPY

    @property
    def record(self) -> AttackRecord:
        """The description of this attack that a shard carries."""
        return AttackRecord(self.name, self.norm, float(self.epsilon), float(self.radius), self.steps)

    def largest(self, shape: tuple[int, ...]) -> float:
        """The largest distance in `norm` between two images of `shape` in [0, 1]; a larger ε is refused."""
        size = math.prod(shape)
        return {"linf": 1.0, "l2": math.sqrt(size)}.get(self.norm, float(size))

    def initial(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The starting δ on x: float32, the shape of x. Random numbers are drawn on the generator's device."""
        if self.start in ("zero", "given"):
            return torch.zeros_like(x)
        if self.start == "uniform":
            return self.placed(random_start(x, self.norm, self.epsilon, generator), x)
        beside = GAUSSIAN * torch.randn(x.shape, generator=generator, device=generator.device).to(x.device)
        return self.placed(beside, x) if self.clamp_start else beside  # not projected in the authors' code

    def placed(self, delta: Tensor, x: Tensor) -> Tensor:
        """A starting δ, projected to the ball and, with `clamp_start`, x + δ to [0, 1]."""
        if self.clamp_start:
            return self.project(delta, x, self.radius)
        return project_ball(delta, self.norm, self.radius)

    def state(self, x: Tensor) -> State:
        """The initial state of the step rule for each example of x, such as a momentum; empty by default."""
        return {}

    def step(self, delta: Tensor, gradient: Tensor, step_size: Tensor, state: State) -> Tensor:
        """δ after one ascent step, before the projection.

        delta, gradient: [N, C, H, W]; step_size: float32 [N]; state: see `state`, changed in place. Use these
        alone: in slots examples of several ε share a step, and `epsilon` is that of one of them.
        """
        return ascend(delta, gradient, self.norm, step_size)

    def project(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """Project δ to the ball of `radius` (one number, or float32 [N]) and x + δ to [0, 1]."""
        return project(delta, x, self.norm, radius)

    def at(self: A, epsilon: float) -> A:
        """The same attack with another ε; an explicit step size is scaled with it."""
        scaled = self.step_size
        if scaled is not None and self.epsilon > 0:
            scaled = scaled / self.epsilon * epsilon
        return replace(self, epsilon=epsilon, step_size=scaled)

    def stronger(self, steps: int) -> Attack:
        """PGD with `steps` steps in the same ball, with the same start and loss; used by the overfitting guard.

        For a norm that PGD does not support: this attack with `steps` steps.
        """
        if self.norm not in NORMS:
            return replace(self, steps=steps, step_size=None)
        start = "uniform" if self.start == "zero" else self.start
        return PGD(
            self.epsilon,
            norm=self.norm,
            steps=steps,
            restarts=self.restarts,
            start=start,
            clamp_start=self.clamp_start,
            loss=self.maximised,
        )

    def evaluator(self, steps: int, *, step_size: float | None = None, restarts: int = 1) -> Attack:
        """The attack for evaluating a model trained with this attack: PGD on the cross-entropy in the same ball.

        For a norm that PGD does not support: this attack with `steps` steps, and with one attempt where its start is
        the same in all of them.
        """
        if self.norm not in NORMS:
            attempts = 1 if self.start in FIXED_STARTS else restarts
            return replace(self, steps=steps, step_size=step_size, restarts=attempts)
        return PGD(self.epsilon, norm=self.norm, steps=steps, step_size=step_size, restarts=restarts)

    def as_recorded(self, record: AttackRecord) -> Attack:
        """The attack that made a shard: this one with the record's ε, or the PGD by which a guard replaced it."""
        same = self.at(record.epsilon)
        return same if same.record == record else same.stronger(record.steps)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_delta: bool = False,
    ) -> Tensor:
        """Attack a batch. The model's mode, batch norm statistics and gradients are not changed.

        Args:
            model: maps images in [0, 1] to logits [N, K]; it normalises inside (`sparring.Normalize`). It is attacked
                in eval mode.
            images: float32 or float64 [N, C, H, W] in [0, 1]. labels: int64 [N].
            generator: random generator of the start; by default seeded from torch's global generator.
            return_delta: return the perturbations instead of the attacked images.

        Returns:
            [N, C, H, W]: attacked images in [0, 1], or perturbations.

        Raises:
            ValueError: an argument is wrong; it is named.
        """
        return attacked(self, model, images, labels, generator=generator, return_delta=return_delta)

    def _check(self) -> None:
        if self.norm not in self.norms:
            raise ValueError(f"norm = {self.norm!r}: it must be {' or '.join(map(repr, self.norms))}.")
        largest = 1.0 if self.norm == "linf" else math.inf
        if not _is_number(self.epsilon) or not 0 <= self.epsilon <= largest:
            raise ValueError(
                f"epsilon = {self.epsilon!r}: a radius in pixel intensities of images in [0, 1] is needed, from 0 to "
                f"{largest:g} under {self.norm}. Divide a radius in grey levels by 255: 8/255."
            )
        for name, count in (("steps", self.steps), ("restarts", self.restarts)):
            if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} = {count!r}: an integer of at least 1 is needed.")
        if self.step_size is not None and not (_is_number(self.step_size) and self.step_size >= 0):
            raise ValueError(
                f"step_size = {self.step_size!r}: a number of at least 0 is needed, or None for the default."
            )
        if self.step_size == 0 and self.epsilon > 0:
            raise ValueError("step_size = 0: the attack would not move. None stands for the default.")
        if not isinstance(self.clamp_start, bool):
            raise ValueError(f"clamp_start = {self.clamp_start!r}: True or False is needed.")
        if not self.clamp_start and self.start != "gaussian" and self.norm not in NORMS:
            raise ValueError(
                f"clamp_start = False with norm = {self.norm!r}: a start outside [0, 1] is possible under "
                f"{' and '.join(NORMS)} alone. Leave clamp_start out."
            )
        if self.start not in get_args(Start):
            raise ValueError(f"start = {self.start!r}: it must be one of {', '.join(map(repr, get_args(Start)))}.")
        if self.restarts > 1 and self.start in FIXED_STARTS:
            raise ValueError(
                f"restarts = {self.restarts} with start = {self.start!r}: all would begin at the same point. Set "
                f"restarts to 1, or start to 'uniform'."
            )


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """PGD (Mądry et al. 2018) with the step size of Bhat et al. 2018: `steps` gradient steps of 2.5·ε/`steps` from a
    random start. See `Attack` for the arguments."""

    name: ClassVar[str] = "pgd"


def _loss(name: str | None) -> AttackLoss:
    if name is None:
        return CROSS_ENTROPY
    if name not in LOSSES:
        raise ValueError(f"loss = {name!r}: it must be {' or '.join(map(repr, LOSSES))}, or an AttackLoss.")
    return LOSSES[name]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
