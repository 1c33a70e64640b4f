"""What a selection writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from gradsift import errors, select


@dataclass
class Row:
    id: str
    record: dict = field(default_factory=dict)


@pytest.fixture
def chosen(gaussian):
    pool = gaussian(20)
    targets = gaussian(4)
    return select([pool], [targets], count=5, subtasks=["a", "a", "b", "b"], ids=[f"s{i}" for i in range(20)])


@pytest.fixture
def samples():
    return [Row(f"s{i}", {"id": f"s{i}", "text": f"¿Qué? {i}", "nested": {"n": [i, None]}}) for i in range(20)]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_holds_the_original_records_best_first_with_influence_rank_and_target(tmp_path, chosen, samples):
    chosen.to_jsonl(tmp_path / "out.jsonl", samples)
    rows = read(tmp_path / "out.jsonl")
    for rank, (row, i) in enumerate(zip(rows, chosen.ids, strict=True), start=1):
        assert row["influence"] == float(chosen.scores[rank - 1])
        assert row["rank"] == rank
        assert row["best_target"] == chosen.best_subtask[rank - 1]
        original = next(s.record for s in samples if s.id == i)
        assert {k: v for k, v in row.items() if k not in ("influence", "rank", "best_target")} == original
    assert [row["influence"] for row in rows] == sorted((row["influence"] for row in rows), reverse=True)
    assert "¿Qué?" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_a_mapping_of_records_serves_as_samples(tmp_path, chosen, samples):
    chosen.to_jsonl(tmp_path / "a.jsonl", samples)
    chosen.to_jsonl(tmp_path / "b.jsonl", {s.id: s.record for s in samples})
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_record_that_has_our_keys_is_not_overwritten_but_written_beside_them(tmp_path, chosen, samples):
    for sample in samples:
        sample.record["rank"] = "sergeant"
    path = tmp_path / "out.jsonl"
    with pytest.raises(errors.DataError, match=r"got \['rank'\] in sample '.*pass prefix="):
        chosen.to_jsonl(path, samples)
    assert list(tmp_path.iterdir()) == []
    chosen.to_jsonl(path, samples, prefix="gradsift_")
    assert [(r["rank"], r["gradsift_rank"]) for r in read(path)] == [("sergeant", k) for k in range(1, 6)]


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path, chosen, samples):
    for sample in samples:
        sample.record["text"] = "half a pair \ud83d"
    chosen.to_jsonl(tmp_path / "out.jsonl", samples)
    assert {r["text"] for r in read(tmp_path / "out.jsonl")} == {"half a pair \ud83d"}


def test_samples_that_are_not_those_collected_are_named(tmp_path, chosen, samples):
    first = chosen.ids[0]
    with pytest.raises(errors.DataError, match=rf"got none for 1 of 5 selected ids \(first: \['{first}'\]\)"):
        chosen.to_jsonl(tmp_path / "x", [s for s in samples if s.id != first])
    with pytest.raises(errors.DataError, match=rf"expected each id once, got '{first}' twice"):
        chosen.to_jsonl(tmp_path / "x", [*samples, Row(first)])
    with pytest.raises(TypeError, match=r"samples with .id and .record, got a dict"):
        chosen.to_jsonl(tmp_path / "x", [s.record for s in samples])
    samples[int(first[1:])].record["text"] = np.float32(1)
    with pytest.raises(errors.DataError, match=rf"float32 is not JSON serializable in sample '{first}'"):
        chosen.to_jsonl(tmp_path / "x", samples)
    assert list(tmp_path.iterdir()) == []


def test_save_writes_the_samples_and_a_record_that_repeats_the_selection(tmp_path, gaussian, make_store):
    pools, targets = [gaussian(50), gaussian(50)], [gaussian(4), gaussian(4)]
    stores = [make_store(f"pool{c}", rows) for c, rows in enumerate(pools)]
    chosen = select(stores, targets, [3, 1], fraction=0.1, subtasks=["a", "b", "b", "b"], selector="round_robin")
    chosen.save(tmp_path / "run" / "selection", {f"s{i}": {"n": i} for i in range(50)})
    folder = tmp_path / "run" / "selection"
    assert sorted(p.name for p in folder.iterdir()) == ["selected.jsonl", "selection.json"]
    saved = json.loads((folder / "selection.json").read_text())
    assert [r["n"] for r in read(folder / "selected.jsonl")] == saved["positions"]
    content = (folder / "selected.jsonl").read_bytes()
    assert saved["selected_jsonl_digest"] == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert [c["store"] for c in saved["candidates"]] == [s.spec.digest for s in stores]
    assert saved["counts"]["selected"] == 5
    how = saved["settings"]
    again = select(
        stores,
        targets,
        how["weights"],
        fraction=how["fraction"],
        count=how["count"],
        selector=how["selector"],
        reduce=how["reduce"],
        subtasks=["a", "b", "b", "b"],
    )
    assert how["targets_per_subtask"] == {"a": 1, "b": 3}
    assert again.ids == saved["ids"]
    assert again.scores.tolist() == saved["influence"]


def test_saving_twice_replaces_both_files(tmp_path, chosen, samples, gaussian):
    chosen.save(tmp_path, samples)
    other = select([gaussian(20)], [gaussian(2)], count=2, ids=[f"s{i}" for i in range(20)])
    other.save(tmp_path, samples)
    assert [r["id"] for r in read(tmp_path / "selected.jsonl")] == other.ids
    assert json.loads((tmp_path / "selection.json").read_text())["ids"] == other.ids


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, errors.DiskFullError), (errno.EIO, OSError)])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, chosen, samples, monkeypatch, code, error):
    path = tmp_path / "out.jsonl"
    path.write_text("before")

    def fail(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error):
        chosen.to_jsonl(path, samples)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_numbers_of_numpy_are_written_as_any_number(tmp_path, gaussian, samples):
    ids = [f"s{i}" for i in range(20)]
    pool, targets = [gaussian(20)], [gaussian(4)]
    plain = {"count": 4, "selector": "quota", "options": {"by": "length", "bands": 2, "shares": {"0": 3, "1": 1}}}
    numpy = {"count": np.int64(4), "selector": "quota"}
    numpy["options"] = {"by": "length", "bands": np.int64(2), "shares": {"0": np.float32(3), "1": np.int8(1)}}
    for name, asked in (("plain", plain), ("numpy", numpy)):
        select(pool, targets, ids=ids, lengths=list(range(1, 21)), **asked).save(tmp_path / name, samples)
    want, got = (json.loads((tmp_path / name / "selection.json").read_text()) for name in ("plain", "numpy"))
    assert got == want
    select(pool, targets, ids=ids, fraction=np.float32(0.5)).save(tmp_path / "half", samples)
    assert json.loads((tmp_path / "half" / "selection.json").read_text())["settings"]["fraction"] == 0.5
