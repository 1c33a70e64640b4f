"""Figures of matplotlib as inline SVG of a page: its colours and fonts, names of its own, a text equivalent."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradsift.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
WIDTH = 360.0  # user units, a pixel each at the width of a narrow screen
FONT_SIZE = 12.5

# What is drawn in these colours takes the page's variables, which differ in light, dark and print.
INK, MUTED, GRID, POOL, CHOSEN = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", POOL: "--pool", CHOSEN: "--chosen"}


class Labels:
    """Words of the data for a figure: drawn as plain tokens, replaced once the drawing is a tree of XML.

    So no word of the data is read by matplotlib, as mathematics or for its glyphs, and the tree escapes them all.
    """

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def token(self, word: str, characters: int) -> str:
        shown = visible(word).replace("\n", " ")
        name = f"@@{len(self._words)}@@"
        self._words[name] = shown if len(shown) <= characters else shown[: characters - 1] + "…"
        return name

    @property
    def words(self) -> Mapping[str, str]:
        return self._words


def draw(
    name: str, height: float, paint: Callable[[Axes, Labels], Any], *, title: str, description: str, left: float = 46
) -> str:
    """One figure `height` units high as an ``<svg role="img">`` element; `paint` is handed its axes.

    `name` is put before every id; `left` is the margin for the vertical axis.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": FONT_SIZE,
        "font.family": "DejaVu Sans",
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.facecolor": "none",
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "path.simplify": False,
    }
    labels, out = Labels(), io.StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(figure)
        bottom, top, right = 40.0, 8.0, 18.0
        axes = figure.add_axes(
            (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
        )
        paint(axes, labels)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), name, labels.words, title, description)


def _inline(drawn: str, name: str, words: Mapping[str, str], title: str, description: str) -> str:
    root = ET.fromstring(drawn)  # matplotlib's own output: no entities, no data
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.text = words.get(element.text or "", element.text or "")
        if _HREF in element.attrib:
            element.set("href", "#" + name + "-" + element.attrib.pop(_HREF).removeprefix("#"))
        for key, value in list(element.attrib.items()):
            element.set(key, _renamed(key, value, name))
    _, _, width, height = root.get("viewBox", "").split()
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    )
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(tag, {"id": f"{name}-{tag}"})
        element.text = visible(text)
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    return re.sub(r"url\(#", f"url(#{name}-", value)
