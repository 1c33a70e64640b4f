"""The whole job on a tiny model: from rows of text to a table, resumed, refused and repeated."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.errors import ConfigError, DataError, DatastoreCorruptError
from gradsift.pipeline import Run, parse_config, run_all
from gradsift.pipeline.collect import collect
from gradsift.pipeline.finished import FinishedSelection
from gradsift.pipeline.select import select_samples
from gradsift.pipeline.training import finished_checkpoints
from gradsift.pipeline.warmup import warmup


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.advanced: dict[str, int] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def running() -> Any:
            self.advanced[title] = done

            def advance(n: int) -> None:
                self.advanced[title] += n

            yield advance

        return running()


def open_run(record: dict[str, Any], listener: Listener | None = None) -> Run:
    return Run.open(parse_config(record, base=Path("/")), listener)


def stored_rows(run_dir: Path) -> dict[str, np.ndarray]:
    return {
        str(p.relative_to(run_dir)): gs.Datastore.open(p).rows(0, len(gs.Datastore.open(p)))
        for p in sorted((run_dir / "stores").glob("*/*"))
        if (p / "spec.json").is_file()
    }


def checkpoint_records(run_dir: Path) -> dict[str, Any]:
    folders = finished_checkpoints(run_dir / "warmup")
    return {c.name: json.loads((c / "checkpoint.json").read_text()) for c in folders}


def selected_ids(directory: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (directory / "selected.jsonl").read_text().splitlines()]


def test_the_whole_job_leaves_what_its_readme_promises(record: dict[str, Any]) -> None:
    listener = Listener()
    results = run_all(parse_config(record, base=Path("/")), listener)
    run_dir = Path(record["run_dir"])
    assert set(results["targets"]["digits"]) == {"base", "random", "selected"}
    assert len(results["targets"]["digits"]["selected"]["loss"]) == 2
    assert results["selections"]["selected"]["samples"] == int(0.2 * 36)
    selected = [json.loads(x) for x in (run_dir / "selection/selected/selected.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in selected] == list(range(1, 8))
    assert selected[0]["messages"][0]["role"] == "user"
    assert all(a["influence"] >= b["influence"] for a, b in itertools.pairwise(selected))
    for name in ("results.md", "results.json", "README.md", "config.json", "data/pool.json", "evaluate/base.json"):
        assert (run_dir / name).is_file(), name
    page = run_dir / "selection" / "selected" / "report.html"
    assert f"report: {page}" in listener.lines
    assert "7 of 36 samples for <bdi>digits</bdi>" in page.read_text(encoding="utf-8")
    pools = {title: n for title, n in listener.advanced.items() if title.endswith("pool")}
    assert len(pools) == 2
    assert set(pools.values()) == {36}


def test_the_same_command_again_does_nothing_twice(record: dict[str, Any]) -> None:
    first = run_all(parse_config(record, base=Path("/")))
    listener = Listener()
    assert run_all(parse_config(record, base=Path("/")), listener) == first
    assert listener.advanced == {}


def test_an_interrupted_collection_goes_on_and_writes_the_same_bytes(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradsift.collector import GradientCollector

    run_dir = Path(record["run_dir"])
    collect(open_run(record))
    whole = {p.name: p.read_bytes() for p in (run_dir / "stores").glob("*/pool/*.gs")}
    assert len(whole) == 2 * 5
    shutil.rmtree(run_dir / "stores")
    original, calls = GradientCollector.start, [0]

    def interrupted(self: Any, batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(GradientCollector, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(open_run(record))
    monkeypatch.setattr(GradientCollector, "start", original)
    kept = list((run_dir / "stores").glob("*/pool/*.gs"))
    assert 0 < len(kept) < 10
    collect(open_run(record))
    assert {p.name: p.read_bytes() for p in (run_dir / "stores").glob("*/pool/*.gs")} == whole


def test_an_interrupted_warmup_goes_on_from_its_last_epoch(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gradsift.pipeline import training

    run_dir = Path(record["run_dir"])
    warmup(open_run(record))
    whole = {c.name: json.loads((c / "checkpoint.json").read_text()) for c in finished_checkpoints(run_dir / "warmup")}
    moments = {
        c.name: torch.load(c / "optimizer.pt", weights_only=True) for c in finished_checkpoints(run_dir / "warmup")
    }
    shutil.rmtree(run_dir / "warmup")
    original, calls = training.write_json, [0]

    def killed(path: Path, value: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:  # the second checkpoint's record: its files are there, its last one is not
            raise KeyboardInterrupt
        original(path, value)

    monkeypatch.setattr(training, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        warmup(open_run(record))
    monkeypatch.setattr(training, "write_json", original)
    assert len(finished_checkpoints(run_dir / "warmup")) == 1
    warmup(open_run(record))
    assert checkpoint_records(run_dir) == whole
    for c in finished_checkpoints(run_dir / "warmup"):
        state = torch.load(c / "optimizer.pt", weights_only=True)["state"]
        for index, expected in moments[c.name]["state"].items():
            torch.testing.assert_close(state[index]["exp_avg"], expected["exp_avg"], rtol=0, atol=0)


def test_warmup_checkpoints_carry_moments_that_load_by_name(record: dict[str, Any]) -> None:
    from gradsift.pipeline.models import load_adapter, load_base

    run = open_run(record)
    checkpoints = warmup(run)
    assert len(checkpoints) == 2
    rates = [json.loads((c / "checkpoint.json").read_text())["learning_rate"] for c in checkpoints]
    assert rates[0] > rates[1] > 0
    model = load_adapter(load_base(run.config.model), checkpoints[1])
    moments = gs.load_moments(checkpoints[1], model)
    assert "model.layers.0.self_attn.q_proj.lora_A.weight" in moments
    assert moments.step == int(checkpoints[1].name.rsplit("-", 1)[1])
    assert not list((run.directory.root / "warmup").rglob("*.bin")), "no pickle is left behind"


def test_expensive_steps_refuse_another_configuration(record: dict[str, Any]) -> None:
    collect(open_run(record))
    before = stored_rows(Path(record["run_dir"]))
    other = copy.deepcopy(record)
    other["collect"]["seed"] = 1
    with pytest.raises(ConfigError, match=r"projection\.seed: was 0, is 1"):
        collect(open_run(other))
    other = copy.deepcopy(record)
    other["lora"]["r"] = 8
    with pytest.raises(ConfigError, match=r"lora\.r: was 4, is 8"):
        collect(open_run(other))
    after = stored_rows(Path(record["run_dir"]))
    assert before.keys() == after.keys()
    for name, rows in before.items():
        np.testing.assert_array_equal(rows, after[name])


def test_a_changed_selection_is_made_again_and_says_why(record: dict[str, Any]) -> None:
    select_samples(open_run(record))
    other = copy.deepcopy(record)
    other["select"] = {"count": 3}
    listener = Listener()
    (directory,) = select_samples(open_run(other, listener))
    assert len((directory / "selected.jsonl").read_text().splitlines()) == 3
    assert any("select.count: was None, is 3" in line for line in listener.lines)


def test_per_target_makes_one_selection_for_each(record: dict[str, Any]) -> None:
    record["targets"]["again"] = dict(record["targets"]["digits"])
    record["select"]["per_target"] = True
    directories = select_samples(open_run(record))
    assert [d.name for d in directories] == ["digits", "again"]
    assert selected_ids(directories[0]) == selected_ids(directories[1])


def test_a_pool_of_other_data_is_refused(record: dict[str, Any]) -> None:
    collect(open_run(record))
    pool = Path(record["pool"]["sources"][0])
    pool.write_text("".join(pool.read_text().splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(ConfigError, match="pool: was"):
        collect(open_run(record))


def test_a_shard_that_was_deleted_is_collected_again(record: dict[str, Any]) -> None:
    run = open_run(record)
    collect(run)
    shards = sorted(Path(record["run_dir"]).glob("stores/*/pool/*.gs"))
    before = shards[3].read_bytes()
    shards[3].unlink()
    listener = Listener()
    collect(open_run(record, listener))
    assert shards[3].read_bytes() == before
    assert listener.advanced == {f"{shards[3].parent.parent.name}, pool": 36}


def test_a_selection_is_made_again_when_its_subtasks_change(record: dict[str, Any]) -> None:
    few = Path(record["targets"]["digits"]["sources"][0])
    rows = [json.loads(line) for line in few.read_text().splitlines()]
    few.write_text("".join(json.dumps({**row, "part": f"p{i}"}) + "\n" for i, row in enumerate(rows)), encoding="utf-8")
    select_samples(open_run(record))
    record["targets"]["digits"]["subtask_field"] = "part"
    (directory,) = select_samples(open_run(record))
    chosen = json.loads((directory / "selection.json").read_text())
    assert chosen["subtasks"] == ["digits/p0", "digits/p1", "digits/p2"]


def test_a_selection_cut_short_is_not_taken_for_done(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from gradsift.selection import Selection

    select_samples(open_run(record))
    original = Selection.save

    def killed(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        raise KeyboardInterrupt

    other = copy.deepcopy(record)
    other["select"] = {"count": 3}
    monkeypatch.setattr(Selection, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        select_samples(open_run(other))
    monkeypatch.setattr(Selection, "save", original)
    (directory,) = select_samples(open_run(record))
    assert len(selected_ids(directory)) == 7


def test_a_changed_test_set_is_measured_again(record: dict[str, Any]) -> None:
    record["train"] = {"epochs": 1, "seeds": [0], "random": False}
    run_all(parse_config(record, base=Path("/")))
    test = Path(record["targets"]["digits"]["test"][0])
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    test.write_text("".join(json.dumps({**row, "answers": ["x"]}) + "\n" for row in rows), encoding="utf-8")
    listener = Listener()
    run_all(parse_config(record, base=Path("/")), listener)
    assert set(listener.advanced) == {"evaluate base", "evaluate selected-seed-0"}


def test_a_refused_configuration_leaves_the_notes_of_the_run_alone(record: dict[str, Any]) -> None:
    collect(open_run(record))
    notes = Path(record["run_dir"]) / "config.json"
    before = notes.read_bytes()
    other = copy.deepcopy(record)
    other["lora"]["r"] = 8
    with pytest.raises(ConfigError):
        collect(open_run(other))
    assert notes.read_bytes() == before


def test_max_length_beyond_the_models_positions_is_refused(record: dict[str, Any]) -> None:
    record["model"]["max_length"] = 4096
    with pytest.raises(ConfigError, match=r"model\.max_length: expected at most the 2048 tokens .*, got 4096"):
        warmup(open_run(record))


def test_more_samples_than_the_pool_has_are_refused_before_the_work(record: dict[str, Any]) -> None:
    record["select"] = {"count": 37}
    with pytest.raises(ConfigError, match=r"select\.count: expected at most the pool's 36 samples, got 37"):
        warmup(open_run(record))


def test_a_share_of_a_source_that_the_pool_has_not_is_refused_before_the_work(record: dict[str, Any]) -> None:
    record["select"] = {"selector": "quota", "options": {"shares": {"nowhere": 1}}}
    with pytest.raises(ConfigError, match=r"select\.options\.shares: expected sources of the pool, .*'nowhere'"):
        warmup(open_run(record))


def test_an_epoch_of_one_step_has_a_learning_rate(record: dict[str, Any]) -> None:
    record["warmup"] = {"fraction": 0.05, "epochs": 1, "batch_size": 8}
    (checkpoint,) = warmup(open_run(record))
    assert json.loads((checkpoint / "checkpoint.json").read_text())["learning_rate"] > 0


def test_a_damaged_store_is_refused_by_the_selection(record: dict[str, Any]) -> None:
    collect(open_run(record))
    shard = next(Path(record["run_dir"]).glob("stores/*/pool/*.gs"))
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatastoreCorruptError, match=shard.name):
        select_samples(open_run(record))


@pytest.mark.parametrize(
    ("part", "content", "says"),
    [
        ("pool", "", "pool.jsonl"),
        ("pool", '{"messages": "not a chat"}\n', "pool.jsonl:1"),
        ("few", '{"prompt": "only a question"}\n', "few.jsonl:1"),
    ],
)
def test_bad_input_stops_the_run_before_anything_is_trained(
    record: dict[str, Any], part: str, content: str, says: str
) -> None:
    sources = record["pool"]["sources"] if part == "pool" else record["targets"]["digits"]["sources"]
    Path(sources[0]).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        run_all(parse_config(record, base=Path("/")))
    assert not list(Path(record["run_dir"]).glob("warmup/checkpoint-*"))


def test_a_target_whose_answers_are_cut_away_is_named(record: dict[str, Any]) -> None:
    record["model"]["max_length"] = 8
    with pytest.raises(DataError, match="target digits: expected label tokens"):
        run_all(parse_config(record, base=Path("/")))


def test_lora_modules_that_the_model_lacks_are_named(record: dict[str, Any]) -> None:
    record["lora"]["modules"] = ["c_attn"]
    with pytest.raises(ConfigError, match=r"lora\.modules: expected names of layers of this model, got \['c_attn'\]"):
        warmup(open_run(record))


def test_selected_rows_score_as_brute_force_over_the_stores_says(record: dict[str, Any]) -> None:
    run = open_run(record)
    (directory,) = select_samples(run)
    checkpoints = finished_checkpoints(run.directory.warmup)
    rates = np.array([json.loads((c / "checkpoint.json").read_text())["learning_rate"] for c in checkpoints])
    total = 0.0
    for rate, c in zip(rates / rates.sum(), checkpoints, strict=True):
        pool = gs.Datastore.open(run.directory.pool_store(c.name))
        target = gs.Datastore.open(run.directory.target_store(c.name, "digits"))
        rows, wanted = (s.rows(0, len(s)).astype(np.float64) for s in (pool, target))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        total = total + rate * (rows @ wanted.T).mean(axis=1)
    best = np.argsort(-total, kind="stable")[:7]
    selected = [json.loads(x) for x in (directory / "selected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in selected] == [run.pool.ids[i] for i in best]
    np.testing.assert_allclose([row["influence"] for row in selected], total[best], rtol=0, atol=1e-6)


def test_a_quantised_pool_keeps_its_targets_in_float32_and_selects_almost_the_same(record: dict[str, Any]) -> None:
    run = open_run(record)
    (directory,) = select_samples(run)
    floats = selected_ids(directory)
    shutil.rmtree(run.directory.root / "stores")
    record["collect"]["dtype"] = "int8"
    run = open_run(record)
    (directory,) = select_samples(run)
    for c in finished_checkpoints(run.directory.warmup):
        assert gs.Datastore.open(run.directory.pool_store(c.name)).dtype == "int8"
        assert gs.Datastore.open(run.directory.target_store(c.name, "digits")).dtype == "float32"
    assert len(set(floats) & set(selected_ids(directory))) >= len(floats) - 1


def test_rounded_targets_are_recorded_and_explained_as_they_were_scored(record: dict[str, Any]) -> None:
    record["select"] = {"count": 5}
    (directory,) = select_samples(open_run(record))
    exact = json.loads((directory / "selection.json").read_text())
    record["select"]["target_dtype"] = "bfloat16"
    run = open_run(record)
    select_samples(run)
    rounded = json.loads((directory / "selection.json").read_text())
    assert (exact["settings"]["target_dtype"], rounded["settings"]["target_dtype"]) == ("auto", "bfloat16")
    assert exact["influence"][0] != pytest.approx(rounded["influence"][0], abs=1e-6)
    found = FinishedSelection.open(run.config).explain(rounded["ids"][0], neighbours=0)
    assert found.influence == pytest.approx(rounded["influence"][0], abs=1e-6)


def test_a_coarse_copy_is_scanned_and_the_best_are_scored_again_from_the_rows(record: dict[str, Any]) -> None:
    (directory,) = select_samples(open_run({**record, "select": {"count": 5}}))
    exact = json.loads((directory / "selection.json").read_text())
    run = open_run({**record, "select": {"count": 5, "scan_dtype": "int1"}})
    select_samples(run)
    chosen = json.loads((directory / "selection.json").read_text())
    checkpoints = sorted(c["checkpoint"]["name"] for c in chosen["candidates"])
    for name in checkpoints:
        assert gs.Datastore.open(run.directory.pool_store(name).with_name("pool.int1")).dtype == "int1"
    assert [c["path"].endswith("pool.int1") for c in chosen["candidates"]] == [True] * len(checkpoints)
    assert [c["path"].endswith("pool") for c in chosen["rescore"]] == [True] * len(checkpoints)
    assert chosen["settings"]["rescored"] == 25
    scores = dict(zip(exact["ids"], exact["influence"], strict=True))
    again = dict(zip(chosen["ids"], chosen["influence"], strict=True))
    assert {i: again[i] for i in scores.keys() & again.keys()} == {i: scores[i] for i in scores.keys() & again.keys()}
    assert len(scores.keys() & again.keys()) >= 3


@pytest.mark.parametrize(
    ("section", "taken"),
    [
        ({"count": 6, "selector": "quota", "options": {"shares": {"digits": 2, "capitals": 1}}}, 6),
        ({"count": 5, "selector": "length", "options": {"first": "shortest"}}, 5),
        ({"selector": "band", "options": {"low": 0.5, "high": 1.0}}, 18),
        ({"count": 4, "selector": "knn_kde", "reduce": "max", "options": {"alpha": 0.1}}, 4),
        ({"count": 36, "deduplicate": 1.0}, 36),
        ({"count": 40, "budget": "tokens"}, None),
    ],
)
def test_a_run_selects_by_any_selector(record: dict[str, Any], section: dict[str, Any], taken: int | None) -> None:
    record["select"] = section
    run = open_run(record)
    (directory,) = select_samples(run)
    chosen = json.loads((directory / "selection.json").read_text())
    ids = selected_ids(directory)
    assert ids == chosen["ids"]
    assert chosen["settings"]["selector"] == section.get("selector", "top")
    tokens = dict(zip(run.pool.ids, run.pool.encoded.lengths.tolist(), strict=True))
    if taken is None:
        assert sum(tokens[i] for i in ids) <= 40 < sum(sorted(tokens.values())[: len(ids) + 1]) + max(tokens.values())
        assert chosen["counts"]["selected_tokens"] == sum(tokens[i] for i in ids)
    else:
        assert len(ids) == taken
    if section.get("selector") == "quota":
        assert sum(i.startswith("digits") for i in ids) == 4
    if section.get("selector") == "length":
        assert sorted(tokens[i] for i in ids) == sorted(tokens.values())[:5]


def test_the_command_line_selects_otherwise_than_the_file_says(
    record: dict[str, Any], as_toml: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradsift.cli import main

    path = tmp_path / "run.toml"
    path.write_text(as_toml(record), encoding="utf-8")
    options = ["--selector", "quota", "--option", "shares={capitals = 1}", "--option", "by=source", "--count", "3"]
    assert main(["select", str(path), *options]) == 0
    directory = Path(record["run_dir"]) / "selection" / "selected"
    assert all(i.startswith("capitals") for i in selected_ids(directory))
    assert len(selected_ids(directory)) == 3
    assert main(["select", str(path), "--option", "top=0.5"]) == 1
    assert "select: options: expected none, since 'top' has no options" in capsys.readouterr().err
    assert main(["select", str(path), "--option", "top"]) == 2
    strange = ["--selector", "quota", "--option", "by=length", "--option", "shares={9 = 1}"]
    assert main(["select", str(path), *strange]) == 1
    assert "selection selected: shares: expected groups of the eligible pool" in capsys.readouterr().err
    assert main(["select", str(path)]) == 0
    assert len(selected_ids(directory)) == 7
