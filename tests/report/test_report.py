"""The page of a selection, read without a browser: what it says, how it is built, what harm it lets through."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.errors import DependencyMissingError
from gradsift.report import render
from gradsift.report.svg import Labels

from .conftest import EVIL

VOID = {"meta", "link", "br", "img", "input", "hr", "base"}


class Page(HTMLParser):
    """The elements of a page with their attributes and texts, and a list of what does not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.broken: list[str] = []
        self.text = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.elements[self.open[-1]][0] != tag:
            self.broken.append(tag)
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def all(self, *tags: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [(tag, attrs, "".join(text)) for tag, attrs, text in self.elements if tag in tags]


@pytest.fixture(scope="session")
def demo_page(demo_report: Path) -> Page:
    return Page(demo_report.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def evil_page(make_evil_report: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(make_evil_report(tmp_path_factory.mktemp("evil") / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("which", ["demo_page", "evil_page"])
class TestEveryPage:
    @pytest.fixture
    def page(self, which: str, request: pytest.FixtureRequest) -> Page:
        found = request.getfixturevalue(which)
        assert isinstance(found, Page)
        return found

    def test_nests(self, page: Page) -> None:
        assert (page.broken, page.open) == ([], [])

    def test_holds_nothing_that_acts_or_loads(self, page: Page) -> None:
        assert page.all("script", "img", "iframe", "object", "embed", "form", "input", "base", "video", "image") == []
        for tag, attrs, _ in page.elements:
            assert not [name for name in attrs if name.startswith("on")], tag
            for name in ("src", "href", "xlink:href", "action", "srcset"):
                value = attrs.get(name)
                assert value is None or value.startswith("#") or (tag, value) == ("link", "data:,")
            assert re.findall(r"url\((?!#)|@import", attrs.get("style") or "") == []
        (style,) = page.all("style")
        assert re.findall(r"url\(|@import", style[2]) == []

    def test_forbids_the_network(self, page: Page) -> None:
        policies = [a["content"] for _, a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policies == [
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
        ]

    def test_has_no_character_that_cannot_be_seen(self, page: Page) -> None:
        assert (
            re.findall(
                "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe]", page.text
            )
            == []
        )

    def test_has_headings_in_order_and_landmarks(self, page: Page) -> None:
        levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert [len(page.all(tag)) for tag in ("main", "nav", "footer")] == [1, 1, 1]
        assert page.all("html")[0][1]["lang"] == "en"

    def test_has_ids_once_and_references_that_lead_somewhere(self, page: Page) -> None:
        ids = [a["id"] for _, a, _ in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        wanted = {v.removeprefix("#") for _, a, _ in page.elements if (v := a.get("href") or "").startswith("#")}
        wanted |= set(" ".join(a.get("aria-labelledby") or "" for _, a, _ in page.elements).split())
        wanted |= {m for _, a, _ in page.elements for v in a.values() for m in re.findall(r"url\(#([^)]*)\)", v or "")}
        assert wanted - set(ids) == set()

    def test_has_a_name_a_description_and_a_table_for_each_figure(self, page: Page) -> None:
        drawings = page.all("svg")
        assert len(drawings) == len(page.all("figure")) == 6
        by_id = {a["id"]: "".join(text) for _, a, text in page.elements if "id" in a}
        for _, attrs, _ in drawings:
            assert attrs["role"] == "img"
            title, description = (attrs["aria-labelledby"] or "").split()
            assert by_id[title]
            assert len(by_id[description]) > 20
        assert len(page.all("summary")) == len(drawings)
        assert all("<table>" in part for part in page.text.split("<details>")[1:])


def test_the_demo_s_page_says_what_was_selected(demo_page: Page) -> None:
    (title,) = (text for _, _, text in page_heading(demo_page, "h1"))
    assert title == "24 of 384 samples for commands, made_up_labels"
    assert [t for _, _, t in page_heading(demo_page, "h3")][:6] == [
        "Source",
        "Scores by subtask",
        "Influence",
        "Length",
        "Influence and length",
        "Implied recall",
    ]
    groups = [t for _, _, t in page_heading(demo_page, "h3")][6:10]
    assert groups == ["Best of the selection", "Last of the selection", "Middle of the pool", "Bottom of the pool"]
    assert len(demo_page.all("article")) == 12
    best = demo_page.all("article")[0][2]
    assert "selected 1 of 24" in best
    assert "closest target example" in best
    assert "robot" in best.lower() or "label" in best.lower() or "classify" in best.lower()


def page_heading(page: Page, tag: str) -> list[tuple[str, dict[str, str | None], str]]:
    return page.all(tag)


def test_each_sample_stands_beside_the_target_example_it_is_closest_to(demo_report: Path, demo_page: Page) -> None:
    for _, _, text in demo_page.all("article")[:6]:  # all of the selection
        skill = re.findall(r"source\s+(commands|made_up_labels)", text)
        assert len(skill) == 1
        number = int(re.findall(r"closest target example\s*(\d+)\s*similarity", text)[0])
        assert ("commands", "made_up_labels")[number // 8] == skill[0]


def test_hostile_words_stand_as_text(evil_page: Page) -> None:
    body = "".join(text for _, _, text in evil_page.all("article"))
    for word in (
        EVIL[0],
        EVIL[1],
        EVIL[3],
        EVIL[4],
        EVIL[7],
        EVIL[9],
        "⟨U+0000⟩⟨U+0007⟩⟨U+001B⟩[31mred⟨U+007F⟩⟨U+009B⟩⟨U+D800⟩⟨U+FFFE⟩",
        "⟨U+202E⟩gnp.exe",
    ):
        assert word in body
    assert "49 {% raw %}" not in body
    assert f"… [{1_000_000 - 1500:,} more characters]" in body
    assert len(evil_page.text) < 2_000_000
    assert evil_page.all("title")[0][2].startswith("Selection </title></style>")


def test_hostile_words_stand_as_text_in_figures(evil_page: Page) -> None:
    words = [text for _, _, text in evil_page.all("text")]
    for start in (*EVIL[:2], "$\\frac{$ $x^2$ {{ 7 * 7 }}", "⟨U+0000⟩⟨U+0007⟩⟨U+001B⟩[31mred"):
        assert any(word.startswith(start) for word in words), start
    assert not any("@@" in word for word in words)
    assert max(map(len, words)) <= 44


def test_labels_are_cut_and_made_visible() -> None:
    labels = Labels()
    assert labels.words[labels.token("a\nb\u202e", 20)] == "a b⟨U+202E⟩"
    assert labels.words[labels.token("x" * 50, 10)] == "x" * 9 + "…"


def test_the_same_selection_gives_the_same_page(gaussian_result: gs.selection.Selection, tmp_path: Path) -> None:
    for name in ("a", "b"):
        gaussian_result.report(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def gaussian_result() -> gs.selection.Selection:
    rng = np.random.default_rng(0)
    return gs.select([rng.normal(size=(50, 256))], [rng.normal(size=(2, 256))], count=5)


def odd_selection(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 256)).astype(np.float32)
    given: dict[str, Any] = {"candidates": [rows], "targets": [rng.normal(size=(3, 256))], "count": 10}
    if kind == "one row":
        given |= {"candidates": [rows[:1]], "count": 1}
    elif kind == "equal rows":
        given |= {"candidates": [np.repeat(rows[:1], 50, axis=0)]}
    elif kind == "the whole pool":
        given |= {"count": 300}
    elif kind == "every target a column":
        given |= {"reduce": "max", "subtasks": ["a", "b", "a"]}
    elif kind == "mean":
        given |= {"reduce": "mean", "subtasks": ["a", "b", "a"]}
    elif kind == "sixty subtasks":
        given |= {"targets": [rng.normal(size=(60, 256))], "subtasks": [f"subtask {i}" for i in range(60)]}
    elif kind == "excluded rows":
        rows[::7] = 0
        rows[1, 3] = np.inf
    elif kind == "lengths of one token":
        ones = np.ones(300)
        given |= {"candidates": [gs.Sketches(rows, ones, ones, ones.astype(np.float32), ones.astype(np.int64))]}
    elif kind == "five checkpoints":
        given |= {"candidates": [rows] * 5, "targets": given["targets"] * 5}
    elif kind == "random":
        given |= {"selector": "random"}
    return given


KINDS = [
    "plain", "one row", "equal rows", "the whole pool", "every target a column", "mean", "sixty subtasks",
    "excluded rows", "lengths of one token", "five checkpoints", "random",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_selection_has_its_page(kind: str, tmp_path: Path) -> None:
    result = gs.select(**odd_selection(kind))
    result.report(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (page.broken, page.open) == ([], [])
    assert page_heading(page, "h1")[0][2].startswith(f"{len(result)} of ")
    assert len(page.all("svg")) == (5 if kind == "lengths of one token" else 3)
    assert "Its text was not at hand" in page.text
    numbers = [v for _, a, _ in page.elements for k, v in a.items() if k in ("d", "x", "y", "transform", "points")]
    assert not any("nan" in (v or "") or "inf" in (v or "") for v in numbers)


def test_a_thousand_sources_are_drawn_as_a_few_and_listed(tmp_path: Path) -> None:
    result = gs.select(**odd_selection("plain")).with_sources([f"source {i}" for i in range(300)])
    result.report(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sum(text.startswith("source ") for _, _, text in page.all("text")) == 8
    assert sum(text.startswith("source ") for _, _, text in page.all("th")) >= 300


def test_warnings_stand_on_top(tmp_path: Path) -> None:
    result = gs.select(**odd_selection("excluded rows"))
    result.report(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    listed = [text for _, _, text in page.all("li") if text.startswith("Warning.")]
    assert len(listed) == len(result.diagnostics["warnings"]) > 0
    assert "could not be scored" in " ".join(listed)


def test_shares_are_plain_numbers(tmp_path: Path) -> None:
    for kind, said in (("the whole pool", "100% of the pool"), ("plain", "3.3% of the pool")):
        gs.select(**odd_selection(kind)).report(tmp_path / "report.html")
        assert said in " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("dl")[0][2].split())


def test_what_stores_say_of_themselves_is_data_too(gaussian_result: gs.selection.Selection) -> None:
    record = gaussian_result.to_dict()
    evil = "<script>\x1b\u202e"
    record["candidates"][0] |= {"store": evil, "data": {"digest": evil}, "checkpoint": {"name": evil}}
    record["settings"]["options"] = {evil: evil}
    page = Page(render(record, [], name="x"))
    assert page.all("script") == []
    assert "\x1b" not in page.text
    assert page.text.count("&lt;script&gt;⟨U+001B⟩⟨U+202E⟩") >= 5


def test_texts_are_those_of_messages_or_of_the_fields_there_are(tmp_path: Path) -> None:
    result = gs.select(**odd_selection("plain"))
    samples = {i: {"prompt": f"question {i}", "completion": ["parts", i]} for i in range(300)}
    result.report(tmp_path / "report.html", samples)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    best = page.all("article")[0][2]
    assert f"question {result.ids[0]}" in best
    assert f'["parts", {result.ids[0]}]' in best


def test_without_the_extra_the_error_has_the_line_that_installs_it(
    gaussian_result: gs.selection.Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(DependencyMissingError, match=r'expected matplotlib .* pip install "gradsift\[report\]"'):
        gaussian_result.report(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    dark, light = sorted((_luminance(a), _luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_figures_stand_out_from_their_grounds(scheme: int) -> None:
    css = (files("gradsift.report") / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", css.split(":root {")[1 + scheme].split("}")[0]))
    for ground in ("page", "card"):
        for text in ("ink", "muted", "chosen"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert _contrast(colours["pool"], colours[ground]) >= 3, ground
    assert _contrast(colours["warn"], colours["warn-page"]) >= 4.5


def test_a_sample_of_another_type_is_refused(gaussian_result: gs.selection.Selection, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a mapping from id to record"):
        gaussian_result.report(tmp_path / "report.html", ["text"])
