"""The drawing of a family's members: read back from the page and the SVG file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from netc.compiler.diagnostic import NetcError
from netc.compiler.report.curve import Point, Series, curve, drawing, series

ANCHORS = (Point(100e6, 0.5, "small", "small"), Point(300e6, 1.0, "large", "large"))
BEFORE = Series("before", (*ANCHORS, Point(200e6, 0.0, "small ..0 → large 1..")))
AFTER = Series("after", (*ANCHORS, Point(200e6, 0.75, "small ..0 → large 1.."), Point(250e6, 0.6, "a <b> & c")))
SVG = "{http://www.w3.org/2000/svg}"


def marks(text: str) -> list[tuple[str, float, float, str]]:
    """What is drawn of points, with the middle of each."""
    found: list[tuple[str, float, float, str]] = []
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        for e in group:
            title = e.findtext(f"{SVG}title") or ""
            if e.tag == f"{SVG}circle" and title:
                found.append(("circle", float(e.attrib["cx"]), float(e.attrib["cy"]), title))
            elif e.tag == f"{SVG}rect":
                found.append(("rect", float(e.attrib["x"]) + 5, float(e.attrib["y"]) + 5, title))
    return found


def test_every_member_stands_where_its_numbers_say() -> None:
    drawn = marks(drawing([BEFORE, AFTER], "agreement"))
    assert len(drawn) == 7
    by = {title: (kind, x, y) for kind, x, y, title in drawn}
    kind, left, half = by["small: 50.0%, 100M MACs, after"]
    assert kind == "rect"
    _, right, top = by["large: 100.0%, 300M MACs, after"]
    kind, middle, third = by["small ..0 → large 1..: 75.0%, 200M MACs, after"]
    assert kind == "circle"
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert third == pytest.approx((half + top) / 2, abs=0.1)
    bottom = by["small ..0 → large 1..: 0.0%, 200M MACs, before"][2]
    assert bottom - top == pytest.approx(2 * (half - top), abs=0.2)
    assert "a <b> & c: 60.0%, 250M MACs, after" in by


def test_the_line_is_the_best_for_each_cost() -> None:
    (line,) = (
        e.attrib["d"] for e in ElementTree.fromstring(drawing([AFTER])).iter(f"{SVG}path") if e.get("class") == "best"
    )
    assert line.count("H") == 2, "the member of 60 % costs more than one of 75 %"


def test_the_page_stands_alone() -> None:
    page = curve([BEFORE, AFTER], "lite & co", "agreement")
    assert "<title>lite &amp; co · netc report</title>" in page
    assert "<script" not in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    rows = re.findall(r"<tr.*?</tr>", page)
    assert len(rows) == 5
    assert "<td>a &lt;b&gt; &amp; c</td>" in page
    assert [re.findall(r"[\d.]+%", row) for row in rows[1:]] == [
        ["50.0%"] * 2,
        ["0.0%", "75.0%"],
        ["60.0%"],
        ["100.0%"] * 2,
    ]
    assert "prefers-color-scheme: dark" in page
    assert "prefers-color-scheme: dark" in drawing([AFTER])


def test_results_are_read_as_training_writes_them(tmp_path: Path) -> None:
    table = tmp_path / "members.csv"
    table.write_text(
        "member,label,macs,accuracy_before,accuracy_after,anchor\n0,small,100,0.5,0.6,small\n2,s → l,200,0.0,0.75,\n"
    )
    before, after = series(table)
    assert (before.name, after.name) == ("accuracy before", "accuracy after")
    assert after.points == (Point(100, 0.6, "small", "small"), Point(200, 0.75, "s → l"))
    again = tmp_path / "members.json"
    again.write_text(json.dumps([{"macs": 100, "label": "small", "anchor": "small", "agreement": 0.5, "seconds": 3.0}]))
    assert series(again) == [Series("agreement", (Point(100, 0.5, "small", "small"),))]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no column macs"),
        ("label,accuracy\na,1\n", "no column macs"),
        ("macs,accuracy\nmany,0.5\n", "no column macs"),
        ("macs,seconds\n100,7\n", "between 0 and 1"),
    ],
)
def test_other_tables_are_refused(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(NetcError, match=what):
        series(tmp_path / "t.csv")
    (tmp_path / "t.json").write_text("[1, 2]")
    with pytest.raises(NetcError, match="no list of objects"):
        series(tmp_path / "t.json")
    missing: Any = tmp_path / "none.csv"
    with pytest.raises(NetcError, match="cannot be read"):
        series(missing)


def test_one_member_is_drawn_too() -> None:
    assert len(marks(drawing([Series("only", (Point(5e6, 0.5, "a"),))]))) == 1
    assert len(marks(drawing([Series("sure", (Point(5e6, 1.0, "a"), Point(6e6, 1.0, "b")))]))) == 2
    assert len(marks(drawing([Series("none", (Point(5e6, 0.0, "a"), Point(6e6, 0.0, "b")))]))) == 2
