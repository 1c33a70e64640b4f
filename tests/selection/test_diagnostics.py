"""What is said of a selection beside its ids: spread, implied recall, length, flags, sources."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradsift as gs
from gradsift.selection.diagnostics import implied_recall
from gradsift.selection.scan import ScoreSample

TEXT = {f"s{i}": {"text": str(i)} for i in range(5000)}


def simulated_recall(rng, spread, noise, share, n=400_000):
    true = rng.normal(0, spread, n)
    measured = true + rng.normal(0, noise, n)
    k = round(share * n)
    return len(np.intersect1d(np.argsort(true)[-k:], np.argsort(measured)[-k:])) / k


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
@pytest.mark.parametrize(("spread", "proj_dim"), [(0.01, 1024), (0.02, 8192), (0.05, 8192), (0.1, 65536)])
def test_implied_recall_is_what_a_simulation_finds(rng, spread, proj_dim, share):
    noise = proj_dim**-0.5
    found = simulated_recall(rng, spread, noise, share)
    k = round(share * 400_000)
    error = 5 * np.sqrt(found * (1 - found) / k) + 1 / k
    assert implied_recall(spread, noise, share) == pytest.approx(found, abs=error)


@pytest.mark.parametrize(
    ("spread", "noise", "share", "want"), [(0.0, 0.1, 0.05, 0.05), (0.1, 0.0, 0.05, 1.0), (0.01, 0.1, 1.0, 1.0)]
)
def test_implied_recall_at_its_ends(spread, noise, share, want):
    assert implied_recall(spread, noise, share) == want


def test_implied_recall_rises_with_the_spread_and_stays_a_share():
    values = [implied_recall(s, 0.01, 0.01) for s in np.geomspace(1e-6, 10, 50)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.01, rel=1e-2)
    assert 0.998 < values[-1] <= 1


@pytest.mark.parametrize(("arguments", "name"), [((0.1, 0.1, 0.0), "share"), ((-1.0, 0.1, 0.5), "spread")])
def test_implied_recall_says_what_it_takes(arguments, name):
    with pytest.raises(ValueError, match=name):
        implied_recall(*arguments)


def planted_sketches(rng, n, dim, spread, proj_dim):
    """Cosines of n gradients (`dim` long) to a target, of the given standard deviation, and the sketches of all."""
    spec = gs.ProjectionSpec(proj_dim=proj_dim)

    def sketch(rows):
        return gs.ops.project_rows(np.asarray(rows, np.float32)[:, None, :], spec, param="w", backend="cpu")

    target = rng.standard_normal(dim, np.float32)
    target /= np.linalg.norm(target)
    cosines = np.clip(rng.normal(0.1, spread, n), -0.99, 0.99)
    parts = []
    for some in np.array_split(cosines, 20):
        others = rng.standard_normal((len(some), dim), np.float32)
        others -= np.outer(others @ target, target)
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        parts.append(sketch(some[:, None] * target + np.sqrt(1 - some**2)[:, None] * others))
    return cosines, np.concatenate(parts), sketch(target[None])


@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_spread_and_recall_of_real_sketches_are_those_of_the_gradients(rng, spread):
    cosines, pool, target = planted_sketches(rng, 3000, 16384, spread, 256)
    result = gs.select([pool], [target], fraction=0.1)
    (measured,) = result.diagnostics["spread"]
    assert measured["noise_sd"] == pytest.approx(1 / 16)
    assert measured["sd"] > 1.1 * spread  # without the correction it would be this much too wide
    assert measured["sd_corrected"] == pytest.approx(spread, rel=0.15)
    assert result.diagnostics["rows_measured"] == 3000
    true_top = set(np.argsort(cosines)[-300:].tolist())
    found = len(true_top & set(result.ids)) / 300
    assert result.diagnostics["implied_recall"]["recall"]["256"] == pytest.approx(found, abs=0.1)


def test_spread_is_by_checkpoint_and_subtask_and_of_the_column_that_is_scored(gaussian):
    pools, targets = [gaussian(200), gaussian(200)], [gaussian(3), gaussian(3)]
    result = gs.select(pools, targets, [1, 3], count=5, subtasks=["a", "b", "a"], keep_scores=True)
    rows = result.diagnostics["spread"]
    assert [(r["checkpoint"], r["subtask"], r["weight"]) for r in rows] == [
        ("0", "a", 0.25),
        ("0", "b", 0.25),
        ("1", "a", 0.75),
        ("1", "b", 0.75),
    ]
    unit = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in targets]
    columns = [[u[[0, 2]].mean(axis=0), u[1]] for u in unit]
    for row, column, pool in zip(rows, [*columns[0], *columns[1]], [pools[0]] * 2 + [pools[1]] * 2, strict=True):
        score = (pool @ column) / np.linalg.norm(pool, axis=1)
        assert row["sd"] == pytest.approx(score.std(), rel=1e-4)
        assert row["mean"] == pytest.approx(score.mean(), abs=1e-6)
        assert row["noise_sd"] == pytest.approx(np.linalg.norm(column) / 16, rel=1e-5)
        assert row["sd_corrected"] == pytest.approx(np.sqrt(max(0, score.var() - row["noise_sd"] ** 2)), abs=1e-5)


def test_noise_of_equal_checkpoints_adds_up_and_that_of_unlike_ones_does_not(gaussian):
    pool, target = gaussian(300), gaussian(1)
    same = gs.select([pool, pool], [target, target], count=5).diagnostics["influence"]["noise_sd"]
    once = gs.select([pool], [target], count=5).diagnostics["influence"]["noise_sd"]
    assert same == pytest.approx(once, rel=1e-6)
    unlike = np.zeros((1, 256), np.float32)
    unlike[0, np.abs(target[0]).argmin()] = 1
    apart = gs.select([pool, pool], [target, unlike], count=5).diagnostics["influence"]["noise_sd"]
    assert apart == pytest.approx(once / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("reduce", ["less", "mean", "max", "cosine_to_mean"])
def test_influence_has_the_noise_of_the_columns_that_decide(gaussian, reduce):
    pool, targets = gaussian(300), gaussian(4)
    result = gs.select([pool], [targets], count=5, reduce=reduce, subtasks=["a", "a", "b", "b"])
    unit = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    want = {
        "less": np.linalg.norm(unit[:2].mean(axis=0)),
        "mean": np.linalg.norm(unit.mean(axis=0)),
        "max": 1.0,
        "cosine_to_mean": 1.0,
    }[reduce]
    overall = result.diagnostics["influence"]
    assert overall["noise_sd"] == pytest.approx(want / 16, rel=0.1)
    assert overall["sd"] == pytest.approx(np.asarray(result.influence, np.float64).std())
    assert len(result.diagnostics["spread"]) == 2


def test_unrelated_rows_have_no_spread_and_are_warned_about(gaussian):
    result = gs.select([gaussian(4000)], [gaussian(1)], fraction=0.05)
    (row,) = result.diagnostics["spread"]
    assert row["sd_corrected"] < 0.3 * row["sd"]
    assert result.diagnostics["implied_recall"]["recall"]["256"] < 0.3
    assert "noise" in result.diagnostics["warnings"][0]


def test_a_choice_of_all_has_recall_one(gaussian):
    assert gs.select([gaussian(50)], [gaussian(1)], fraction=1.0).diagnostics["implied_recall"]["recall"]["256"] == 1


def test_larger_projections_are_said_to_find_more(gaussian):
    target = gaussian(1)
    pool = gaussian(500) + np.linspace(0, 3, 500, dtype=np.float32)[:, None] * target
    recall = gs.select([pool], [target], fraction=0.1).diagnostics["implied_recall"]["recall"]
    assert [int(d) for d in recall] == [256, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
    assert list(recall.values()) == sorted(recall.values())


@pytest.mark.parametrize(("sign", "word"), [(1, "long"), (-1, "short")])
def test_influence_that_follows_length_is_warned_about(gaussian, as_sketches, sign, word):
    target = gaussian(1)
    strength = np.linspace(0, 3, 100, dtype=np.float32)
    pool = gaussian(100) + strength[:, None] * target
    tokens = np.arange(100)[::sign] + 1
    result = gs.select([as_sketches(pool, tokens)], [target], count=5)
    assert sign * result.diagnostics["score_length_spearman"] > 0.8
    assert any(f"{word} samples are preferred" in line for line in result.diagnostics["warnings"])
    shuffled = np.random.default_rng(1).permutation(tokens)
    calm = gs.select([as_sketches(pool, shuffled)], [target], count=5)
    assert not any("length" in line for line in calm.diagnostics["warnings"])


def test_flags_are_shares_of_the_pool_by_reason(gaussian, as_sketches):
    pool, tokens = gaussian(200), np.full(200, 5)
    pool[3], pool[4, 7], tokens[[5, 6]] = 0, np.nan, 0
    result = gs.select([as_sketches(pool, tokens)], [gaussian(1)], count=5)
    assert result.diagnostics["flagged"] == {"missing": 0, "no_labels": 0.01, "nonfinite": 0.005, "zero": 0.005}
    assert any("could not be scored" in line for line in result.diagnostics["warnings"])


def test_sources_are_counted_in_pool_and_selection(gaussian):
    result = gs.select([gaussian(10)], [gaussian(1)], count=4)
    names = ["web"] * 7 + ["books"] * 3
    counts = result.with_sources(names).diagnostics["sources"]
    assert counts["pool"] == {"web": 7, "books": 3}
    assert counts["selected"] == {n: c for n in ("web", "books") if (c := sum(names[i] == n for i in result.ids))}
    assert result.diagnostics["sources"] is None
    with pytest.raises(ValueError, match="expected 10"):
        result.with_sources(names[:9])


def test_selection_json_holds_the_diagnostics_as_they_are(gaussian, tmp_path):
    result = gs.select([gaussian(30)], [gaussian(2)], count=4, ids=[f"s{i}" for i in range(30)])
    result.save(tmp_path, TEXT)
    record = json.loads((tmp_path / "selection.json").read_text(encoding="utf-8"))
    assert record["diagnostics"] == result.diagnostics
    assert record["distributions"] == result.record["distributions"]


def test_bins_count_every_usable_row_once(gaussian, as_sketches):
    pool = gaussian(500)
    pool[7] = 0
    tokens = np.random.default_rng(0).integers(1, 3000, 500)
    result = gs.select([as_sketches(pool, tokens)], [gaussian(3)], count=40, subtasks=["a", "b", "a"])
    found = result.record["distributions"]
    for what in ("influence", "label_tokens"):
        assert (sum(found[what]["pool"]), sum(found[what]["selected"])) == (499, 40)
    assert [(s["subtask"], s["targets"], s["pool"]["rows"]) for s in found["subtasks"]] == [
        ("a", 2, 499),
        ("b", 1, 499),
    ]
    assert [len(found["landmarks"][k]) for k in ("middle", "worst")] == [3, 3]
    order = [i for i in np.argsort(-result.influence, kind="stable").tolist() if i != 7]
    assert [row["position"] for row in found["landmarks"]["worst"]] == order[-3:]
    assert [row["rank"] for row in found["landmarks"]["middle"]] == [249, 250, 251]


def test_a_pool_of_one_row_and_one_of_equal_rows_are_described(gaussian):
    for pool in (gaussian(1), np.repeat(gaussian(1), 9, axis=0)):
        result = gs.select([pool], [gaussian(1)], count=1)
        assert sum(result.record["distributions"]["influence"]["pool"]) == len(pool)
        assert result.diagnostics["influence"]["sd_corrected"] == 0


def test_a_large_pool_is_measured_on_a_sample_of_its_rows(rng):
    sample = ScoreSample(100_000, n_checkpoints=4, n_columns=27)
    assert len(sample.positions) == 4096
    everything = rng.normal(size=(100_000, 27)).astype(np.float32)
    for first in range(0, 100_000, 999):
        sample.see(2, first, everything[first : first + 999])
    np.testing.assert_array_equal(sample.scores[2], everything[sample.positions])
    assert np.isnan(sample.scores[1]).all()
