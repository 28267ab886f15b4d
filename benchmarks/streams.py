"""Do a second CUDA stream or CUDA graphs make a trainer that also attacks faster?

    python -m benchmarks.streams [--networks preact-resnet-18:128] [--repetitions 15]

one after the other: an attack of STEPS steps, then a training step. two streams: both at once, the attack on weights of
its own. attack alone and step alone: what each takes. graph: the attack's step captured once as a CUDA graph and
replayed. Without CUDA there are no streams and no graphs, and only the first three are measured.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch.nn import functional as F

from benchmarks.kernels import EPSILON, STEP_SIZE, STEPS, Case, Work
from benchmarks.measure import header, in_turn, machine, row, spread, to_the_end
from sparring.attacks import PGD
from sparring.attacks.iteration import ascended

WARM_UP = 3  # passes before a capture, as CUDA graphs need


class Both:
    """An attack on one network and a training step on another of the same kind."""

    def __init__(self, network: str, batch: int, device: torch.device) -> None:
        self.case, self.device = Case(network, batch, device), device
        self.attack = self.case.ours({})
        self.trained = copy.deepcopy(self.case.model).train().requires_grad_(True)
        self.optimizer = torch.optim.SGD(self.trained.parameters(), lr=1e-6)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(self.trained(self.case.x), self.case.labels))
        self.optimizer.step()

    def in_turn(self) -> None:
        self.attack()
        self.step()

    def in_two_streams(self) -> Work:
        """The attack in a stream beside that of the step; both wait for what was done before."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        def work() -> None:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self.attack()
            self.step()
            torch.cuda.current_stream().wait_stream(beside)

        return work

    def as_graph(self) -> Work:
        """STEPS replays of one captured attack step, whose δ is where the next replay begins."""
        case, attack = self.case, PGD(EPSILON, steps=STEPS, step_size=STEP_SIZE)
        model = copy.deepcopy(case.model)
        sizes, state = torch.full((len(case.x),), STEP_SIZE, device=self.device), attack.state(case.x)
        delta = torch.zeros_like(case.x)

        def step() -> None:
            delta.copy_(ascended(model, case.x, delta, case.labels, attack, sizes, EPSILON, state))

        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()

        def work() -> None:
            delta.zero_()
            for _ in range(STEPS):
                graph.replay()

        return work

    def works(self) -> dict[str, Work]:
        found: dict[str, Work] = {
            "one after the other": self.in_turn,
            "attack alone": self.attack,
            "step alone": self.step,
        }
        if self.device.type == "cuda":
            found |= {"two streams": self.in_two_streams(), "attack alone, graph": self.as_graph()}
        return {name: to_the_end(work, self.device) for name, work in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["preact-resnet-18:128"])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(f"{machine()}; an attack of {STEPS} steps, medians, least and greatest\n")
    print(header("network", "batch", "way", "ms", "over one after the other"))
    for named in options.networks:
        network, _, batch = named.partition(":")
        both = Both(network, int(batch or 128), torch.device(options.device))
        took = in_turn(both.works(), options.repetitions)
        base = took["one after the other"]
        for way, seconds in took.items():
            ratios = [one / other for one, other in zip(seconds, base, strict=True)]
            print(
                row(network, len(both.case.x), way, spread([1000 * each for each in seconds]), spread(ratios)),
                flush=True,
            )


if __name__ == "__main__":
    main()
