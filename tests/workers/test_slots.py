"""Slots against the batch that shrinks: the same perturbations, whatever else is in work, and honest versions."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.allocators import bullettrain as allocator
from sparring.attacks.starts import Given
from sparring.commands.combinations import check_combinations
from sparring.config import Config, from_tree, new_run, slots_of, tickets_at_once
from sparring.data import Dataset, load
from sparring.engines.ray.snapshots import QueueRoute, Snapshot
from sparring.engines.ray.worker import Worker
from sparring.errors import UsageError
from sparring.models import build
from sparring.models.arrays import to_arrays
from sparring.queue.messages import Controls, Key, Lease, Shard, Stop, Ticket
from sparring.queue.server import EmbeddedServer
from sparring.queue.transport import QueueFull, Transport
from sparring.trainer.experiment import build_experiment
from sparring.workers.attackers import produce_all
from sparring.workers.generator import produce
from sparring.workers.slots import Slots
from tests.support.runs import small

TICKETS = [(Key(0, n, 0), tuple(range(40 * n, 40 * n + size))) for n, size in enumerate((40, 23, 40))]
WITHOUT_STARTS = [(key, indices, None) for key, indices in TICKETS]


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return training_set(Config(), load(Config().data, "train"))


@pytest.fixture(scope="module")
def model(digits: TrainingSet) -> nn.Module:
    """Trained for a few steps: some examples are right, some wrong."""
    made = build(Config().model, digits.shape, digits.classes, 0)
    x, y = digits.images(torch.arange(len(digits))).float() / 255, digits.labels
    optimizer = torch.optim.Adam(made.parameters(), lr=0.003)
    for _ in range(8):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(made(x), y))
        optimizer.step()
    return made.eval().requires_grad_(False)


def configured(slots: int, **groups: Any) -> Config:
    tree: dict[str, Any] = {"attack": {"steps": 5}, "allocator": {"name": "bullettrain"}}
    for group, values in groups.items():
        tree[group] = {**tree.get(group, {}), **values}
    tree["allocator"] = {**tree["allocator"], "slots": slots}
    return from_tree(tree)


class Stream:
    """Slots that are given the next ticket whenever they have room, as a worker does it."""

    def __init__(self, config: Config, model: nn.Module, digits: TrainingSet, *, most: int = 3) -> None:
        self.slots = Slots(config, model, digits, slots_of(config), hold_back=True)
        self.waiting, self.most, self.began = list(TICKETS), most, 0
        self.at_once: list[int] = []

    def run(self, version: Callable[[int], int] = lambda step: 0) -> dict[Key, Shard]:
        made: dict[Key, Shard] = {}
        for step in itertools.count():
            while self.waiting and self.slots.room and self.began - len(made) < self.most:
                key, indices = self.waiting.pop(0)
                self.slots.begin(key, indices, Controls(0.1 + 0.01 * key.number, 0.4), version(step))
                self.began += 1
            self.at_once.append(self.began - len(made))
            made.update({shard.key: shard for shard in self.slots.advance(version(step))})
            if len(made) == len(TICKETS):
                return made
            assert step < 200
        raise AssertionError


class InDouble(nn.Module):
    """The network with passes in float64, so that an example's logits do not depend on who is in the batch with it.

    In float32 they do, by rounding, and a divergence's first gradient, which is next to 0, makes much of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = copy.deepcopy(model).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


def alone(config: Config, model: nn.Module, digits: TrainingSet) -> dict[Key, Shard]:
    """The tickets in a batch that shrinks, each with the ε that `Stream` gives it."""
    return {
        key: produce(config, model, digits, key, indices, Controls(0.1 + 0.01 * key.number, 0.4), 0)
        for key, indices in TICKETS
    }


@pytest.mark.parametrize("slots", [16, 90])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["pgd-at", "trades"])
@pytest.mark.parametrize("name", ["none", "bullettrain"])
def test_slots_and_the_shrinking_batch_make_the_same_perturbations(
    model: nn.Module, digits: TrainingSet, slots: int, norm: str, objective: str, name: str
) -> None:
    groups = {"attack": {"norm": norm}, "objective": {"name": objective}, "allocator": {"name": name}}
    exact = InDouble(model)
    stream = Stream(configured(slots, **groups), exact, digits)
    made, expected = stream.run(), alone(configured(0, **groups), exact, digits)
    assert max(stream.at_once) >= 2, "several tickets were in work at the same time"
    for key, shard in expected.items():
        assert torch.allclose(made[key].delta, shard.delta, atol=1e-6, rtol=0)
        assert (made[key].classes, made[key].gradients) == (shard.classes, shard.gradients)
        assert made[key].epsilon == shard.epsilon and torch.equal(made[key].labels, shard.labels)
    if name == "bullettrain":
        untouched = sum(not delta.any() for shard in made.values() for delta in shard.delta)
        assert untouched == sum(shard.classes[allocator.OUTLIER] for shard in made.values()) > 0


def test_every_step_has_the_same_shape_and_examples_without_steps_take_no_slot(
    model: nn.Module, digits: TrainingSet
) -> None:
    sizes: list[int] = []
    stream = Stream(configured(16), model, digits)
    watch = model.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    made = stream.run()
    watch.remove()
    classifying = [len(indices) for _, indices in TICKETS]
    assert sorted(set(sizes)) == [16, 23, 40] and [sizes.count(40), sizes.count(23)] == [2, 1]
    gradients = sum(shard.gradients for shard in made.values())
    assert gradients <= 16 * (len(sizes) - len(classifying)) < 1.35 * gradients, "few slots idled"


def test_the_version_is_the_oldest_that_an_example_ended_on(model: nn.Module, digits: TrainingSet) -> None:
    """Steps take versions 10, 11, 12, …; which of them each example used is found by watching its slot."""
    stream = Stream(configured(16), model, digits)
    used: dict[tuple[Key, int], list[int]] = {}

    def note(step: int) -> int:
        for slot in stream.slots._slots:
            if slot is not None:
                used.setdefault((slot.job.ready.key, slot.example), []).append(10 + step)
        return 10 + step

    slots, advance = stream.slots, stream.slots.advance
    slots.advance = lambda version: advance(note(version - 10))  # type: ignore[method-assign]
    made = stream.run(lambda step: 10 + step)
    for key, shard in made.items():
        last_two = [min(versions[-2:]) for (owner, _), versions in used.items() if owner == key]
        assert shard.version == min(last_two) and shard.gradients == sum(
            len(versions) for (owner, _), versions in used.items() if owner == key
        )
    assert made[TICKETS[0][0]].start_version == 10


def test_held_back_examples_end_together_with_their_ticket(model: nn.Module, digits: TrainingSet) -> None:
    spreads = {}
    for hold_back in (True, False):
        slots = Slots(configured(40), model, digits, 40, hold_back=hold_back)
        slots.begin(*TICKETS[0], Controls(0.1, 0.4), 0)
        shards = [shard for step in range(1, 6) for shard in slots.advance(step)]
        spreads[hold_back] = 5 - shards[0].version
    assert spreads == {True: 1, False: 4}, "the two steps of robust examples are the last ones, or the first"


def test_a_lost_ticket_frees_its_slots_and_leaves_the_others_alone(model: nn.Module, digits: TrainingSet) -> None:
    config = configured(40)
    expected = alone(configured(0), model, digits)
    slots = Slots(config, model, digits, 40, hold_back=True)
    for key, indices in TICKETS[:2]:
        slots.begin(key, indices, Controls(0.1 + 0.01 * key.number, 0.4), 0)
    slots.advance(0)
    slots.drop((0, TICKETS[0][0]))
    assert slots.room and slots.busy
    made = [shard for _ in range(30) for shard in slots.advance(0)]
    assert [shard.key for shard in made] == [TICKETS[1][0]] and not slots.busy
    assert torch.allclose(made[0].delta, expected[TICKETS[1][0]].delta, atol=1e-6, rtol=0)


def test_what_the_work_cost_is_shared_and_full_attacks_are_dearer(model: nn.Module, digits: TrainingSet) -> None:
    for slots in (0, 16):
        config = configured(slots)
        shards = produce_all(config, model, digits, WITHOUT_STARTS, Controls(0.1, 0.4), 0)
        assert [shard.key for shard in shards] == [key for key, _ in TICKETS]
        for shard in shards:
            assert 0 < shard.cost_seconds <= shard.attack_seconds * (1 + 1e-9) and shard.full_seconds > 0


def test_a_whole_step_of_the_synchronous_engine_goes_through_the_slots(model: nn.Module, digits: TrainingSet) -> None:
    deltas: list[list[Tensor]] = [
        [shard.delta for shard in produce_all(configured(slots), model, digits, WITHOUT_STARTS, Controls(0.1, 0.4), 0)]
        for slots in (0, 16)
    ]
    assert all(torch.allclose(one, other, atol=1e-6, rtol=0) for one, other in zip(*deltas, strict=True))


def test_slots_begin_where_the_ticket_says(model: nn.Module, digits: TrainingSet) -> None:
    random = torch.Generator().manual_seed(0)
    deltas, known = torch.rand(40, *digits.shape, generator=random) * 0.2 - 0.1, torch.arange(40) % 2 == 0
    tickets = [(*TICKETS[0], Given(deltas, known))]
    one, other = (
        produce_all(configured(slots), model, digits, tickets, Controls(0.1, 0.4), 0)[0].delta for slots in (0, 16)
    )
    without = produce_all(configured(16), model, digits, WITHOUT_STARTS[:1], Controls(0.1, 0.4), 0)[0].delta
    assert torch.allclose(one, other, atol=1e-6, rtol=0) and not torch.allclose(other, without, atol=1e-2)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"attack": {"restarts": 2}}, r"allocator\.slots = 16 with attack\.restarts = 2"),
        ({"engine": "simulated"}, r"allocator\.slots = 16 with engine = 'simulated'"),
        ({"data": {"phases": [{"until": 0.5, "size": 8}]}}, r"allocator\.slots = 16 with data\.phases"),
        (
            {"attack": {"name": "augmix"}, "objective": {"name": "augmix"}},
            r"allocator\.slots = 16 with attack\.name = 'augmix'",
        ),
    ],
)
def test_slots_are_refused_where_there_can_be_none(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_combinations(from_tree({"allocator": {"slots": 16}, "engine": "sync", **groups}))


def test_slots_are_for_workers_with_gpus_unless_told() -> None:
    bullettrain = {"allocator": {"name": "bullettrain"}, "train": {"batch_size": 50}}
    assert slots_of(from_tree(bullettrain)) == 0
    assert slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 0.5}})) == 50
    assert slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "attack": {"restarts": 2}})) == 0
    assert slots_of(from_tree({**bullettrain, "workers": {"num_gpus": 1}, "engine": "sync"})) == 0
    assert tickets_at_once(from_tree({"allocator": {"slots": 8}})) == 3
    assert tickets_at_once(from_tree({"allocator": {"slots": 8}, "staleness": {"exchange": False}})) == 1


class Scene:
    """A worker with slots over a real queue, driven step by step, and the trainer's side of that queue."""

    def __init__(self, root: Path, server: EmbeddedServer, model: nn.Module) -> None:
        config = small(
            root,
            allocator={"name": "bullettrain", "slots": 160},
            train={"epochs": 1, "max_steps": None, "batch_size": 40},
            workers={"count": 1, "threads": torch.get_num_threads()},
            queue={"weights": "redis"},
        )
        self.experiment, run = build_experiment(config), new_run(config)
        self.experiment.model.load_state_dict(model.state_dict())
        self.trainer = Transport(server.client(), run.id, lease_s=5.0, timeout_s=5.0)
        self.fence = self.trainer.open()
        self.publish(0)
        tree = config.model_dump(mode="json", exclude_none=True)
        self.worker = Worker(tree, "w", str(run.path), run.id, server.url, server.password, "", [])
        self.issue(3)
        self.worker.take_tickets()

    def publish(self, version: int) -> None:
        arrays = to_arrays(self.experiment.model)
        QueueRoute(self.trainer, 2).publish(Snapshot(self.fence, version, Controls(0.2, 0.4), arrays))

    def issue(self, count: int) -> None:
        fingerprint = self.experiment.training.fingerprint
        self.trainer.issue(
            [Ticket(Key(0, n, 0), self.fence, 0, self.experiment.plan.indices(0, n), fingerprint) for n in range(count)]
        )

    def finish(self) -> list[Key]:
        """The tickets that the worker commits."""
        for _ in range(100):
            self.worker.free_lost()
            self.worker.advance()
        self.worker.push_made()
        self.worker.settle_push()
        keys = []
        while (received := self.trainer.receive(0.0)) is not None:
            assert isinstance(received, Shard)
            keys.append(received.key)
        return sorted(keys)


@pytest.fixture
def scene(tmp_path: Path, model: nn.Module) -> Iterator[Scene]:
    threads = torch.get_num_threads()
    with EmbeddedServer(maxmemory=64 << 20) as server:
        made = Scene(tmp_path, server, model)
        try:
            yield made
        finally:
            made.worker.weights.stop()
            torch.set_num_threads(threads)


def test_a_lost_lease_costs_its_own_ticket_alone(scene: Scene) -> None:
    worker = scene.worker
    leases = list(worker.leases.values())
    assert len(leases) == 3 and scene.trainer.sizes().leased == 3
    worker.advance()
    scene.trainer.hand_back(leases[0])  # as the server does where a lease runs out
    worker.renew()
    assert scene.finish() == [leases[1].ticket.key, leases[2].ticket.key]
    assert worker.counts["abandoned"] == 1 and not worker.leases and not worker.attacker.busy


def test_an_attack_that_raises_costs_every_ticket_in_work_one_attempt(scene: Scene) -> None:
    def broken(module: nn.Module, images: tuple[Tensor]) -> None:
        raise RuntimeError("out of memory")

    hook = scene.worker.model.register_forward_pre_hook(broken)
    scene.worker.advance()
    hook.remove()
    lost = scene.trainer.expired(scene.fence)
    assert sorted(each.key.number for each in lost) == [0, 1, 2]
    assert all(each.reason == "failed" and "out of memory" in each.detail for each in lost)
    assert not scene.worker.leases and scene.worker.attacker.room


def test_a_shard_is_sent_beside_the_next_attack_and_its_lease_is_renewed_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, renewed = threading.Event(), list[Lease]()
    commit, renew = scene.worker.transport.commit, scene.worker.beating.renew

    def slow(lease: Lease, shard: Shard) -> bool:
        assert shard.key != last or go.wait(10)
        return commit(lease, shard)

    def note(lease: Lease) -> bool:
        renewed.append(lease)
        return renew(lease)

    while scene.worker.leases:
        scene.worker.advance()
    last = scene.worker.made[-1][1].key
    monkeypatch.setattr(scene.worker.transport, "commit", slow)
    scene.worker.push_made()
    push = scene.worker.under_way
    assert push is not None and scene.trainer.sizes().leased == 1
    before = scene.worker.counts["shards"]
    scene.worker.settle_push(wait=False)
    monkeypatch.setattr(scene.worker.beating, "renew", note)
    scene.worker.renew()
    assert push[0] in renewed and scene.worker.counts["shards"] == before
    go.set()
    scene.worker.settle_push()
    assert scene.worker.under_way is None and scene.worker.counts["shards"] == before + 1


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_a_shard_that_is_not_taken_costs_its_own_ticket_alone(
    scene: Scene, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = scene.worker.transport.commit
    tried: list[Key] = []

    def faulty(lease: Lease, shard: Shard) -> bool:
        tried.append(shard.key)
        if len(tried) > 1:
            return commit(lease, shard)
        if fault == "refused":
            raise QueueFull("no memory for a shard")
        scene.trainer.hand_back(lease)  # as the server does where a lease runs out
        return commit(lease, shard)

    monkeypatch.setattr(scene.worker.transport, "commit", faulty)
    committed = scene.finish()
    (back,) = scene.trainer.expired(scene.fence)
    assert back.key == tried[0] and sorted([back.key, *committed]) == [Key(0, n, 0) for n in range(3)]
    assert back.reason == ("failed" if fault == "refused" else "handed_back")
    assert scene.worker.counts["abandoned"] == (0 if fault == "refused" else 1)


def test_a_worker_that_is_told_to_stop_hands_all_its_tickets_back(scene: Scene) -> None:
    serving = threading.Thread(target=scene.worker.serve)
    scene.worker.model.register_forward_pre_hook(lambda module, images: scene.worker.stopping.set())
    serving.start()
    serving.join(timeout=10)
    assert not serving.is_alive()
    back = scene.trainer.expired(scene.fence)
    assert sorted((each.key.number, each.reason) for each in back) == [(n, "handed_back") for n in range(3)]


def test_a_worker_that_is_drained_finishes_its_tickets_and_takes_no_more(scene: Scene) -> None:
    scene.issue(4)  # the fourth waits
    scene.trainer.request_stop("w")
    assert scene.worker.serve() == "left"
    committed = scene.finish()
    assert committed == [Key(0, 0, 0), Key(0, 1, 0), Key(0, 2, 0)]
    assert scene.trainer.expired(scene.fence) == [] and scene.worker.counts["abandoned"] == 0
    assert scene.trainer.sizes().tickets >= 1, "others get what it did not take"


def test_a_worker_that_is_drained_hands_back_what_it_cannot_finish_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.engines.ray.worker.LEAVE_WITHIN_S", 0.0)
    scene.worker.model.register_forward_pre_hook(lambda module, images: scene.worker.heed(Stop.DRAIN))
    assert scene.worker.serve() == "left"
    back = scene.trainer.expired(scene.fence)
    assert {each.reason for each in back} == {"handed_back"} and len(back) + len(scene.finish()) == 3
    assert len(back) >= 1


def test_a_worker_shares_the_cores_with_as_many_as_there_are_to_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.config.derived.cores", lambda: 7)  # one of them is the trainer's
    free = scene.worker.config.workers.model_copy(update={"threads": None})
    scene.worker.config = scene.worker.config.model_copy(update={"workers": free})
    for wanted, threads in ((1, 6), (3, 2), (12, 1)):
        scene.worker.wanted = wanted
        scene.worker.share_cores()
        assert torch.get_num_threads() == threads
