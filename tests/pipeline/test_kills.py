"""`gradsift collect` that is killed loses no row, repeats none and changes none: at random moments, and at named ones.

The oracle is a log of what an uninterrupted run stored, kept outside the stores. Processes are forked by
`command_server.py`, which has torch imported already.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.pipeline.training import finished_checkpoints

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("GRADSIFT_KILL_ROUNDS", "500"))
SEAMS = (
    "after the step is noted as begun",
    "inside save_pretrained, the adapter half written",
    "the optimizer's state half written",
    "before the first checkpoint's record",
    "after the first checkpoint's record",
    "before the last checkpoint's record",
    "after the last checkpoint's record, before the step is done",
    "before the step is noted as done",
    "after the step is noted as done",
)


class Job:
    """A configuration on disk, the server that runs commands on it, and what an uninterrupted run leaves."""

    def __init__(self, folder: Path, run_dir: Path, toml: str) -> None:
        self.run_dir = run_dir
        self.config = folder / "config.toml"
        self.config.write_text(toml, encoding="utf-8")
        self.output = folder / "output.txt"
        source = str(Path(gs.__file__).parents[1])
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py"), str(self.output)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self.collect()["status"] == 0, self.output.read_text()
        self.seconds = 0.0
        self.checkpoints = self._checkpoints()
        self.files = self._files()
        self.log = folder / "expected.jsonl"
        with open(self.log, "w", encoding="utf-8") as log:
            for path in self._stores():
                store = gs.Datastore.open(path, verify="full")
                for row, name, values in zip(store.positions().tolist(), store.ids(), store.rows(), strict=True):
                    print(json.dumps([self._name(path), row, name, digest(values)]), file=log)
        lines = self.log.read_text(encoding="utf-8").splitlines()
        self.expected = {(store, row): (name, value) for store, row, name, value in map(json.loads, lines)}
        shutil.rmtree(self.run_dir / "stores")
        self.seconds = self.collect()["seconds"]
        self.check_whole()

    def collect(self, **request: Any) -> dict[str, Any]:
        """Runs ``gradsift collect`` in a process of its own; how it ended."""
        request = {"after": None, "when": None, "signal": signal.SIGKILL, "seam": None, **request}
        request["arguments"] = ["collect", str(self.config)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def check_part(self) -> int:
        """Whatever is in the stores is in the log, and every note of ours is whole. How many rows there are."""
        there = 0
        for path in self._stores():
            store = gs.Datastore.open(path, verify="full")
            for block in store.blocks():
                for row, (name, values) in enumerate(zip(block.ids, block.rows, strict=True), block.first):
                    assert self.expected[self._name(path), row] == (name, digest(values))
                    there += 1
        for note in [*self.run_dir.rglob("step.json"), *self.run_dir.rglob("begun.json"), *self.run_dir.glob("*.json")]:
            json.loads(note.read_text(encoding="utf-8"))
        return there

    def check_whole(self) -> None:
        """All rows of the log are in the stores, once, in the bytes of an uninterrupted run; nothing is left over."""
        assert self.check_part() == len(self.expected)
        assert self._checkpoints() == self.checkpoints
        assert self._files() == self.files
        assert not list(self.run_dir.rglob(".tmp-*"))

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def _stores(self) -> list[Path]:
        return sorted(path.parent for path in self.run_dir.glob("stores/*/*/spec.json"))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.run_dir))

    def _files(self) -> dict[str, bytes]:
        found = sorted(p for path in self._stores() for p in path.iterdir())
        return {self._name(p): p.read_bytes() for p in found}

    def _checkpoints(self) -> dict[str, Any]:
        folders = finished_checkpoints(self.run_dir / "warmup")
        return {c.name: json.loads((c / "checkpoint.json").read_text(encoding="utf-8")) for c in folders}


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, make_record: Any, as_toml: Any) -> Any:
    folder = tmp_path_factory.mktemp("kills")
    record = make_record(folder)
    record["collect"]["shard_rows"] = 3
    job = Job(folder, Path(record["run_dir"]), as_toml(record))
    yield job
    job.close()


def test_random_kills_lose_repeat_and_change_nothing(job: Job) -> None:
    seed = int(os.environ.get("GRADSIFT_KILL_SEED", time.time_ns()))
    print(f"GRADSIFT_KILL_SEED={seed}; processes: {job.output}")
    rng = np.random.default_rng(seed)
    kills = partial = wholes = 0
    before = 0
    while kills < ROUNDS:
        ended = job.collect(after=rng.uniform(0.0, 1.1 * job.seconds))
        assert ended["status"] in (0, -signal.SIGKILL), job.output.read_text()[-3000:]
        there = job.check_part()
        assert there >= before, "a row that was there is gone"
        before = there
        kills += ended["status"] != 0
        partial += ended["status"] != 0 and 0 < there < len(job.expected)
        if ended["status"] == 0:
            job.check_whole()
            wholes, before = wholes + 1, 0
            shutil.rmtree(job.run_dir if rng.random() < 0.25 else job.run_dir / "stores")
    assert job.collect()["status"] == 0, job.output.read_text()[-3000:]
    job.check_whole()
    print(f"{kills} kills, {partial} of them with stores half full, {wholes} times to the end")
    assert partial >= ROUNDS // 5, "the kills missed the work"
    assert wholes >= ROUNDS // 30


@pytest.mark.parametrize("seam", SEAMS)
def test_a_kill_at_a_named_moment_of_the_warm_up_or_between_the_steps(seam: str, job: Job) -> None:
    shutil.rmtree(job.run_dir)
    assert job.collect(seam=seam)["status"] == -signal.SIGKILL, job.output.read_text()[-3000:]
    job.check_part()
    assert job.collect()["status"] == 0, job.output.read_text()[-3000:]
    job.check_whole()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_and_sigterm_stop_with_130_leave_whole_shards_and_are_resumed(number: signal.Signals, job: Job) -> None:
    shutil.rmtree(job.run_dir / "stores")
    ended = job.collect(signal=number, when=str(job.run_dir / "stores/*/pool/shard-*"))
    assert ended["status"] == 130
    assert "stopped; everything that was finished is kept" in job.output.read_text()[-300:]
    assert 0 < job.check_part() < len(job.expected)
    assert not list(job.run_dir.rglob(".tmp-*"))
    assert job.collect()["status"] == 0
    job.check_whole()
