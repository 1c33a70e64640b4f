"""The configuration of ``gradsift demo``: small enough for two cores, large enough to show the effect."""

from __future__ import annotations

from pathlib import Path

from gradsift.demo.model import ensure_smollm2
from gradsift.demo.skills import SKILLS, TARGETS, write_demo_data
from gradsift.pipeline.config import RunConfig
from gradsift.pipeline.config_file import parse_config
from gradsift.pipeline.models import BUILT_IN
from gradsift.pipeline.progress import Reporter


def prepare_demo(run_dir: Path, *, quick: bool, model: str | None, reporter: Reporter) -> RunConfig:
    """Writes the demo's data beside `run_dir` and returns its configuration.

    Parameters
    ----------
    run_dir : Path
        Where the run goes; its data go to ``<run_dir>-data``.
    quick : bool
        Half of the pool, one checkpoint, one training seed, losses only.
    model : str, optional
        A transformers folder instead of the built-in model.
    """
    data = run_dir.with_name(run_dir.name + "-data")
    if model is None:
        ensure_smollm2(progress=reporter.say)
    files = write_demo_data(data, pool_per_skill=12 if quick else 24, seed=0, n_fewshot=8, n_test=20 if quick else 30)
    reporter.say(f"demo: {len(SKILLS)} made-up skills in {data}; wanted are {' and '.join(TARGETS)}")
    record = {
        "run_dir": str(run_dir),
        "model": {"path": model or BUILT_IN, "max_length": 256},
        "pool": {"sources": [str(files["pool"])]},
        "targets": {
            name: {"sources": [str(files[f"{name}/fewshot"])], "test": [str(files[f"{name}/test"])]} for name in TARGETS
        },
        "lora": {"r": 16, "alpha": 32.0},
        "warmup": {"fraction": 0.15, "epochs": 1 if quick else 2, "batch_size": 4},
        "collect": {"max_tokens": 1024},
        "select": {"fraction": 0.1 if quick else 0.05, "selector": "round_robin"},
        # A high rate, since the demo can afford few steps.
        "train": {"epochs": 4, "batch_size": 4, "learning_rate": 1e-3, "seeds": [0] if quick else [0, 1]},
        "evaluate": {"exact_match": not quick, "max_new_tokens": 32},
    }
    return parse_config(record, base=Path.cwd(), where="demo")
