"""``gradsift store``: look at datastores, put them together, and carry them from and to other programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

STORE = click.argument("path", metavar="STORE")


@contextmanager
def wrong_calls_explained() -> Iterator[None]:
    """What the library says of wrong arguments, as a wrong call: without a traceback, exit status 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@click.group()
def store() -> None:
    """Look at gradient datastores, put them together, and carry them from and to other programs.

    STORE is a directory, or a URL such as s3://bucket/store; the environment says how to reach it (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, ...; FSSPEC_S3_ENDPOINT_URL and the like set any option of a file system). gc and merge take
    directories only.
    """


@store.command("info")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Everything, the specification too, as one JSON object.")
@wrong_calls_explained()
def store_info(path: str, as_json: bool) -> None:
    """Say what a datastore holds: rows, dtype, bytes, specification, gaps, flagged rows.

    \b
    Example:  gradsift store info runs/first/stores/checkpoint-12/pool
    """
    import json

    from gradsift.datastore import Datastore

    info = Datastore.open(path, on_error="skip").info()
    if as_json:
        click.echo(json.dumps(info, indent=2))
        return
    spec = info.pop("spec")
    for key in ("gaps", "damaged"):
        info[key] = "; ".join(" … ".join(map(str, entry)) for entry in info[key]) or "none"
    info |= {
        "projection": spec["projection"],
        "gamma": spec["gamma"],
        "checkpoint": spec["checkpoint"],
        "parameters": f"{len(spec['parameters'])} (--json lists them)",
        "data": spec["data"],
        "loss": spec["loss"],
    }
    for key, value in info.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {entry}" for name, entry in value.items())
        click.echo(f"{key.replace('_', ' '):<15} {value}")


@store.command("verify")
@STORE
@click.option("--full", is_flag=True, help="Compare each file's 256-bit digest too: several times the work.")
@wrong_calls_explained()
def store_verify(path: str, full: bool) -> None:
    """Check every byte of a datastore against its checksum; ids and flags too; exit status 1 if anything is wrong.

    \b
    Example:  gradsift store verify runs/first/stores/checkpoint-12/pool
    """
    from gradsift.datastore import Datastore

    report = Datastore.open(path, on_error="skip").verify(full=full)
    click.echo(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


@store.command("gc")
@click.argument("path", metavar="STORE", type=click.Path(exists=True, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@wrong_calls_explained()
def store_gc(path: str, dry_run: bool) -> None:
    """Remove what killed writers left in a datastore: temporaries and claims that no living process holds.

    \b
    Example:  gradsift store gc --dry-run runs/first/stores/checkpoint-12/pool
    """
    from gradsift.datastore import remove_leftovers

    names = remove_leftovers(path, dry_run=dry_run)
    for name in names:
        click.echo(name)
    click.echo(f"{len(names)} left-over files {'found' if dry_run else 'removed'}")


@store.command("merge")
@click.argument("out", metavar="STORE", type=click.Path(file_okay=False))
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--copy", is_flag=True, help="Copy files instead of making hard links.")
@click.option("--full", is_flag=True, help="Compare each file's 256-bit digest first, as `store verify --full`.")
@wrong_calls_explained()
def store_merge(out: str, sources: tuple[str, ...], copy: bool, full: bool) -> None:
    """Place the shards of SOURCE..., stores of one spec with different rows, together in STORE.

    Files are verified and linked, never written anew. Rows and ids that two of the stores hold are named, and then
    nothing is placed.

    \b
    Example:  gradsift store merge pool part-0/pool part-1/pool
    """
    from gradsift.datastore import merge_stores

    click.echo(merge_stores(out, sources, link=not copy, full=full))


@store.command("append")
@STORE
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", metavar="NEW", help="Leave STORE alone, and make the store NEW of all the rows.")
@wrong_calls_explained()
def store_append(path: str, sources: tuple[str, ...], out: str | None) -> None:
    """Add the rows of SOURCE..., new samples that were collected alike, after the last row of STORE.

    The stores of a run count their rows in their spec, which never changes: name --out for them.

    \b
    Example:  gradsift store append runs/first/stores/checkpoint-12/pool more/pool --out all/pool
    """
    from gradsift.datastore import append_stores

    added = append_stores(path, sources, out=out)
    click.echo(f"{path if out is None else out}: {added} rows added")


@store.command("subset")
@STORE
@click.argument("out", metavar="NEW")
@click.option("--ids", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of ids, one a line.")
@click.option("--rows", metavar="RANGES", help="Row numbers: 0-99,200,300-399.")
@wrong_calls_explained()
def store_subset(path: str, out: str, ids: Path | None, rows: str | None) -> None:
    """Make the datastore NEW of some rows of STORE, in their order there.

    \b
    Example:  gradsift store subset runs/first/stores/checkpoint-12/pool thousand --rows 0-999
    """
    from gradsift.datastore import Datastore, subset_store

    if (ids is None) == (rows is None):
        raise ValueError("--ids, --rows: expected one of the two")
    opened = Datastore.open(path)
    if ids is None:
        last = max(opened.positions(), default=-1)
        count = subset_store(path, out, rows=_row_numbers(rows or "", int(last) + 1))
    else:
        names = _ids_in(ids)
        count = subset_store(path, out, ids=_integers(names) if opened.info()["id_kind"] == "int" else names)
    click.echo(f"{out}: {count} rows")


def _row_numbers(text: str, stop: int) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,15})(?:-([0-9]{1,15}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last:
            raise ValueError(f"--rows: expected numbers and rising ranges as in 0-99,200, got {part!r}")
        if last >= stop:
            raise ValueError(f"--rows: expected rows below {stop}, got {part!r}")
        numbers += range(first, last + 1)
    return numbers


def _ids_in(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--ids: expected UTF-8, one id a line, in {str(path)!r}, got {error}") from error


def _integers(names: list[str]) -> list[int]:
    wrong = next((name for name in names if not re.fullmatch("-?[0-9]{1,19}", name, re.ASCII)), None)
    if wrong is not None:
        raise ValueError(f"--ids: expected integers, as the ids of the store are, got {wrong!r}")
    return [int(name) for name in names]


@store.command("import-less")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.argument("out", metavar="STORE")
@click.option(
    "--which",
    type=click.Choice(["auto", "unnormalized", "chunks", "normalized"]),
    default="auto",
    show_default=True,
    help="all_unormalized.pt, grads-*.pt or all_orig.pt; auto: the first of them that is there.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Default: as in the files.")
@click.option("--matrix", help="Name the random matrix; stores under one name are taken to share it.")
@click.option("--gradient-type", type=click.Choice(["adam", "sgd", "sign"]), help="What LESS was run with.")
@click.option("--checkpoint", help="Name of the checkpoint.")
@click.option("--ids", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ids, one a line.")
@click.option("--resume", is_flag=True, help="Go on with an import that was interrupted.")
@wrong_calls_explained()
def store_import_less(
    source: Path,
    out: str,
    which: str,
    dtype: str | None,
    matrix: str | None,
    gradient_type: str | None,
    checkpoint: str | None,
    ids: Path | None,
    resume: bool,
) -> None:
    """Make the datastore STORE of gradients that the released LESS code wrote to DIR (its folder dim8192).

    The files do not say which random matrix made them, so that rows compare only with rows that were imported under
    the same --matrix name, and never with ones that gradsift collected.

    \b
    Example:  gradsift store import-less grads/dolly-ckpt105-adam/dim8192 dolly-105 \\
                  --matrix a100-seed0 --gradient-type adam --checkpoint ckpt105
    """
    from gradsift.datastore import import_less

    done = import_less(
        source,
        out,
        which=which,
        dtype=dtype,
        matrix=matrix,
        gradient_type=gradient_type,
        checkpoint=None if checkpoint is None else {"name": checkpoint},
        ids=None if ids is None else _ids_in(ids),
        resume=resume,
    )
    click.echo(done)


@store.command("export")
@STORE
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@wrong_calls_explained()
def store_export(path: str, out: Path) -> None:
    """Write the rows of a datastore, and all that is known of them, to FILE.safetensors or FILE.parquet.

    \b
    Example:  gradsift store export runs/first/stores/checkpoint-12/pool pool.safetensors
    """
    from gradsift.datastore import export_store

    click.echo(f"{out}: {export_store(path, out)} rows")


@store.command("convert")
@click.argument("source", metavar="STORE")
@click.argument("out", metavar="OUT")
@click.option(
    "--dtype",
    required=True,
    type=click.Choice(["float32", "float16", "bfloat16", "int8", "int4", "int1"]),
    help="Of the rows in OUT.",
)
@wrong_calls_explained()
def store_convert(source: str, out: str, dtype: str) -> None:
    """Make the datastore OUT of the rows of STORE in another row dtype.

    int8, int4 and int1 take 8, 4 and 1 bit a number. The same command goes on after an interruption.

    \b
    Example:  gradsift store convert runs/first/stores/checkpoint-12/pool pool-int4 --dtype int4
    """
    from gradsift.datastore import Datastore, convert

    rows = len(Datastore.open(source))
    with click.progressbar(length=rows, label=f"rows to {dtype}", file=sys.stderr) as bar:
        done = convert(source, out, dtype=dtype, progress=bar.update)
    info = done.info()
    click.echo(f"{out}: {info['rows']} rows as {dtype}, {info['bytes']} bytes")
