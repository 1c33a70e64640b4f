"""``gradsift store``: look at datastores, and carry them from and to other programs."""

from __future__ import annotations

from pathlib import Path

import click

STORE = click.argument("path", metavar="STORE")


@click.group()
def store() -> None:
    """Look at gradient datastores, and carry them from and to other programs.

    STORE is a directory, or a URL such as s3://bucket/store; the environment says how to reach it (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, ...; FSSPEC_S3_ENDPOINT_URL and the like set any option of a file system).
    """


@store.command("info")
@STORE
def store_info(path: str) -> None:
    """Say what a datastore holds: rows, dtype, bytes, specification, gaps, flagged rows.

    \b
    Example:  gradsift store info runs/first/stores/checkpoint-12/pool
    """
    import json

    from gradsift.datastore import Datastore

    click.echo(json.dumps(Datastore.open(path).info(), indent=2))


@store.command("verify")
@STORE
def store_verify(path: str) -> None:
    """Read every byte of a datastore and check it; exit status 1 if anything is wrong.

    \b
    Example:  gradsift store verify runs/first/stores/checkpoint-12/pool
    """
    from gradsift.datastore import Datastore

    report = Datastore.open(path, on_error="skip").verify()
    click.echo(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


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

    names = None if ids is None else ids.read_text(encoding="utf-8").splitlines()
    known = None if checkpoint is None else {"name": checkpoint}
    try:
        done = import_less(
            source,
            out,
            which=which,
            dtype=dtype,
            matrix=matrix,
            gradient_type=gradient_type,
            checkpoint=known,
            ids=names,
            resume=resume,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(done)


@store.command("export")
@STORE
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
def store_export(path: str, out: Path) -> None:
    """Write the rows of a datastore, and all that is known of them, to FILE.safetensors or FILE.parquet.

    \b
    Example:  gradsift store export runs/first/stores/checkpoint-12/pool pool.safetensors
    """
    from gradsift.datastore import export_store

    try:
        rows = export_store(path, out)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{out}: {rows} rows")
