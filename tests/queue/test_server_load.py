"""What a server's processor spends on tickets and payloads."""

from __future__ import annotations

import pytest

from sparring.queue import server_load as module


def test_where_no_server_can_be_started_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["server_load", "1000"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    output, complaint = capsys.readouterr()
    assert (ended.value.code, output) == (1, "") and "no server for the queue" in complaint


def test_it_prints_two_times_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "TICKETS", 20)
    monkeypatch.setattr("sys.argv", ["server_load", "1000"])
    module.main()
    output, complaint = capsys.readouterr()
    assert len([float(number) for number in output.split()]) == 2 and complaint == ""
