"""The figures of a report, each with its text equivalent and the table of what it shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradsift.report.svg import CHOSEN, FONT_SIZE, GRID, INK, MUTED, POOL, Labels, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOURCES_SHOWN = 8
_SUBTASKS_SHOWN = 16
_ROW = 42.0
_LABEL_CHARACTERS = 44


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: heading, what it shows in a sentence, the SVG element, and its data."""

    title: str
    summary: str
    svg: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def figures(record: dict[str, Any]) -> list[list[Drawing]]:
    """Selected against pool, of what ``selection.json`` holds, in columns; what it does not hold is not drawn."""
    found, diagnostics = record["distributions"], record["diagnostics"]
    columns = [
        [_subtasks(found["subtasks"])],
        [_histogram("influence", "Influence", "influence", found["influence"], logarithmic=False)],
        [_recall(diagnostics)] if diagnostics.get("projected", True) else [],
    ]
    if diagnostics["sources"]:
        columns[0].insert(0, _sources(diagnostics["sources"]))
    if found["label_tokens"]:
        columns[1].append(_histogram("length", "Length", "label tokens", found["label_tokens"], logarithmic=True))
    if found["points"]:
        columns[2].insert(0, _score_length(found["points"], diagnostics["score_length_spearman"]))
    return [column for column in columns if column]


def _axis(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=FONT_SIZE, labelpad=4)
    axes.tick_params(labelsize=FONT_SIZE - 1, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _length_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = [m * 10**e for e in range(8) for m in (1, 2, 5)]
    inside = [s for s in steps if low <= s <= high]
    ticks = inside if len(inside) <= 6 else [s for s in inside if str(s)[0] == "1"]
    axes.xaxis.set_major_locator(FixedLocator(ticks or [round(low), round(high)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _histogram(name: str, title: str, what: str, bins: dict[str, Any], *, logarithmic: bool) -> Drawing:
    edges = bins["edges"]
    shares = {k: [100 * n / max(1, sum(bins[k])) for n in bins[k]] for k in ("pool", "selected")}

    def paint(axes: Axes, labels: Labels) -> None:
        axes.stairs(shares["pool"], edges, fill=True, color=POOL, alpha=0.55)
        axes.stairs(shares["pool"], edges, color=POOL, linewidth=1.0)
        axes.stairs(shares["selected"], edges, fill=True, color=CHOSEN, alpha=0.18)
        axes.stairs(shares["selected"], edges, color=CHOSEN, linewidth=2.0)
        _axis(axes, what)
        if logarithmic:
            _length_axis(axes, edges[0], edges[-1])
        else:
            axes.set_xlim(edges[0], edges[-1])
            axes.locator_params(axis="x", nbins=6)
        axes.set_ylabel("% of group", fontsize=FONT_SIZE, labelpad=3)
        axes.set_ylim(bottom=0)

    medians = {k: _median(edges, bins[k]) for k in ("pool", "selected")}
    form = "{:,.0f}" if logarithmic else "{:.4f}"
    summary = f"Median {what}: {form.format(medians['selected'])} selected, {form.format(medians['pool'])} in the pool."
    low_high = [(form.format(a), form.format(b)) for a, b in itertools.pairwise(edges)]
    return Drawing(
        title,
        summary,
        draw(f"fig-{name}", 214, paint, title=f"{title}: selected against pool", description=summary),
        (what, "pool", "selected"),
        [
            (f"{a} to {b}", f"{p:,}", f"{s:,}")
            for (a, b), p, s in zip(low_high, bins["pool"], bins["selected"], strict=True)
            if p or s
        ],
    )


def _median(edges: Sequence[float], counts: Sequence[int]) -> float:
    """Of what is in the bins, straight within each."""
    half, before = sum(counts) / 2, 0.0
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count and before + count >= half:
            return low + (high - low) * (half - before) / count
        before += count
    return edges[0]


def _rows_height(rows: int) -> float:
    return 48 + _ROW * rows


def _as_rows(axes: Axes, count: int) -> None:
    """Rows from the top, a label above each; no vertical axis."""
    axes.set_ylim(count - 0.5, -0.6)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.grid(visible=False, axis="y")


def _sources(sources: dict[str, dict[str, int]]) -> Drawing:
    pool, chosen = sources["pool"], sources["selected"]
    total, picked = sum(pool.values()), max(1, sum(chosen.values()))
    order = sorted(pool, key=lambda name: (-chosen.get(name, 0), -pool[name], name))
    rows = [(name, 100 * pool[name] / total, 100 * chosen.get(name, 0) / picked) for name in order[:_SOURCES_SHOWN]]
    most = max(max(p, c) for _, p, c in rows)

    def paint(axes: Axes, labels: Labels) -> None:
        for y, (name, of_pool, of_chosen) in enumerate(rows):
            axes.barh(y, of_chosen, height=0.22, color=CHOSEN)
            axes.barh(y + 0.22, of_pool, height=0.2, color=POOL, alpha=0.75)
            axes.text(0, y - 0.3, labels.token(name, _LABEL_CHARACTERS), va="center", fontsize=FONT_SIZE)
            axes.text(most, y - 0.3, f"{of_chosen:.1f}", ha="right", va="center", fontsize=FONT_SIZE, color=CHOSEN)
        _axis(axes, "% of group")
        axes.set_xlim(0, most)
        axes.locator_params(axis="x", nbins=5)
        _as_rows(axes, len(rows))

    left_out = len(order) - len(rows)
    summary = (
        f"{len([n for n in pool if chosen.get(n)])} of {len(pool)} sources are in the selection"
        + (f"; the {len(rows)} with most of it are drawn, the others stand in the table" if left_out else "")
        + "."
    )
    return Drawing(
        "Source",
        summary,
        draw(
            "fig-source",
            _rows_height(len(rows)),
            paint,
            title="Source: selected against pool",
            description=summary,
            left=10,
        ),
        ("source", "pool", "selected", "times its share"),
        [
            (n, f"{pool[n]:,}", f"{chosen.get(n, 0):,}", f"{chosen.get(n, 0) / picked / (pool[n] / total):.1f}")
            for n in order
        ],
    )


def _subtasks(subtasks: list[dict[str, Any]]) -> Drawing:
    shown = subtasks[:_SUBTASKS_SHOWN]
    values = [v for row in shown for k in ("pool", "selected") for v in (row[k]["quantiles"] or [])]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low) * 0.03 or 0.5

    def paint(axes: Axes, labels: Labels) -> None:
        for y, row in enumerate(shown):
            for shift, k, colour in ((0.02, "selected", CHOSEN), (0.24, "pool", POOL)):
                if row[k]["quantiles"]:
                    q05, q25, q50, q75, q95 = row[k]["quantiles"]
                    axes.plot([q05, q95], [y + shift] * 2, color=colour, linewidth=1.2)
                    axes.plot([q25, q75], [y + shift] * 2, color=colour, linewidth=5, alpha=0.8)
                    axes.plot([q50], [y + shift], "o", color=colour, markersize=6, markeredgecolor=INK)
            axes.text(low - pad, y - 0.3, labels.token(row["subtask"], _LABEL_CHARACTERS), va="center")
        _axis(axes, "score for the subtask")
        axes.set_xlim(low - pad, high + pad)
        axes.locator_params(axis="x", nbins=5)
        _as_rows(axes, len(shown))

    summary = "Median, middle half and middle nine tenths of the scores for each subtask."
    if len(subtasks) > len(shown):
        summary += f" {len(shown)} of {len(subtasks)} subtasks are drawn, all stand in the table."
    return Drawing(
        "Scores by subtask",
        summary,
        draw(
            "fig-subtasks",
            _rows_height(len(shown)),
            paint,
            title="Scores by subtask: selected against pool",
            description=summary,
            left=10,
        ),
        ("subtask", "group", "5% to 95%", "median"),
        [
            (row["subtask"], f"{k} ({row[k]['rows']:,})", f"{q[0]:.4f} to {q[4]:.4f}", f"{q[2]:.4f}")
            for row in subtasks
            for k in ("pool", "selected")
            if (q := row[k]["quantiles"])
        ],
    )


def _score_length(points: dict[str, Any], rho: float | None) -> Drawing:
    everything = [max(1, t) for k in ("pool", "selected") for t in points[k]["label_tokens"]]

    def paint(axes: Axes, labels: Labels) -> None:
        for k, colour, size, alpha in (("pool", POOL, 3.6, 0.6), ("selected", CHOSEN, 4.4, 0.9)):
            tokens = [max(1, t) for t in points[k]["label_tokens"]]
            axes.plot(tokens, points[k]["influence"], "o", color=colour, markersize=size, alpha=alpha, mew=0)
        _axis(axes, "label tokens")
        _length_axis(axes, min(everything) * 0.9, max(everything) * 1.1)
        axes.set_ylabel("influence", fontsize=FONT_SIZE, labelpad=3)
        axes.locator_params(axis="y", nbins=6)

    known = "no rank correlation is defined" if rho is None else f"Spearman {rho:+.2f}".replace("-", "−")
    summary = f"Influence against length of the answer: {known} over the pool."
    return Drawing(
        "Influence and length",
        summary,
        draw("fig-score-length", 232, paint, title="Influence against label tokens", description=summary, left=58),
        ("label tokens", "drawn", "of them selected", "median influence"),
        _bands(points),
    )


def _bands(points: dict[str, Any], count: int = 6) -> list[tuple[str, str, str, str]]:
    """The points in bands of length that hold about equally many."""
    rows = sorted(
        (t, i, k == "selected")
        for k in ("pool", "selected")
        for t, i in zip(points[k]["label_tokens"], points[k]["influence"], strict=True)
    )
    found = []
    for start in range(0, len(rows), size := max(1, math.ceil(len(rows) / count))):
        band = rows[start : start + size]
        influence = sorted(i for _, i, _ in band)
        found.append(
            (
                f"{band[0][0]:,} to {band[-1][0]:,}",
                f"{len(band):,}",
                f"{sum(s for *_, s in band):,}",
                f"{influence[len(band) // 2]:.4f}",
            )
        )
    return found


def _recall(diagnostics: dict[str, Any]) -> Drawing:
    recall = {int(d): value for d, value in diagnostics["implied_recall"]["recall"].items()}
    here, share = diagnostics["proj_dim"], diagnostics["implied_recall"]["share"]

    def paint(axes: Axes, labels: Labels) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        dims = sorted(recall)
        axes.plot(dims, [recall[d] for d in dims], "-o", color=POOL, markersize=4, linewidth=1.5)
        axes.plot([here], [recall[here]], "o", color=CHOSEN, markersize=9)
        # above the curve on its left, or below it on its right where there is no room
        above = recall[here] < 0.85 and dims.index(here) >= 2
        rightmost = here == dims[-1]
        axes.annotate(
            f"{recall[here]:.2f} here",
            (here, recall[here]),
            xytext=(-5 if above or rightmost else 5, 9 if above else -11),
            textcoords="offset points",
            ha="right" if above or rightmost else "left",
            va="bottom" if above else "top",
            color=CHOSEN,
            fontweight="bold",
        )
        axes.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        low = share < 0.5
        where = (dims[-1], share + (0.02 if low else -0.02))
        axes.text(*where, "chance", ha="right", va="bottom" if low else "top", color=MUTED, fontsize=FONT_SIZE - 1)
        _axis(axes, "proj_dim, numbers a sketch")
        axes.set_xscale("log", base=2)
        axes.set_xlim(dims[0] / 1.5, dims[-1] * 1.5)
        axes.xaxis.set_major_locator(FixedLocator([d for d in dims if math.log2(d) % 2 == 0]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("recall of the true top", fontsize=FONT_SIZE, labelpad=3)

    summary = (
        f"Of the candidates that are truly in the top {share:.1%}, about {recall[here]:.0%} would be found with "
        f"{here:,} numbers a sketch, if true influence and noise are normal."
    )
    return Drawing(
        "Implied recall",
        summary,
        draw("fig-recall", 232, paint, title="Implied recall of the true top by proj_dim", description=summary),
        ("proj_dim", "implied recall"),
        [(f"{d:,}" + (" (this one)" if d == here else ""), f"{recall[d]:.3f}") for d in sorted(recall)],
    )
