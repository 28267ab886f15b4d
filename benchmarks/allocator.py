"""What the BulletTrain allocator saves in real time, at the fractions of Hua et al., against what could be saved.

    python -m benchmarks.allocator [--networks mnist-16-32-100 mnist-32-64-1024] [--batches 128 256] [--repetitions 9]

A ticket is classified, attacked and trained on; its speed-up is over full attacks and the same training step. .28 of
the examples are boundary (N = 10 steps), .54 robust (2), .18 outliers (0): labels and F_R are chosen by the untrained
network's predictions so that the allocator itself comes to these classes, and a learning rate of 1e-12 keeps it so.
The images are random, which no time depends on.

    ceiling = (N·t_attack + t_step) / (t_forward + (F_B·N_B + F_R·N_R + F_O·N_O)·t_attack + t_step)

with the times of a clean forward pass, an attack step and a training step on the whole batch, measured in the same
run; TRADES' full attack needs the clean pass too. share = speed-up / ceiling; it can exceed 1 where a small batch is
cheaper by example than the whole one. Equation 7 is printed beside. Ways to attack: the batch that shrinks, and as many
slots as a batch has examples, fed with one ticket after the other: as workers do it (few steps are held back until
their ticket ends, three tickets at once at most), and eagerly, which idles less and ages what ends early.
Everything is measured in turn within each repetition; medians, and the least and greatest share of a repetition. Other
work on the machine disturbs that; two more shares tell by how much (on CPU): of medians in seconds of the processor,
and of the least time of each, by the clock, over all repetitions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.measure import machine
from sparring.allocators import speedup_ceiling, theoretical_speedup
from sparring.allocators.bullettrain import BulletTrain
from sparring.attacks import frozen
from sparring.attacks.iteration import ascended
from sparring.config import Config, from_tree
from sparring.data import ArrayDataset, training_set
from sparring.models import build
from sparring.queue.messages import Controls, Key, Shard
from sparring.trainer.experiment import Experiment, methods_of
from sparring.trainer.learner import Learner
from sparring.trainer.plan import Plan
from sparring.workers.generator import now, prepare_task, produce
from sparring.workers.slots import Slots
from sparring.workers.task import Task

SHARES = {"boundary": 0.28, "robust": 0.54, "outlier": 0.18}
SHAPES = {"mnist": (1, 28, 28), "wrn": (3, 32, 32), "preact": (3, 32, 32)}
STEPS, TICKETS, WINDOW = 10, 8, 6  # of the attack; in the data set; timed at once in slots, where tickets end in bursts
MOST_TICKETS = 3  # of a worker
SPARING = BulletTrain(boundary_steps=STEPS, robust_steps=2, outlier_steps=0)
Seconds = tuple[float, float]  # by the clock, by the processor


class Case:
    """One network, objective and batch size, with what is timed."""

    def __init__(self, network: str, objective: str, batch_size: int, device: torch.device) -> None:
        shape, size = SHAPES[network.split("-")[0]], TICKETS * batch_size
        self.device, self.batch_size, self.turn = device, batch_size, 0
        config = configuration(network, objective, batch_size)
        images = torch.randint(256, (size, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        model = build(config.model, shape, 10, 0).to(device)
        dataset = ArrayDataset(images, labels_of(model, images, batch_size, device), 10, "random")
        self.plan = Plan(size, batch_size, 1, 1, 0)
        self.learner = Learner(experiment_of(config, model, dataset, self.plan), device)
        self.model, self.full = self.learner.model, self.learner.context
        self.spared = replace(self.full, allocator=SPARING)
        self.controls = Controls(config.attack.epsilon, SHARES["robust"])
        self.slots = {hold_back: Slots(self.spared, batch_size, hold_back=hold_back) for hold_back in (True, False)}
        self.ready = prepare_task(self.task(), self.full, self.controls, 0)
        self.shard = produce(self.task(), self.full, self.controls, 0)
        self.classes: dict[str, int] = {}

    def task(self) -> Task:
        """The next one; its labels belong to the tickets' order, so each is a slice of the data set."""
        self.turn = (self.turn + 1) % TICKETS
        return Task(Key(0, self.turn, 0), self.plan.indices(0, self.turn))

    def learn(self, shard: Shard) -> None:
        self.learner.learn(self.learner.batch([shard]), epoch=0)

    def with_full_attack(self) -> None:
        self.learn(produce(self.task(), self.full, self.controls, 0))

    def in_a_shrinking_batch(self) -> None:
        shard = produce(self.task(), self.spared, self.controls, 0)
        self.classes = dict(shard.classes)
        self.learn(shard)

    def in_slots(self, hold_back: bool) -> None:
        """A few more tickets of an endless stream."""
        slots, done = self.slots[hold_back], list[Shard]()
        while len(done) < WINDOW:
            with frozen(self.model):
                while slots.has_room and len(slots._jobs) < MOST_TICKETS:
                    slots.begin(self.task(), self.controls, 0)
                ended = slots.advance(0)
            for shard in ended:
                self.learn(shard)
            done += ended

    def forward(self) -> None:
        with frozen(self.model), torch.no_grad():
            self.model(self.ready.x)

    def attack_step(self) -> None:
        attack, x, targets = self.ready.attack, self.ready.x, self.ready.targets
        sizes, state = x.new_full((len(x),), attack.alpha), attack.state(x)
        delta = torch.zeros_like(x)
        with frozen(self.model):
            for _ in range(STEPS):
                delta = ascended(self.model, x, delta, targets, attack, sizes, attack.radius, state)

    def step(self) -> None:
        self.learn(self.shard)

    def timed(self) -> dict[str, Seconds]:
        """Seconds of each for one ticket, all in turn."""
        held, eager = (timed(partial(self.in_slots, hold_back), self.device) for hold_back in (True, False))
        attack = timed(self.attack_step, self.device)
        return {
            "full": timed(self.with_full_attack, self.device),
            "shrinking": timed(self.in_a_shrinking_batch, self.device),
            "slots": (held[0] / WINDOW, held[1] / WINDOW),
            "slots, eager": (eager[0] / WINDOW, eager[1] / WINDOW),
            "forward": timed(self.forward, self.device),
            "attack": (attack[0] / STEPS, attack[1] / STEPS),
            "step": timed(self.step, self.device),
        }


def configuration(network: str, objective: str, batch_size: int) -> Config:
    """The attack of Hua et al.'s recipes; only its cost matters here."""
    return from_tree(
        {
            "engine": "sync",
            "model": {"name": network},
            "attack": {"epsilon": 0.031, "steps": STEPS, "step_size": 0.007, "warmup_epochs": 0},
            "objective": {
                "name": objective,
                "passes": "reference",
            },  # the same training step either way
            "optimizer": {"name": "sgd", "lr": 1e-12},
            "train": {"batch_size": batch_size, "epochs": 1},
        }
    )


def experiment_of(config: Config, model: torch.nn.Module, dataset: ArrayDataset, plan: Plan) -> Experiment:
    """The recipe on data that no name leads to."""
    methods, training = methods_of(config), training_set(config, dataset)
    return Experiment(config, training, dataset, plan, model, methods.objective, methods.attack, methods.allocator)


def labels_of(model: torch.nn.Module, images: torch.Tensor, batch_size: int, device: torch.device) -> torch.Tensor:
    """Labels that the network predicts right, but for the share of outliers in every ticket."""
    with frozen(model), torch.no_grad():
        chunks = torch.split(images, batch_size)
        labels = torch.cat([model(chunk.to(device).float() / 255).argmax(1).cpu() for chunk in chunks])
    size = len(labels)
    plan = Plan(size, batch_size, 1, 1, 0)
    for number in range(plan.shards(0)):
        wrong = list(plan.indices(0, number))[: round(SHARES["outlier"] * batch_size)]
        labels[wrong] = (labels[wrong] + 1) % 10
    return labels


def timed(work: Callable[[], None], device: torch.device) -> Seconds:
    began = now(device), time.process_time()
    work()
    return now(device) - began[0], time.process_time() - began[1]


def row(network: str, objective: str, case: Case, times: list[dict[str, Seconds]], way: str) -> str:
    """A line of the table."""

    def share(found: dict[str, float]) -> float:
        return found["full"] / found[way] / ceiling(case, found)

    def of(clock: int, each: dict[str, Seconds]) -> dict[str, float]:
        return {name: seconds[clock] for name, seconds in each.items()}

    middle = [{n: statistics.median(each[n][clock] for each in times) for n in times[0]} for clock in (0, 1)]
    least = {name: min(each[name][0] for each in times) for name in times[0]}
    shares = [share(of(0, each)) for each in times]
    cells = [
        network,
        objective,
        str(case.batch_size),
        way,
        " / ".join(f"{case.classes[each] / case.batch_size:.2f}" for each in SHARES),
        " / ".join(f"{1000 * middle[0][name]:.3g}" for name in ("forward", "attack", "step")),
        f"{1000 * middle[0]['full']:.4g} / {1000 * middle[0][way]:.4g}",
        f"{theoretical_speedup(case.classes, SPARING, case.ready.attack):.2f}",
        f"{ceiling(case, middle[0]):.2f}",
        f"{middle[0]['full'] / middle[0][way]:.2f}",
        f"{share(middle[0]):.3f} ({min(shares):.2f} to {max(shares):.2f})",
        f"{share(middle[1]):.3f}",
        f"{share(least):.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def ceiling(case: Case, found: dict[str, float]) -> float:
    """What these times allow."""
    return speedup_ceiling(
        case.classes,
        SPARING,
        case.ready.attack,
        forward_s=found["forward"],
        attack_step_s=found["attack"],
        step_s=found["step"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist-16-32-100", "mnist-32-64-1024"])
    parser.add_argument("--objectives", nargs="+", default=["pgd-at", "trades"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options: Any = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{machine()}; {device.type}, {options.threads} threads, {options.repetitions} repetitions")
    print(
        "| network | objective | batch | way | boundary / robust / outlier | forward / attack step / step, ms "
        "| full / spared, ms | equation 7 | ceiling | speed-up | share of the ceiling (range) "
        f"| share, processor | share, least times |\n"
        f"|{' --- |' * 13}"
    )
    for network in options.networks:
        for objective in options.objectives:
            for batch_size in options.batches:
                case = Case(network, objective, batch_size, device)
                case.timed()  # warms up, and fills the slots
                times = [case.timed() for _ in range(options.repetitions)]
                for way in ("shrinking", "slots", "slots, eager"):
                    print(row(network, objective, case, times, way), flush=True)


if __name__ == "__main__":
    main()
