"""Checks of settings that are valid alone but not together. They run before a run's folder is created."""

from __future__ import annotations

from sparring.allocators.bullettrain import BOUNDARY, ROBUST, BulletTrain
from sparring.attacks import CROSS_ENTROPY, Attack
from sparring.attacks.augmix import AugMix
from sparring.attacks.norms import NORMS
from sparring.config import Config, flatten, slots_of
from sparring.errors import UsageError
from sparring.objectives.methods import MART, PGDAT, TRADES
from sparring.trainer.experiment import Methods, methods_of

AUGMIX_VALUES: dict[str, tuple[object, ...]] = {  # settings that AugMix has no use for: their only valid values
    "attack.step_size": (None,),
    "attack.start": ("auto",),
    "attack.clamp_start": (None,),
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
AUGMIX_CLASSES: dict[str, tuple[object, ...]] = {  # with an allocator: an example is augmented (1) or not (0)
    "allocator.boundary_steps": (None, 0, 1),
    "allocator.robust_steps": (0, 1),
    "allocator.outlier_steps": (0, 1),
}


def check_combinations(config: Config) -> None:
    """Refuse combinations of settings that the engine cannot run.

    Raises:
        UsageError: with the settings, the reason and the remedy.
    """
    methods = methods_of(config)
    _check_augmix(config, methods)
    _check_start(config, methods)
    _check_finish(config, methods)
    _check_events(config)
    _check_wire(config, methods)
    _check_replays(config, methods)
    _check_yopo(config, methods)
    _check_noise(config, methods)
    _check_divergence(config, methods)
    _check_phases(config)
    _check_pruning(config)
    _check_precision(config)
    _check_guard(config, methods)
    _check_allocator(methods)
    _check_slots(config, methods)
    _check_ranks(config, methods)
    _check_trainers(config)
    _check_batch_norm(config, methods)
    _check_rolling(config)


def _check_augmix(config: Config, methods: Methods) -> None:
    """AugMix's views and its objective need each other, and settings of attacks have no effect on them."""
    views = methods.attack.makes_views
    if views != methods.objective.takes_views:
        raise UsageError(
            f"attack.name = {config.attack.name!r} with objective.name = {config.objective.name!r}: AugMix's loss is a "
            f"divergence between the predictions on an image and on its two views, which only attack.name = 'augmix' "
            f"makes. Set both to 'augmix', or neither."
        )
    if not views:
        return
    flat = flatten(config)
    classes = AUGMIX_CLASSES if config.allocator.name != "none" else {}
    for name, valid in (AUGMIX_VALUES | classes).items():
        if flat[name] not in valid:
            reason = (
                "an example is augmented (1) or not (0)" if name in classes else "its views are made without an attack"
            )
            values = " or ".join("none" if value is None else str(value).lower() for value in valid)
            raise UsageError(f"{name} = {flat[name]!r} with attack.name = 'augmix': {reason}. Set it to {values}.")


def _check_start(config: Config, methods: Methods) -> None:
    attack = config.attack
    setting = f"attack.start = {attack.start!r}"
    if attack.start not in ("previous", "last"):
        return
    if attack.start == "previous" and config.engine in ("ray", "virtual"):
        raise UsageError(
            f"{setting} with engine = {config.engine!r}: the previous batch would depend on timing. Set engine to "
            f"'sync' or 'simulated', or attack.start to 'uniform' or 'last'."
        )
    if attack.start == "last" and config.data.augment != "none":
        raise UsageError(
            f"{setting} with data.augment = {config.data.augment!r}: augmentation moves the pixels between epochs, so "
            f"the perturbation would not fit. Set data.augment to 'none', or choose another start."
        )
    if attack.start == "last" and methods.attack.norm != "linf":
        raise UsageError(
            f"{setting} with attack.norm = {methods.attack.norm!r}: perturbations are stored as int8 of ε/127, which "
            f"is too coarse for another norm. Set attack.norm to 'linf', or choose another start."
        )


def _check_finish(config: Config, methods: Methods) -> None:
    """A fresh finish fixes which weights make which attack step."""
    settings, attack = config.staleness, methods.attack
    if settings.finish == "off":
        return
    slots = slots_of(config, attack.makes_views)
    required: dict[str, tuple[object, bool, object]] = {
        "engine": (config.engine, config.engine in ("sync", "ray", "virtual"), "sync' or 'ray"),
        "train.replays": (config.train.replays, config.train.replays == 1, 1),
        "attack.restarts": (attack.restarts, attack.restarts == 1, 1),
        "attack.start": (config.attack.start, config.attack.start != "previous", "last"),
        "allocator.slots": (slots, slots == 0, 0),
        "staleness.publish_every": (settings.publish_every, settings.publish_every == 1, 1),
        "staleness.refresh": (settings.refresh, settings.refresh == 0, 0),
        "staleness.lockstep": (settings.lockstep, not settings.lockstep, False),
    }
    for name, (value, met, only) in required.items():
        if not met:
            raise UsageError(
                f"staleness.finish = {settings.finish!r} with {name} = {value!r}: a fresh finish fixes which weights "
                f"make which attack step. Set {name} to {only!r}, or staleness.finish to 'off'."
            )
    for name, unset in (("depth", settings.depth), ("age_half_life", settings.age_half_life)):
        if unset is not None:
            raise UsageError(
                f"staleness.finish = {settings.finish!r} with staleness.{name} = {unset!r}: staleness.lead says how "
                f"early an attack begins, and what counts of it is never stale. Leave staleness.{name} out."
            )
    if config.engine != "sync" and settings.max_staleness < settings.lead:
        raise UsageError(
            f"staleness.max_staleness = {settings.max_staleness} with staleness.lead = {settings.lead}: a shard of "
            f"which no example is attacked is as old as its head. Set staleness.max_staleness to at least "
            f"{settings.lead}."
        )


def _check_events(config: Config) -> None:
    """What happens to workers on the virtual clock happens to workers that there are."""
    count, joining = config.workers.count, set[int]()
    to_workers = [event for event in config.virtual.events if event.what != "trainer_dies"]
    for event in sorted(to_workers, key=lambda event: event.at_s):
        if event.worker > count:
            raise UsageError(
                f"virtual.events: worker {event.worker} {event.what}, but workers.count = {count}. Those that join are "
                f"counted too. Set workers.count to at least {event.worker}."
            )
        joins = any(each.what == "joins" and each.worker == event.worker for each in config.virtual.events)
        if event.what != "joins" and joins and event.worker not in joining:
            raise UsageError(
                f"virtual.events: worker {event.worker} {event.what} at {event.at_s:g} s, before it joins. Set at_s "
                f"to a later time."
            )
        if event.what == "joins":
            joining.add(event.worker)


def _check_wire(config: Config, methods: Methods) -> None:
    norm = methods.attack.norm
    if config.engine in ("ray", "virtual") and config.queue.wire == "sign" and norm != "linf":
        raise UsageError(
            f"queue.wire = 'sign' with attack.norm = {norm!r}: the decoded perturbation is a corner of the L∞ ball, "
            f"which is outside the ball of another norm. Set queue.wire to 'int8'."
        )


def _check_replays(config: Config, methods: Methods) -> None:
    """Free adversarial training: one backward pass updates both the perturbation and the weights."""
    if config.train.replays == 1:
        return
    setting = f"train.replays = {config.train.replays}"
    if config.engine != "sync":
        raise UsageError(
            f"{setting} with engine = {config.engine!r}: in Free adversarial training one backward pass updates the "
            f"perturbation and the weights, so the attack cannot be made elsewhere. Set engine to 'sync', or "
            f"train.replays to 1."
        )
    attack, settings = methods.attack, config.attack
    single = attack if isinstance(attack, Attack) and attack.steps == 1 else None
    required: dict[str, tuple[object, bool, object]] = {
        "objective.name": (config.objective.name, isinstance(methods.objective, PGDAT), "pgd-at"),
        "objective.awp_gamma": (config.objective.awp_gamma, config.objective.awp_gamma == 0, 0.0),
        "allocator.name": (config.allocator.name, methods.allocator is None, "none"),
        "attack.name": (settings.name, single is not None, "fgsm"),
        "attack.start": (
            settings.start,
            single is not None and single.start == "zero" and settings.start == "auto",
            "auto",
        ),
        "attack.clamp_start": (settings.clamp_start, single is not None and single.clamp_start is True, True),
        "attack.loss": (settings.loss, single is not None and single.maximised == CROSS_ENTROPY, "ce"),
        "attack.restarts": (settings.restarts, attack.restarts == 1, 1),
    }
    for name, (value, met, only) in required.items():
        if not met:
            raise UsageError(
                f"{setting} with {name} = {value!r}: Free adversarial training makes one FGSM step per replay, in the "
                f"pass that trains the weights. Set {name} to {only!r}, or train.replays to 1."
            )


def _check_yopo(config: Config, methods: Methods) -> None:
    """YOPO: between full passes the attack goes through the first layer alone, in the process that trains."""
    yopo, attack = config.yopo, methods.attack
    if yopo.passes == 0:
        return
    steps, iterative = yopo.passes * yopo.inner_steps, isinstance(attack, Attack)
    required: dict[str, tuple[object, bool, object]] = {
        "engine": (config.engine, config.engine == "sync", "sync"),
        "attack.name": (config.attack.name, iterative, "pgd"),
        "attack.steps": (attack.steps, attack.steps == steps, steps),
        "attack.restarts": (attack.restarts, attack.restarts == 1, 1),
        "attack.start": (config.attack.start, config.attack.start not in ("previous", "last"), "auto"),
        "allocator.name": (config.allocator.name, methods.allocator is None, "none"),
        "train.replays": (config.train.replays, config.train.replays == 1, 1),
        "staleness.finish": (config.staleness.finish, config.staleness.finish == "off", "off"),
        "guard.overfitting": (config.guard.overfitting, config.guard.overfitting != "rollback", "stop"),
        "model.precision": (config.model.precision, config.model.precision != "fp16", "bf16"),
        "model.compile": (config.model.compile, not config.model.compile, False),
    }
    if methods.objective.on_attacked_alone:
        own_loss = isinstance(attack, Attack) and attack.maximised == CROSS_ENTROPY
        required |= {
            "attack.loss": (config.attack.loss, own_loss, "ce"),
            "objective.awp_gamma": (config.objective.awp_gamma, config.objective.awp_gamma == 0, 0.0),
        }
    for name, (value, met, only) in required.items():
        if not met:
            raise UsageError(
                f"yopo.passes = {yopo.passes}, yopo.inner_steps = {yopo.inner_steps} with {name} = {value!r}: YOPO "
                f"makes {yopo.passes} full passes on a batch in the process that trains, with {yopo.inner_steps} steps "
                f"of one attack through the first layer after each. Set {name} to {only!r}, or yopo.passes to 0."
            )


def _check_noise(config: Config, methods: Methods) -> None:
    """An objective that compares gradients of the images: they are differentiated once more."""
    if not methods.objective.takes_noise:
        return
    settings, norm = config.model, methods.attack.norm
    required: dict[str, tuple[object, bool, object, str]] = {
        "attack.norm": (norm, norm in NORMS, "linf", "its noise is uniform in a ball under linf or l2"),
        "model.precision": (settings.precision, settings.precision != "fp16", "bf16", "they underflow in fp16"),
        "model.compile": (settings.compile, not settings.compile, False, "a compiled pass can be differentiated once"),
        "trainer.batch_norm": (
            config.trainer.batch_norm,
            config.trainer.batch_norm == "own",
            "own",
            "sums over the trainers can be differentiated once",
        ),
    }
    for name, (value, met, only, why) in required.items():
        if not met:
            raise UsageError(
                f"objective.name = {config.objective.name!r} with {name} = {value!r}: gradients of the images are "
                f"differentiated again, and {why}. Set {name} to {only!r}, or choose another objective."
            )


def _check_divergence(config: Config, methods: Methods) -> None:
    """The divergence from the clean prediction is 0 at the clean image, and so is its gradient."""
    attack = methods.attack
    if isinstance(attack, Attack) and attack.maximised.targets == "clean" and attack.start == "zero":
        raise UsageError(
            f"attack.name = {config.attack.name!r}, attack.start = {config.attack.start!r} with the divergence from "
            f"the clean prediction as loss: at the clean image its gradient is 0, so the first step would only follow "
            f"rounding errors. Set attack.start to 'uniform' or 'gaussian', or attack.loss to 'ce'."
        )


def _check_phases(config: Config) -> None:
    """Perturbations that are kept between batches fit images of one size only."""
    keeps = config.attack.start in ("previous", "last") or config.train.replays > 1
    if config.data.phases and keeps:
        name = "train.replays" if config.train.replays > 1 else "attack.start"
        raise UsageError(
            f"data.phases with {name} = {config.train.replays if config.train.replays > 1 else config.attack.start!r}: "
            f"kept perturbations would not fit images of another size. Leave one of the two settings out."
        )


def _check_pruning(config: Config) -> None:
    """Only the training set is pruned, not the extra images."""
    if config.pruning.name != "none" and config.data.extra is not None:
        raise UsageError(
            f"pruning.name = {config.pruning.name!r} with data.extra = {config.data.extra!r}: pruning ranks all "
            f"examples by loss, but extra images cannot be removed. Leave one of the two settings out."
        )


def _check_precision(config: Config) -> None:
    """An fp16 gradient that overflows only skips its step, so no method may use the gradient beyond the step."""
    if config.model.precision != "fp16":
        return
    for name, value, off in (
        ("objective.awp_gamma", config.objective.awp_gamma, 0),
        ("train.replays", config.train.replays, 1),
    ):
        if value != off:
            raise UsageError(
                f"model.precision = 'fp16' with {name} = {value}: it uses the gradient even if that overflows in fp16. "
                f"Set model.precision to 'bf16' or 'fp32', or {name} to {off}."
            )


def _check_guard(config: Config, methods: Methods) -> None:
    """After a rollback for overfitting, a stronger attack replaces the recipe's attack."""
    guard, steps = config.guard, methods.attack.steps
    if guard.overfitting != "rollback":
        return
    if config.train.replays > 1:
        raise UsageError(
            f"guard.overfitting = 'rollback' with train.replays = {config.train.replays}: Free adversarial training "
            f"has no separate attack that PGD could replace. Set guard.overfitting to 'stop' or 'off'."
        )
    if guard.overfitting_steps <= steps:
        raise UsageError(
            f"guard.overfitting_steps = {guard.overfitting_steps}: after a rollback PGD with this number of steps "
            f"replaces the attack, which already has {steps}. Set it to at least {steps + 1}, or set guard.overfitting "
            f"to 'stop' or 'off'."
        )


def _check_allocator(methods: Methods) -> None:
    """Robust examples must not get more steps than boundary examples, unless these are left out altogether (Hua et al.,
    Fig. 2a)."""
    if not isinstance(methods.allocator, BulletTrain) or isinstance(methods.attack, AugMix):
        return
    budgets = methods.allocator.budgets(methods.attack)
    most = budgets[BOUNDARY].steps
    if budgets[ROBUST].steps > most > 0:
        raise UsageError(
            f"allocator.robust_steps = {budgets[ROBUST].steps} with N_B = {most} (allocator.boundary_steps, by default "
            f"attack.steps): robust examples would cost more than boundary examples. Set allocator.robust_steps to at "
            f"most {most}."
        )


def _check_slots(config: Config, methods: Methods) -> None:
    """With slots, examples of several tickets share an attack step."""
    slots, restarts = slots_of(config, methods.attack.makes_views), methods.attack.restarts
    if slots and restarts > 1:
        raise UsageError(
            f"allocator.slots = {slots} with attack.restarts = {restarts}: a slot is refilled after one attempt, but "
            f"the best of several restarts is known only after all of them. Set attack.restarts to 1 or "
            f"allocator.slots to 0."
        )
    if slots and config.data.phases:
        raise UsageError(
            f"allocator.slots = {slots} with data.phases: slots hold images of one size. Set allocator.slots to 0."
        )
    if slots and methods.attack.makes_views:
        raise UsageError(
            f"allocator.slots = {slots} with attack.name = {config.attack.name!r}: it has no attack steps. Set "
            f"allocator.slots to 0."
        )
    if slots and config.engine == "simulated":
        raise UsageError(
            f"allocator.slots = {slots} with engine = 'simulated': with slots, several tickets share the weights of an "
            f"attack step, but exact staleness needs different weights for each ticket. Set allocator.slots to 0."
        )


def _check_trainers(config: Config) -> None:
    """Trainers in parallel divide the shards of a step."""
    count, shards = config.trainer.count, config.train.shards_per_step
    if count > 1 and config.engine not in ("ray", "virtual"):
        raise UsageError(
            f"trainer.count = {count} with engine = {config.engine!r}: this engine has one trainer. Set trainer.count "
            f"to 1, or engine to 'ray'."
        )
    if count > shards:
        raise UsageError(
            f"trainer.count = {count} with train.shards_per_step = {shards}: a step has too few shards to give one to "
            f"every trainer. Set train.shards_per_step to {count} or a multiple of it, or trainer.count to at most "
            f"{shards}."
        )


def _check_batch_norm(config: Config, methods: Methods) -> None:
    """Statistics over all trainers need the same passes on each of them."""
    if config.trainer.batch_norm == "own":
        return
    setting = "trainer.batch_norm = 'synchronised'"
    if config.model.compile:
        raise UsageError(
            f"{setting} with model.compile: a compiled pass cannot wait for the other trainers. Set trainer.batch_norm "
            f"to 'own', or model.compile to false."
        )
    if isinstance(methods.objective, TRADES | MART) and methods.objective.passes == "single_pass":
        raise UsageError(
            f"{setting} with objective.name = {config.objective.name!r} and objective.passes = "
            f"{config.objective.passes!r}: a trainer all of whose examples are left clean makes a pass less than the "
            f"others. Set objective.passes to 'reference', or trainer.batch_norm to 'own'."
        )


def _check_rolling(config: Config) -> None:
    """Workers judge held-out examples while a run goes on: it needs both."""
    if not config.evaluation.rolling:
        return
    if config.engine != "ray":
        raise UsageError(
            f"evaluation.rolling with engine = {config.engine!r}: this engine has no workers that could judge beside "
            f"the training. Set engine to 'ray', or train.evaluate_every_epochs instead of evaluation.rolling."
        )
    if config.data.holdout == 0:
        raise UsageError(
            "evaluation.rolling with data.holdout = 0: there are no examples to judge. Set data.holdout to the number "
            "of training examples that are held out, such as 1000."
        )
    if config.workers.count == 0:
        raise UsageError(
            "evaluation.rolling with workers.count = 0: nobody would judge. Set workers.count to at least 1, or "
            "evaluation.rolling to false."
        )


def _check_ranks(config: Config, methods: Methods) -> None:
    """Data parallelism: the tickets of a step are divided among the ranks."""
    if config.engine != "ddp":
        return
    ranks, tickets = config.ddp.ranks, config.train.shards_per_step
    if tickets < ranks:
        raise UsageError(
            f"ddp.ranks = {ranks} with train.shards_per_step = {tickets}: a step has too few tickets to give one to "
            f"every rank. Set train.shards_per_step to {ranks} or a multiple of it. To keep the number of examples per "
            f"step, divide train.batch_size by the same factor."
        )
    if methods.attack.makes_views:
        raise UsageError(
            f"attack.name = {config.attack.name!r} with engine = 'ddp': views cannot be divided among ranks. Set "
            f"attack.name to 'pgd', or engine to 'sync' or 'ray'."
        )
    required: dict[str, tuple[object, tuple[object, ...], str]] = {
        "attack.start": (config.attack.start, ("auto", "zero", "uniform"), "ranks do not share perturbations"),
        "objective.awp_gamma": (config.objective.awp_gamma, (0.0,), "it has not been compared with one process"),
    }
    for name, (value, valid, reason) in required.items():
        if value not in valid:
            raise UsageError(
                f"{name} = {value!r} with engine = 'ddp': {reason}. Set it to {valid[0]!r}, or engine to 'sync' or "
                f"'ray'."
            )
