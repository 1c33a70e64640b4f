"""The page: what ``selection.json`` says and the samples to read, through one template that escapes everything."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from gradsift.errors import DependencyMissingError
from gradsift.visible import visible

TEXT_CHARACTERS = 1500
NAME_CHARACTERS = 160
TURNS = 6


@dataclass(frozen=True)
class ShownTarget:
    """The target example that a sample is closest to. `turns` are (role, text), None where the text is not at hand."""

    id: str
    subtask: str
    similarity: float
    turns: Sequence[tuple[str, str]] | None


@dataclass(frozen=True)
class ShownSample:
    """A candidate to read. `place` says what it is in the ranking."""

    id: str
    place: str
    influence: float
    source: str | None
    turns: Sequence[tuple[str, str]] | None
    target: ShownTarget | None


@dataclass(frozen=True)
class ExampleGroup:
    """Candidates of one part of the ranking."""

    title: str
    note: str
    samples: Sequence[ShownSample]


def require_report() -> None:
    """Raises with the line that installs what a report needs."""
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyMissingError(
            f'report: expected {", ".join(missing)} to be installed, got nothing; pip install "gradsift[report]"'
        )


def render(record: dict[str, Any], groups: Sequence[ExampleGroup], *, name: str) -> str:
    """The page of one selection.

    Parameters
    ----------
    record : what ``selection.json`` holds
    groups : samples to read, in order
    name : of the selection

    Raises
    ------
    DependencyMissingError
        Without jinja2 or matplotlib; the message has the line that installs them.
    """
    require_report()
    import jinja2
    from markupsafe import Markup

    from gradsift.report.figures import figures

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"
    environment.filters["cut"] = lambda text, limit: visible(str(text), limit)
    here = files("gradsift.report")
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        name=name,
        record=record,
        counts=record["counts"],
        settings=record["settings"],
        diagnostics=record["diagnostics"],
        recall=record["diagnostics"]["implied_recall"]["recall"][str(record["diagnostics"]["proj_dim"])],
        flagged=sum(record["diagnostics"]["flagged"].values()),
        columns=[[(d, Markup(d.svg)) for d in column] for column in figures(record)],  # a tree of XML, written as such
        groups=groups,
        stores=_stores(record),
        css=Markup((here / "page.css").read_text(encoding="utf-8")),  # a file of ours
        text_characters=TEXT_CHARACTERS,
        name_characters=NAME_CHARACTERS,
        most_turns=TURNS,
    )


def _stores(record: dict[str, Any]) -> list[dict[str, str]]:
    """What was read, by checkpoint, with the digests that tell whether another reader has the same."""
    found = []
    for c, (candidates, targets, weight) in enumerate(
        zip(record["candidates"], record["targets"], record["settings"]["weights"], strict=True)
    ):
        parts = targets.get("parts", [targets])
        checkpoint = candidates.get("checkpoint", parts[0].get("checkpoint", {}))
        found.append(
            {
                "checkpoint": str(checkpoint.get("name", c)),
                "weight": f"{weight:.4f}",
                "candidates": _rows(candidates),
                "targets": "; ".join(map(_rows, parts)),
                "data": str(candidates.get("data", {}).get("digest", "not known")),
                "weights of the model": str(checkpoint.get("weights_digest", "not known")),
                "moments": str(checkpoint.get("moments_digest", "not known")),
            }
        )
    return found


def _rows(described: dict[str, Any]) -> str:
    kept = "scored while collecting" if "scored" in described else "an array"
    return f"{described['rows']:,} rows, {described.get('store', kept)}"
