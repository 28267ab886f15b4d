"""Synchronous data parallelism, which the asynchronous engine is compared with: several processes share each step.

    for every epoch, for every step of M tickets, on every rank r of R:
        attack tickets r, r + R, … of the step with the present weights
        average the gradients of all ranks (torch's DistributedDataParallel), one optimizer step

A step waits for its slowest rank, and a rank that dies ends the run. With the same settings the weights are those of
`--engine sync`, but for the order in which floats are summed and for batch norm: each rank normalises with the
statistics of its own tickets, and the running statistics are those of rank 0.

Run it: sparring train RECIPE --engine ddp --ddp.ranks 4 --train.shards_per_step 4
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import torch
import torch.distributed as dist

from sparring.config import Config, DdpSettings, config_of, trainer_threads
from sparring.engines.ranks import is_lost, joined
from sparring.engines.slices import Slices
from sparring.errors import SparringError
from sparring.machine.logs import to_file
from sparring.machine.memory import keep_freed_memory
from sparring.runs import Run
from sparring.trainer.checkpoints import Checkpoint
from sparring.trainer.experiment import Experiment, build_experiment
from sparring.trainer.learner import Learner
from sparring.trainer.pruning import Pruner
from sparring.trainer.same_data import require_same_training_data
from sparring.trainer.session import Session
from sparring.trainer.steps import Consumed, consumed_by

POLL_S = 0.1
GRACE_S = 20.0


def run(session: Session, experiment: Experiment, resumed: Checkpoint | None) -> str:
    """Train to the end of the run as rank 0, which keeps the records; returns how it ended.

    Raises:
        SparringError: another rank has died or did not answer in time.
    """
    learner = session.learner
    with other_ranks(experiment, session.run) as others, others.blamed(), others.joined(learner) as ranks:
        ranks.begin(consumed_by(resumed, session.plan.shards_by_epoch))
        session.start_clock()  # starting the ranks is not training time
        for step in session.steps(resumed):
            ranks.agree(True)
            shards, batch = ranks.attack(step.keys)
            session.learn(shards, batch)
        ranks.agree(False)
    return session.finish()


def follow(run_path: Path, rank: int, rendezvous: Path) -> None:
    """Train as another rank, which keeps no records, until rank 0 has made its last step."""
    config = config_of(Run(run_path))
    torch.set_num_threads(trainer_threads(config))
    keep_freed_memory()
    live = cloudpickle.loads(_objects(rendezvous).read_bytes())  # written by rank 0, in a folder of its own
    experiment = build_experiment(config, live)
    require_same_training_data(Run(run_path), experiment)
    learner = Learner(experiment, device_of(config.trainer.device, rank))
    pruner = Pruner(learner, Run(run_path))
    _ready(rendezvous, rank).touch()
    with slices(config.ddp, learner, rank, rendezvous) as ranks:
        consumed = ranks.begin() or Consumed()
        batches = experiment.plan.steps(consumed.epoch, consumed.done)
        while ranks.agree(True):
            keys = next(batches)
            if pruner.undecided is not None and keys[0].epoch >= pruner.undecided:
                pruner.recall(learner.step)
            _, batch = ranks.attack(keys)
            learner.learn(batch, keys[0].epoch)


@dataclass
class Others:
    """The processes of ranks 1, 2, …, which rank 0 has started."""

    config: Config
    run: Run
    rendezvous: Path
    processes: list[subprocess.Popen[bytes]]

    @contextmanager
    def joined(self, learner: Learner) -> Iterator[Slices]:
        """Meet them once all are ready."""
        self._until_ready()
        with slices(self.config.ddp, learner, 0, self.rendezvous) as ranks:
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
                    f"the others cannot continue without it; see "
                    f"{self.run.path / 'logs' / f'rank-{rank}.log'}. `sparring resume {self.run.path}` continues from "
                    f"the last checkpoint."
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Name the rank that died when a collective call fails."""
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            limit = time.monotonic() + 2
            while time.monotonic() < limit:  # a dying process may take a moment
                self._require_alive()
                time.sleep(POLL_S)
            if is_lost(error):
                raise SparringError(
                    f"the ranks lost their connection ({str(error).splitlines()[0]}; ddp.timeout_s = "
                    f"{self.config.ddp.timeout_s:g}). `sparring resume {self.run.path}` continues from the last "
                    f"checkpoint."
                ) from error
            raise


@contextmanager
def slices(settings: DdpSettings, learner: Learner, rank: int, rendezvous: Path) -> Iterator[Slices]:
    """Connect to the other ranks through the file `rendezvous`."""
    store = dist.FileStore(str(rendezvous), settings.ranks)  # type: ignore[attr-defined]
    with joined(learner, rank, settings.ranks, store, settings.timeout_s):
        learner.peers = ranks = Slices(learner, rank)
        try:
            yield ranks
        finally:
            ranks.end()


@contextmanager
def other_ranks(experiment: Experiment, run: Run) -> Iterator[Others]:
    """Start ranks 1, 2, …; they end with the block, or with this process, however it ends."""
    with ExitStack() as stack:
        rendezvous = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparring-ddp-"))) / "meet"
        _objects(rendezvous).write_bytes(cloudpickle.dumps(replace(experiment.live, helper=experiment.helper)))
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
            stdin=subprocess.PIPE,  # closed when this process ends, however it ends
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # only rank 0 handles Ctrl-C
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
        if process.stdin is not None:
            process.stdin.close()


def _objects(rendezvous: Path) -> Path:
    """The objects that were passed from Python, for the other ranks."""
    return rendezvous.with_name("objects")


def _ready(rendezvous: Path, rank: int) -> Path:
    return rendezvous.with_name(f"ready-{rank}")


def device_of(wanted: str, rank: int) -> torch.device:
    """A GPU for each rank, or the CPU; `wanted`: trainer.device."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", rank)


def _end_with_rank_0() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # who ends all processes ends rank 0, too, which ends the others
        signal.signal(number, signal.SIG_IGN)
    run_path, rank, rendezvous = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    to_file(run_path / "logs" / f"rank-{rank}.log")
    follow(run_path, rank, rendezvous)


if __name__ == "__main__":
    main()
