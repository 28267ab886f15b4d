"""Settings that cannot work together are refused by name, with the reason and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.commands.combinations import check_combinations
from sparring.config import from_tree
from sparring.errors import UsageError

YOPO: dict[str, Any] = {"engine": "sync", "yopo": {"passes": 2, "inner_steps": 3}, "attack": {"steps": 6}}
ALIGN: dict[str, Any] = {"engine": "sync", "objective": {"name": "grad-align"}, "attack": {"name": "fgsm"}}
FREE: dict[str, Any] = {"engine": "sync", "train": {"replays": 4}, "attack": {"name": "fgsm"}}


@pytest.mark.parametrize(
    ("tree", "named", "why"),
    [
        ({"attack": {"start": "previous"}}, "engine = 'ray'", "timing"),
        ({"engine": "sync", "trainer": {"count": 2}}, "engine = 'sync'", "this engine has one trainer"),
        ({"trainer": {"count": 4}, "train": {"shards_per_step": 2}}, "trainer.count = 4", "too few shards"),
        (
            {"trainer": {"batch_norm": "synchronised"}, "model": {"compile": True}},
            "model.compile",
            "wait for the other",
        ),
        (
            {"trainer": {"batch_norm": "synchronised"}, "objective": {"name": "trades", "passes": "single_pass"}},
            "objective.passes = 'single_pass'",
            "makes a pass less",
        ),
        ({"virtual": {"events": [{"worker": 3}]}}, "worker 3 dies", "workers.count to at least 3"),
        (
            {"virtual": {"events": [{"worker": 1, "what": "joins", "at_s": 2}, {"worker": 1, "at_s": 1}]}},
            "worker 1 dies at 1 s",
            "before it joins",
        ),
        ({"engine": "sync", "evaluation": {"rolling": True}}, "engine = 'sync'", "no workers that could judge"),
        ({"engine": "virtual", "evaluation": {"rolling": True}}, "engine = 'virtual'", "no workers that could judge"),
        (
            {"engine": "ddp", "train": {"shards_per_step": 2}, "evaluation": {"rolling": True}},
            "engine = 'ddp'",
            "no workers that could judge",
        ),
        ({"evaluation": {"rolling": True}}, "data.holdout = 0", "no examples to judge"),
        (
            {"evaluation": {"rolling": True}, "data": {"holdout": 9}, "workers": {"count": 0}},
            "workers.count = 0",
            "nobody would judge",
        ),
        ({"engine": "virtual", "trainer": {"count": 2}}, "train.shards_per_step = 1", "one to every trainer"),
        ({"engine": "sync", "attack": {"start": "previous", "restarts": 2}}, "attack.restarts = 2", "same point"),
        ({"attack": {"start": "last", "restarts": 3}}, "attack.restarts = 3", "same point"),
        ({"attack": {"name": "fgsm", "restarts": 3}}, "attack.restarts = 3", "same point"),
        ({"attack": {"start": "zero", "restarts": 2}}, "attack.restarts = 2", "same point"),
        ({"attack": {"name": "sparring.attacks.fgsm:FGSM", "restarts": 2}}, "attack.restarts = 2", "same point"),
        (
            {"objective": {"name": "mart", "label_smoothing": 0.1}},
            "objective.label_smoothing = 0.1",
            "takes no label_smoothing",
        ),
        ({"attack": {"start": "last"}, "data": {"augment": "crop"}}, "data.augment = 'crop'", "moves the pixels"),
        ({"attack": {"start": "last", "norm": "l2"}}, "attack.norm = 'l2'", "int8"),
        ({"attack": {"norm": "l2"}, "queue": {"wire": "sign"}}, "queue.wire = 'sign'", "outside the ball"),
        ({"model": {"precision": "fp16"}, "objective": {"awp_gamma": 0.01}}, "objective.awp_gamma = 0.01", "bf16"),
        ({**FREE, "model": {"precision": "fp16"}}, "train.replays = 4", "bf16"),
        ({"attack": {"name": "n-fgsm", "start": "zero"}}, "attack.name = 'n-fgsm'", "takes no start"),
        ({**FREE, "engine": "ray"}, "engine = 'ray'", "cannot be made elsewhere"),
        ({**FREE, "engine": "simulated"}, "engine = 'simulated'", "cannot be made elsewhere"),
        ({**FREE, "objective": {"name": "trades"}}, "objective.name = 'trades'", "pass that trains"),
        ({**FREE, "objective": {"awp_gamma": 0.01}}, "objective.awp_gamma = 0.01", "pass that trains"),
        ({**FREE, "allocator": {"name": "bullettrain"}}, "allocator.name = 'bullettrain'", "pass that trains"),
        ({**FREE, "attack": {"name": "pgd"}}, "attack.name = 'pgd'", "pass that trains"),
        ({**FREE, "attack": {"name": "fgsm", "start": "last"}}, "attack.start = 'last'", "pass that trains"),
        ({**FREE, "attack": {"name": "fgsm", "loss": "kl"}}, "attack.loss = 'kl'", "pass that trains"),
        ({**FREE, "attack": {"name": "fgsm", "clamp_start": False}}, "attack.clamp_start = False", "pass that trains"),
        (
            {"attack": {"name": "augmix", "clamp_start": False}, "objective": {"name": "augmix"}},
            "attack.clamp_start = False",
            "takes no clamp_start",
        ),
        ({"attack": {"name": "fgsm"}, "objective": {"name": "trades"}}, "attack.name = 'fgsm'", "gradient is 0"),
        *(
            ({**YOPO, "engine": engine}, f"engine = '{engine}'", "Set engine to 'sync'")
            for engine in ("ray", "ddp", "simulated", "virtual")
        ),
        ({**YOPO, "attack": {"steps": 5}}, "attack.steps = 5", "Set attack.steps to 6"),
        ({**YOPO, "attack": {"name": "fgsm"}}, "attack.steps = 1", "Set attack.steps to 6"),
        ({**YOPO, "attack": {"steps": 6, "restarts": 2}}, "attack.restarts = 2", "one attack"),
        ({**YOPO, "attack": {"steps": 6, "start": "previous"}}, "attack.start = 'previous'", "one attack"),
        ({**YOPO, "attack": {"steps": 6, "start": "last"}}, "attack.start = 'last'", "one attack"),
        ({**YOPO, "attack": {"steps": 6, "loss": "kl"}}, "attack.loss = 'kl'", "Set attack.loss to 'ce'"),
        ({**YOPO, "objective": {"awp_gamma": 0.01}}, "objective.awp_gamma = 0.01", "in the process that trains"),
        ({**YOPO, "allocator": {"name": "bullettrain"}}, "allocator.name = 'bullettrain'", "one attack"),
        ({**YOPO, "staleness": {"finish": 2}}, "staleness.finish = 2", "in the process that trains"),
        ({**YOPO, "guard": {"overfitting": "rollback"}}, "guard.overfitting = 'rollback'", "'stop'"),
        ({**YOPO, "model": {"precision": "fp16"}}, "model.precision = 'fp16'", "'bf16'"),
        ({**YOPO, "model": {"compile": True}}, "model.compile = True", "to False"),
        ({**FREE, "yopo": {"passes": 2, "inner_steps": 3}}, "attack.steps = 1", "YOPO"),
        ({**ALIGN, "model": {"precision": "fp16"}}, "model.precision = 'fp16'", "underflow"),
        ({**ALIGN, "model": {"compile": True}}, "model.compile = True", "differentiated once"),
        ({**ALIGN, "trainer": {"batch_norm": "synchronised"}}, "trainer.batch_norm = 'synchronised'", "the trainers"),
        ({**ALIGN, "train": {"replays": 2}}, "objective.name = 'grad-align'", "Free"),
        (
            {**ALIGN, "objective": {"name": "grad-align", "label_smoothing": 0.1}},
            "objective.label_smoothing = 0.1",
            "takes no label_smoothing",
        ),
        ({**ALIGN, "attack": {"name": "augmix"}}, "objective.name = 'grad-align'", "Set both"),
        ({"attack": {"start": "zero"}, "objective": {"name": "trades"}}, "attack.start = 'zero'", "gradient is 0"),
        ({"attack": {"name": "fgsm-rs"}, "allocator": {"name": "bullettrain"}}, "robust_steps = 2", "N_B = 1"),
        ({"allocator": {"name": "oracle", "boundary_steps": 3, "robust_steps": 4}}, "robust_steps = 4", "N_B = 3"),
    ],
)
def test_what_cannot_work_is_refused(tree: dict[str, Any], named: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refusal:
        check_combinations(from_tree(tree))
    reported = str(refusal.value)
    assert named in reported and ("Set " in reported or "Leave " in reported)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        FREE,
        {**FREE, "attack": {"name": "sparring.attacks.fgsm:FGSM"}},
        {**FREE, "objective": {"name": "sparring.objectives.methods:PGDAT"}},
        {"attack": {"start": "last"}, "allocator": {"name": "bullettrain"}, "objective": {"name": "trades"}},
        {"engine": "simulated", "attack": {"start": "previous", "name": "fgsm"}},
        {"attack": {"name": "fgsm-rs"}, "allocator": {"name": "bullettrain", "robust_steps": 0}},
        {"allocator": {"name": "oracle", "boundary_steps": 0, "robust_steps": 7, "outlier_steps": 7}},
        {"attack": {"name": "fgsm-rs"}, "objective": {"name": "trades"}},
        {"attack": {"name": "fgsm", "start": "uniform"}, "objective": {"name": "trades"}},
        YOPO,
        {**YOPO, "objective": {"name": "trades", "awp_gamma": 0.01}},
        {**YOPO, "attack": {"steps": 6, "norm": "l2", "start": "zero"}, "guard": {"overfitting": "stop"}},
        {**YOPO, "objective": {"name": "grad-align"}},
        *({**ALIGN, "engine": engine} for engine in ("sync", "simulated", "ray", "virtual")),
        {**ALIGN, "attack": {"norm": "l2"}, "allocator": {"name": "bullettrain"}},
        {"queue": {"wire": "sign"}},
        {"attack": {"name": "n-fgsm"}, "data": {"augment": "crop"}},
    ],
)
def test_what_can_work_is_not(tree: dict[str, Any]) -> None:
    check_combinations(from_tree(tree))


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
        (
            {"attack": {"name": "sparring.attacks.augmix:AugMix"}, "objective": {"name": "augmix"}},
            r"allocator\.slots = 16 with attack\.name = 'sparring\.attacks\.augmix:AugMix'",
        ),
    ],
)
def test_slots_are_refused_where_there_can_be_none(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_combinations(from_tree({"allocator": {"slots": 16}, "engine": "sync", **groups}))
