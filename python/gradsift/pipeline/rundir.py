"""The run directory: where every artefact lies, which steps are done, and with what settings."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gradsift.errors import ConfigError, GradsiftError
from gradsift.files import sync_path, write_text
from gradsift.pipeline.config import RunConfig

LOCK = ".lock"
TURN = ".lock-turn"
README = """\
# What lies in this run directory

Made by `gradsift run`. The same command again goes on where it stopped.

| path | what it is |
| --- | --- |
| `config.json` | the configuration, complete with defaults and absolute paths; any command takes it as CONFIG |
| `data/` | what was read: files with digests, counts, bad rows, truncated samples |
| `warmup/checkpoint-STEP/` | LoRA adapter, optimizer state and mean learning rate (`checkpoint.json`) of one epoch |
| `stores/checkpoint-STEP/pool/` | gradient datastore of the candidates (`gradsift store info PATH`) |
| `stores/checkpoint-STEP/target-NAME/` | gradient datastore of a target's examples |
| `stores/checkpoint-STEP/pool.step/collector.json` | how gradients were taken; `profile.json` with `--profile` |
| `stores/checkpoint-STEP/pool.step/batches.json` | tokens a batch, from which row on; holds for a resumed run |
| `selection/NAME/selected.jsonl` | the chosen samples, best first, with influence, rank and best target |
| `selection/NAME/selection.json` | how: digests, weights, settings; enough to repeat it (`--why`: `why.jsonl` too) |
| `selection/NAME/report.html` | what was selected, against the pool: figures, diagnostics, samples to read |
| `train/NAME-seed-N/` | LoRA adapter trained on a selection, or on a random choice of the same size |
| `evaluate/NAME.json` | loss and exact match of one model on every target |
| `results.md`, `results.json` | base, random and selected side by side, and what the selection is made of |
| `**/step.json` | the settings that a step was done with; it is done where this file is (a store: `pool.step/`) |

Where it was asked for:

- `stores/checkpoint-STEP/pool.int1/`: with `select.scan_dtype = "int1"`, a copy of the pool's store, to scan
- `stores/checkpoint-STEP/pool.scores/`: with `collect.keep = "scores"`, the pool's scores, instead of its store
- `fidelity/CHECKPOINT/`: rank correlation of scores with true one-step changes of loss; each step (`records.jsonl`)
- `quantiles/`: loss after training on each band of the ranking: `quantiles.md`, `.json`, one file a training
"""


def write_json(path: Path, record: Any) -> None:
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GradsiftError(f"{path}: expected JSON that this program wrote, got: {error}") from error


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Where two JSON values differ, as ``key: was …, is …`` lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(set(old) | set(new)):
            lines += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if old == new else [f"{prefix}: was {old!r}, is {new!r}"]


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, by what they hold."""

    root: Path
    config: RunConfig

    @classmethod
    def prepare(cls, config: RunConfig) -> RunDirectory:
        """The directory of `config`, made if needed; `write_down` fills it once a step agrees to the configuration.

        Raises
        ------
        ConfigError
            If something else lies at the path, or no directory can be made there.
        """
        root = Path(config.run_dir)
        if root.exists() and not root.is_dir():
            raise ConfigError(f"run_dir: expected a directory or nothing at {root}, got a file")
        try:
            root.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in root.iterdir() if not path.name.startswith(".tmp-")]
        except OSError as error:
            raise ConfigError(f"run_dir: expected a directory that can be made and read, got: {error}") from error
        if names and not {"config.json", LOCK} & set(names):
            raise ConfigError(
                f"run_dir: expected an empty directory or one of an earlier run, got {root} with other files in it; "
                "choose another run_dir"
            )
        return cls(root, config)

    def write_down(self) -> None:
        """Notes what is what, and the configuration with its defaults."""
        write_json(self.root / "config.json", self.config.model_dump(mode="json"))
        write_text(self.root / "README.md", README)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; another one that asks is refused, and the lock ends with the process."""
        with self._opened(LOCK) as file:
            if not _try_lock(file, fcntl.LOCK_EX):
                raise self._taken()
            self._clear_up()
            yield

    @contextmanager
    def shared(self, say: Callable[[str], None]) -> Iterator[None]:
        """Holds the run for this process and others that ask for the same; refused where one has it for itself."""
        with self._opened(LOCK) as file:
            with self.turn(say):  # so that nobody finds the run taken while the first one clears up
                if _try_lock(file, fcntl.LOCK_EX):
                    self._clear_up()
                if not _try_lock(file, fcntl.LOCK_SH):
                    raise self._taken()
            yield

    @contextmanager
    def turn(self, say: Callable[[str], None]) -> Iterator[None]:
        """What one process of those that share the run does at a time; the others wait, and `say` so."""
        with self._opened(TURN) as file:
            if not _try_lock(file, fcntl.LOCK_EX):
                say(f"{self.root}: another process prepares this run (its warm-up may take long); waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[str]]:
        try:
            file = open(self.root / name, "w", encoding="utf-8")  # noqa: SIM115  # closed below, with its lock
        except OSError as error:
            raise ConfigError(f"run_dir: expected a directory that can be written, got: {error}") from error
        with file:
            yield file

    def _taken(self) -> GradsiftError:
        return GradsiftError(
            f"{self.root}: expected no other process at work on this run, got one; wait for it or stop it (only "
            "`gradsift collect` shares a run, with others of its kind)"
        )

    def _clear_up(self) -> None:
        """Does for a process that was killed what it could not: removes what it half wrote, syncs what it made."""
        for orphan in self.root.rglob(".tmp-*"):
            if not self._is_store(orphan.parent):  # a datastore looks after its own
                orphan.unlink(missing_ok=True)
        stores = self.root / "stores"
        for folder in (self.root.parent, self.root, stores, *stores.glob("*")):
            if folder.is_dir():
                sync_path(folder)

    def _is_store(self, folder: Path) -> bool:
        parts = folder.relative_to(self.root).parts
        return len(parts) == 3 and parts[0] == "stores" and not parts[2].endswith((".step", ".scores"))

    @property
    def warmup(self) -> Path:
        return self.root / "warmup"

    def pool_store(self, checkpoint: str) -> Path:
        return self.root / "stores" / checkpoint / "pool"

    def pool_scores(self, checkpoint: str) -> Path:
        return self.root / "stores" / checkpoint / "pool.scores"

    def target_store(self, checkpoint: str, target: str) -> Path:
        return self.root / "stores" / checkpoint / f"target-{target}"

    def selection(self, name: str) -> Path:
        return self.root / "selection" / name

    def training(self, name: str, seed: int) -> Path:
        return self.root / "train" / f"{name}-seed-{seed}"

    def evaluation(self, name: str) -> Path:
        return self.root / "evaluate" / f"{name}.json"

    def fidelity(self, checkpoint: str) -> Path:
        return self.root / "fidelity" / checkpoint

    @property
    def quantiles(self) -> Path:
        return self.root / "quantiles"

    # A step is done when its step.json is there; that file is written last.
    def is_done(self, directory: Path, settings: dict[str, Any]) -> bool:
        """Whether the step of `directory` was done with `settings`; False if it was not done.

        Raises
        ------
        ConfigError
            If it was done, or begun, with other settings.
        """
        for name in ("step.json", "begun.json"):
            path = directory / name
            if path.is_file():
                try:
                    noted = read_json(path)
                except GradsiftError as error:
                    if isinstance(error.__cause__, FileNotFoundError):  # another process finished the step just now
                        return self.is_done(directory, settings)
                    raise
                lines = differences(noted, _plain(settings))
                if lines:
                    raise ConfigError(
                        f"{directory}: expected a step of this configuration, got one of another:\n  "
                        + "\n  ".join(lines)
                        + f"\n; choose another run_dir, or remove warmup/ and stores/ in {self.root} to begin again"
                    )
                return name == "step.json"
        return False

    def was_done_otherwise(self, directory: Path, settings: dict[str, Any]) -> list[str]:
        """The settings that differ from those a cheap step was done with; empty if none or not done."""
        path = directory / "step.json"
        return differences(read_json(path), _plain(settings)) if path.is_file() else []

    def begin(self, directory: Path, settings: dict[str, Any]) -> None:
        """Notes what a long step sets out to do, so that another configuration cannot go on with its half."""
        write_json(directory / "begun.json", _plain(settings))

    def finish(self, directory: Path, settings: dict[str, Any]) -> None:
        write_json(directory / "step.json", _plain(settings))
        (directory / "begun.json").unlink(missing_ok=True)


def _plain(settings: dict[str, Any]) -> Any:
    """`settings` as JSON gives them back (tuples are lists)."""
    return json.loads(json.dumps(settings))


def _try_lock(file: IO[str], how: int) -> bool:
    """Whether the lock was free, and is held now; it replaces one that this handle has."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
