"""The runs of a folder: what each is, and its figures where there are any."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from sparring.commands.listing import list_runs, rows_of
from sparring.config import from_tree, new_run
from sparring.errors import UsageError


def test_a_run_without_figures_is_listed_and_what_is_no_run_is_not(tmp_path: Path) -> None:
    run = new_run(from_tree({"run": {"root": str(tmp_path), "name": "mine"}}))
    run.write_json("state.json", {"phase": "training", "workers": {}, "step": 3, "total_steps": 7, "method": "m"})
    (tmp_path / "notes").mkdir()
    (listed,) = list_runs(tmp_path)
    assert (listed["run"], listed["phase"], listed["step"], listed["robust_accuracy"]) == ("mine", "died", 3, None)
    (row,) = rows_of([listed])
    assert (row["steps"], row["clean"], row["robust"], row["attack"]) == ("3/7", "–", "–", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("5", "it holds no object but int"),
        ('{"robust_interval": 7}', "robust_interval: "),
        ('{"robust_accuracy": "x"}', "robust_accuracy: "),
        ('{"samples"', "is cut short or damaged"),
    ],
)
def test_a_damaged_run_says_so_and_hides_no_other(content: str, said: str, tmp_path: Path) -> None:
    for name in ("damaged", "whole"):
        run = new_run(from_tree({"run": {"root": str(tmp_path), "name": name}}))
        run.write_json("summary.json", {"robust_accuracy": 0.5, "robust_interval": [0.4, 0.6], "samples": 100})
    (tmp_path / "damaged" / "summary.json").write_text(content)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.toml").write_text("[tool]\n")
    damaged, whole = list_runs(tmp_path)
    assert (damaged["run"], damaged["phase"], damaged["robust_accuracy"]) == ("damaged", "damaged", None)
    assert f"{tmp_path / 'damaged' / 'summary.json'}" in damaged["error"] and said in damaged["error"]
    assert (whole["robust_accuracy"], whole["samples"], whole["error"]) == (0.5, 100, None)
    assert [row["robust"] for row in rows_of([damaged, whole])] == ["–", "50.0 % (40.0 to 60.0)"]


def test_the_number_of_warnings_stands_beside_the_figures(tmp_path: Path) -> None:
    for name, warnings in (("doubtful", ["weak", "dark"]), ("plain", list[str]())):
        run = new_run(from_tree({"run": {"root": str(tmp_path), "name": name}}))
        run.write_json("summary.json", {"robust_accuracy": 0.5, "warnings": warnings})
    found = {each["run"]: each for each in list_runs(tmp_path)}
    assert found["doubtful"]["warnings"] == ["weak", "dark"]
    assert [row["warnings"] for row in rows_of([found["doubtful"], found["plain"]])] == [2, None]


def test_a_folder_that_may_not_be_read_hides_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        os.chmod(root, 0o755)
        new_run(from_tree({"run": {"root": root, "name": "mine"}})).path.chmod(0o755)
        new_run(from_tree({"run": {"root": root, "name": "foreign"}})).path.chmod(0)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            assert [listed["run"] for listed in list_runs(Path(root))] == ["mine"]
        finally:
            os.seteuid(user)
    assert "foreign may not be read by this user" in caplog.text


def test_shares_are_shown_with_their_interval() -> None:
    listed = {"run": "a", "phase": "finished", "method": "m", "step": 1, "total_steps": 1, "clean_accuracy": 0.5}
    found = {"robust_accuracy": 0.25, "robust_interval": [0.125, 0.375], "attack": "PGD", "samples": 8}
    assert rows_of([{**listed, **found}])[0]["robust"] == "25.0 % (12.5 to 37.5)"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: there is no such folder"):
        list_runs(tmp_path / "nowhere")
