"""A run's folder belongs to one run and one process, and whoever reads a file sees the old one or the new one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import SparringError, UsageError
from sparring.runs import (
    PACKAGES,
    Run,
    append,
    create,
    lines_of,
    open_run,
    overwrite,
    require_as_written,
    require_new,
    write_atomically,
)
from tests.support.disk import files_of_at_most

HOLD = """
import sys
from pathlib import Path
from sparring.runs import Run
with Run(Path(sys.argv[1])).owned():
    print("held", flush=True)
    input()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "runs", "mine", "default", 'engine = "sync"\n')


@pytest.fixture
def holder(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the run until its input ends."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_new_run_has_its_configuration_and_what_it_runs_on(run: Run) -> None:
    assert run.config_file.read_text() == 'engine = "sync"\n'
    environment = run.read_json("environment.json") or {}
    assert set(environment["packages"]) == set(PACKAGES) and environment["packages"]["torch"]
    assert environment["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert environment["cores"] >= 1 and environment["processor"]


def test_a_name_that_is_taken_is_refused_and_a_default_name_gets_a_number(run: Run) -> None:
    with pytest.raises(UsageError, match=r"run\.name = 'mine': .* exists, and two runs never share a folder"):
        create(run.path.parent, "mine", "default", "")
    names = [create(run.path.parent, None, "mine", "").path.name for _ in range(2)]
    assert names == ["mine-2", "mine-3"] and run.config_file.read_text() == 'engine = "sync"\n'


def test_a_folder_that_cannot_be_made_is_refused_by_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SparringError, match=r"run\.root = .*file: cannot create .*file/mine \(Not a directory\)"):
        create(tmp_path / "file", "mine", "default", "")


def test_runs_of_the_same_name_have_different_ids(tmp_path: Path) -> None:
    ids = {create(tmp_path / root, "mine", "default", "").id for root in ("one", "other")}
    assert len(ids) == 2 and all(each.startswith("mine-") for each in ids)


def test_only_a_folder_with_a_configuration_is_a_run(run: Run, tmp_path: Path) -> None:
    assert open_run(run.path / ".." / "mine") == run
    with pytest.raises(UsageError, match=r"is not a run folder: it has no config\.toml"):
        open_run(tmp_path)


def test_every_start_and_resume_has_a_greater_fence_than_those_before(run: Run) -> None:
    assert [run.next_fence(), Run(run.path).next_fence(), run.next_fence()] == [1, 2, 3]
    assert run.read_json("fence.json") == 3


def test_a_run_is_held_by_one_process_until_that_ends_however_it_ends(run: Run, holder: subprocess.Popen[str]) -> None:
    assert run.is_alive() and (run.path / "lock").read_text() == str(holder.pid)
    with pytest.raises(UsageError, match="is running already"), run.owned():
        pass
    holder.kill()
    holder.wait()
    assert not run.is_alive()
    with run.owned():
        assert run.is_alive()
    assert not run.is_alive()


def test_a_stop_that_is_asked_for_lasts_until_it_is_taken_back(run: Run) -> None:
    assert not run.stop_requested()
    run.request_stop()
    run.request_stop()
    assert Run(run.path).stop_requested()
    run.clear_stop()
    run.clear_stop()
    assert not run.stop_requested()


def test_a_file_that_is_not_there_reads_as_nothing(run: Run) -> None:
    assert run.read_json("state.json") is None
    run.write_json("state.json", {"step": 3})
    assert run.read_json("state.json") == {"step": 3}


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_with_its_mode_and_nothing_beside_it(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "connection.json"
    for text in ("a longer text than the next", "short"):
        assert write_atomically(path, text, mode=0o600, durable=durable) == path
    assert path.read_text() == "short" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(run: Run) -> None:
    run.write_json("state.json", {"step": 3})
    before = sorted(run.path.iterdir())
    with pytest.raises(UnicodeEncodeError):
        write_atomically(run.path / "state.json", "\ud800")
    assert json.loads((run.path / "state.json").read_text()) == {"step": 3}
    assert sorted(run.path.iterdir()) == before


def test_a_run_that_a_full_disk_does_not_take_is_not_made(tmp_path: Path) -> None:
    with files_of_at_most(40), pytest.raises(SparringError, match=r"environment\.json: File too large\. Free space"):
        create(tmp_path, "mine", "default", "")
    assert not list(tmp_path.iterdir())


def test_lines_and_whole_files_that_a_full_disk_does_not_take_are_named(run: Run) -> None:
    run.write_json("state.json", {"phase": "training"})
    with files_of_at_most(60):
        with pytest.raises(SparringError, match=r"metrics\.jsonl: File too large\. Free space there"):
            append(run.metrics, "x" * 100)
        with pytest.raises(SparringError, match=r"state\.json: File too large\. Free space there"):
            run.write_json("state.json", "x" * 100)
        assert run.read_json("state.json") == {"phase": "training"}
        overwrite(run.path / "state.json", '{"phase": "failed"}')
    assert run.read_json("state.json") == {"phase": "failed"}


def test_a_file_that_is_cut_short_or_cannot_be_read_is_named(run: Run) -> None:
    (run.path / "state.json").write_text('{"phase": "trai')
    with pytest.raises(
        SparringError, match=r"state\.json is cut short or damaged .* Delete it, or put back a copy of it"
    ):
        run.read_json("state.json")
    (run.path / "summary.json").mkdir()
    with pytest.raises(SparringError, match=r"summary\.json: Is a directory\."):
        run.read_json("summary.json")


def test_a_line_that_was_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append(path, '{"step": 1}')
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    append(path, '{"step": 3}')
    append(path, '{"step": 4}')
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}', '{"step": 4}']
    assert lines_of(path) == [{"step": 1}, {"step": 3}, {"step": 4}] and lines_of(tmp_path / "none") == []


def test_a_fence_is_above_the_servers_too(run: Run) -> None:
    assert [run.fence, run.next_fence(above=7), run.next_fence(above=3), run.fence] == [0, 8, 9, 9]


def test_a_runs_folder_is_for_its_owner_alone(run: Run) -> None:
    assert run.path.stat().st_mode & 0o777 == 0o700


def test_a_damaged_record_of_fences_is_not_begun_anew(run: Run) -> None:
    append(run.history, '{"step": 1, "fence": 41}')
    (run.path / "fence.json").write_text("[1")
    with pytest.raises(SparringError, match=r"fence\.json is damaged .* at least 1041"):
        run.next_fence()


def test_processes_that_ask_at_once_get_different_fences(run: Run) -> None:
    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(lambda _: Run(run.path).next_fence(), range(40)))
    assert sorted(fences) == list(range(1, 41))


def test_a_run_is_finished_when_it_says_so_and_has_weights(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert not run.finished
    run.write_json("state.json", {"phase": "finished"})
    assert not run.finished
    run.checkpoints.mkdir()
    assert run.finished
    run.write_json("state.json", {"phase": "interrupted"})
    assert not run.finished


@pytest.mark.parametrize("content", ["5", "[1]", '"x"'])
def test_a_file_that_holds_no_object_is_damaged(tmp_path: Path, content: str) -> None:
    run = Run(tmp_path)
    assert run.read_object("data.json") == {}
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(SparringError, match=r"data\.json is damaged \(it holds no object but"):
        run.read_object("data.json")


def test_phases_after_the_step_from_which_training_goes_on_begin_there(run: Run) -> None:
    run.begin_phases_by(40)
    assert run.read_json("phases.json") is None
    run.write_json("phases.json", [{"from_step": 30}, {"from_step": 46}, {"from_step": 60, "changes": {}}])
    run.begin_phases_by(40)
    after = [{"from_step": 30}, {"from_step": 40}, {"from_step": 40, "changes": {}}]
    assert run.read_json("phases.json") == after


@pytest.mark.parametrize("content", ["{", "[1]", '[{"changes": {}}]', '[{"from_step": "x"}]', "{}", "3"])
def test_damaged_phases_stop_no_training(run: Run, content: str) -> None:
    (run.path / "phases.json").write_text(content)
    run.begin_phases_by(40)
    assert (run.path / "phases.json").read_text() == content


def test_a_text_that_the_run_has_not_written_is_refused(tmp_path: Path) -> None:
    """Any text it ever wrote is its own: a reader may be a moment late. Without digests nothing is known."""
    run = create(tmp_path, "mine", "mine", 'engine = "sync"\n')
    run.write_config('engine = "ray"\n')
    noted = [hashlib.sha256(f'engine = "{name}"\n'.encode()).hexdigest() for name in ("sync", "ray")]
    assert run.config_digests.read_text().split() == noted and run.config_file.read_text() == 'engine = "ray"\n'
    run.write_config('engine = "ray"\n')
    assert run.config_digests.read_text().split() == noted
    for text in ("", 'engine = "ra', 'engine = "ddp"\n'):
        with pytest.raises(UsageError, match=r"config\.toml is not as the run wrote it.*delete .*config\.sha256"):
            require_as_written(run.config_file, text)
        require_as_written(run.path / "recipe.toml", text)
    for name in ("sync", "ray"):
        require_as_written(run.config_file, f'engine = "{name}"\n')
    run.config_digests.unlink()
    require_as_written(run.config_file, "")


def test_a_path_that_is_not_utf_8_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd-\xff"))
    with pytest.raises(UsageError, match=r"odd-.udcff/run': not UTF-8"):
        create(odd, "run", "run", "")
    with pytest.raises(UsageError, match="not UTF-8"):
        require_new(odd, "run")
    assert not odd.exists()
    odd.mkdir()
    (odd / "config.toml").touch()
    with pytest.raises(UsageError, match="not UTF-8"):
        open_run(odd)


def test_what_interrupts_the_making_of_a_folder_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparring.runs.environment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path, "run", "run", "")
    assert list(tmp_path.iterdir()) == []
