"""One run at work: configuration, directory, samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradsift.errors import ConfigError
from gradsift.pipeline.config import RunConfig
from gradsift.pipeline.models import load_tokenizer, resolve_dtype
from gradsift.pipeline.progress import Reporter, SilentReporter
from gradsift.pipeline.rundir import RunDirectory, write_json
from gradsift.pipeline.samples import Part, load_pool, load_target, load_test, source_name
from gradsift.selection.output import KEYS


@dataclass(frozen=True)
class Run:
    """What every step is given: the configuration, the directory, and the samples, read when first asked for."""

    config: RunConfig
    directory: RunDirectory
    reporter: Reporter

    @classmethod
    def open(cls, config: RunConfig, reporter: Reporter | None = None) -> Run:
        return cls(config, RunDirectory.prepare(config), reporter or SilentReporter())

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.model)

    @cached_property
    def pool(self) -> Part:
        return load_pool(self.config, self.tokenizer, self.reporter)

    @cached_property
    def targets(self) -> dict[str, Part]:
        return {name: load_target(self.config, name, self.tokenizer, self.reporter) for name in self.config.targets}

    @cached_property
    def tests(self) -> dict[str, Part]:
        """Test sets of the targets that have one."""
        loaded = {name: load_test(self.config, name, self.tokenizer, self.reporter) for name in self.config.targets}
        return {name: part for name, part in loaded.items() if part is not None}

    def read_everything(self) -> None:
        """Reads and checks all input, so that a bad row costs minutes and not a night."""
        _ = self.pool, self.targets, self.tests
        count = self.config.select.count
        if count is not None and self.config.select.budget == "samples" and count > len(self.pool):
            raise ConfigError(f"select.count: expected at most the pool's {len(self.pool)} samples, got {count}")
        keys = [self.config.select.key_prefix + key for key in KEYS]
        for sample in self.pool.samples:
            if taken := [key for key in keys if key in sample.record]:
                raise ConfigError(
                    f"select.key_prefix: expected samples without the keys {keys}, which are added to those selected, "
                    f'got {taken} in sample {sample.id!r}; choose another prefix, such as "gradsift_"'
                )
        options = self.config.select.options
        shares = options.get("shares")
        if (
            self.config.select.selector == "quota"
            and options.get("by", "source") == "source"
            and isinstance(shares, dict)
        ):
            sources = {source_name(sample) for sample in self.pool.samples}
            strange = sorted(set(shares) - sources)
            if strange:
                raise ConfigError(
                    f"select.options.shares: expected sources of the pool, {sorted(sources)[:20]}, got {strange[:20]}"
                )

    def write_down(self) -> None:
        """Notes the configuration and what was read, once a step has agreed to go on under it."""
        self.directory.write_down()
        parts = {"pool": self.pool}
        parts |= {f"target-{name}": part for name, part in self.targets.items()}
        parts |= {f"test-{name}": part for name, part in self.tests.items()}
        for name, part in parts.items():
            write_json(self.directory.root / "data" / f"{name}.json", part.summary())

    @property
    def model_settings(self) -> dict[str, Any]:
        """What of the configuration decides the weights that a step starts from."""
        model = self.config.model
        return {"path": model.path, "dtype": resolve_dtype(model), "max_length": model.max_length}

    def generator(self, purpose: str, seed: int) -> np.random.Generator:
        """Random numbers for one purpose: the same whatever else was drawn."""
        return np.random.default_rng([seed, *purpose.encode()])
