"""RDS+ and BM25 in a run: no gradient is taken, and the choice is that of their formulae."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.pipeline import Run, embed, parse_config
from gradsift.pipeline.finished import FinishedSelection
from gradsift.pipeline.models import load_base
from gradsift.pipeline.select import select_samples

RDS = {"count": 8, "selector": "rds", "reduce": "max"}


def open_run(record: dict[str, Any]) -> Run:
    return Run.open(parse_config(record, base=Path("/")))


@pytest.fixture(scope="module")
def shared(make_record: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    record = make_record(tmp_path_factory.mktemp("embed"))
    few = Path(record["targets"]["digits"]["sources"][0])
    rows = [json.loads(line) for line in few.read_text().splitlines()]
    few.write_text("".join(json.dumps({**r, "part": f"p{i % 2}"}) + "\n" for i, r in enumerate(rows)), encoding="utf-8")
    pool = Path(record["pool"]["sources"][0])
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["messages"][0]["content"] *= 1 + i % 5
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record["targets"]["digits"]["subtask_field"] = "part"
    record["select"] = RDS
    return record


def by_hand(run: Run, part: Any) -> np.ndarray:
    """One sample at a time, without padding, in the words of the formula."""
    import torch

    model = load_base(run.config.model)
    found = []
    for sample in part.encoded:
        with torch.inference_mode():
            out = model(input_ids=torch.as_tensor(sample.input_ids).long()[None], output_hidden_states=True)
        states = out.hidden_states[-1][0].double().numpy()
        t = np.arange(1, len(states) + 1)
        found.append((t / t.sum()) @ states)
    return np.array(found)


def test_rds_takes_what_its_formula_takes_and_no_gradient(shared: dict[str, Any]) -> None:
    run = open_run(shared)
    (directory,) = select_samples(run)
    chosen = json.loads((directory / "selection.json").read_text())
    pool, targets = by_hand(run, run.pool), by_hand(run, run.targets["digits"])
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (pool, targets)]
    cosines = unit[0] @ unit[1].T
    tasks = [cosines[:, [0, 2]].max(axis=1), cosines[:, 1]]  # p0 has the first and the third example
    free, want = list(range(len(pool))), []
    for turn in range(8):
        row = max(free, key=lambda i: (tasks[turn % 2][i], -i))
        free.remove(row)
        want.append(run.pool.ids[row])
    assert chosen["ids"] == want
    np.testing.assert_allclose(
        chosen["influence"], [tasks[i % 2][run.pool.ids.index(s)] for i, s in enumerate(want)], atol=1e-5
    )
    assert chosen["settings"]["selector"] == "rds"
    assert not (run.directory.root / "warmup").exists(), "embeddings need no warm-up"
    assert chosen["diagnostics"]["projected"] is False
    finished = FinishedSelection.open(run.config)
    assert "Implied recall" not in finished.write_report().read_text(encoding="utf-8")
    first = finished.explain(chosen["ids"][0], neighbours=0)
    assert first.influence == pytest.approx(cosines[chosen["positions"][0]].max(), abs=1e-5)


def test_embeddings_do_not_depend_on_what_stands_beside_a_sample(shared: dict[str, Any]) -> None:
    run = open_run(shared)
    model = load_base(run.config.model)
    n = len(run.pool)
    pad = run.tokenizer.pad_token_id
    together = embed.embeddings(model, run.pool, range(n), pad)
    assert len(set(run.pool.encoded.lengths.tolist())) == 5, "the case must pad"
    alone = np.concatenate([embed.embeddings(model, run.pool, range(i, i + 1), pad) for i in range(n)])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(alone, by_hand(run, run.pool), atol=2e-6)
    other = embed.embeddings(model, run.pool, range(n), pad + 7)
    np.testing.assert_allclose(together, other, atol=2e-6)


def test_interrupted_embedding_goes_on_and_writes_the_same_rows(
    shared: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {**shared, "run_dir": str(tmp_path / "run")}
    original, calls = embed.embeddings, [0]

    def interrupted(*args: Any) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(embed, "embeddings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed.embed(open_run(record))
    store = Path(record["run_dir"]) / "stores/base/pool"
    there = {p.name: p.stat().st_mtime_ns for p in store.glob("*.gs")}
    assert len(there) == 3
    embed.embed(open_run(record))
    assert calls[0] == 4 + 2 + 1, "what was there is not made again"
    assert {name: (store / name).stat().st_mtime_ns for name in there} == there
    embed.embed(open_run(shared))
    want = gs.Datastore.open(Path(shared["run_dir"]) / "stores/base/pool").rows()
    np.testing.assert_array_equal(gs.Datastore.open(store).rows(), want)
    assert not want[:, 32:].any(), "hidden states of 32 numbers, then zeros"
    embed.embed(open_run(record))
    assert calls[0] == 7


def test_bm25_selects_by_words_and_collects_nothing(record: dict[str, Any]) -> None:
    pool = Path(record["pool"]["sources"][0])
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    rows[5]["messages"][0]["content"] = "uuuuuuuu"  # the question of the first target example
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record["select"] = {"count": 3, "selector": "bm25"}
    run = open_run(record)
    (directory,) = select_samples(run)
    chosen = json.loads((directory / "selection.json").read_text())
    assert chosen["ids"][0] == rows[5]["id"]
    assert chosen["settings"]["selector"] == "bm25"
    assert not (run.directory.root / "stores").exists()
    assert not (run.directory.root / "warmup").exists()
    page = FinishedSelection.open(run.config).write_report().read_text(encoding="utf-8")
    assert "Implied recall" not in page
    assert "uuuuuuuu" in page
    before = (directory / "selection.json").stat().st_mtime_ns
    select_samples(open_run(record))
    assert (directory / "selection.json").stat().st_mtime_ns == before
    few = Path(record["targets"]["digits"]["sources"][0])
    few.write_text(few.read_text().replace("uuuuuuuu", "zzz"), encoding="utf-8")
    select_samples(open_run(record))
    assert (directory / "selection.json").stat().st_mtime_ns != before
