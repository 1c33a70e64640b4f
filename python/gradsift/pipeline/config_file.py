"""Configuration files: reading one, saying what is wrong with it, printing every key there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradsift.errors import ConfigError
from gradsift.pipeline.config import (
    CollectConfig,
    EvaluateConfig,
    LoraConfig,
    ModelConfig,
    PoolConfig,
    RunConfig,
    Section,
    SelectConfig,
    TargetConfig,
    TrainConfig,
    WarmupConfig,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: str | Path) -> RunConfig:
    """The configuration in the TOML file at `path`, checked; relative paths in it are made absolute.

    The ``config.json`` of a run directory is one too: of the run that lies beside it, wherever that was moved to.

    Raises
    ------
    ConfigError
        Naming every key that is wrong, what it should be and what it is.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a configuration file, got nothing there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable UTF-8 file, got: {error}") from error
    of_run = path.name == "config.json"
    try:
        record = json.loads(text) if of_run else tomllib.loads(text)
    except ValueError as error:  # which both of their errors are
        raise ConfigError(f"{path}: expected {'JSON' if of_run else 'TOML'}, got: {error}") from error
    config = parse_config(record, base=path.parent, where=str(path))
    return config.model_copy(update={"run_dir": str(path.parent.absolute())}) if of_run else config


def toml_value(text: str) -> Any:
    """`text` as a TOML value; where it is none, `text` itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_config(record: dict[str, Any], *, base: Path, where: str = "configuration") -> RunConfig:
    """`record` as a checked configuration; relative paths are taken from the directory `base`."""
    try:
        config = RunConfig.model_validate(record)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None
    return _with_absolute_paths(config, base.resolve())


def with_selection(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """`config` with other values in its section [select]; what they exclude goes back to its default.

    Raises
    ------
    ConfigError
        As `load_config`.
    """
    excluded = {"fraction": ("count",), "count": ("fraction",), "selector": ("options",)}
    dropped = {other for key in changes for other in excluded.get(key, ())} - set(changes)
    record = config.select.model_dump(exclude_unset=True, exclude=dropped) | changes
    try:
        return RunConfig.model_validate(config.model_dump() | {"select": record})
    except ValidationError as error:
        raise ConfigError(_explain(error, "selection")) from None


def _explain(error: ValidationError, where: str) -> str:
    lines = [f"{where}: {error.error_count()} thing(s) to change"]
    for item in error.errors(include_url=False):
        key = ".".join(map(str, item["loc"])) or "(whole file)"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {key}: expected no such key; `gradsift config` lists those there are")
        elif item["type"] == "missing":
            lines.append(f"  {key}: expected a value, got none")
        elif item["type"] == "value_error":  # one of ours, which says all there is to say
            lines.append(f"  {key}: {item['ctx']['error']}")
        else:
            lines.append(f"  {key}: {item['msg']}, got {item['input']!r}")
    return "\n".join(lines)


def _absolute(source: str, base: Path) -> str:
    return source if source.startswith("hf:") else str(base / Path(source).expanduser())


def _with_absolute_paths(config: RunConfig, base: Path) -> RunConfig:
    model = config.model
    if (base / Path(model.path).expanduser()).is_dir():
        model = model.model_copy(update={"path": _absolute(model.path, base)})
    pool = config.pool.model_copy(
        update={
            "sources": [_absolute(s, base) for s in config.pool.sources],
            "ids": None if config.pool.ids is None else _absolute(config.pool.ids, base),
        }
    )
    targets = {
        name: target.model_copy(
            update={
                "sources": [_absolute(s, base) for s in target.sources],
                "test": [_absolute(s, base) for s in target.test],
            }
        )
        for name, target in config.targets.items()
    }
    return config.model_copy(
        update={"run_dir": _absolute(config.run_dir, base), "model": model, "pool": pool, "targets": targets}
    )


def describe_config() -> str:
    """Every key with its default and meaning, as a commented TOML file."""
    lines = ["# Every key of a gradsift configuration, with its default. Keys without one are required.", ""]
    top = RunConfig.model_fields
    for name in ("run_dir", "seed"):
        lines += _describe_key(name, top[name])
    sections: list[tuple[str, type[Section]]] = [
        ("model", ModelConfig),
        ("pool", PoolConfig),
        ("targets.NAME", TargetConfig),
        ("lora", LoraConfig),
        ("warmup", WarmupConfig),
        ("collect", CollectConfig),
        ("select", SelectConfig),
        ("train", TrainConfig),
        ("evaluate", EvaluateConfig),
    ]
    for title, section in sections:
        summary = (section.__doc__ or "").splitlines()[0]
        lines += ["", f"[{title}]  # {summary}"]
        for name, info in section.model_fields.items():
            lines += _describe_key(name, info)
    return "\n".join(lines) + "\n"


def _describe_key(name: str, info: Any) -> list[str]:
    note = f"  # {info.description}" if info.description else ""
    if info.is_required():
        return [f'{name} = "…"{note}' if info.annotation is str else f"{name} = […]{note}"]
    value = info.get_default(call_default_factory=True)
    if value is None:
        return [f"# {name} = …{note}"]
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"')
    return [f"{name} = {text}{note}"]
