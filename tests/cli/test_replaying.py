"""`sparring replay`: what it prints and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from sparring.commands.train import train
from tests.support.commands import Say
from tests.support.runs import small
from tests.support.tampered import put_weights


def test_it_says_where_weights_are_the_same_and_ends_with_1_where_they_are_not(tmp_path: Path, say: Say) -> None:
    run = train(small(tmp_path, engine="sync", checkpoint={"every_steps": 6}), progress=False).run
    said = say("replay", str(run.path))
    assert (said.code, said.out.splitlines()) == (0, ["step 6: the same bits", "step 12: the same bits"])
    said = say("replay", str(run.path), "--from", "9", "--until", "11", "--json")
    found = json.loads(said.out)
    assert said.code == 0 and [line["step"] for line in found["steps"]] == [10, 11] and found["began"] == 6
    checkpoint = run.checkpoints / "step-000000012"
    weights = load_file(checkpoint / "model.safetensors")
    put_weights(checkpoint, {name: tensor + 1 for name, tensor in weights.items()})
    said = say("replay", str(run.path), "--from", "6")
    assert said.code == 1 and said.out.splitlines()[-1] == "step 12: weights differ by up to 1"
    assert "Steps 7 to 12" in said.out
