"""Synchronous data parallelism, the rival of the asynchronous engine: the textbook's loop on several processes.

    for every epoch, for every step of M tickets, on every rank r of R:
        attack tickets r, r + R, … of the step with the present weights
        average the gradients of all ranks (torch's DistributedDataParallel), one optimizer step

A step waits for its slowest rank and a run for every one: a rank that dies ends it. With the same settings the weights
are those of `--engine sync` but for the order in which floats are summed, and for batch norm, whose statistics each
rank takes from its own tickets (the first rank's running ones are everybody's).

Run it: sparring train RECIPE --engine ddp --ddp.ranks 4 --train.shards_per_step 4
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparring.config import Config, config_of, slots_of, trainer_threads
from sparring.errors import SparringError
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.objectives import Batch
from sparring.queue.messages import Key, Shard
from sparring.runs import Run
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.learner import Learner
from sparring.trainer.peers import Objective, Totals
from sparring.trainer.pruning import Pruner
from sparring.trainer.session import Session
from sparring.trainer.steps import Consumed, consumed_by
from sparring.workers.attackers import produce_all
from sparring.workers.task import Task

POLL_S = 0.1
GRACE_S = 20.0


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run as rank 0, which keeps the records; returns how it ended.

    Raises:
        SparringError: another rank has died or did not answer in time.
    """
    learner = session.learner
    with other_ranks(experiment, session.run) as others, others.blamed(), others.joined(learner) as ranks:
        ranks.begin(learner, consumed_by(resumed))
        session.start_clock()  # the start of the ranks is preparation
        for step in session.steps(resumed):
            ranks.agree(True)
            shards, batch = ranks.attack(learner, experiment, step.keys)
            session.learn(shards, batch)
        ranks.agree(False)
    return session.finish()


def follow(run_path: Path, rank: int, rendezvous: Path) -> None:
    """Train as another rank, which keeps no records, until rank 0 has made its last step."""
    config = config_of(Run(run_path))
    torch.set_num_threads(trainer_threads(config))
    keep_freed_memory()
    live = cloudpickle.loads(_passed(rendezvous).read_bytes())  # of our own making, in a folder that is ours alone
    experiment = build_experiment(config, live)
    learner = Learner(experiment, device_of(config, rank))
    pruner = Pruner(learner, Run(run_path))
    _ready(rendezvous, rank).touch()
    with joined(config, learner, rank, rendezvous) as ranks:
        consumed = ranks.begin(learner)
        batches = experiment.plan.steps(consumed.epoch, consumed.done)
        while ranks.agree(True):
            keys = next(batches)
            if pruner.undecided is not None and keys[0].epoch >= pruner.undecided:
                pruner.recall(learner.step)
            _, batch = ranks.attack(learner, experiment, keys)
            learner.learn(batch, keys[0].epoch)


class _Pass(nn.Module):
    """Lets DistributedDataParallel see whatever passes an objective makes through `model` as one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        return objective()


class Ranks:
    """This process among the others; a learner's `Peers`. Every method must be called by all, in the same order."""

    def __init__(self, model: nn.Module, rank: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, dist.get_world_size(), device
        self.share = 1.0
        self._parallel = DistributedDataParallel(_Pass(model))

    def begin(self, learner: Learner, consumed: Consumed | None = None) -> Consumed:
        """Start all from where rank 0 is; DistributedDataParallel has sent the weights."""
        sent: list[Any] = [None]
        if self.rank == 0:
            sent = [(learner.step, learner.state(), learner.rate_scale, learner.pgd_until, consumed or Consumed())]
        dist.broadcast_object_list(sent, src=0)
        step, state, rate_scale, pgd_until, begun = sent[0]
        if self.rank > 0:
            learner.restore(step, **state)
            learner.rate_scale, learner.pgd_until = rate_scale, pgd_until
        started: Consumed = begun
        return started

    def agree(self, going_on: bool) -> bool:
        """What rank 0 says."""
        said = torch.tensor([going_on], dtype=torch.int32, device=self.device)
        dist.broadcast(said, src=0)
        return bool(said.item())

    def attack(self, learner: Learner, experiment: Experiment, keys: Sequence[Key]) -> tuple[list[Shard], Batch]:
        """Attack this rank's tickets of a step: the records of all its shards, and what this rank trains on.

        A rank without a ticket, in the last step of an epoch, passes clean images that do not count.
        """
        config, plan = experiment.config, experiment.plan
        mine = range(self.rank, len(keys), self.count)
        tasks = [Task(keys[place], plan.indices(keys[place].epoch, keys[place].number)) for place in mine]
        made = produce_all(tasks, learner.context, learner.controls(), learner.step, slots_of(config))
        sizes = [len(plan.indices(key.epoch, key.number)) for key in keys]
        self.share = sum(sizes[place] for place in mine) * self.count / sum(sizes)
        if made:
            batch = learner.batch(made)
        else:
            x, y = learner.examples(keys[0])
            batch = Batch(x, x, y)
        return self._records(keys, sizes, dict(zip(mine, made, strict=True)), learner), batch

    def _records(self, keys: Sequence[Key], sizes: list[int], mine: dict[int, Shard], learner: Learner) -> list[Shard]:
        """The step's shards: this rank's own, and of the others' what their attacks cost."""
        allocator = learner.experiment.allocator
        names = () if allocator is None else allocator.classes
        costs_of = torch.zeros(len(keys), 3 + len(names), dtype=torch.float64)
        for place, shard in mine.items():
            classes = [shard.classes.get(name, 0) for name in names]
            costs = (shard.gradients, shard.cost_seconds, shard.full_seconds, *classes)
            costs_of[place] = torch.tensor(costs, dtype=torch.float64)
        costs_of = self._summed(costs_of)
        attack = learner.context.attack_now(learner.controls()).record

        def record(place: int) -> Shard:
            gradients, cost_s, full_s, *classes = costs_of[place].tolist()
            return Shard(
                key=keys[place],
                fence=0,
                version=learner.step,
                start_version=learner.step,
                attack=attack,
                delta=torch.empty(0),
                labels=torch.zeros(sizes[place], dtype=torch.int64),
                worker=f"rank-{place % self.count}",
                gradients=int(gradients),
                classes=dict(zip(names, map(int, classes), strict=True)),
                cost_seconds=cost_s,
                full_seconds=full_s,
            )

        return [mine[place] if place in mine else record(place) for place in range(len(keys))]

    def _summed(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def forward(self, objective: Objective) -> tuple[Tensor, Tensor]:
        loss, correct = self._parallel(objective)
        return loss, correct

    def totals(self, loss: Tensor, correct: Tensor) -> Totals:
        counts = 1 if self.share else 0
        examples = counts * len(correct)
        own = [float(loss.detach()) * examples, counts * int(correct.sum()), examples]
        of_losses, all_correct, of_all = self._summed(torch.tensor(own, dtype=torch.float64)).tolist()
        return Totals(of_losses / of_all, int(all_correct), int(of_all))


@contextmanager
def joined(config: Config, learner: Learner, rank: int, rendezvous: Path) -> Iterator[Ranks]:
    """Meet the other ranks in the file `rendezvous`, over NCCL between GPUs and gloo between CPUs."""
    backend = "nccl" if learner.device.type == "cuda" else "gloo"
    store = dist.FileStore(str(rendezvous), config.ddp.ranks)  # type: ignore[attr-defined]
    waiting = timedelta(seconds=config.ddp.timeout_s)
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.ddp.ranks, timeout=waiting)
    alone = learner.peers
    try:
        learner.peers = ranks = Ranks(learner.trained, rank, learner.device)
        yield ranks
    finally:
        learner.peers = alone
        dist.destroy_process_group()


def device_of(config: Config, rank: int) -> torch.device:
    """A GPU for each rank, or the CPU."""
    wanted = config.trainer.device
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", rank)


@dataclass
class Others:
    """The processes of ranks 1, 2, …, which rank 0 has started."""

    config: Config
    run: Run
    rendezvous: Path
    processes: list[subprocess.Popen[bytes]]

    @contextmanager
    def joined(self, learner: Learner) -> Iterator[Ranks]:
        """Meet them once all are ready."""
        self._until_ready()
        with joined(self.config, learner, 0, self.rendezvous) as ranks:
            yield ranks

    def _until_ready(self) -> None:
        limit = time.monotonic() + self.config.ddp.timeout_s
        while not all(_ready(self.rendezvous, rank).exists() for rank in range(1, self.config.ddp.ranks)):
            self._require_alive()
            if time.monotonic() > limit:
                raise SparringError(
                    f"not all of ddp.ranks = {self.config.ddp.ranks} were ready within ddp.timeout_s = "
                    f"{self.config.ddp.timeout_s:g} s; see {self.run.path / 'logs'}."
                )
            time.sleep(POLL_S)

    def _require_alive(self) -> None:
        for rank, process in enumerate(self.processes, 1):
            if process.poll() is not None:
                raise SparringError(
                    f"rank {rank} of ddp.ranks = {self.config.ddp.ranks} died (exit status {process.returncode}), and "
                    f"the others cannot go on without it; its last words are in "
                    f"{self.run.path / 'logs' / f'rank-{rank}.log'}. `sparring resume {self.run.path}` goes on from "
                    f"the last checkpoint."
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Say which rank it was when a collective call fails."""
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            limit = time.monotonic() + 2
            while time.monotonic() < limit:  # a process that is dying is not dead at once
                self._require_alive()
                time.sleep(POLL_S)
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise SparringError(
                    f"the ranks lost one another ({str(error).splitlines()[0]}; ddp.timeout_s = "
                    f"{self.config.ddp.timeout_s:g}). `sparring resume {self.run.path}` goes on from the last "
                    f"checkpoint."
                ) from error
            raise


@contextmanager
def other_ranks(experiment: Experiment, run: Run) -> Iterator[Others]:
    """Start ranks 1, 2, …; they end with the block, or with this process, whatever happens to it."""
    with ExitStack() as stack:
        rendezvous = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparring-ddp-"))) / "meet"
        _passed(rendezvous).write_bytes(cloudpickle.dumps(replace(experiment.live, helper=experiment.helper)))
        ranks = range(1, experiment.config.ddp.ranks)
        processes = [stack.enter_context(_started(run, rank, rendezvous)) for rank in ranks]
        yield Others(experiment.config, run, rendezvous, processes)


@contextmanager
def _started(run: Run, rank: int, rendezvous: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}
    log = run.path / "logs" / f"rank-{rank}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparring.engines.ddp", str(run.path), str(rank), str(rendezvous)],
            stdin=subprocess.PIPE,  # closed by our end, however that comes
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is rank 0's to hear
        )
    failed = True
    try:
        yield process
        failed = False
    finally:
        try:
            process.wait(0 if failed else GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _passed(rendezvous: Path) -> Path:
    """The objects that were passed from Python, for the other ranks."""
    return rendezvous.with_name("objects")


def _ready(rendezvous: Path, rank: int) -> Path:
    return rendezvous.with_name(f"ready-{rank}")


def _end_with_rank_0() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    run_path, rank, rendezvous = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    to_file(run_path / "logs" / f"rank-{rank}.log")
    follow(run_path, rank, rendezvous)


if __name__ == "__main__":
    main()
