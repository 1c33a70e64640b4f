"""The report in Chromium, without a network: width, keyboard, accessibility, and what hostile data can do.

``pip install ".[browser]"`` and Debian's ``chromium`` are needed; ``CHROMIUM`` names another one, ``GRADSIFT_REPORT``
the report of a run to be looked at too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
WIDTHS = [400, 1400]
SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright_api = pytest.importorskip("playwright.sync_api", reason='playwright is not installed: ".[browser]"')
    with playwright_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not work as root in a container
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """An open page and what it did: requests, those that failed and why, messages, errors, dialogs."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.failed.append((request.url, request.failure)))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))


@contextmanager
def visit(browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    found = Visit(context.new_page())
    found.page.goto(path.as_uri())
    yield found
    context.close()


@pytest.fixture(scope="module")
def evil_report(make_evil_report: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evil_report(tmp_path_factory.mktemp("evil") / "report.html")


GIVEN = os.environ.get("GRADSIFT_REPORT")


@pytest.fixture(params=["demo", "evil", *(["given"] if GIVEN else [])])
def report(request: pytest.FixtureRequest, demo_report: Path, evil_report: Path) -> Path:
    return {"demo": demo_report, "evil": evil_report, "given": Path(GIVEN or "").absolute()}[request.param]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_asks_for_nothing_says_nothing_and_fits(browser: Any, report: Path, width: int, scheme: str) -> None:
    with visit(browser, report, width, scheme) as seen:
        for summary in seen.page.locator("summary").all():
            summary.click()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = seen.page.evaluate(
            "[...document.querySelectorAll('body, body *')].filter(e => !e.closest('svg')"
            " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
        )
        assert beyond == []
        clipped = seen.page.evaluate(
            "[...document.querySelectorAll('svg text')].filter(t => { const r = t.getBoundingClientRect(), "
            "s = t.ownerSVGElement.getBoundingClientRect(); return r.left < s.left - 1 || r.right > s.right + 1 "
            "|| r.top < s.top - 1 || r.bottom > s.bottom + 1 })"
            ".map(t => t.textContent)"
        )
        assert clipped == []
        broken = seen.page.evaluate(
            "[...document.querySelectorAll('td, thead th')].filter(c => { const r = document.createRange(); "
            "r.selectNodeContents(c); return /^[\\d.,%]+$/.test(c.textContent) && r.getClientRects().length > 1 })"
            ".map(c => c.textContent)"
        )
        assert broken == []
        assert seen.requests == [report.as_uri()]
        assert seen.said == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_to_complain_about(browser: Any, report: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with visit(browser, report, width, scheme) as seen:
        for summary in seen.page.locator("summary").all():
            summary.click()
        found = Axe().run(seen.page).response
        assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found["violations"]] == []
        assert len(found["passes"]) > 20


def test_letters_in_figures_are_large_enough_on_a_phone(browser: Any, demo_report: Path) -> None:
    with visit(browser, demo_report, 400) as seen:
        heights = seen.page.evaluate(
            "[...document.querySelectorAll('svg text')].map(t => "
            "parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getCTM().a, t.getCTM().b))"
        )
        assert min(heights) >= 10


def test_every_control_is_reached_by_tab_in_order_and_shows_it(browser: Any, demo_report: Path) -> None:
    with visit(browser, demo_report) as seen:
        page = seen.page
        count = page.locator("a, summary, button, input, [tabindex]").count()
        labels = page.locator("a, summary").all_inner_texts()
        assert count == len(labels) == 5 + 6
        reached = []
        for _ in range(count):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.innerText"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert reached == labels
        page.keyboard.press("Enter")  # the last one opens its table
        assert page.locator("details[open] table").count() == 1
        page.locator("a").first.focus()
        for _ in range(3):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.url.endswith("#samples")


def test_a_screen_reader_finds_landmarks_figures_and_headings_by_name(browser: Any, demo_report: Path) -> None:
    with visit(browser, demo_report) as seen:
        page = seen.page
        for role, name in (
            ("banner", None),
            ("navigation", "Sections"),
            ("main", None),
            ("contentinfo", None),
            *(("region", n) for n in ("At a glance", "Against the pool", "Spread of the cosines", "Samples to read")),
            *(("img", n) for n in ("Source: selected against pool", "Influence: selected against pool")),
            ("img", "Length: selected against pool"),
            ("img", "Implied recall of the true top by proj_dim"),
            ("img", "Influence against label tokens"),
            ("heading", "Best of the selection"),
        ):
            options = {} if name is None else {"name": name}
            assert page.get_by_role(role, **options).count() >= 1, (role, name)
        assert page.get_by_role("img").count() == 6
        assert page.get_by_role("article").count() == 12


def test_dark_and_light_differ_and_follow_the_reader_s_choice(browser: Any, demo_report: Path) -> None:
    grounds = {}
    for scheme in SCHEMES:
        with visit(browser, demo_report, scheme=scheme) as seen:
            grounds[scheme] = seen.page.evaluate(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.querySelector('svg text')).fill]"
            )
    assert grounds["light"][0] == "rgb(247, 247, 245)"
    assert grounds["dark"][0] == "rgb(20, 23, 26)"
    assert grounds["light"][1] != grounds["dark"][1]


def test_it_prints_with_its_tables_and_without_navigation(browser: Any, demo_report: Path) -> None:
    with visit(browser, demo_report) as seen:
        seen.page.emulate_media(media="print")
        assert not seen.page.locator("nav").is_visible()
        assert seen.page.locator("details table").first.is_visible()
        assert seen.page.pdf()[:5] == b"%PDF-"


def test_hostile_data_becomes_no_element_and_runs_nothing(browser: Any, evil_report: Path) -> None:
    with visit(browser, evil_report) as seen:
        elements = set(seen.page.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]"))
        assert elements & {"script", "img", "iframe", "x"} == set()
        assert seen.page.evaluate("document.querySelectorAll('style').length") == 1
        assert "alert(3)" in seen.page.title()
        direction = seen.page.locator(".text", has_text="مرحبا بالعالم").first
        assert direction.evaluate("e => getComputedStyle(e).direction") == "rtl"
        assert seen.said == []


def test_a_script_that_got_in_would_not_run_nor_load(browser: Any, demo_report: Path, tmp_path: Path) -> None:
    planted = '<script>document.title = "ran"</script><img src="https://example.invalid/x.png">'
    path = tmp_path / "planted.html"
    path.write_text(demo_report.read_text(encoding="utf-8").replace("<main>", "<main>" + planted), encoding="utf-8")
    with visit(browser, path) as seen:
        assert seen.page.title() != "ran"
        assert len([line for line in seen.said if "Content Security Policy" in line]) == 2
        assert seen.requests == [path.as_uri(), "https://example.invalid/x.png"]
        assert seen.failed == [("https://example.invalid/x.png", "csp")], "stopped by the policy, not by being offline"
