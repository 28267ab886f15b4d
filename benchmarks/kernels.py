"""What one PGD step costs over the passes that it cannot do without, beside the loops that people would use instead.

    python -m benchmarks.kernels [--networks mnist-16-32-100 preact-resnet-18:16] [--repetitions 15] [--threads 1]

bare: forward pass and backward pass to the input of the same network, cross-entropy, no more. ours: the step that
workers make. TRADES' loop: the authors' inner loop, written out here. foolbox, ART: L-infinity PGD of these
libraries, where they are installed (`pip install foolbox adversarial-robustness-toolbox`). Each makes STEPS steps from
the same images, its time is divided by them, and all are measured in turn within each repetition; `over bare` is the
median ratio within a repetition. Then ours again with what `model.*` offers: bf16, channels_last, torch.compile.
With `--variants ours judged`: a whole evaluation by PGD of JUDGED_STEPS steps in this process, over that number of
steps; its clean pass, its last pass and the bookkeeping of its verdicts are in it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import header, in_turn, machine, row, spread, to_the_end
from sparring.attacks import PGD
from sparring.attacks.iteration import ascended
from sparring.config import Config, from_tree
from sparring.data import Sample
from sparring.data.wrapping import wrap
from sparring.evaluation.judging import judge
from sparring.evaluation.panels import Restarts
from sparring.evaluation.tickets import InProcess
from sparring.machine.memory import keep_freed_memory
from sparring.models import build
from sparring.models.forward import for_training

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 5
JUDGED, JUDGED_STEPS = "judged", 40
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, channels_last": {"channels_last": True},
    "ours, bf16": {"precision": "bf16"},
    "ours, bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "ours, compiled": {"compile": True},
}
Work = Callable[[], object]


class Case:
    """A network and images; every work makes STEPS attack steps on them."""

    def __init__(self, network: str, batch: int, device: torch.device) -> None:
        shape = (1, 28, 28) if network.startswith("mnist") else (3, 32, 32)
        generator = torch.Generator().manual_seed(0)
        self.network, self.shape, self.device = network, shape, device
        self.x = torch.rand((batch, *shape), generator=generator).to(device)
        self.labels = torch.randint(10, (batch,), generator=generator).to(device)
        self.model = build(self.config().model, shape, 10, 0).to(device).eval().requires_grad_(False)

    def config(self, **model: Any) -> Config:
        return from_tree({"model": {"name": self.network, **model}})

    def bare(self) -> None:
        for _ in range(STEPS):
            point = self.x.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(self.model(point), self.labels, reduction="sum"), point)

    def ours(self, variant: dict[str, Any]) -> Work:
        attack = PGD(EPSILON, steps=STEPS, step_size=STEP_SIZE)
        # channels_last lays the weights out anew
        model = for_training(copy.deepcopy(self.model), self.config(**variant).model)
        sizes, state = torch.full((len(self.x),), STEP_SIZE, device=self.device), attack.state(self.x)

        def work() -> None:
            delta = torch.zeros_like(self.x)
            for _ in range(STEPS):
                delta = ascended(model, self.x, delta, self.labels, attack, sizes, EPSILON, state)

        return work

    def judged(self) -> Work:
        """No image is broken: the labels are those of the network, and the ball is too small to change them."""
        with torch.no_grad():
            labels = self.model(self.x).argmax(1)
        sample = Sample(wrap((self.x.cpu(), labels.cpu()), "examples", 10), None)
        panel = Restarts(PGD(1e-6, steps=JUDGED_STEPS), seed=0)
        judges = InProcess([self.model])

        def work() -> None:
            found = judge(judges, sample, panel, batch_size=len(sample))
            if not found.outcomes.robust.all():
                raise SystemExit("an image was broken, so that later steps would attack fewer: no figure per step")

        return work

    def trades(self) -> None:
        """trades.py of its authors, with cross-entropy in the place of the divergence, as the others have it."""
        x_natural: Tensor = self.x
        x_adv = x_natural.detach() + 0.001 * torch.randn(x_natural.shape, device=self.device)
        for _ in range(STEPS):
            x_adv.requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(self.model(x_adv), self.labels, reduction="sum")
            gradient = torch.autograd.grad(loss, [x_adv])[0]
            x_adv = x_adv.detach() + STEP_SIZE * torch.sign(gradient.detach())
            x_adv = torch.min(torch.max(x_adv, x_natural - EPSILON), x_natural + EPSILON)
            x_adv = torch.clamp(x_adv, 0.0, 1.0)

    def foolbox(self) -> Work:
        import foolbox

        # Its attack ends with a pass that tells which examples fell; a training loop needs none, so it is left out.
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False)
        model = foolbox.PyTorchModel(self.model, bounds=(0, 1), device=self.device)
        criterion = foolbox.criteria.Misclassification(self.labels)
        return lambda: attack.run(model, self.x, criterion, epsilon=EPSILON)

    def art(self) -> Work:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            self.model, nn.CrossEntropyLoss(), self.shape, 10, clip_values=(0, 1), device_type=self.device.type
        )
        attack = ProjectedGradientDescentPyTorch(
            classifier, eps=EPSILON, eps_step=STEP_SIZE, max_iter=STEPS, batch_size=len(self.x), verbose=False
        )
        images, labels = self.x.cpu().numpy(), self.labels.cpu().numpy()
        return lambda: attack.generate(images, labels)

    def works(self, variants: list[str]) -> dict[str, Work]:
        found: dict[str, Work] = {"bare": self.bare}
        for name in variants:
            found[name] = self.judged() if name == JUDGED else self.ours(VARIANTS[name])
        found["TRADES' loop"] = self.trades
        for name, package, work in (("foolbox", "foolbox", self.foolbox), ("ART", "art", self.art)):
            if importlib.util.find_spec(package):
                found[name] = work()
            else:
                print(f"{name} is not installed: no row of it", file=sys.stderr)
        return {name: to_the_end(work, self.device) for name, work in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist-16-32-100:128", "preact-resnet-18:16"])
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, JUDGED], default=list(VARIANTS))
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as runs and evaluations do
    print(f"{machine()}, {options.threads} threads; a step of {STEPS}, medians, least and greatest\n")
    print(header("network", "batch", "way", "ms a step", "over bare"))
    for named in options.networks:
        network, _, batch = named.partition(":")
        case = Case(network, int(batch or 128), torch.device(options.device))
        took = in_turn(case.works(options.variants), options.repetitions)
        for way, seconds in took.items():
            steps = JUDGED_STEPS if way == JUDGED else STEPS
            ratios = [one * STEPS / steps / bare for one, bare in zip(seconds, took["bare"], strict=True)]
            ms = spread([1000 * each / steps for each in seconds])
            print(row(network, len(case.x), way, ms, "" if way == "bare" else spread(ratios)), flush=True)


if __name__ == "__main__":
    main()
