"""`gradsift explain`, and the tables that tell of a selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsift.cli.work import read_config
from gradsift.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gradsift.pipeline.finished import FinishedSelection

_TEXT_CHARACTERS = 1500
_NEAR_CHARACTERS = 160


def finished(config: Path | None, run_dir: Path | None, name: str | None) -> FinishedSelection:
    """The selection that the arguments of a command name; without a configuration, of the run directory."""
    from gradsift.pipeline.finished import FinishedSelection, run_config

    settings = run_config(run_dir or Path()) if config is None else read_config(config, run_dir)
    return FinishedSelection.open(settings, name)


def print_explanation(console: Console, record: dict[str, Any]) -> None:
    """The same for people."""
    from rich.table import Table
    from rich.text import Text

    chosen = record["selected_rank"]
    place = f"selected as number {chosen}" if chosen else "not selected"
    if record["excluded"]:
        console.print(Text(f"{_word(record['id'])}: could not be scored ({record['excluded']}); {place}"))
    else:
        console.print(
            Text(
                f"{_word(record['id'])}: influence {record['influence']:.4f}, rank {record['rank']} of "
                f"{record['ranked']}, {place} in {_word(record['selection'])}"
            )
        )
    console.print(Text(_chat(record["messages"], _TEXT_CHARACTERS), style="dim"))

    table = Table(title="Influence by subtask and checkpoint", title_justify="left")
    table.add_column("subtask")
    table.add_column("influence", justify="right")
    for checkpoint in record["checkpoints"]:
        table.add_column(Text(f"{_word(checkpoint['name'])} (× {checkpoint['weight']:.3f})"), justify="right")
    for name, value in record["subtasks"].items():
        cells = [_number(value), *(_number(c["subtasks"][name]) for c in record["checkpoints"])]
        table.add_row(Text(_word(name)), *cells)
    console.print(table)

    console.print(_near_table("Closest target examples", record["closest_targets"], "subtask"))
    if record["neighbours"]:
        console.print(_near_table("Nearest in the pool", record["neighbours"], "selected_rank"))


def _near_table(title: str, rows: list[dict[str, Any]], extra: str) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    table.add_column("similarity", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column({"selected_rank": "selected as"}.get(extra, extra))
    table.add_column("text", overflow="fold")
    for row in rows:
        of = row[extra]
        table.add_row(
            _number(row["similarity"]),
            Text(_word(str(row["id"]))),
            Text("–" if of is None else _word(str(of))),
            Text(_chat(row["messages"], _NEAR_CHARACTERS).replace("\n", " ")),
        )
    return table


def _chat(messages: list[dict[str, str]], characters: int) -> str:
    return visible("\n".join(f"{m['role']}: {m['content']}" for m in messages), characters)


def _word(name: str) -> str:
    """A name of unknown origin, on one line."""
    return visible(name).replace("\n", " ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def diagnostics_table(name: str, record: dict[str, Any]) -> RenderableType:
    """How far a selection can be trusted, from its ``selection.json``."""
    from rich.table import Table
    from rich.text import Text

    found, counts = record["diagnostics"], record["counts"]
    table = Table(title=f"Selection {_word(name)}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    table.add_row("selected", f"{counts['selected']} of {counts['pool']} samples")
    for row in found["spread"][:_SPREAD_ROWS]:
        where = Text(f"spread of cosines, {_word(row['subtask'])}, {_word(row['checkpoint'])}")
        table.add_row(where, _spread(row))
    if len(found["spread"]) > _SPREAD_ROWS:
        table.add_row("", f"{len(found['spread']) - _SPREAD_ROWS} more in selection.json")
    table.add_row("spread of the influence", _spread(found["influence"]))
    recall = found["implied_recall"]["recall"]
    dims = [found["proj_dim"], *(d for d in (4 * found["proj_dim"], 65536) if d > found["proj_dim"])]
    shown = [f"{recall[str(d)]:.2f} at proj_dim {d}" for d in dict.fromkeys(dims) if str(d) in recall]
    if found.get("projected", True):
        table.add_row("implied recall of the true top", "; ".join(shown))
    rho = found["score_length_spearman"]
    table.add_row("score–length Spearman", "not known" if rho is None else f"{rho:+.2f}")
    flagged = {reason: share for reason, share in found["flagged"].items() if share}
    table.add_row("flagged rows", ", ".join(f"{share:.2%} {r}" for r, share in flagged.items()) or "none")
    if found["sources"]:
        sources = found["sources"]
        table.add_row("sources", f"{len(sources['selected'])} of the pool's {len(sources['pool'])}")
    for text in found["warnings"]:
        table.add_row(Text("warning", style="bold yellow"), Text(text))
    return table


_SPREAD_ROWS = 12


def _spread(row: dict[str, float]) -> str:
    return f"{row['sd_corrected']:.4f} (measured {row['sd']:.4f}, noise {row['noise_sd']:.4f})"
