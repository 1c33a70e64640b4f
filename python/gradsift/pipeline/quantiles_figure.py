"""Loss by band as an SVG, with its words as title and description."""

from __future__ import annotations

import importlib.util
import io
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

_SVG = "http://www.w3.org/2000/svg"
_WIDTH_INCHES, _HEIGHT_INCHES = 6.4, 3.6  # of one ranking and target
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantiles",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(record: dict[str, Any], captions: Sequence[str]) -> str:
    """The SVG of what ``quantiles.json`` holds: a panel for each ranking and target, in the order of `captions`.

    Points are trainings, the line their means; random and base model are horizontal lines. The same record gives the
    same text.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = [
        (name, target, trend["loss"])
        for name, ranked in record["rankings"].items()
        for target, trend in ranked["targets"].items()
    ]
    out = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES * len(panels)), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (name, target, losses) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            bands = list(range(1, len(losses) + 1))
            for band, of_band in zip(bands, losses, strict=True):
                axes.plot([band] * len(of_band), of_band, "o", color="tab:blue", markersize=4)
            axes.plot(bands, [statistics.fmean(of_band) for of_band in losses], color="tab:blue", label="band")
            random, base = statistics.fmean(record["random"][target]), record["base"][target]
            axes.axhline(random, color="tab:gray", linestyle="--", label="random")
            axes.axhline(base, color="black", linestyle=":", label="base model")
            axes.set_xticks(bands)
            # Names are letters, digits, - and _, so none of them is read as mathematics.
            axes.set_xlabel(f"band of ranking {name}, 1: highest influence")
            axes.set_ylabel(f"loss on {target}")
            axes.legend(frameon=False)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _described(out.getvalue(), "Loss after training on each band of the ranking", " ".join(captions))


def _described(drawn: str, title: str, description: str) -> str:
    for prefix, uri in (("", _SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        ET.register_namespace(prefix, uri)
    root = ET.fromstring(drawn)
    root.set("role", "img")
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(f"{{{_SVG}}}{tag}")
        element.text = text
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode") + "\n"
