"""Settings that are right alone and cannot work together, refused before a run's folder is made."""

from __future__ import annotations

from sparring.allocators.bullettrain import BOUNDARY, ROBUST, BulletTrain
from sparring.attacks import Attack
from sparring.attacks.augmix import AugMix
from sparring.config import Config, flatten, slots_of
from sparring.errors import UsageError
from sparring.objectives.augmix import AugMixConsistency
from sparring.trainer.experiment import Methods, methods_of

AUGMIX_TAKES: dict[str, tuple[object, ...]] = {  # of what an attack has and AugMix has not, the values that say so
    "attack.step_size": (None,),
    "attack.start": ("auto",),
    "attack.loss": ("auto",),
    "attack.restarts": (1,),
    "objective.label_smoothing": (0.0,),
    "staleness.refresh": (0,),
    "staleness.age_half_life": (None,),
    "guard.overfitting": ("off",),
    "guard.staleness": (False,),
    "pruning.name": ("none", "random"),
    "allocator.name": ("none", "bullettrain"),
}
AUGMIX_CLASSES: dict[str, tuple[object, ...]] = {  # under an allocator: an example is augmented (1) or not (0)
    "allocator.boundary_steps": (None, 1),
    "allocator.robust_steps": (0, 1),
    "allocator.outlier_steps": (0, 1),
}


def check_combinations(config: Config) -> None:
    """Refuse what no engine, or not this one, can run.

    Raises:
        UsageError: with the settings, the reason and the remedy.
    """
    methods = methods_of(config)
    _check_augmix(config, methods)
    _check_start(config, methods)
    _check_wire(config, methods)
    _check_replays(config)
    _check_divergence(config, methods)
    _check_phases(config)
    _check_pruning(config)
    _check_precision(config)
    _check_guard(config, methods)
    _check_allocator(methods)
    _check_slots(config, methods)
    _check_ranks(config, methods)


def _check_augmix(config: Config, methods: Methods) -> None:
    """Its views and its objective go together, and what needs an attack does not go with them."""
    views = isinstance(methods.attack, AugMix)
    if views != isinstance(methods.objective, AugMixConsistency):
        raise UsageError(
            f"attack.name = {config.attack.name!r} with objective.name = {config.objective.name!r}: AugMix's "
            f"loss is a divergence between an "
            f"image and its two views, which only its own workers make. Set both to 'augmix', or neither."
        )
    if not views:
        return
    flat = flatten(config)
    classes = AUGMIX_CLASSES if config.allocator.name != "none" else {}
    for name, taken in (AUGMIX_TAKES | classes).items():
        if flat[name] not in taken:
            why = (
                "an example is augmented (1) or not (0)" if name in classes else "its views are made without an attack"
            )
            values = " or ".join("none" if value is None else str(value).lower() for value in taken)
            raise UsageError(f"{name} = {flat[name]!r} with attack.name = 'augmix': {why}. Set it to {values}.")


def _check_start(config: Config, methods: Methods) -> None:
    attack = config.attack
    told = f"attack.start = {attack.start!r}"
    if attack.start not in ("previous", "last"):
        return
    if attack.restarts > 1:
        raise UsageError(
            f"{told} with attack.restarts = {attack.restarts}: all would begin at the same point. Set restarts to 1."
        )
    if attack.start == "previous" and config.engine == "ray":
        raise UsageError(
            f"{told} with engine = 'ray': which batch is the previous one would depend on timing. Set engine to "
            f"'sync' or 'simulated', or attack.start to 'uniform' or 'last'."
        )
    if attack.start == "last" and config.data.augment != "none":
        raise UsageError(
            f"{told} with data.augment = {config.data.augment!r}: the pixels move between epochs, the perturbation "
            f"would not fit them. Set data.augment to 'none', or another start."
        )
    if attack.start == "last" and methods.attack.norm != "linf":
        raise UsageError(
            f"{told} with attack.norm = {methods.attack.norm!r}: perturbations are kept as int8 of ε/127, too "
            f"coarse for most pixels of another ball. Set attack.norm to 'linf', or another start."
        )


def _check_wire(config: Config, methods: Methods) -> None:
    norm = methods.attack.norm
    if config.engine == "ray" and config.queue.wire == "sign" and norm != "linf":
        raise UsageError(
            f"queue.wire = 'sign' with attack.norm = {norm!r}: the signs name a corner of a cube, which lies outside "
            f"the ball. Set queue.wire to 'int8'."
        )


def _check_replays(config: Config) -> None:
    """Free: one pass serves attack and weights."""
    if config.train.replays == 1:
        return
    told = f"train.replays = {config.train.replays}"
    if config.engine != "sync":
        raise UsageError(
            f"{told} with engine = {config.engine!r}: in Free one pass gives the gradient of images and weights, so "
            f"there is nothing to send away. Set engine to 'sync', or train.replays to 1."
        )
    wanted: dict[str, tuple[object, object]] = {
        "objective.name": (config.objective.name, "pgd-at"),
        "objective.awp_gamma": (config.objective.awp_gamma, 0.0),
        "allocator.name": (config.allocator.name, "none"),
        "attack.name": (config.attack.name, "fgsm"),
        "attack.start": (config.attack.start, "auto"),
        "attack.loss": ("ce" if config.attack.loss == "auto" else config.attack.loss, "ce"),
        "attack.restarts": (config.attack.restarts, 1),
    }
    for name, (value, only) in wanted.items():
        if value != only:
            raise UsageError(
                f"{told} with {name} = {value!r}: Free makes one FGSM step a replay, in the pass that trains the "
                f"weights. Set {name} to {only!r}, or train.replays to 1."
            )


def _check_divergence(config: Config, methods: Methods) -> None:
    """The divergence from the clean prediction has its least value at the clean image."""
    attack = methods.attack
    if isinstance(attack, Attack) and attack.maximised.targets == "clean" and attack.start == "zero":
        raise UsageError(
            f"attack.name = {config.attack.name!r}, attack.start = {config.attack.start!r} with the divergence from "
            f"the clean prediction as loss: at the clean image its gradient is 0, and the first step would follow "
            f"rounding. Set attack.start to 'uniform' or 'gaussian', or attack.loss to 'ce'."
        )


def _check_phases(config: Config) -> None:
    """Perturbations that are kept from batch to batch fit images of one size only."""
    keeps = config.attack.start in ("previous", "last") or config.train.replays > 1
    if config.data.phases and keeps:
        told = "train.replays" if config.train.replays > 1 else "attack.start"
        raise UsageError(
            f"data.phases with {told} = {config.train.replays if config.train.replays > 1 else config.attack.start!r}: "
            f"perturbations that are kept would not fit images of another size. Leave one of the two out."
        )


def _check_pruning(config: Config) -> None:
    """What is pruned is the training set; the extra images come and go by themselves."""
    if config.pruning.name != "none" and config.data.extra is not None:
        raise UsageError(
            f"pruning.name = {config.pruning.name!r} with data.extra = {config.data.extra!r}: their losses would be "
            f"ranked together, and extra images cannot be dropped. Leave one of the two out."
        )


def _check_precision(config: Config) -> None:
    """An fp16 gradient that overflows costs its step; what outlives the step must not be made of it."""
    if config.model.precision != "fp16":
        return
    for name, value, off in (
        ("objective.awp_gamma", config.objective.awp_gamma, 0),
        ("train.replays", config.train.replays, 1),
    ):
        if value != off:
            raise UsageError(
                f"model.precision = 'fp16' with {name} = {value}: it uses the gradient itself, also where that "
                f"overflows in fp16. Set model.precision to 'bf16' or 'fp32', or {name} to {off}."
            )


def _check_guard(config: Config, methods: Methods) -> None:
    """After a rollback a stronger attack takes the place of the recipe's."""
    guard, steps = config.guard, methods.attack.steps
    if guard.overfitting != "rollback":
        return
    if config.train.replays > 1:
        raise UsageError(
            f"guard.overfitting = 'rollback' with train.replays = {config.train.replays}: Free has no attack that PGD "
            f"could take the place of. Set guard.overfitting to 'stop' or 'off'."
        )
    if guard.overfitting_steps <= steps:
        raise UsageError(
            f"guard.overfitting_steps = {guard.overfitting_steps}: after a rollback PGD with so many steps takes the "
            f"place of the attack, which has {steps} already. Set it to at least {steps + 1}, or guard.overfitting to "
            f"'stop' or 'off'."
        )


def _check_allocator(methods: Methods) -> None:
    """Steps are moved from robust examples to those at the boundary, not the other way."""
    if not isinstance(methods.allocator, BulletTrain) or isinstance(methods.attack, AugMix):
        return
    budgets = methods.allocator.budgets(methods.attack)
    most = budgets[BOUNDARY].steps
    if budgets[ROBUST].steps > most:
        raise UsageError(
            f"allocator.robust_steps = {budgets[ROBUST].steps} with N_B = {most} (allocator.boundary_steps, by default "
            f"the attack's own): robust examples would cost more than those at the boundary. Set robust_steps to at "
            f"most {most}."
        )


def _check_slots(config: Config, methods: Methods) -> None:
    """Examples of several tickets share an attack step."""
    slots, restarts = slots_of(config), methods.attack.restarts
    if slots and restarts > 1:
        raise UsageError(
            f"allocator.slots = {slots} with attack.restarts = {restarts}: a slot goes to the next example when one "
            f"attempt ends, but of several the best can only be told when all have ended. Set attack.restarts to 1 or "
            f"allocator.slots to 0."
        )
    if slots and config.data.phases:
        raise UsageError(
            f"allocator.slots = {slots} with data.phases: slots hold images of one size. Set allocator.slots to 0."
        )
    if slots and isinstance(methods.attack, AugMix):
        raise UsageError(
            f"allocator.slots = {slots} with attack.name = 'augmix': there are no attack steps to put into slots. Set "
            f"allocator.slots to 0."
        )
    if slots and config.engine == "simulated":
        raise UsageError(
            f"allocator.slots = {slots} with engine = 'simulated': examples of several tickets share an attack step, "
            f"and so its weights; exact staleness needs weights by ticket. Set allocator.slots to 0."
        )


def _check_ranks(config: Config, methods: Methods) -> None:
    """Data parallelism: the tickets of a step are dealt to the ranks."""
    if config.engine != "ddp":
        return
    ranks, tickets = config.ddp.ranks, config.train.shards_per_step
    if tickets < ranks:
        raise UsageError(
            f"ddp.ranks = {ranks} with train.shards_per_step = {tickets}: a step has too few tickets to give every "
            f"rank one. Set shards_per_step to {ranks} or a multiple, and divide train.batch_size by as much to keep "
            f"the examples of a step."
        )
    if isinstance(methods.attack, AugMix):
        raise UsageError(
            f"attack.name = {config.attack.name!r} with engine = 'ddp': views are not shared out. Set attack.name to "
            f"'pgd', or engine to 'sync' or 'ray'."
        )
    wanted: dict[str, tuple[object, tuple[object, ...], str]] = {
        "attack.start": (config.attack.start, ("auto", "zero", "uniform"), "perturbations stay with their rank"),
        "objective.awp_gamma": (config.objective.awp_gamma, (0.0,), "each rank would move the weights its own way"),
    }
    for name, (value, taken, why) in wanted.items():
        if value not in taken:
            raise UsageError(
                f"{name} = {value!r} with engine = 'ddp': {why}. Set it to {taken[0]!r}, or engine to 'sync' or 'ray'."
            )
