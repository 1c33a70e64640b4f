"""Training on bands of the ranking: which rows are in which band, what comes of it, and what is not done twice."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsift.cli import main
from gradsift.errors import ConfigError, DataError
from gradsift.pipeline import Run, SilentReporter, parse_config, quantiles_figure
from gradsift.pipeline import quantiles as module
from gradsift.pipeline.quantiles import markdown, quantiles, ranking, verdict


def test_the_ranking_leaves_out_excluded_rows_and_takes_the_first_of_equals() -> None:
    influence = np.array([0.5, np.nan, 0.9, 0.5, -1.0, np.nan], np.float32)
    np.testing.assert_array_equal(ranking(influence), [2, 0, 3, 4])


def chat(name: str, question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "messages": messages}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, make_record: Callable[[Path], dict[str, Any]]) -> Any:
    """Half of the pool answers with zeros, as the target wants, half with letters."""
    folder = tmp_path_factory.mktemp("quantiles")
    record = make_record(folder)
    pool = [chat(f"p{i}", c * 3, "0000" if i % 2 else "AAAA") for i, c in enumerate("abcdefghijklmnopqrstuvwxABCDEFGH")]
    for name, rows in (("pool", pool), ("few", [chat("f", "yy", "0000")]), ("test", [chat("t", "zz!", "0000")])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record["train"] = {"epochs": 4, "learning_rate": 0.02, "batch_size": 4}
    return record, quantiles(open_run(record), bins=2, samples=12, seeds=[0])


def open_run(record: dict[str, Any], reporter: Any = None) -> Run:
    return Run.open(parse_config(record, base=Path("/")), reporter or SilentReporter())


def test_the_band_of_highest_influence_has_the_lowest_loss(measured: Any) -> None:
    record, found = measured
    (best,), (worst,) = found["rankings"]["selected"]["targets"]["digits"]["loss"]
    assert best < found["random"]["digits"][0] < worst
    assert best < found["base"]["digits"]
    high, low = found["rankings"]["selected"]["bands"]
    assert high["influence"][0] >= high["influence"][1] >= low["influence"][0] >= low["influence"][1]
    assert found["rankings"]["selected"]["targets"]["digits"]["spearman"] == pytest.approx(1.0)
    table = (Path(record["run_dir"]) / "quantiles" / "quantiles.md").read_text("utf-8")
    assert f"| {best:.4f} |" in table
    assert verdict(found, "selected", "digits") in table


def test_the_figure_says_in_words_what_it_shows_and_is_the_same_every_time(measured: Any) -> None:
    record, found = measured
    pytest.importorskip("matplotlib", reason="no figure without matplotlib")
    drawn = (Path(record["run_dir"]) / "quantiles" / "quantiles.svg").read_text("utf-8")
    words = [element.text for element in ET.fromstring(drawn) if element.tag.endswith(("title", "desc"))]
    assert words == ["Loss after training on each band of the ranking", f"{verdict(found, 'selected', 'digits')}."]
    assert quantiles_figure.draw(found, words[1:]) == drawn
    louder = {**found, "base": {"digits": 100.0}}
    assert quantiles_figure.draw(louder, words[1:]) != drawn


def test_without_matplotlib_there_is_no_figure_and_the_log_says_so(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Told(SilentReporter):
        def say(self, line: str) -> None:
            said.append(line)

    monkeypatch.setattr(quantiles_figure, "can_draw", lambda: False)
    quantiles(open_run(measured[0], Told()), bins=2, samples=12, seeds=[0])
    assert any("no figure, since matplotlib is not installed" in line for line in said)


def test_what_is_measured_is_kept_and_what_is_missing_or_changed_is_trained(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, found = measured
    folder = Path(record["run_dir"]) / "quantiles"
    trained: list[str] = []

    def fit(*args: Any, title: str, **options: Any) -> None:
        trained.append(title)

    monkeypatch.setattr(module, "fit", fit)
    assert quantiles(open_run(record), bins=2, samples=12, seeds=[0]) == found
    assert trained == []
    path = folder / "selected" / "band-2-seed-0.json"
    kept = path.read_text("utf-8")
    path.unlink()
    quantiles(open_run(record), bins=2, samples=12, seeds=[0])
    assert trained == ["quantiles, selected, band-2, seed 0"]
    trained.clear()
    path.write_text(json.dumps({**json.loads(kept), "settings": {}}), encoding="utf-8")
    quantiles(open_run(record), bins=2, samples=12, seeds=[0])
    assert trained == ["quantiles, selected, band-2, seed 0"]
    path.write_text(kept, encoding="utf-8")
    quantiles(open_run(record), bins=2, samples=12, seeds=[0])


def test_the_ranking_is_the_same_where_scores_are_kept_instead_of_rows(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[tuple[str, int], list[int]]] = []

    def measure(run: Run, arm: Any) -> dict[str, float]:
        seen[-1][arm.name, arm.seed] = arm.positions
        return {"digits": 0.0}

    monkeypatch.setattr(module, "_measure", measure)
    record = {**measured[0], "run_dir": str(tmp_path / "run")}
    shutil.copytree(Path(measured[0]["run_dir"]) / "warmup", tmp_path / "run" / "warmup")
    (tmp_path / "run" / "config.json").touch()
    for keep in ("rows", "scores"):
        seen.append({})
        quantiles(open_run({**record, "collect": {**record["collect"], "keep": keep}}), bins=3, samples=9, seeds=[0])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4


def test_arms_of_one_size_are_drawn_from_their_bands_and_differ_by_seed(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, int], list[int]] = {}

    def measure(run: Run, arm: Any) -> dict[str, float]:
        seen[arm.name, arm.seed] = arm.positions
        return {"digits": float(len(seen))}

    monkeypatch.setattr(module, "_measure", measure)
    found = quantiles(open_run(measured[0]), bins=3, samples=9, seeds=[0, 1])
    assert {len(positions) for positions in seen.values()} == {9}
    for seed in (0, 1):
        bands = [set(seen[f"selected/band-{b}", seed]) for b in (1, 2, 3)]
        assert len(set.union(*bands)) == 27, "no sample is in two bands"
    assert seen["selected/band-1", 0] != seen["selected/band-1", 1]
    assert found["rankings"]["selected"]["targets"]["digits"]["spearman_by_seed"] == pytest.approx([1.0, 1.0])
    assert "seeds 0, 1" in markdown(found)


def test_bands_that_cannot_be_trained_on_are_refused(measured: Any) -> None:
    with pytest.raises(DataError, match=r"samples: expected 1 to 8, what the smallest of 4 bands .* has, got 9"):
        quantiles(open_run(measured[0]), bins=4, samples=9)
    with pytest.raises(DataError, match=r"bins: expected at most the 3[0-9] samples of the ranking, got 40"):
        quantiles(open_run(measured[0]), bins=40)
    with pytest.raises(ConfigError, match="bins: expected at least 2, got 1"):
        quantiles(open_run(measured[0]), bins=1)
    record = {**measured[0], "targets": {"digits": {**measured[0]["targets"]["digits"], "test": []}}}
    with pytest.raises(ConfigError, match="test: expected a test set of one target at least"):
        quantiles(open_run(record), bins=2)


def test_the_verb_prints_the_table_of_what_is_known(
    measured: Any, as_toml: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(as_toml(measured[0]), encoding="utf-8")
    arguments = ["quantiles", str(tmp_path / "c.toml"), "--bins", "2", "--samples", "12", "--seed", "0"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == markdown(measured[1])
