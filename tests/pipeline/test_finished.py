"""A selection opened again: explained from Python and from the command line, with nothing but its directory."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gradsift.cli import main
from gradsift.cli.explain import print_explanation
from gradsift.errors import ConfigError, DataError
from gradsift.pipeline import LineReporter, Run, load_config, parse_config
from gradsift.pipeline.finished import FinishedSelection, run_config, write_reports
from gradsift.pipeline.select import select_samples


@pytest.fixture(scope="module")
def run_dir(make_record: Callable[[Path], dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as its selection, explained."""
    record = make_record(tmp_path_factory.mktemp("finished"))
    run = Run.open(parse_config(record, base=Path("/")))
    select_samples(run, why=True)
    return run.directory.root


@pytest.fixture
def selection(run_dir: Path) -> FinishedSelection:
    return FinishedSelection.open(run_config(run_dir))


def test_why_jsonl_explains_each_selected_sample_in_order(selection: FinishedSelection) -> None:
    lines = [json.loads(line) for line in (selection.directory / "why.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == selection.record["ids"]
    np.testing.assert_allclose([line["influence"] for line in lines], selection.record["influence"], atol=1e-6)
    assert len(lines[0]["checkpoints"]) == len(selection.record["candidates"]) > 1
    for line in lines[:2]:
        near = selection.explain(line["id"], neighbours=3).to_dict()["neighbours"]
        assert [n["id"] for n in line["neighbours"]] == [n["id"] for n in near]


def test_a_sample_is_explained_as_it_was_scored(selection: FinishedSelection) -> None:
    best = selection.record["ids"][0]
    found = selection.explain(best, neighbours=3)
    assert (found.rank, selection.selected_rank(best)) == (1, 1)
    assert found.influence == pytest.approx(selection.record["influence"][0], abs=1e-6)
    assert {n.id for n in found.closest_targets} <= {s.id for part in selection.targets.values() for s in part}
    assert len(found.neighbours) == 3


def test_diagnostics_of_a_run_count_sources(selection: FinishedSelection) -> None:
    sources = selection.record["diagnostics"]["sources"]
    assert sources["pool"] == {"capitals": 20, "digits": 16}
    assert sum(sources["selected"].values()) == len(selection.record["ids"])


def test_the_configuration_in_a_run_directory_is_one_for_every_command(run_dir: Path, tmp_path: Path) -> None:
    made = load_config(run_dir / "config.json")
    assert made.run_dir == str(run_dir)
    shutil.copytree(run_dir, tmp_path / "moved")
    moved = load_config(tmp_path / "moved" / "config.json")
    assert moved == made.model_copy(update={"run_dir": str(tmp_path / "moved")})
    assert main(["config", str(run_dir / "config.json")]) == 0
    (tmp_path / "moved" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: expected JSON, got"):
        load_config(tmp_path / "moved" / "config.json")


def test_a_run_directory_that_was_moved_explains_itself(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert main(["explain", "digits-3", "--json", "--closest", "2", "--neighbours", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["id"] == "digits-3"
    assert record["messages"][0] == {"role": "user", "content": "ddd"}
    assert [len(record[k]) for k in ("closest_targets", "neighbours")] == [2, 1]
    assert all(near["messages"] for near in record["closest_targets"] + record["neighbours"])


def test_explain_prints_for_people(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits-3", "--run-dir", str(run_dir)]) == 0
    out = capsys.readouterr().out
    for text in ("digits-3: influence", "user: ddd", "Closest target examples", "Nearest in the pool"):
        assert text in out


def test_names_with_line_breaks_make_no_lines_of_their_own() -> None:
    out = io.StringIO()
    name = "a\nb: influence 9.9\x1b[31m"
    near = {"similarity": 0.5, "id": name, "subtask": name, "selected_rank": 1, "messages": []}
    record = {
        "id": name,
        "selection": "s",
        "selected_rank": 1,
        "excluded": None,
        "influence": 0.25,
        "rank": 1,
        "ranked": 2,
    }
    record |= {
        "messages": [],
        "checkpoints": [],
        "subtasks": {name: 0.5},
        "closest_targets": [near],
        "neighbours": [near],
    }
    print_explanation(Console(file=out, width=200), record)
    record["excluded"] = "zero"
    print_explanation(Console(file=out, width=200), record)
    assert out.getvalue().count("a b: influence 9.9⟨U+001B⟩[31m") == 10
    assert "\nb:" not in out.getvalue()


def test_an_unknown_id_is_explained_with_ids_like_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digit-3", "--run-dir", str(run_dir)]) == 1
    err = capsys.readouterr().err
    assert "got 'digit-3'" in err
    assert "'digits-3'" in err


def test_explain_needs_neither_torch_nor_transformers(run_dir: Path) -> None:
    code = (
        "import sys; from gradsift.cli import main; "
        f"status = main(['explain', 'digits-3', '--run-dir', {str(run_dir)!r}]); "
        "print(status, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_pool_that_changed_since_is_refused(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(run_dir, root)
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    (source,) = config["pool"]["sources"]
    changed = tmp_path / "pool.jsonl"
    changed.write_text("".join(Path(source).read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), "utf-8")
    config["pool"]["sources"] = [str(changed)]
    (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match="expected the 36 samples that selection selected was made from, got 35"):
        _ = FinishedSelection.open(run_config(root)).pool


def test_targets_that_changed_since_are_refused(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(run_dir, root)
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    (source,) = config["targets"]["digits"]["sources"]
    changed = tmp_path / "few.jsonl"
    for text in (
        Path(source).read_text("utf-8").replace('"id": "', '"id": "other-'),
        Path(source).read_text("utf-8") * 2,
    ):
        rows = [{**json.loads(line), "id": f"{i}-{json.loads(line)['id']}"} for i, line in enumerate(text.splitlines())]
        changed.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        config["targets"]["digits"]["sources"] = [str(changed)]
        (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
        selection = FinishedSelection.open(run_config(root))
        for asked in (selection.write_why, selection.write_report, lambda of=selection: of.explain("digits-3")):
            with pytest.raises(DataError, match=rf"that selection selected was made for, got {len(rows)} others"):
                asked()


def rewritten(run_dir: Path, root: Path, **changes: object) -> FinishedSelection:
    """A copy of the run whose ``selection.json`` has other values; without a key where that is None."""
    shutil.copytree(run_dir, root)
    path = root / "selection" / "selected" / "selection.json"
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), encoding="utf-8")
    return FinishedSelection.open(run_config(root))


def test_rows_that_were_collected_otherwise_since_are_refused(run_dir: Path, tmp_path: Path) -> None:
    candidates = FinishedSelection.open(run_config(run_dir)).record["candidates"]
    selection = rewritten(run_dir, tmp_path / "run", candidates=[{**c, "store": "0" * 32} for c in candidates])
    for asked in (selection.write_why, selection.write_report, lambda: selection.explain("digits-3")):
        with pytest.raises(DataError, match="expected the rows that selection selected was made from, got others"):
            asked()


def test_a_selection_of_another_version_is_refused_with_what_to_do(run_dir: Path, tmp_path: Path) -> None:
    older = rewritten(run_dir, tmp_path / "older", diagnostics=None, distributions=None)
    with pytest.raises(DataError, match=r"without diagnostics and distributions; remove .*selected and select again"):
        older.write_report()
    assert older.explain("digits-3").id == "digits-3"
    with pytest.raises(DataError, match=r"version 1, got 'gradsift\.selection', version 2; remove"):
        rewritten(run_dir, tmp_path / "newer", version=2)
    (tmp_path / "newer" / "selection" / "selected" / "selection.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"expected format 'gradsift\.selection'"):
        FinishedSelection.open(run_config(tmp_path / "newer"))


def test_what_is_not_there_is_said(run_dir: Path, tmp_path: Path) -> None:
    config = run_config(run_dir)
    with pytest.raises(ConfigError, match="expected one of selected, got 'other'"):
        FinishedSelection.open(config, "other")
    with pytest.raises(ConfigError, match="expected a finished selection, got none; make it with gradsift select"):
        FinishedSelection.open(config.model_copy(update={"run_dir": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"expected a run directory, got none \(it has no config.json\)"):
        run_config(tmp_path)


def test_one_of_several_selections_must_be_named(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(run_dir / "selection" / "selected", root / "selection" / "digits")
    shutil.copytree(run_dir / "selection" / "selected", root / "selection" / "more")
    config = run_config(run_dir)
    targets = {"digits": config.targets["digits"], "more": config.targets["digits"]}
    select = config.select.model_copy(update={"per_target": True})
    config = config.model_copy(update={"run_dir": str(root), "targets": targets, "select": select})
    with pytest.raises(ConfigError, match="expected one of digits, more, got none; say --selection NAME"):
        FinishedSelection.open(config)
    assert FinishedSelection.open(config, "more").name == "more"


def test_report_writes_the_page_beside_the_selection(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(run_dir, root)
    assert main(["report", "--run-dir", str(root)]) == 0
    path = root / "selection" / "selected" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text(encoding="utf-8")
    assert page.count("<article>") == 12
    assert page.count("closest target example") == 12
    assert "Its text was not at hand" not in page


def test_another_selection_by_the_command_line_has_its_own_report(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(run_dir, root)
    page = root / "selection" / "selected" / "report.html"
    page.write_text("of what was selected before")
    assert main(["select", str(root / "config.json"), "--run-dir", str(root), "--count", "2"]) == 0
    assert len((root / "selection" / "selected" / "selected.jsonl").read_text().splitlines()) == 2
    assert "2 of " in page.read_text("utf-8")


def test_a_run_without_the_extra_says_why_there_is_no_report(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(run_dir, root)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name))
    said: list[str] = []
    assert write_reports(Run.open(run_config(root), LineReporter(said.append))) == []
    assert said == [
        'no report.html: report: expected jinja2 to be installed, got nothing; pip install "gradsift[report]"'
    ]
    assert main(["report", "--run-dir", str(root)]) == 1
    assert not (root / "selection" / "selected" / "report.html").exists()


def test_without_kept_rows_there_is_a_report_and_no_explanation(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(run_dir, root)
    path = root / "selection" / "selected" / "selection.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["candidates"] = [
        {"scored": "while collecting", "dtype": "float32", "rows": 36} for _ in record["candidates"]
    ]
    path.write_text(json.dumps(record), encoding="utf-8")
    shutil.rmtree(root / "stores")
    selection = FinishedSelection.open(run_config(root))
    page = selection.write_report().read_text(encoding="utf-8")
    assert page.count("<article>") == 12
    assert "closest target example" not in page
    assert "36 rows, scored while collecting" in page
    assert "checkpoint-" in page
    with pytest.raises(ConfigError, match="expected one by rows that were kept, got one by scores alone"):
        selection.explain("digits-3")


def test_examples_of_two_targets_that_share_an_id_are_told_apart(
    make_record: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    record = make_record(tmp_path)
    few = Path(record["targets"]["digits"]["sources"][0])
    other = few.with_name("other.jsonl")
    rows = [json.loads(line) for line in few.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["messages"][1]["content"] = row["messages"][0]["content"].upper()
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record["targets"]["capitals"] = {"sources": [str(other)]}
    run = Run.open(parse_config(record, base=Path("/")))
    select_samples(run)
    selection = FinishedSelection.open(run.config)
    found = selection.in_words(selection.explain("digits-3", closest=6, neighbours=0))
    answers = {(near["subtask"], near["id"]): near["messages"][1]["content"] for near in found["closest_targets"]}
    assert answers == {
        **{("digits", f"few-{i}"): str(i) * 4 for i in range(3)},
        **{("capitals", f"few-{i}"): c * 8 for i, c in enumerate("UVW")},
    }
