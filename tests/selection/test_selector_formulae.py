"""Every selector against the loops that its formula is, on small pools with ties and rows that cannot be taken."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsift import select
from gradsift.errors import DataError
from gradsift.selection.selectors import SELECTORS, make_selector, options_of

P = 256
pools = st.integers(0, 2**32 - 1)


def tied_pool(seed, n=60, axes=6):
    """Rows of two entries ±1 among few axes: scores tie in masses, many rows are equal, a fifth cannot be taken."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, P), np.float32)
    for row in rows:
        row[rng.choice(axes, size=2, replace=False)] = rng.choice([-1.0, 1.0], size=2)
    rows[rng.random(n) < 0.1] = 0.0
    rows[rng.random(n) < 0.1, 3] = np.nan
    rows[0] = np.eye(1, P, dtype=np.float32)
    return rows


def loose_pool(seed, n=60, axes=6):
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, P), np.float32)
    rows[:, :axes] = rng.standard_normal((n, axes))
    rows[rng.random(n) < 0.1] = 0.0
    return rows


AXES = np.eye(4, P, dtype=np.float32)
SUBTASKS = ["a", "b", "a", "c"]


def brute(rows, reduce="less"):
    """(eligible, column scores, influence) as loops over a single checkpoint."""
    eligible = [i for i, row in enumerate(rows) if np.isfinite(row).all() and row.any()]
    columns = [[0], [1], [2], [3]] if reduce == "max" else [[0, 2], [1], [3]]
    scores = np.full((len(rows), len(columns)), -np.inf, np.float32)
    for i in eligible:
        unit = rows[i].astype(np.float64) / np.linalg.norm(rows[i].astype(np.float64))
        for j, of in enumerate(columns):
            scores[i, j] = np.mean([unit[t] for t in of])
    return eligible, scores, scores.max(axis=1)


def chosen(rows, **options):
    options.setdefault("subtasks", SUBTASKS)
    return select([rows], [AXES], **options)


def test_every_selector_has_a_test_in_this_file_and_a_line_in_the_documentation():
    from pathlib import Path

    here = Path(__file__).read_text(encoding="utf-8")
    page = (Path(__file__).parents[2] / "docs" / "selectors.md").read_text(encoding="utf-8")
    for name in SELECTORS:
        assert f'"{name}"' in here
        assert f"`{name}`" in page
        for option in options_of(name):
            assert f"`{option}`" in page, (name, option)


@given(pools, st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_top_and_threshold_are_a_sort_and_a_comparison(seed, count):
    rows = tied_pool(seed)
    eligible, _, influence = brute(rows)
    want = sorted(eligible, key=lambda i: (-influence[i], i))
    assert chosen(rows, count=count, selector="top").positions.tolist() == want[:count]
    cut = float(influence[want[min(count, len(want) - 1)]])
    above = [i for i in want if influence[i] >= cut]
    assert chosen(rows, selector="threshold", options={"at_least": cut}).positions.tolist() == above
    capped = chosen(rows, selector="threshold", options={"at_least": cut}, count=3)
    assert capped.positions.tolist() == above[:3]


def test_a_threshold_that_nothing_reaches_is_an_error_that_says_what_would_be_reached():
    with pytest.raises(DataError, match=r"selector: expected at least one .* got none; .* influence is 0.707107"):
        chosen(tied_pool(1), selector="threshold", options={"at_least": 2.0})


@given(pools, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_bands_that_meet_share_the_pool_without_rest(seed, parts):
    rows = tied_pool(seed)
    eligible, _, influence = brute(rows)
    order = sorted(eligible, key=lambda i: (-influence[i], i))[::-1]
    edges = [i / parts for i in range(parts + 1)]
    found = []
    for low, high in itertools.pairwise(edges):
        lo, hi = (math.floor(q * len(order) * (1 + 1e-12)) for q in (low, high))
        band = chosen(rows, selector="band", options={"low": low, "high": high}).positions.tolist()
        assert band == order[lo:hi][::-1]
        found += band
    assert sorted(found) == eligible


@given(pools, st.integers(1, 60), st.sampled_from([None, "subtasks", "targets"]))
@settings(max_examples=40, deadline=None)
def test_round_robin_takes_turns_over_targets_or_subtasks(seed, count, over):
    rows = tied_pool(seed)
    eligible, scores, _ = brute(rows, "max")
    turns = [[0, 2], [1], [3]] if over == "subtasks" else [[0], [1], [2], [3]]
    free, want, best = list(eligible), [], []
    while len(want) < min(count, len(eligible)):
        of = turns[len(want) % len(turns)]
        row = min(free, key=lambda i: (-scores[i, of].max(), i))
        free.remove(row)
        want.append(row)
        best.append(of[int(scores[row, of].argmax())])
    result = chosen(rows, count=count, selector="round_robin", options={"over": over}, reduce="max")
    assert result.positions.tolist() == want
    assert result.best_target == best
    np.testing.assert_array_equal(result.scores, scores[want, best])


def test_rds_is_round_robin_over_subtasks_by_the_highest_cosine():
    rows = loose_pool(3)
    want = chosen(rows, count=20, selector="round_robin", options={"over": "subtasks"}, reduce="max")
    got = chosen(rows, count=20, selector="rds", reduce="max")
    assert got.ids == want.ids
    with pytest.raises(ValueError, match=r'reduce: expected "max" with selector "rds"'):
        chosen(rows, count=20, selector="rds")


@given(pools, st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from(["less", "max"]))
@settings(max_examples=25, deadline=None)
def test_vote_counts_the_columns_that_have_a_row_in_their_top_share(seed, top, reduce):
    rows = tied_pool(seed)
    eligible, scores, influence = brute(rows, reduce)
    votes = dict.fromkeys(eligible, 0)
    for j in range(scores.shape[1]):
        column = scores[eligible, j].astype(np.float64)
        cut = np.percentile(column, 100 * (1 - top))
        for i in eligible:
            votes[i] += scores[i, j] >= cut
    want = sorted(eligible, key=lambda i: (-votes[i], -influence[i], i))
    result = chosen(rows, fraction=1.0, selector="vote", options={"top": top}, reduce=reduce)
    assert result.positions.tolist() == want
    np.testing.assert_array_equal(result.scores, influence[want])


def brute_quota(eligible, influence, group, shares, costs, amount):
    """One row after the other, to the group of least (taken + cost / 2) / share."""
    queues = {g: sorted((i for i in eligible if group[i] == g), key=lambda i: (-influence[i], i)) for g in shares}
    taken = dict.fromkeys(shares, 0)
    want, spent = [], 0
    while any(queues[g] for g in shares):
        live = [g for g in shares if queues[g]]
        g = min(live, key=lambda g: ((taken[g] + costs[queues[g][0]] / 2) / shares[g], list(shares).index(g)))
        row = queues[g][0]
        if want and spent + costs[row] > amount:
            break
        want.append(queues[g].pop(0))
        taken[g] += costs[row]
        spent += costs[row]
        if spent >= amount:
            break
    return want


@given(pools, st.integers(1, 60), st.sampled_from(["equal", "pool", {"x": 3, "z": 1.5}]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_quotas_by_source_are_filled_row_by_row(seed, count, shares, in_tokens):
    rows = tied_pool(seed)
    rng = np.random.default_rng(seed)
    group = rng.choice(["x", "y", "z"], len(rows)).tolist()
    lengths = rng.integers(1, 30, len(rows))
    eligible, _, influence = brute(rows)
    here = {g: sum(group[i] == g for i in eligible) for g in dict.fromkeys(group[i] for i in eligible)}
    if isinstance(shares, dict):
        given_shares = {g: shares[g] for g in here if g in shares}
        if set(shares) - set(here):
            return
    else:
        given_shares = here if shares == "pool" else dict.fromkeys(here, 1)
    budget = {"budget": "tokens", "count": count * 10} if in_tokens else {"count": count}
    costs = lengths if in_tokens else np.ones(len(rows), int)
    want = brute_quota(eligible, influence, group, given_shares, costs, budget["count"])
    result = chosen(rows, selector="quota", options={"shares": shares}, groups=group, lengths=lengths, **budget)
    assert result.positions.tolist() == want


def test_whole_quotas_are_met_exactly_and_what_a_group_lacks_goes_to_the_others():
    rows = loose_pool(5, n=100)
    rows[~rows.any(axis=1), 0] = 1.0
    group = ["x"] * 60 + ["y"] * 36 + ["z"] * 4
    result = chosen(
        rows, count=40, selector="quota", options={"shares": {"x": 0.25, "y": 0.5, "z": 0.25}}, groups=group
    )
    taken = [group[i] for i in result.positions]
    assert {g: taken.count(g) for g in "xyz"} == {"x": 12, "y": 24, "z": 4}
    ten = chosen(rows, count=8, selector="quota", options={"shares": {"x": 0.25, "y": 0.5, "z": 0.25}}, groups=group)
    taken = [group[i] for i in ten.positions]
    assert {g: taken.count(g) for g in "xyz"} == {"x": 2, "y": 4, "z": 2}


@pytest.mark.parametrize(("bands", "edges"), [([10, 20], [10, 20]), (2, None), (1, [])])
def test_quotas_by_length_are_those_of_bands(bands, edges):
    rows = loose_pool(7)
    lengths = np.random.default_rng(7).integers(1, 30, len(rows))
    eligible, _, influence = brute(rows)
    if edges is None:
        edges = [np.quantile(lengths[eligible], 0.5)]
    band = {i: sum(int(lengths[i]) >= e for e in edges) for i in eligible}
    want = brute_quota(eligible, influence, band, dict.fromkeys(range(len(edges) + 1), 1), np.ones(len(rows), int), 21)
    result = chosen(rows, count=21, selector="quota", options={"by": "length", "bands": bands}, lengths=lengths)
    assert result.positions.tolist() == want


@pytest.mark.parametrize("first", ["longest", "shortest"])
def test_length_orders_by_tokens_then_row_number(first):
    rows = tied_pool(2)
    lengths = np.random.default_rng(2).integers(1, 9, len(rows))
    eligible, _, _ = brute(rows)
    sign = -1 if first == "longest" else 1
    want = sorted(eligible, key=lambda i: (sign * lengths[i], i))[:30]
    result = chosen(rows, count=30, selector="length", options={"first": first}, lengths=lengths)
    assert result.positions.tolist() == want


def test_random_orders_by_the_keyed_hash_of_the_id():
    rows = tied_pool(4)
    eligible, _, _ = brute(rows)
    key = (9).to_bytes(8, "little")
    draw = {i: hashlib.blake2b(str(i).encode(), digest_size=8, key=key).digest()[::-1] for i in eligible}
    want = sorted(eligible, key=lambda i: draw[i])[:20]
    assert chosen(rows, count=20, selector="random", seed=9).positions.tolist() == want


def released_tsds(distances, gram, sigma, alpha, c, max_k):
    """Transcription of tsds.py of the authors with exact searches and densities over all neighbours; probabilities."""
    import heapq

    n_targets, n = distances.shape
    max_k = min(max_k, n)
    top = np.array([sorted(range(n), key=lambda i: (row[i], i))[:max_k] for row in distances])
    dists = np.take_along_axis(distances, top, axis=1)
    union = sorted(set(top.reshape(-1).tolist()))
    density = np.ones(n)
    if sigma > 0:
        for i in union:
            density[i] = sum(max(0.0, 1 - (2 - 2 * gram[i, o]) / sigma**2) for o in union)
    kdes = density[top]
    last_k = [0] * n_targets
    heap = [(1.0 / kdes[j][0], 0, j) for j in range(n_targets)]
    heapq.heapify(heap)
    weighted = [dists[j][0] / kdes[j][0] for j in range(n_targets)]
    cost = np.zeros(n_targets)
    s = total = 0.0
    while heap:
        count, k, j = heapq.heappop(heap)
        s = count
        total -= cost[j]
        cost[j] = dists[j][k + 1] * count - weighted[j]
        total += cost[j]
        if alpha / c * total >= (1 - alpha) * n_targets:
            break
        last_k[j] = k
        if k < max_k - 2:
            count += 1.0 / kdes[j][k + 1]
            heapq.heappush(heap, (count, k + 1, j))
            weighted[j] += dists[j][k + 1] / kdes[j][k + 1]
    probabilities = np.zeros(n)
    for j in range(n_targets):
        left = 1.0 / n_targets
        for k in range(last_k[j] + 1):
            probabilities[top[j][k]] += 1 / n_targets / s / kdes[j][k]
            left -= 1 / n_targets / s / kdes[j][k]
        probabilities[top[j][last_k[j] + 1]] += max(left, 0)
    return probabilities


def masses(monkeypatch, rows, targets, **options):
    """Mass of every row of the pool, as the selector reckons it."""
    from gradsift.selection.selectors.knn_kde import KnnKde

    seen = {}
    original = KnnKde.masses

    def watched(self, scored):
        found, mass = original(self, scored)
        seen["mass"] = np.zeros(len(rows))
        seen["mass"][found] = mass
        return found, mass

    with monkeypatch.context() as patch:
        patch.setattr(KnnKde, "masses", watched)
        result = select([rows], [targets], fraction=1.0, selector="knn_kde", reduce="max", options=options)
    return seen["mass"], result


def near_pool(seed, n=80, spread=0.5):
    """Rows around four centres, close enough that kernels of 0.75 overlap, no two equal."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((4, P))
    rows = centres[rng.integers(0, 4, n)] + spread * rng.standard_normal((n, P))
    return rows.astype(np.float32), (centres + 0.3 * rng.standard_normal((4, P))).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 0.75, "alpha": 0.5, "c": 5.0, "neighbours": 1000},
        {"sigma": 1.2, "alpha": 0.9, "c": 1.0, "neighbours": 20},
        {"sigma": 0.0, "alpha": 0.3, "c": 1.0, "neighbours": 7},
        {"sigma": 0.75, "alpha": 0.001, "c": 100.0, "neighbours": 30},
    ],
)
def test_knn_kde_gives_the_masses_of_the_released_code(seed, options, monkeypatch):
    from gradsift.selection.selectors import knn_kde

    monkeypatch.setattr(knn_kde, "_TILE_ROWS", 16)  # so that some densities come of several tiles
    rows, targets = near_pool(seed)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    to = targets.astype(np.float64) / np.linalg.norm(targets.astype(np.float64), axis=1, keepdims=True)
    distances = np.sqrt(np.maximum(0, 2 - 2 * to @ unit.T))
    want = released_tsds(
        distances, unit @ unit.T, options["sigma"], options["alpha"], options["c"], options["neighbours"]
    )
    mass, _ = masses(monkeypatch, rows, targets, **options)
    np.testing.assert_allclose(mass, want, atol=1e-6)
    assert abs(mass.sum() - 1) < 1e-9


def test_knn_kde_draws_rows_with_mass_in_the_order_of_their_keys(monkeypatch):
    rows, targets = near_pool(11)
    mass, result = masses(monkeypatch, rows, targets, alpha=0.9, c=1.0)
    key = (0).to_bytes(8, "little")
    draw = [
        (int.from_bytes(hashlib.blake2b(str(i).encode(), digest_size=8, key=key).digest(), "little") + 0.5) / 2**64
        for i in range(len(rows))
    ]
    with_mass = [i for i in range(len(rows)) if mass[i] > 0]
    assert 5 < len(with_mass) < len(rows)
    assert result.positions.tolist() == sorted(with_mass, key=lambda i: -math.log(draw[i]) / mass[i])
    assert result.counts["requested"] == len(rows)
    assert result.counts["selected"] == len(with_mass)


def test_a_hundred_copies_of_a_row_have_together_no_more_mass_than_the_row_alone(monkeypatch):
    rows, targets = near_pool(12)
    options = {"neighbours": 500, "sigma": 0.3}
    alone, _ = masses(monkeypatch, rows, targets, **options)
    copied = int(np.argmax(alone))
    pool = np.concatenate([rows, np.repeat(rows[copied][None], 99, axis=0)])
    together, _ = masses(monkeypatch, pool, targets, **options)
    assert together[copied] + together[len(rows) :].sum() <= alone[copied] * (1 + 1e-6)
    assert together[copied] < alone[copied] / 50
    without, _ = masses(monkeypatch, pool, targets, **{**options, "sigma": 0.0})
    assert without[copied] + without[len(rows) :].sum() > 2 * alone[copied], "the case must need the kernel"


def test_knn_kde_reads_a_store_as_it_reads_an_array(make_store, monkeypatch):
    rows, targets = near_pool(13, n=300)
    stored = make_store("pool", rows, shard_rows=64)
    by_array = select([rows], [targets], count=50, selector="knn_kde", reduce="max", ids=[f"s{i}" for i in range(300)])
    by_store = select([stored], [targets], count=50, selector="knn_kde", reduce="max")
    assert by_store.ids == by_array.ids


@pytest.mark.parametrize(
    ("selector", "options", "error", "message"),
    [
        ("top", {"at_least": 1}, ValueError, r"options: expected none, since 'top' has no options, got at_least"),
        ("vote", {"tpo": 0.2}, ValueError, r"options: expected the options of 'vote', top, over, got tpo"),
        ("threshold", {}, ValueError, r"options: expected at_least with selector 'threshold', got none"),
        ("threshold", {"at_least": "0.1"}, TypeError, r"at_least: expected a number, got str"),
        ("threshold", {"at_least": math.nan}, ValueError, r"at_least: expected a finite number, got nan"),
        ("band", {"low": 0.5, "high": 0.5}, ValueError, r"high: expected more than low, 0.5, got 0.5"),
        ("band", {"low": -1, "high": 0.5}, ValueError, r"low: expected 0 … 1, got -1"),
        ("vote", {"top": 1.0}, ValueError, r"top: expected 0 < top < 1, got 1.0"),
        ("round_robin", {"over": "rows"}, ValueError, r"over: expected one of .*'targets'.*, got 'rows'"),
        ("quota", {"by": "colour"}, ValueError, r"by: expected one of \('source', 'length'\), got 'colour'"),
        ("quota", {"shares": "even"}, ValueError, r"shares: expected one of \('equal', 'pool'\), got 'even'"),
        ("quota", {"shares": {"x": -1}}, ValueError, r"shares\['x'\]: expected a number >= 0, got -1"),
        ("quota", {"shares": {"x": 0}}, ValueError, r"shares: expected one share above 0"),
        ("quota", {"shares": 3}, TypeError, r"shares: expected .* or a mapping, got int"),
        ("quota", {"bands": [20, 10]}, ValueError, r"bands: expected rising lengths, got \[20, 10\]"),
        ("quota", {"bands": 0}, ValueError, r"bands: expected at least 1, got 0"),
        ("knn_kde", {"alpha": 1}, ValueError, r"alpha: expected 0 < alpha < 1, got 1"),
        ("knn_kde", {"sigma": 1e200}, ValueError, r"sigma: expected 0, or 1e-100 … 1e100, got 1e\+200"),
        ("knn_kde", {"sigma": 1e-200}, ValueError, r"sigma: expected 0, or 1e-100 … 1e100, got 1e-200"),
        ("knn_kde", {"neighbours": 1}, ValueError, r"neighbours: expected at least 2, got 1"),
        ("length", {"first": "middle"}, ValueError, r"first: expected one of \('longest', 'shortest'\)"),
        ("top", [1], TypeError, r"options: expected a mapping from name to value, got list"),
        (["top"], {}, ValueError, r"selector: expected one of .*, got \['top'\]"),
    ],
)
def test_options_that_cannot_be_used_are_named(selector, options, error, message):
    with pytest.raises(error, match=message):
        make_selector(selector, options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"selector": "knn_kde"}, ValueError, r'reduce: expected "max" with selector "knn_kde"'),
        ({"selector": "vote", "reduce": "mean"}, ValueError, r"selector: .* got 'vote'; it counts the votes"),
        ({"selector": "round_robin", "options": {"over": "targets"}}, ValueError, r'over: .* use reduce="max"'),
        ({"selector": "quota"}, ValueError, r"groups: expected the source of every candidate .* got None"),
        ({"selector": "quota", "groups": ["x"]}, ValueError, r"groups: expected 60 names, one a candidate, got 1"),
        ({"selector": "quota", "groups": "x" * 60}, TypeError, r"groups: expected a sequence of str"),
        ({"groups": [1] * 60}, TypeError, r"groups: expected a str for every candidate, got int in row 0"),
        (
            {"selector": "quota", "groups": ["x"] * 60, "options": {"shares": {"w": 1}}},
            ValueError,
            r"shares: expected groups of the eligible pool, \['x'\], got \['w'\]",
        ),
        ({"selector": "length"}, ValueError, r"lengths: expected the tokens of every row .* pass lengths="),
        ({"selector": "quota", "options": {"by": "length"}}, ValueError, r"lengths: expected the tokens of every row"),
        ({"lengths": [0] * 60}, ValueError, r"lengths: expected at least 1 token a candidate, got 0 in row 0"),
        ({"lengths": [1.5] * 60}, TypeError, r"lengths: expected integers, got float64"),
        ({"lengths": [1] * 59}, ValueError, r"lengths: expected shape \(60,\), one a candidate, got \(59,\)"),
        ({"budget": "words"}, ValueError, r"budget: expected one of \('samples', 'tokens'\), got 'words'"),
        ({"budget": "tokens"}, ValueError, r"budget: expected the tokens of every row .* pass lengths="),
        ({"deduplicate": 1.5}, ValueError, r"deduplicate: expected a cosine, 0 < deduplicate <= 1, got 1.5"),
        ({"deduplicate": True}, TypeError, r"deduplicate: expected a float or None, got bool"),
    ],
)
def test_arguments_of_selectors_that_cannot_be_used_are_named(changes, error, message):
    arguments = {"count": 5, **changes}
    with pytest.raises(error, match=message):
        chosen(loose_pool(0), **arguments)
