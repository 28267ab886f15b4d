"""Charts are drawn without a network, and their text is escaped."""

from __future__ import annotations

import sys

import pytest

from sparring.report import drawing

pytest.importorskip("vl_convert")
HOSTILE = "<script>alert(1)</script>"


def test_text_in_a_static_chart_is_escaped() -> None:
    spec = {
        "data": {"values": [{"a": HOSTILE, "b": 1}]},
        "mark": "bar",
        "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}},
    }
    drawn = drawing.svg(spec, "one")
    assert drawn.startswith("<svg") and "<script" not in drawn and "&lt;script" in drawn
    assert 'id="clip' not in drawn and "url(#clip" not in drawn


def test_it_says_whether_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawing.installed()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert not drawing.installed()
