"""What the writer accepts, when it publishes, how it resumes."""

from __future__ import annotations

import numpy as np
import pytest

import gradsift
from gradsift import Datastore, Gamma, ProjectionSpec, StoreSpec
from gradsift.errors import DatastoreCorruptError, DatastoreExistsError, SpecMismatchError


def published(stores):
    return [tuple(int(part) for part in path.name.split("-")[1:3]) for path in stores.shards()]


def test_full_shards_are_published_as_rows_arrive_and_the_rest_at_the_end(stores):
    with Datastore.create(stores.path, spec=stores.spec(), shard_rows=4) as writer:
        writer.append(range(3), stores.sketches(3))
        assert published(stores) == []
        writer.append(range(3, 10), stores.sketches(7))
        assert published(stores) == [(0, 4), (4, 4)]
    assert published(stores) == [(0, 4), (4, 4), (8, 2)]


def test_the_last_shard_is_published_when_the_expected_rows_are_there(stores):
    writer = Datastore.create(stores.path, spec=stores.spec(rows=6), shard_rows=4)
    writer.append(range(6), stores.sketches(6))
    assert published(stores) == [(0, 4), (4, 2)]
    assert Datastore.open(stores.path).complete
    writer.close()


def test_a_commit_publishes_at_once_and_later_shards_keep_their_places(stores):
    with Datastore.create(stores.path, spec=stores.spec(), shard_rows=4) as writer:
        writer.append([0], stores.sketches(1))
        writer.commit()
        assert published(stores) == [(0, 1)]
        writer.commit()
        writer.append(range(1, 9), stores.sketches(8))
        assert published(stores) == [(0, 1), (1, 3), (4, 4)]


def test_rows_may_come_in_any_order(stores):
    sketches = stores.sketches(8)
    with Datastore.create(stores.path, spec=stores.spec(), dtype="float32", shard_rows=4) as writer:
        writer.append([5, 6], sketches[5:7], first=5)
        writer.append([2, 3, 4], sketches[2:5], first=2)
        assert published(stores) == []
        writer.append([0, 1], sketches[0:2], first=0)
        assert published(stores) == [(0, 4)]
        writer.append([7], sketches[7:8], first=7)
        assert published(stores) == [(0, 4), (4, 4)]
    np.testing.assert_array_equal(Datastore.open(stores.path).rows(), sketches.rows)


def test_an_exception_drops_only_what_was_not_published(stores):
    writer = Datastore.create(stores.path, spec=stores.spec(), shard_rows=4)

    def fail_in_between():
        with writer:
            writer.append(range(6), stores.sketches(6))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_in_between()
    assert published(stores) == [(0, 4)]
    with pytest.raises(ValueError, match="finished"):
        writer.commit()


def test_appending_after_the_end_raises(stores):
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        pass
    for use in (writer.commit, writer.finish, lambda: writer.append([1], stores.sketches(1))):
        with pytest.raises(ValueError, match="expected an open writer"):
            use()
    assert published(stores) == []


def test_the_callers_array_is_copied(stores):
    rows = np.ones((2, 256), np.float32)
    with Datastore.create(stores.path, spec=stores.spec(), dtype="float32") as writer:
        writer.append([0, 1], rows)
        rows[:] = 7
    assert (Datastore.open(stores.path).rows() == 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_any_float_dtype_and_strides_are_taken(stores, dtype):
    rows = np.arange(8 * 512).reshape(8, 512).astype(dtype)[::2, ::-2] / 1024
    with Datastore.create(stores.path, spec=stores.spec(), dtype="float32") as writer:
        writer.append(np.arange(4), rows)
    np.testing.assert_array_equal(Datastore.open(stores.path).rows(), rows.astype(np.float32))


def test_an_existing_store_is_not_touched_without_resume(stores):
    stores.make(3)
    before = stores.files()
    with pytest.raises(DatastoreExistsError, match="resume=True"):
        Datastore.create(stores.path, spec=stores.spec())
    assert stores.files() == before


def test_a_directory_of_other_things_is_not_made_a_store(stores):
    stores.path.mkdir()
    (stores.path / "thesis.tex").write_text("\\begin{document}")
    for resume in (False, True):
        with pytest.raises(DatastoreExistsError, match=r"thesis\.tex"):
            Datastore.create(stores.path, spec=stores.spec(), resume=resume)
    assert stores.names() == ["thesis.tex"]


def test_resume_goes_on_where_rows_are_missing(stores):
    with Datastore.create(stores.path, spec=stores.spec(rows=12), resume=True, shard_rows=4) as writer:
        assert writer.missing() == [range(12)]
        writer.append([4, 5, 6, 7], stores.sketches(8)[4:], first=4)
        writer.append([8], stores.sketches(1))
    with Datastore.create(stores.path, spec=stores.spec(rows=12), resume=True, shard_rows=4) as writer:
        assert writer.missing() == [range(4), range(9, 12)]
        assert writer.missing(10) == [range(4), range(9, 10)]
        writer.append([0, 1, 2, 3], stores.sketches(4))  # follows by itself where the first row is missing
        assert writer.missing() == [range(9, 12)]
        with pytest.raises(ValueError, match=r"not written yet, got 4 … 4, of which 4 … 4 are"):
            writer.append([99], stores.sketches(1))
        writer.append([9, 10, 11], stores.sketches(3), first=9)
    assert Datastore.open(stores.path, verify="full").complete


def test_resume_with_another_spec_prints_the_fields_that_differ(stores):
    stores.make(2, spec=StoreSpec(ProjectionSpec(256), Gamma.adam(step=3), checkpoint={"step": 3, "name": "a"}))
    other = StoreSpec(ProjectionSpec(512), Gamma.adam(step=4), checkpoint={"step": 4, "name": "a"}, loss="sum")
    with pytest.raises(SpecMismatchError) as caught:
        Datastore.create(stores.path, spec=other, dtype="float16", resume=True)
    for line in (
        "projection.proj_dim: 256 against 512",
        "gamma.step: 3 against 4",
        "checkpoint.step: 3 against 4",
        "loss: 'mean_over_own_label_tokens' against 'sum'",
        "dtype: 'bfloat16' against 'float16'",
    ):
        assert f"\n  {line}" in str(caught.value)
    assert "name" not in str(caught.value)


def test_a_damaged_store_is_not_resumed(stores):
    stores.make(2)
    shard = stores.shards()[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DatastoreCorruptError, match=shard.name):
        Datastore.create(stores.path, spec=stores.spec(), resume=True)
    shard.unlink()
    assert Datastore.create(stores.path, spec=stores.spec(), resume=True).missing(2) == [range(2)]


def test_ids_are_unique_in_a_store_also_when_it_is_resumed(stores):
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        with pytest.raises(ValueError, match="'a' for rows 0 and 2"):
            writer.append(["a", "b", "a"], stores.sketches(3))
        writer.append(["a", "b"], stores.sketches(2))
        with pytest.raises(ValueError, match="'b' for rows 1 and 2"):
            writer.append(["b"], stores.sketches(1))
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        with pytest.raises(ValueError, match="'b' for rows 1 and 2"):
            writer.append(["b"], stores.sketches(1))
        writer.append(["c"], stores.sketches(1))
    assert Datastore.open(stores.path).ids() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        ("ab", TypeError, "a sequence of ids"),
        ([1, "a"], TypeError, "got both"),
        ([True, False], TypeError, "bool"),
        ([1.0, 2.0], TypeError, "float"),
        ([2**63, 1], ValueError, "64 bits"),
        (["\ud800", "b"], ValueError, "UTF-8"),
        ([1], ValueError, r"shape \(1, 256\)"),
    ],
)
def test_ids_that_cannot_be_kept_are_refused(stores, ids, error, match):
    with Datastore.create(stores.path, spec=stores.spec()) as writer, pytest.raises(error, match=match):
        writer.append(ids, stores.sketches(2))


def test_one_store_has_ids_of_one_kind_also_when_it_is_resumed(stores):
    stores.make(2)
    with (
        Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer,
        pytest.raises(TypeError, match="got both"),
    ):
        writer.append([1], stores.sketches(1))


def test_rows_of_the_wrong_shape_or_kind_are_refused(stores):
    good = stores.sketches(2)
    with Datastore.create(stores.path, spec=stores.spec(rows=4)) as writer:
        with pytest.raises(ValueError, match=r"expected shape \(2, 256\) \(ids, proj_dim\), got \(2, 512\)"):
            writer.append([1, 2], np.zeros((2, 512), np.float32))
        with pytest.raises(TypeError, match="int64"):
            writer.append([1, 2], np.zeros((2, 256), np.int64))
        with pytest.raises(ValueError, match=r"sketches\.loss"):
            writer.append(
                [1, 2], gradsift.Sketches(good.rows, good.grad_norm, good.gamma_norm, good.loss[:1], good.tokens)
            )
        for first, error in (
            (-1, ValueError),
            (10**15, ValueError),
            (3, ValueError),
            (1.5, TypeError),
            (True, TypeError),
        ):
            with pytest.raises(error, match="first: expected"):
                writer.append([1, 2], good, first=first)
        writer.append([], np.zeros((0, 256), np.float32))
    assert len(Datastore.open(stores.path)) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "float64"}, ValueError),
        ({"dtype": "int2"}, ValueError),
        ({"shard_rows": 0}, ValueError),
        ({"shard_rows": 10**8}, ValueError),
        ({"shard_rows": 4.0}, TypeError),
        ({"spec": {"proj_dim": 256}}, TypeError),
        ({"spec": StoreSpec(ProjectionSpec(256), data={"rows": -1})}, ValueError),
        ({"spec": StoreSpec(ProjectionSpec(256), data={"rows": "many"})}, ValueError),
        ({"spec": StoreSpec(ProjectionSpec(256), checkpoint={"rate": float("nan")})}, ValueError),
        ({"spec": StoreSpec(ProjectionSpec(256), checkpoint={"step": 2**64})}, ValueError),
        ({"spec": StoreSpec(ProjectionSpec(256), checkpoint={"array": np.zeros(3)})}, ValueError),
    ],
)
def test_bad_arguments_make_no_directory(stores, options, error):
    with pytest.raises(error, match=r"^(dtype|shard_rows|spec)"):
        Datastore.create(stores.path, **{"spec": stores.spec(), **options})
    assert not stores.path.exists()


def test_rows_beyond_two_to_the_32_keep_their_numbers(stores):
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        writer.append(["far"], stores.sketches(1), first=2**33 + 5)
    store = Datastore.open(stores.path, verify="full")
    assert store.positions().tolist() == [2**33 + 5]
    assert store.gaps() == [range(2**33 + 5)]
    assert next(store.blocks()).first == 2**33 + 5
