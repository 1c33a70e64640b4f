"""One-step fidelity on a loss that is linear, and on a tiny model: measured once, resumed, refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.cli import main
from gradsift.errors import ConfigError
from gradsift.ops.gamma import apply_gamma
from gradsift.pipeline import Run, SilentReporter, parse_config
from gradsift.pipeline.collect import collect
from gradsift.pipeline.fidelity import GAMMAS, fidelity
from gradsift.pipeline.fidelity_table import markdown, summarise
from gradsift.specs import Gamma


def linear_records(n: int = 80, d: int = 30) -> tuple[list[dict[str, Any]], float]:
    """Records of a target loss ⟨t, θ⟩, whose change by an AdamW step is its first order and nothing else.

    Moments differ by a thousand times between coordinates, so that Γ matters.
    """
    rng, rate = np.random.default_rng(3), 1e-3
    target, m = rng.normal(size=d), np.zeros(d)
    v = np.exp(rng.uniform(-7, 7, size=d))
    gammas = {"adam": Gamma.adam(0.9, 0.999, 1e-8, 5), "sgd": Gamma.sgd(), "wrong": Gamma.adam(0.9, 0.999, 1e-8, 5)}
    records = []
    for i in range(n):
        g = rng.normal(size=d) * np.sqrt(v)
        scores = {}
        for kind, gamma in gammas.items():
            direction = apply_gamma(gamma, g, m, v[::-1] if kind == "wrong" else v)
            inner, norm = float(target @ direction), float(np.linalg.norm(direction))
            scores[kind] = {s: {"cosine": [inner / norm], "inner": [inner]} for s in ("exact", "sketched")}
        change = -rate * scores["adam"]["exact"]["inner"][0]
        records.append(
            {"loss": float(i), "label_tokens": i + 1, "gradient_norm": 1.0, "change": {"t": change}, "scores": scores}
        )
    return records, rate


NOISE = {"t": {"examples": 1, "loss": 0.0, "identity": 0.0, "rounding": 0.0}}


def test_where_the_first_order_is_all_the_right_gamma_is_perfect_and_wrong_ones_are_lower() -> None:
    records, rate = linear_records()
    found = summarise(records, NOISE, rate=rate, stored=None, gamma="adam")["subtasks"]["t"]
    inner = found["scores"]["exact"]["inner"]
    assert inner["adam"]["rho"] == pytest.approx(1.0)
    assert found["first_order"]["pearson"] == pytest.approx(1.0)
    assert found["first_order"]["measured_over_predicted"] == pytest.approx(1.0)
    assert found["scores"]["exact"]["cosine"]["adam"]["rho"] > 0.9
    assert found["projection"]["adam"]["cosine"] == pytest.approx(1.0)
    assert found["projection"]["adam"]["cosine_error_sd"] == 0.0
    for wrong in ("sgd", "wrong"):
        assert inner[wrong]["rho"] < 0.8
        assert inner[wrong]["difference_interval"][1] < 0.0, "lower beyond what the draw of samples explains"


def test_a_score_of_the_other_sign_is_as_wrong_as_can_be() -> None:
    records, rate = linear_records()
    for record in records:
        record["scores"]["adam"]["exact"]["inner"][0] *= -1
    found = summarise(records, NOISE, rate=rate, stored=None, gamma="adam")["subtasks"]["t"]
    assert found["scores"]["exact"]["inner"]["adam"]["rho"] == pytest.approx(-1.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, make_record: Callable[[Path], dict[str, Any]]) -> Any:
    """A finished run of 16 samples at short steps, with the stores collected."""
    record = make_record(tmp_path_factory.mktemp("fidelity"))
    run = open_run(record)
    collect(run)
    return record, fidelity(run, samples=16, step_scale=0.01), run


def open_run(record: dict[str, Any], reporter: Any = None) -> Run:
    return Run.open(parse_config(record, base=Path("/")), reporter or SilentReporter())


def copied(record: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    mine = copy.deepcopy(record)
    shutil.copytree(mine["run_dir"], tmp_path / "run")
    mine["run_dir"] = str(tmp_path / "run")
    return mine


def folder_of(record: dict[str, Any]) -> Path:
    (folder,) = (Path(record["run_dir"]) / "fidelity").glob("*-x0.01")
    return folder


def test_short_steps_on_a_model_are_ordered_by_the_exact_step_and_less_so_by_others(measured: Any) -> None:
    _, found, _ = measured
    target = found["subtasks"]["digits"]
    assert set(target["scores"]["exact"]["inner"]) == set(GAMMAS)
    assert target["scores"]["exact"]["inner"]["adam"]["rho"] > 0.98
    assert target["first_order"]["measured_over_predicted"] == pytest.approx(1.0, abs=0.05)
    assert target["scores"]["exact"]["inner"]["sgd"]["rho"] < target["scores"]["exact"]["inner"]["adam"]["rho"]
    assert target["identity"] == 0.0
    cost = target["projection"]["adam"]
    assert 0.0 < cost["cosine_error_sd"] < 2 / np.sqrt(1024), "about one over the root of proj_dim"
    assert 0.0 < target["rounding"] < target["decrease"]["sd"]


def test_the_stores_give_the_scores_that_are_sketched_here(measured: Any) -> None:
    record, found, run = measured
    lines = [json.loads(x) for x in (folder_of(record) / "records.jsonl").read_text("utf-8").splitlines()]
    checkpoint = found["settings"]["checkpoint"]["name"]
    store = gs.Datastore.open(run.directory.pool_store(checkpoint))
    targets = gs.Datastore.open(run.directory.target_store(checkpoint, "digits"))
    scores = gs.select([store], [targets], count=1, keep_scores=True).subtask_scores
    want = [line["scores"]["adam"]["sketched"]["cosine"][0] for line in lines]
    np.testing.assert_allclose(scores[[line["position"] for line in lines], 0], want, atol=2e-5)
    assert found["subtasks"]["digits"]["others"]["stored"]["rho"] is not None


def test_more_samples_measure_only_those_that_are_new_and_a_torn_line_is_measured_again(
    measured: Any, tmp_path: Path
) -> None:
    record = copied(measured[0], tmp_path)
    path = folder_of(record) / "records.jsonl"
    whole = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(whole[:14]) + whole[14][:40], encoding="utf-8")

    class Told(SilentReporter):
        done = -1

        def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Any:
            if unit == "samples":
                Told.done = done
            return super().task(title, total, unit, done=done)

    found = fidelity(open_run(record, Told()), samples=18, step_scale=0.01)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    assert Told.done == 14
    assert lines[:14] == whole[:14]
    assert len(lines) == 18
    assert json.loads(lines[14]) == json.loads(whole[14]), "the same step gives the same numbers"
    assert found["settings"]["samples"] == 18


def test_other_settings_measure_again_and_say_why(measured: Any, tmp_path: Path) -> None:
    record = copied(measured[0], tmp_path)
    record["collect"] = {**record["collect"], "seed": 9}
    said: list[str] = []

    class Told(SilentReporter):
        def say(self, line: str) -> None:
            said.append(line)

    before = (folder_of(record) / "records.jsonl").read_text("utf-8")
    shutil.rmtree(Path(record["run_dir"]) / "stores")
    found = fidelity(open_run(record, Told()), samples=4, step_scale=0.01)
    assert any("measured again, since projection.seed: was 0, is 9" in line for line in said)
    after = (folder_of(record) / "records.jsonl").read_text("utf-8")
    assert len(after.splitlines()) == 4
    assert after.splitlines()[0] != before.splitlines()[0]
    assert found["stored_gamma"] is None
    assert "no rows of the pool are stored" in markdown(found)


def test_a_kill_between_removals_leaves_nothing_old_to_pass_for_new(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = copied(measured[0], tmp_path)
    record["collect"] = {**record["collect"], "seed": 9}
    shutil.rmtree(Path(record["run_dir"]) / "stores")
    before = (folder_of(record) / "records.jsonl").read_text("utf-8")
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        if self.parent == folder_of(record):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            fidelity(open_run(record), samples=4, step_scale=0.01)
    fidelity(open_run(record), samples=4, step_scale=0.01)
    after = (folder_of(record) / "records.jsonl").read_text("utf-8")
    assert len(after.splitlines()) == 4
    assert after.splitlines()[0] != before.splitlines()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 37}, "samples: expected 4 to 36, the samples with label tokens, got 37"),
        ({"checkpoint": "checkpoint-99"}, "checkpoint: expected one of ['checkpoint-3', 'checkpoint-6'], got "),
    ],
)
def test_wrong_arguments_are_refused(measured: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fidelity(open_run(measured[0]), **{"samples": 4, **options})
    assert message in str(caught.value)


def test_the_verb_prints_the_table_of_what_is_known(
    measured: Any, as_toml: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(as_toml(measured[0]), encoding="utf-8")
    assert main(["fidelity", str(tmp_path / "c.toml"), "--samples", "16", "--step-scale", "0.01"]) == 0
    printed = capsys.readouterr()
    assert printed.out == markdown(measured[1])
    assert main(["fidelity", str(tmp_path / "c.toml"), "--checkpoint", "none"]) == 1
    assert "checkpoint: expected one of ['checkpoint-3', 'checkpoint-6'], got 'none'" in capsys.readouterr().err
