"""Studies are done, listed and drawn from their records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.errors import UsageError
from sparring.lab.laboratory import Lab, chosen, do, draw_pages, found_in, require_data
from sparring.lab.studies import STUDIES
from sparring.lab.work import Place
from sparring.runs import locked
from tests.support.studies import STUDY


@pytest.fixture(autouse=True)
def digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(STUDIES, STUDY.name, STUDY)
    yield


def lab(tmp_path: Path, *seeds: int) -> Lab:
    return Lab("quick", seeds or (0,), tmp_path / "results", Place(None, tmp_path / "runs"))


def test_a_study_is_done_drawn_and_put_into_its_page(tmp_path: Path) -> None:
    here, told = lab(tmp_path), list[str]()
    ends = do(here, [STUDY], told.append, at_once=2)
    assert ends["digits"].made == 3 and not ends["digits"].failed and told[0].startswith("3 points left")
    folder = here.results / "digits" / "quick"
    assert {path.name for path in folder.iterdir()} == {"points.jsonl", "log.txt", "table.md", "rates.svg", "rates.png"}
    assert "3 of 3 points" in (folder / "table.md").read_text()
    state = here.state_of(STUDY)
    assert (state["points"], state["done"]) == (3, 3) and state["claims"][0]["verdict"] in ("agrees", "differs")
    assert lab(tmp_path, 0, 1).state_of(STUDY)["points"] == 5
    found, wanted = found_in(here.results, STUDY, "quick")
    assert (len(found), wanted) == (3, 3)

    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("<!-- lab: digits quick -->\n<!-- end of digits -->\n")
    assert draw_pages(here.results, page.parent) == [f"{page}: digits"] and draw_pages(here.results, page.parent) == []
    assert (page.parent / "pictures" / "digits-quick-rates.svg").exists() and "3 of 3 points" in page.read_text()


def test_two_labs_do_not_share_runs(tmp_path: Path) -> None:
    here = lab(tmp_path)
    with locked(here.place.runs / "lab.lock", "mine"), pytest.raises(UsageError, match="in use by another"):
        do(here, [STUDY], lambda line: None)
    assert not here.results.exists()


def test_a_ray_cluster_does_the_points(tmp_path: Path) -> None:
    here = lab(tmp_path)
    ends = do(here, [STUDY], lambda line: None, address="local")
    assert ends["digits"].made == 3 and not ends["digits"].failed and here.state_of(STUDY)["done"] == 3


def test_names_and_data_are_refused_before_anything_is_begun(tmp_path: Path) -> None:
    assert len(chosen(["all"])) == len(STUDIES) and chosen(["digits"]) == [STUDY]
    with pytest.raises(UsageError, match=r"no such study\. There are: attacker-power"):
        chosen(["nothing"])
    place = Place(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="staleness needs mnist"):
        require_data(place, [STUDIES["staleness"]], "quick")
    with pytest.raises(UsageError, match="imagenet-phases needs folder:cifar10: "):
        require_data(place, [STUDIES["imagenet-phases"]], "quick")
    require_data(Place(None, tmp_path), [STUDY], "quick")
    (tmp_path / "page.md").write_text("<!-- lab: nothing quick -->\n<!-- end of nothing -->\n")
    with pytest.raises(UsageError, match="no such study"):
        draw_pages(tmp_path / "results", tmp_path)
