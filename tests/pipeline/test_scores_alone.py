"""Runs that keep the scores of the pool and not its rows select what runs with a datastore select."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsift.errors import ConfigError, DatastoreCorruptError, DatastoreIncompleteError
from gradsift.pipeline import Run, load_config, parse_config, with_selection
from gradsift.pipeline.collect import collect
from gradsift.pipeline.scores import ScoreFiles
from gradsift.pipeline.select import select_samples


def open_run(record: dict[str, Any]) -> Run:
    return Run.open(parse_config(record, base=Path("/")))


def selections(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {d.name: json.loads((d / "selection.json").read_text()) for d in select_samples(open_run(record))}


@pytest.fixture(scope="module")
def warm(make_record: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that is warmed up, with two targets of unlike subtasks."""
    record = make_record(tmp_path_factory.mktemp("warm"))
    few = Path(record["targets"]["digits"]["sources"][0])
    rows = [json.loads(line) for line in few.read_text().splitlines()]
    rows = [{**row, "part": f"p{i % 2}"} for i, row in enumerate(rows)]
    few.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = few.with_name("other.jsonl")
    answers = [{"role": "user", "content": "kkk"}, {"role": "assistant", "content": "KKKK"}]
    other.write_text(json.dumps({"id": "o", "messages": answers}) + "\n", encoding="utf-8")
    record["targets"]["digits"]["subtask_field"] = "part"
    record["targets"]["capitals"] = {"sources": [str(other)]}
    from gradsift.pipeline.warmup import warmup

    warmup(open_run(record))
    return record


def both(warm: dict[str, Any], tmp_path: Path, **changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a run with rows and of one with scores alone, from the same warm-up."""
    import shutil

    records = []
    for keep in ("rows", "scores"):
        record = copy.deepcopy(warm)
        record["run_dir"] = str(tmp_path / keep)
        shutil.copytree(Path(warm["run_dir"]) / "warmup", tmp_path / keep / "warmup")
        shutil.copy(Path(warm["run_dir"]) / "config.json", tmp_path / keep)
        for section, values in changes.items():
            record[section] |= values
        record["collect"]["keep"] = keep
        records.append(record)
    return records[0], records[1]


@pytest.mark.parametrize(
    ("dtype", "section"),
    [
        ("bfloat16", {"count": 12, "selector": "round_robin"}),
        ("int8", {"count": 60, "budget": "tokens", "per_target": True, "reduce": "max", "selector": "vote"}),
    ],
)
def test_scores_alone_select_the_same_ids_as_rows(
    dtype: str, section: dict[str, Any], warm: dict[str, Any], tmp_path: Path
) -> None:
    by_rows, by_scores = both(warm, tmp_path, collect={"dtype": dtype}, select=section)
    if "count" in section:
        for record in (by_rows, by_scores):
            del record["select"]["fraction"]
    want, got = selections(by_rows), selections(by_scores)
    assert want.keys() == got.keys()
    for name, selection in want.items():
        assert got[name]["ids"] == selection["ids"]
        assert got[name]["counts"] == selection["counts"]
        assert got[name]["best_target"] == selection["best_target"]
        np.testing.assert_allclose(got[name]["influence"], selection["influence"], atol=1e-6)
        assert got[name]["settings"]["weights"] == selection["settings"]["weights"]
    assert not list((tmp_path / "scores").glob("stores/*/pool"))
    kept = sum(f.stat().st_size for f in (tmp_path / "scores").glob("stores/*/pool.scores/*"))
    rows = sum(f.stat().st_size for f in (tmp_path / "rows").glob("stores/*/pool/*.gs"))
    assert kept < rows


def test_an_interrupted_run_goes_on_with_the_scores_it_has(
    warm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradsift.collector import GradientCollector

    _, record = both(warm, tmp_path)
    (directory,) = select_samples(open_run(record))
    ids = json.loads((directory / "selection.json").read_text())["ids"]
    stores = Path(record["run_dir"]) / "stores"
    whole = {f.relative_to(stores): f.read_bytes() for f in stores.glob("*/pool.scores/*.npz")}
    assert len(whole) == 2 * 5
    import shutil

    shutil.rmtree(stores)
    original, calls = GradientCollector.start, [0]

    def interrupted(self: Any, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(GradientCollector, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(open_run(record))
    kept = {f.relative_to(stores): f.stat().st_mtime_ns for f in stores.glob("*/pool.scores/*.npz")}
    assert 0 < len(kept) < 10
    (next(stores.glob("*/pool.scores")) / ".tmp-0123").write_bytes(b"half")
    monkeypatch.setattr(GradientCollector, "start", original)
    run = open_run(record)
    with run.directory.locked():
        (directory,) = select_samples(run)
    assert json.loads((directory / "selection.json").read_text())["ids"] == ids
    assert {name: (stores / name).stat().st_mtime_ns for name in kept} == kept, "what was there is not made again"
    assert {f.relative_to(stores) for f in stores.glob("*/pool.scores/*")} == set(whole), "nothing is left behind"
    for name in whole:
        with np.load(stores / name) as got, np.load(_written(tmp_path / "whole.npz", whole[name])) as want:
            for key in want.files:
                np.testing.assert_array_equal(got[key], want[key])


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_scores_that_were_deleted_are_made_again_and_damaged_ones_are_named(
    warm: dict[str, Any], tmp_path: Path
) -> None:
    _, record = both(warm, tmp_path)
    (directory,) = select_samples(open_run(record))
    ids = json.loads((directory / "selection.json").read_text())["ids"]
    files = sorted(Path(record["run_dir"]).glob("stores/*/pool.scores/*.npz"))
    files[1].unlink()
    (directory / "step.json").unlink()
    (directory,) = select_samples(open_run(record))
    assert json.loads((directory / "selection.json").read_text())["ids"] == ids
    raw = bytearray(files[2].read_bytes())
    raw[len(raw) // 3] ^= 1
    files[2].write_bytes(raw)
    (directory / "step.json").unlink()
    with pytest.raises(DatastoreCorruptError, match=rf"{files[2].name}: expected the scores of rows .* collect again"):
        select_samples(open_run(record))


def test_scores_that_were_never_made_are_not_taken_for_scores(tmp_path: Path) -> None:
    whole = {"reason": np.zeros(2, np.uint8), "tokens": np.ones(2, np.int64), "scores-0": np.ones((2, 1), np.float32)}
    with ScoreFiles(tmp_path, 4) as files:
        np.savez(tmp_path / "rows-000000000000000-00000002.npz", **whole)
        files.refresh()
        with pytest.raises(DatastoreIncompleteError, match=r"scores of 4 rows, got none for 2 of them \(2 … 3\)"):
            files.read(0, 1)
        np.savez(tmp_path / "rows-000000000000002-00000002.npz", **whole)
        files.refresh()
        assert files.read(0, 1).scores.tolist() == [[1.0]] * 4


def test_another_reduction_or_target_needs_other_scores_and_says_so(warm: dict[str, Any], tmp_path: Path) -> None:
    _, record = both(warm, tmp_path)
    select_samples(open_run(record))
    for section in ({"reduce": "max"}, {"per_target": True}):
        other = copy.deepcopy(record)
        other["select"] |= section
        with pytest.raises(ConfigError, match=r"scores\..*: was"):
            collect(open_run(other))
    record["select"] |= {"selector": "vote"}
    (directory,) = select_samples(open_run(record))
    assert json.loads((directory / "selection.json").read_text())["settings"]["selector"] == "vote"


@pytest.mark.parametrize(
    "section", [{"deduplicate": 0.9}, {"selector": "knn_kde", "reduce": "max"}], ids=["deduplicate", "knn_kde"]
)
def test_what_reads_rows_again_is_refused_with_the_configuration(
    section: dict[str, Any], record: dict[str, Any], tmp_path: Path, as_toml: Callable[[dict[str, Any]], str]
) -> None:
    record["collect"]["keep"] = "scores"
    path = tmp_path / "run.toml"
    path.write_text(as_toml(record), encoding="utf-8")
    config = load_config(path)
    with pytest.raises(ConfigError, match=r'collect.keep: expected "rows" with select.deduplicate'):
        with_selection(config, section)


def test_a_sample_cannot_be_explained_without_its_row(warm: dict[str, Any], tmp_path: Path) -> None:
    from gradsift.pipeline.finished import FinishedSelection

    _, record = both(warm, tmp_path)
    with pytest.raises(ConfigError, match=r'select.selector: expected "rows" and gradients .* got "scores" and "top"'):
        select_samples(open_run(record), why=True)
    run = open_run(record)
    select_samples(run)
    with pytest.raises(ConfigError, match=r"selection selected: expected one by rows that were kept"):
        FinishedSelection.open(run.config).explain("digits-0")
