"""Budgets in samples and tokens, and near-duplicates that are passed over, with every selector."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsift import select
from gradsift.selection.rows import PoolRows, UnitRows
from gradsift.selection.selectors import Collapse
from gradsift.selection.sources import open_sources

P = 256
EVERY = [
    ("top", {}, "less"),
    ("round_robin", {}, "less"),
    ("round_robin", {"over": "subtasks"}, "max"),
    ("threshold", {"at_least": -1.0}, "less"),
    ("band", {"low": 0.0, "high": 1.0}, "less"),
    ("quota", {"shares": "pool"}, "less"),
    ("quota", {"by": "length", "bands": 3}, "less"),
    ("vote", {}, "less"),
    ("knn_kde", {"alpha": 0.01}, "max"),
    ("random", {}, "less"),
    ("length", {}, "less"),
    ("rds", {}, "max"),
]
NAMES = [f"{name}-{reduce}-{len(options)}" for name, options, reduce in EVERY]


def clusters(seed, n=90):
    """Rows in 12 tight clusters, some of them exact copies in other lengths, a few that cannot be taken."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, P))
    rows = centres[rng.integers(0, 12, n)] + 0.03 * rng.standard_normal((n, P))
    for i in range(0, n - 1, 9):
        rows[i + 1] = 2.0 * rows[i]
    rows = rows.astype(np.float32)
    rows[3], rows[17] = 0.0, np.inf
    return rows, rng.standard_normal((5, P)).astype(np.float32), rng.integers(1, 40, n)


def whole_order(rows, targets, lengths, name, options, reduce, **more):
    return select(
        rows if isinstance(rows, list) else [rows],
        targets if isinstance(targets, list) else [targets],
        selector=name,
        options=options,
        reduce=reduce,
        subtasks=["a", "b", "a", "c", "c"],
        lengths=lengths,
        groups=["even" if i % 2 == 0 else "odd" for i in range(len(lengths))],
        **more,
    )


@pytest.mark.parametrize(("name", "options", "reduce"), EVERY, ids=NAMES)
def test_tokens_end_a_selection_at_the_first_row_that_does_not_fit(name, options, reduce):
    rows, targets, lengths = clusters(1)
    if name == "quota":  # whose order depends on what is counted
        order = whole_order(rows, targets, lengths, name, options, reduce, fraction=1.0, budget="tokens").positions
    else:
        order = whole_order(rows, targets, lengths, name, options, reduce, fraction=1.0).positions
    for budget in (1, 17, 100, int(lengths[order[:5]].sum()), 400, int(lengths.sum())):
        want, spent = [], 0
        for row in order.tolist():
            if want and spent + lengths[row] > budget:
                break
            want.append(row)
            spent += int(lengths[row])
        result = whole_order(rows, targets, lengths, name, options, reduce, count=budget, budget="tokens")
        assert result.positions.tolist() == want
        assert result.counts["selected_tokens"] == spent
        assert result.counts["requested_tokens"] == budget


def test_a_fraction_of_tokens_is_of_the_whole_pool_and_a_larger_budget_keeps_what_a_smaller_took():
    rows, targets, lengths = clusters(2)
    taken = [
        whole_order(rows, targets, lengths, "top", {}, "less", fraction=f, budget="tokens")
        for f in (0.1, 0.2, 0.5, 1.0)
    ]
    assert [r.counts["requested_tokens"] for r in taken] == [int(f * lengths.sum()) for f in (0.1, 0.2, 0.5, 1.0)]
    for smaller, larger in itertools.pairwise(taken):
        assert larger.ids[: len(smaller)] == smaller.ids


def test_tokens_are_the_label_tokens_of_the_store_unless_lengths_are_given(make_store):
    rows, targets, lengths = clusters(3)
    store = make_store("pool", rows, tokens=lengths)
    by_store = select([store], [targets], count=300, budget="tokens")
    by_array = select([rows], [targets], count=300, budget="tokens", lengths=lengths)
    assert by_store.positions.tolist() == by_array.positions.tolist()
    doubled = select([store], [targets], count=600, budget="tokens", lengths=2 * lengths)
    assert doubled.positions.tolist() == by_store.positions.tolist()


def brute_collapse(order, rows_at, weights, threshold, count):
    """Rows in order, each kept unless its cosine to one kept before reaches the threshold."""
    units = [
        r.astype(np.float64)
        / np.linalg.norm(np.where(np.isfinite(r), r, 1.0).astype(np.float64), axis=1, keepdims=True)
        for r in rows_at
    ]
    kept = []
    for row in order:
        near = any(
            sum(w * (u[row] @ u[other]) for w, u in zip(weights, units, strict=True)) >= threshold - 1e-12
            for other in kept
        )
        if not near:
            kept.append(row)
        if len(kept) == count:
            break
    return kept


SINGLE = [e for e in EVERY if e[0] not in ("round_robin", "quota", "rds")]


@pytest.mark.parametrize("threshold", [0.9, 1.0])
@pytest.mark.parametrize(("name", "options", "reduce"), SINGLE, ids=[e[0] for e in SINGLE])
def test_near_duplicates_of_what_was_taken_are_passed_over(name, options, reduce, threshold):
    rows, targets, lengths = clusters(4)
    order = whole_order(rows, targets, lengths, name, options, reduce, fraction=1.0).positions.tolist()
    with np.errstate(invalid="ignore", divide="ignore"):
        want = brute_collapse(order, [rows], [1.0], threshold, 40)
    result = whole_order(rows, targets, lengths, name, options, reduce, count=40, deduplicate=threshold)
    assert result.positions.tolist() == want
    assert (len(want) == 12) == (threshold == 0.9), "the case has 12 clusters"


def test_a_queue_whose_next_row_is_a_near_duplicate_keeps_its_turn():
    rows, targets, lengths = clusters(5)
    result = whole_order(rows, targets, lengths, "round_robin", {}, "less", count=90, deduplicate=0.9)
    scores = whole_order(rows, targets, lengths, "top", {}, "less", count=1, keep_scores=True).subtask_scores
    unit = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    queues = [sorted(np.flatnonzero(~np.isnan(scores[:, j])), key=lambda i: (-scores[i, j], i)) for j in range(3)]
    want, turn, near = [], 0, set()
    while any(queues):
        if not queues[turn % 3]:
            turn += 1
            continue
        row = queues[turn % 3].pop(0)
        if row not in want and all(unit[row] @ unit[o] < 0.9 for o in want):
            want.append(row)
            turn += 1
        elif row not in want:
            near.add(row)
    assert result.positions.tolist() == want
    assert result.counts["selected"] == 12
    assert result.counts["near_duplicates"] == len(near), "a row that three queues offer is one near-duplicate"


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 0.97]))
@settings(max_examples=15, deadline=None)
def test_cosines_over_checkpoints_are_weighted_as_influence_is(seed, threshold):
    rng = np.random.default_rng(seed)
    rows_at = [rng.standard_normal((30, P)).astype(np.float32) for _ in range(2)]
    rows_at[0][10:20] = rows_at[0][:10] * rng.choice([1e-25, 1e25], (10, 1)).astype(np.float32)
    rows_at[0][20:25] = 2 * rows_at[0][10:15]  # products of two such rows are beyond float32
    rows_at[1][10:15] = rows_at[1][20:25] = rows_at[1][:5]
    targets = [rng.standard_normal((2, P)).astype(np.float32) for _ in range(2)]
    order = select(rows_at, targets, [0.75, 0.25], fraction=1.0).positions.tolist()
    want = brute_collapse(order, rows_at, [0.75, 0.25], threshold, 30)
    assert select(rows_at, targets, [0.75, 0.25], fraction=1.0, deduplicate=threshold).positions.tolist() == want


@pytest.mark.parametrize("rows_in_memory", [0, 3, 10_000])
@pytest.mark.parametrize("window", [1, 4, 512])
def test_collapsing_does_not_depend_on_windows_or_on_the_memory_it_is_given(window, rows_in_memory, monkeypatch):
    from gradsift.selection.selectors import collapse

    monkeypatch.setattr(collapse, "_WINDOW_ROWS", window)
    rows, _, _ = clusters(6)
    order = [i for i in range(len(rows)) if i not in (3, 17)]
    reader = PoolRows(open_sources("candidates", [rows]), np.array([1.0]))
    asked = Collapse(reader, 0.9, limit_bytes=rows_in_memory * reader.row_bytes)
    kept = [p for i, p in enumerate(order) if asked.accept(p, lambda n, i=i: order[i + 1 : i + n])]
    with np.errstate(invalid="ignore", divide="ignore"):
        assert kept == brute_collapse(order, [rows], [1.0], 0.9, 90)


def test_copies_are_compared_in_float64_with_what_was_taken_and_not_with_one_another(monkeypatch):
    compared = []
    exact = UnitRows.exact_cosine
    monkeypatch.setattr(UnitRows, "exact_cosine", lambda *pair: compared.append(pair) or exact(*pair))
    rng = np.random.default_rng(9)
    rows = np.repeat(rng.standard_normal((3, P)).astype(np.float32), 200, axis=0)
    result = select([rows], [rng.standard_normal((1, P)).astype(np.float32)], fraction=1.0, deduplicate=1.0)
    assert len(result) == 3
    assert len(compared) < 2 * len(rows), "of 180,000 pairs"


def test_a_cosine_that_float32_cannot_tell_from_the_threshold_is_decided_in_float64():
    rng = np.random.default_rng(8)
    base = rng.standard_normal(P)
    base /= np.linalg.norm(base)
    side = rng.standard_normal(P)
    side -= (side @ base) * base
    side /= np.linalg.norm(side)
    rows = np.stack([np.cos(a) * base + np.sin(a) * side for a in (0.0, 0.3)]).astype(np.float32)
    exact = rows.astype(np.float64)
    cosine = float(exact[0] @ exact[1] / np.linalg.norm(exact[0]) / np.linalg.norm(exact[1]))
    targets = base[None].astype(np.float32)
    for gap, taken in ((1e-9, 2), (-1e-9, 1)):
        assert len(select([rows], [targets], fraction=1.0, deduplicate=cosine + gap)) == taken


@pytest.mark.parametrize(("name", "options", "reduce"), EVERY, ids=NAMES)
def test_no_selector_takes_a_row_that_is_flagged_or_depends_on_blocks_and_shards(name, options, reduce, make_store):
    rows, targets, lengths = clusters(9)
    ids = [f"s{i}" for i in range(len(rows))]
    tokens = lengths.copy()
    rows[5], tokens[5] = 0.0, 0
    want = None
    for shard_rows in (7, 4096):
        store = make_store(f"pool{shard_rows}", rows, tokens=tokens, shard_rows=shard_rows)
        result = whole_order([store], targets, lengths, name, options, reduce, fraction=1.0, deduplicate=0.999, seed=3)
        assert not set(result.ids) & {"s3", "s5", "s17"}
        assert (result.counts["excluded_no_labels"], result.counts["excluded_zero"]) == (1, 1)
        assert result.counts["excluded_nonfinite"] == 1
        assert want is None or result.ids == want
        want = result.ids
    array = rows.copy()
    array[5] = 0.0
    again = whole_order(
        [array], targets, lengths, name, options, reduce, fraction=1.0, deduplicate=0.999, ids=ids, seed=3
    )
    assert again.ids == want


def test_take_reads_rows_of_a_store_in_any_order(make_store):
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((100, P)).astype(np.float32)
    store = make_store("pool", rows, shard_rows=16)
    at = np.array([99, 3, 4, 5, 3, 17, 16, 15, 60])
    np.testing.assert_array_equal(store.take(at), rows[at])
    assert store.take(np.array([], np.int64)).shape == (0, P)
    with pytest.raises(IndexError, match=r"take: expected rows that are there, got \[100, -1\]"):
        store.take(np.array([3, 100, -1]))


@pytest.mark.parametrize(
    ("wishes", "near"),
    [({"deduplicate": 0.9}, 0.9), ({"selector": "knn_kde", "reduce": "max", "options": {"sigma": 0.6}}, 0.82)],
)
def test_a_threshold_that_unrelated_rows_reach_is_warned_of_with_the_cosines_of_the_pool(wishes, near):
    rng = np.random.default_rng(12)
    apart = rng.standard_normal((300, P)).astype(np.float32)
    alike = (apart + 4 * rng.standard_normal(P)).astype(np.float32)  # as momentum makes update directions
    targets = rng.standard_normal((3, P)).astype(np.float32)
    found = {}
    for name, rows in (("apart", apart), ("alike", alike)):
        result = select([rows], [targets], count=20, **wishes)
        pairs, warnings = result.diagnostics["pairs"], result.diagnostics["warnings"]
        unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        cosines = (unit @ unit.T)[np.triu_indices(300, 1)]
        assert pairs["near"] == pytest.approx(near)
        assert pairs["share"] == pytest.approx((cosines >= near).mean())
        assert pairs["quantiles"]["0.999"] == pytest.approx(np.quantile(cosines, 0.999), abs=1e-5)
        found[name] = [w for w in warnings if "near-duplicates" in w]
    assert not found["apart"]
    assert "of random pairs of the pool have the cosine of near-duplicates" in found["alike"][0]
    assert "pairs" not in select([apart], [targets], count=20).diagnostics
