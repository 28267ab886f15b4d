"""The command: one sentence and the right exit code for whatever is wrong, the run's folder last for what works."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.cli import main
from sparring.commands.train import train
from sparring.config import Config, config_of, from_tree, setting_names, to_toml
from sparring.errors import note_run
from sparring.queue.server import EmbeddedServer
from sparring.runs import Run, open_run
from sparring.trainer import checkpoints
from tests.support.commands import CHEAP, TIMEOUT_S, Say, command, newest, phase, run_command
from tests.support.runs import weights_of
from tests.support.waiting import wait_for


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield int(held.getsockname()[1])


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(maxmemory=512 << 20) as running:
        yield running


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def labels_outside(folder: Path) -> str:
    for split, highest in (("train", 3), ("test", 7)):
        labels = np.arange(20) % (highest + 1)
        np.savez(folder / f"{split}.npz", images=np.zeros((20, 8, 8), np.uint8), labels=labels)
    return f"npz:{folder}"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["train", "--attack.epsilom", "0.1"], "--attack.epsilom: no such setting; the nearest is attack.epsilon"),
        (["train", "--worker", "2"], "--worker: no such setting; the nearest is workers"),
        (["train", "--train.epoch", "2"], "--train.epoch: no such setting; the nearest is train.epochs"),
        (["explain", "--atack.steps=2"], "--atack.steps: no such setting; the nearest is attack.steps"),
        (["train", "--epochs"], "--train.epochs true: not a flag, a value is needed"),
        (["train", "--attack.epsilon", "-1"], "attack.epsilon = -1: Input should be greater than 0"),
        (["train", "--workers=-1"], "workers.count = -1: Input should be greater than or equal to 0"),
        (["train", "--engine", "magic"], "engine = 'magic': Input should be 'ray', 'sync', 'ddp', 'simulated' or "),
        (["train", "nowhere.toml"], "recipe nowhere.toml: No such file or directory"),
        (["train", "--data.name", "mnits"], "data.name = 'mnits': no such name; the nearest is mnist"),
        (["train", "--data.name", "mnist"], "data.root is unset"),
        (["train", "--data.holdout", "1437", "--engine", "sync"], "data.holdout = 1437 leaves none of 1437"),
        (["train", "--engine", "sync", "--yopo.passes", "5"], "attack.steps = 8: YOPO makes 5 full passes on a batch"),
        (
            [
                "train",
                "--engine",
                "sync",
                "--yopo.passes",
                "4",
                "--yopo.inner_steps",
                "2",
                "--yopo.first_layer",
                "conv",
            ],
            "yopo.first_layer = 'conv': the network has no such module",
        ),
        (["train", "--model.name", "digits"], "no such name; the nearest is digits-cnn"),
        (["train", "--model.name", "there_is_none:make"], "No module named 'there_is_none'"),
        (["train", "--staleness.max_staleness", "0", "--staleness.publish_every", "3"], "cannot make progress"),
        (["train", "--staleness.depth", "9"], "staleness.depth = 9 exceeds staleness.max_staleness = 4"),
        (["train", "--ray.address", "auto"], "cannot reach an embedded server. Set queue.redis_url"),
        (["status", "nowhere"], "nowhere is not a run folder: it has no config.toml"),
        (["stop", "nowhere"], "is not a run folder"),
        (["top", "nowhere"], "is not a run folder"),
        (["resume", "nowhere"], "is not a run folder"),
        (["resume", "nowhere", "--seeds", "1"], "No such option: --seeds"),
        (["train", "--seeds"], "--seeds : whole numbers are needed, such as --seeds 0 1 2"),
        (["train", "--seeds", "3", "3"], "--seeds 3 3: a seed stands there twice"),
        (["train", "--seeds", "1", "2", "--detach"], "--seeds with --detach"),
        (["train", "--seeds", "1", "2", "--seed", "3"], "--seeds with --seed"),
        (["train", "--name", "a/b"], "run.name = 'a/b'"),
        (["runs", "nowhere"], "nowhere: there is no such folder"),
        (["evaluate", "nowhere"], "is not a run folder"),
        (["status", ".", "--attack.steps", "3"], "--attack.steps: `sparring status` has no such option"),
        (["config", "schema", "--attack.steps", "3"], "--attack.steps: `sparring config schema` has no such option"),
        (["config", "diff", "a.toml", "b.toml"], "recipe a.toml: No such file or directory"),
        (["workers", "nowhere"], "is not a run folder"),
        (["workers", "nowhere", "sett", "2"], "'sett' is not one of 'set', 'add', 'drain'"),
        (["trian"], "No such command 'trian'"),
        (["status"], "Missing argument"),
        (["train", "one.toml", "two.toml"], "unexpected extra argument"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence_and_leaves_nothing(
    say: Say, elsewhere: Path, words: list[str], reported: str
) -> None:
    said = say(*words)
    assert said.code == 2 and reported in said.complaint and len(said.err.splitlines()) == 1
    assert said.out == "" and os.listdir(elsewhere) == []


def test_it_says_its_version_and_how_a_shell_completes_it(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    said = say("--version")
    assert said.code == 0 and said.out.startswith(f"sparring {version('sparring')}, torch {torch.__version__}"[:20])
    monkeypatch.setenv("_SPARRING_COMPLETE", "source_bash")  # as a shell's start file has it
    assert "complete " in say().out


def test_seeds_give_a_run_each_with_mean_and_range_and_are_listed(say: Say, elsewhere: Path) -> None:
    said = say(
        "train", "--name", "Läufe (1)", "--seeds", 4, 5, "--engine", "sync", "--train.max_steps", 3, "--json", *CHEAP
    )
    found = json.loads(said.out)
    assert said.code == 0 and [run["seed"] for run in found["runs"]] == [4, 5]
    assert [config_of(open_run(Path(run["run"]))).train.seed for run in found["runs"]] == [4, 5]
    accuracies = [run["robust_accuracy"] for run in found["runs"]]
    figures = found["figures"]["robust_accuracy"]
    assert figures == {"mean": sum(accuracies) / 2, "min": min(accuracies), "max": max(accuracies)}
    listed = json.loads(say("runs", "--json").out)
    assert [run["run"] for run in listed] == ["Läufe (1)-seed-4", "Läufe (1)-seed-5"]
    assert [run["robust_accuracy"] for run in listed] == accuracies
    assert "pgd-at, pgd (2 steps" in listed[0]["method"] and "Läufe" in say("runs").out


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["--yopo.passes", 2, "--yopo.inner_steps", 1], "pgd-at, pgd (yopo-2-1, linf 0.2)"),
        (["--yopo.passes", 1, "--yopo.inner_steps", 2, "--objective.name", "trades"], "trades, pgd (yopo-1-2, linf"),
        (["--attack.name", "fgsm", "--objective.name", "grad-align"], "grad-align, fgsm (1 step, linf 0.2)"),
    ],
)
def test_methods_of_other_loops_train_and_say_what_they_are(
    say: Say, elsewhere: Path, words: list[object], method: str
) -> None:
    said = say("train", "--engine", "sync", "--train.max_steps", 3, "--json", *CHEAP, *words)
    found = json.loads(said.out)
    assert said.code == 0 and found["steps"] == 3 and method in found["method"]


def test_missing_data_are_told_with_the_folder(say: Say, elsewhere: Path) -> None:
    said = say("train", "--data.name", "mnist", "--data.root", "data", "--data.download", "false")
    assert said.code == 1 and "/data' does not have mnist and data.download is off" in said.complaint
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("engine", ["ray", "sync"])
def test_test_labels_outside_the_classes_are_refused_before_anything_is_trained(
    say: Say, elsewhere: Path, tmp_path: Path, engine: str
) -> None:
    said = say("train", "--engine", engine, "--data.name", labels_outside(tmp_path))
    assert said.code == 2 and "labels from 0 to 7 lie outside the 4 classes 0..3" in said.complaint
    assert os.listdir(elsewhere) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_more_gpus_than_there_are_are_refused(say: Say, elsewhere: Path) -> None:
    said = say("train", "--workers.num_gpus", "1")
    assert said.code == 2 and "workers.num_gpus" in said.complaint and "this machine has 0 GPUs" in said.complaint
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("engine", ["ray", "sync"])
def test_a_run_folder_that_exists_is_never_touched(say: Say, elsewhere: Path, engine: str) -> None:
    mine = elsewhere / "runs" / "mine" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    said = say("train", "--engine", engine, "--name", "mine")
    assert said.code == 2 and "run.name = 'mine'" in said.complaint and "exists" in said.complaint
    assert os.listdir(mine.parent) == ["notes.txt"]


@pytest.mark.parametrize("engine", ["ray", "sync"])
def test_a_metrics_port_in_use_is_told(say: Say, elsewhere: Path, listening: int, engine: str) -> None:
    said = say("train", "--engine", engine, "--metrics.port", listening)
    assert said.code == 1 and f"metrics.port = {listening} cannot be listened on" in said.complaint
    assert os.listdir(elsewhere) == []


def test_a_redis_that_is_down_is_told(say: Say, elsewhere: Path) -> None:
    said = say("train", "--queue.redis_url", "redis://127.0.0.1:1", "--queue.timeout_s", "0.5")
    assert said.code == 1 and "no answer from Redis at 127.0.0.1:1" in said.complaint
    assert "queue.redis_url" in said.complaint and os.listdir(elsewhere) == []


def test_what_is_no_redis_url_is_told(say: Say, elsewhere: Path) -> None:
    said = say("train", "--queue.redis_url", "localhost")
    assert said.code == 2 and "queue.redis_url is not a Redis URL" in said.complaint
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_redis_that_wants_another_password_is_told_and_no_password_is_shown(
    say: Say, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, elsewhere: Path, password: str | None
) -> None:
    if password is not None:
        monkeypatch.setenv("SPARRING_REDIS_PASSWORD", password)
    said = say("train", "--queue.redis_url", server.url)
    assert said.code == 1 and "refuses the password" in said.complaint and "queue.password_env" in said.complaint
    assert server.password not in said.err and os.listdir(elsewhere) == []


@pytest.mark.parametrize(
    ("setting", "value", "reported"),
    [
        ("maxmemory-policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        ("maxmemory", str(1 << 20), "maxmemory = 1048576 bytes"),
    ],
)
def test_a_redis_that_would_lose_shards_is_refused(
    say: Say,
    server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: Path,
    setting: str,
    value: str,
    reported: str,
) -> None:
    monkeypatch.setenv("SPARRING_REDIS_PASSWORD", server.password)
    with server.client() as client:
        client.config_set(setting, value)
    said = say("train", "--queue.redis_url", server.url)
    assert said.code == 1 and reported in said.complaint and os.listdir(elsewhere) == []


def test_resuming_a_finished_run_is_refused(say: Say, finished: Path) -> None:
    before = sorted(path.name for path in finished.rglob("*"))
    said = say("resume", finished)
    assert said.code == 2 and "has finished already; there is nothing to resume" in said.complaint
    assert said.complaint.endswith("give --train.epochs more than 1, and --train.max_steps more than 3.")
    assert sorted(path.name for path in finished.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value", "full"),
    [
        ("seed", "3", "train.seed"),
        ("optimizer.lr", "0.1", "optimizer.lr"),
        ("attack.epsilon", "0.3", "attack.epsilon"),
        ("staleness.max_staleness", "9", "staleness.max_staleness"),
        ("queue.wire", "exact", "queue.wire"),
        ("engine", "ray", "engine"),
    ],
)
def test_a_resume_that_would_alter_the_function_is_refused_by_name(
    say: Say, stopped: Path, name: str, value: str, full: str
) -> None:
    before = (stopped / "config.toml").read_text()
    said = say("resume", stopped, f"--{name}", value)
    assert said.code == 2 and f"{full} cannot change on resume: it alters the trained function" in said.complaint
    assert (stopped / "config.toml").read_text() == before


def test_a_resume_goes_on_and_may_change_how_it_is_watched(say: Say, stopped: Path) -> None:
    said = say("resume", stopped, "--checkpoint.keep", "7", "--json")
    reported = json.loads(said.out)
    assert said.code == 0 and (reported["steps"], reported["phase"], reported["run"]) == (5, "finished", str(stopped))
    assert config_of(open_run(stopped)).checkpoint.keep == 7 and newest(stopped).name == "step-000000005"


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json"])
def test_a_checkpoint_that_is_cut_short_is_told_and_kept(say: Say, stopped: Path, file: str) -> None:
    checkpoint = newest(stopped)
    cut(checkpoint / file)
    before = sorted(path.name for path in (stopped / "checkpoints").rglob("*"))
    said = say("resume", stopped)
    assert said.code == 1 and str(checkpoint) in said.complaint and "Delete it" in said.complaint
    assert sorted(path.name for path in (stopped / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize("words", [["resume"], ["evaluate"]])
def test_a_checkpoint_of_another_model_is_told(say: Say, stopped: Path, words: list[str]) -> None:
    config = (stopped / "config.toml").read_text()
    Run(stopped).write_config(config.replace('name = "digits-cnn"', 'name = "mnist-16-32-100"'))
    said = say(*words, stopped)
    assert said.code == 1 and "is of another model than model.name builds" in said.complaint


def test_a_damaged_configuration_of_a_run_is_told(say: Say, finished: Path) -> None:
    (finished / "config.toml").write_text("[attack\n")
    for verb in ("resume", "evaluate"):
        said = say(verb, finished)
        assert said.code == 2 and "is not TOML" in said.complaint


@pytest.mark.parametrize(
    "words",
    [
        *(["resume"], ["evaluate"], ["verify"], ["curves"], ["margins"], ["corruptions"], ["attack"], ["replay"]),
        *(["export", "--format", "card", "--out", "card.md"], ["config", "diff", "recipe.toml"]),
    ],
    ids=lambda words: words[0],
)
def test_a_configuration_that_the_run_has_not_written_is_refused(say: Say, stopped: Path, words: list[str]) -> None:
    Path("recipe.toml").touch()
    verb, *options = words
    config = (stopped / "config.toml").read_text()
    (stopped / "config.toml").write_text(config[: config.index("[metrics]")])
    said = say(verb, *options, stopped)
    assert said.code == 2 and "config.toml is not as the run wrote it" in said.complaint


def test_config_show_is_the_whole_configuration_as_a_recipe(say: Say, elsewhere: Path) -> None:
    recipe = elsewhere / "recipe.toml"
    recipe.write_text("[attack]\nsteps = 5\nepsilon = 0.3\n")
    said = say("config", "show", recipe, "--attack.steps", "6", "--workers=1")
    assert said.code == 0
    expected = from_tree({"attack": {"steps": 6, "epsilon": 0.3}, "workers": {"count": 1}})
    assert said.out == to_toml(expected)


def test_config_schema_describes_every_setting(say: Say) -> None:
    schema = json.loads(say("config", "schema").out)
    assert set(schema["properties"]) == {name.split(".")[0] for name in setting_names()}


def test_config_diff_compares_recipes_and_runs(say: Say, finished: Path, elsewhere: Path) -> None:
    recipe = elsewhere / "recipe.toml"
    recipe.write_text(to_toml(Config()))
    said = say("config", "diff", recipe, finished)
    assert said.code == 0 and "attack.steps: 8 -> 3\n" in said.out and "engine: ray -> sync\n" in said.out
    reported = json.loads(say("config", "diff", recipe, finished, "--json").out)
    assert reported["attack.steps"] == [8, 3] and "attack.epsilon" not in reported
    same = say("config", "diff", finished, finished)
    assert (same.code, same.out) == (0, "") and "no setting differs" in same.err


def test_status_of_a_finished_run(say: Say, finished: Path) -> None:
    said = say("status", finished, "--json")
    reported = json.loads(said.out)
    assert said.code == 0 and (reported["phase"], reported["alive"], reported["step"]) == ("finished", False, 3)
    assert reported["run"] == str(finished) and reported["workers"] == {}
    line = say("status", finished).out
    assert line.startswith("not running: finished | ") and "step 3/3" in line


def test_status_of_a_run_that_died(say: Say, finished: Path) -> None:
    state = json.loads((finished / "state.json").read_text())
    (finished / "state.json").write_text(json.dumps({**state, "phase": "training"}))
    assert json.loads(say("status", finished, "--json").out)["phase"] == "died"


def test_stopping_what_does_not_run_is_told(say: Say, finished: Path) -> None:
    said = say("stop", finished)
    assert said.code == 2 and "is not running; nothing to stop" in said.complaint
    assert not (finished / "stop").exists()


def test_a_run_that_another_process_holds_cannot_be_resumed(say: Say, stopped: Path) -> None:
    with open_run(stopped).owned():
        said = say("resume", stopped)
    assert said.code == 2 and "is still running" in said.complaint


def test_train_prints_the_run_last_and_its_summary_before(say: Say, elsewhere: Path) -> None:
    said = say("train", "--engine", "sync", "--name", "mine", "--train.max_steps", "2", *CHEAP)
    run = elsewhere / "runs" / "mine"
    assert said.code == 0 and said.out.splitlines()[-1] == f"run: {run}"
    assert "mine: finished" in said.out and "robust accuracy" in said.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["samples"] == 50 and phase(run) == "finished"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["cores"]


def test_train_with_json_prints_nothing_else(say: Say, elsewhere: Path) -> None:
    said = say("train", "--engine", "sync", "--name", "mine", "--train.max_steps", "1", "--json", *CHEAP)
    reported = json.loads(said.out)
    assert (reported["run"], reported["phase"], reported["steps"]) == (str(elsewhere / "runs" / "mine"), "finished", 1)


def test_a_recipe_and_settings_may_come_in_any_order(say: Say, elsewhere: Path) -> None:
    (elsewhere / "recipe.toml").write_text('engine = "sync"\n[train]\nmax_steps = 9\n')
    said = say("train", "--train.max_steps=1", *CHEAP, "--name", "mine", "recipe.toml")
    assert said.code == 0
    assert json.loads((elsewhere / "runs" / "mine" / "summary.json").read_text())["steps"] == 1


def test_runs_without_a_name_never_share_a_folder(say: Say, elsewhere: Path) -> None:
    for _ in range(2):
        assert say("train", "--engine", "sync", "--train.max_steps", "1", *CHEAP).code == 0
    assert len(os.listdir(elsewhere / "runs")) == 2


def test_the_simulated_engine_has_exactly_the_staleness_asked_for(say: Say, elsewhere: Path) -> None:
    words = ["--engine", "simulated", "--staleness", "3", "--train.max_steps", "8", "--train.evaluate_samples", "8"]
    said = say("train", *words, "--name", "mine", "--json", *CHEAP)
    reported = json.loads(said.out)
    assert said.code == 0 and reported["engine"] == "simulated" and reported["staleness_max"] == 3
    state = json.loads((elsewhere / "runs" / "mine" / "state.json").read_text())
    assert state["staleness"] == {"0": 1, "1": 1, "2": 1, "3": 5}


def test_a_model_of_ones_own_is_found_in_the_folder_that_one_starts_in(
    say: Say, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "model_from_here.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
    )
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    words = ["--engine", "sync", "--model.name", "model_from_here:make", "--train.max_steps", "1"]
    assert say("train", *words, *CHEAP).code == 0


def test_a_result_that_cannot_be_printed_is_told_in_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("config", "show"), stdout=full, stderr=subprocess.PIPE, text=True)
    expected = "sparring: standard output: No space left on device. Free space there, or use a folder on another disk."
    assert (done.returncode, done.stderr.splitlines()) == (1, [expected])


def test_a_current_folder_that_is_gone_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("sys.argv", ["sparring", "config", "show"])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("sparring: reading or writing: No such file or directory. Check that it is there")


def test_with_debug_the_traceback_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sparring", "--debug", "train", "--data.name", "mnist"])
    with pytest.raises(Exception, match=r"data\.root is unset"):
        main()


def test_an_interrupt_is_said_with_the_run_that_it_ended(
    say: Say, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    def interrupted(folder: Path) -> None:
        interrupt = KeyboardInterrupt()
        note_run(interrupt, folder / "mine")
        raise interrupt

    monkeypatch.setattr("sparring.commands.listing.list_runs", interrupted)
    said = say("runs", elsewhere)
    assert (said.code, said.out) == (130, f"run: {elsewhere / 'mine'}\n")
    assert said.err.endswith("sparring: interrupted\n") and "`sparring resume" in said.err


# Where signals, the background and standard streams matter: processes of their own.


def test_ctrl_c_leaves_a_checkpoint_that_resume_goes_on_from_to_the_same_weights(elsewhere: Path) -> None:
    steps = ["--engine", "sync", "--train.max_steps", "150", "--epochs", "20", "--trainer.threads", "1", *CHEAP]
    run = elsewhere / "runs" / "mine"
    process = subprocess.Popen(
        command("train", "--name", "mine", *steps), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for("training", lambda: phase(run) == "training" or process.poll() is not None, TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err and out.splitlines()[-1] == f"run: {run}"
    assert phase(run) == "interrupted"
    reached = checkpoints.load_state(newest(run)).step
    assert 0 < reached < 150 and newest(run).name == f"step-{reached:09d}"

    resumed = run_command("resume", run)
    assert resumed.code == 0 and resumed.out.splitlines()[-1] == f"run: {run}" and phase(run) == "finished"
    whole = train(
        Config.model_validate({**config_of(open_run(run)).model_dump(), "run": {"root": elsewhere / "whole"}})
    )
    assert weights_of(whole) == (newest(run) / "model.safetensors").read_bytes()


def test_a_detached_run_goes_on_by_itself_until_it_is_stopped(elsewhere: Path) -> None:
    run = elsewhere / "runs" / "mine"
    started = run_command("train", "--detach", "--engine", "sync", "--name", "mine", "--epochs", "5000", *CHEAP)
    try:
        assert (started.code, started.out) == (0, f"run: {run}\n")
        reported = json.loads(run_command("status", run, "--json").out)
        assert reported["alive"] and reported["phase"] == "training" and reported["step"] > 0
        again = run_command("resume", run)
        assert again.code == 2 and "is still running" in again.complaint
    finally:
        stop = run_command("stop", run)
    assert (stop.code, stop.out) == (0, f"stopped: {run}\n")
    reported = json.loads(run_command("status", run, "--json").out)
    assert (reported["alive"], reported["phase"]) == (False, "stopped")
    assert checkpoints.load_state(newest(run)).step >= reported["step"] > 0


def test_a_detached_run_that_cannot_start_says_so_and_leaves_nothing(elsewhere: Path, listening: int) -> None:
    said = run_command("train", "--detach", "--engine", "sync", "--name", "mine", "--metrics.port", listening)
    assert said.code == 1 and f"the run did not start: metrics.port = {listening} cannot be" in said.complaint
    assert not (elsewhere / "runs" / "mine").exists()


def test_nothing_but_data_goes_to_standard_output(elsewhere: Path) -> None:
    said = run_command("train", "--engine", "sync", "--train.max_steps", "2", "--json", *CHEAP)
    assert said.code == 0 and json.loads(said.out)["steps"] == 2
    assert "step 2/2" in said.err


@pytest.mark.parametrize("words", [["train", "--data.root", "odd-\udcff"], ["report", "run", "-o", "odd-\udcff.html"]])
def test_an_argument_that_is_not_utf_8_is_refused(say: Say, words: list[str]) -> None:
    said = say(*words)
    assert said.code == 2 and "odd-" in said.complaint and "not UTF-8" in said.complaint


def test_a_lack_of_memory_is_no_bug_of_ours(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of 8 PiB: no machine has them."""
    monkeypatch.setattr("sparring.commands.listing.list_runs", lambda folder: torch.empty(2**50, dtype=torch.float64))
    said = say("runs", ".")
    assert said.code == 1 and said.complaint.startswith("out of memory (")
    assert "Lower train.batch_size or evaluation.batch_size" in said.complaint
