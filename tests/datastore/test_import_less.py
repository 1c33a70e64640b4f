"""Files as the released LESS code writes them become stores. The code's own steps make the files here."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from gradsift import Datastore, Gamma, StoreSpec
from gradsift.datastore import FLAG_NONFINITE, FLAG_ZERO, check_comparable, import_less
from gradsift.errors import (
    DatastoreCorruptError,
    DatastoreError,
    DatastoreExistsError,
    DependencyMissingError,
    SpecMismatchError,
)
from gradsift.specs import ForeignProjection

P = 512


def less_files(folder, n=400, dtype=torch.float32, proj_dim=P, seed=0, bad=True):
    """What collect_grad_reps.py leaves: a chunk every 160 samples, then `merge_and_normalize_info` and `merge_info`."""
    folder.mkdir(parents=True)
    rows = (torch.randn(n, proj_dim, generator=torch.Generator().manual_seed(seed)) * 300).to(dtype)
    if bad:
        rows[7], rows[9] = float("nan"), 0
    for count in [*range(160, n, 160), n]:
        torch.save(rows[(count - 1) // 160 * 160 : count].clone(), folder / f"grads-{count}.pt")
    chunks = [rows[at : at + 160] for at in range(0, n, 160)]
    torch.save(torch.cat([torch.nn.functional.normalize(c, dim=1) for c in chunks]), folder / "all_orig.pt")
    torch.save(torch.cat(chunks), folder / "all_unormalized.pt")
    return rows


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "grads" / "dolly-ckpt105-adam" / f"dim{P}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("which", ["unnormalized", "chunks", "normalized"])
def test_rows_arrive_bit_for_bit_in_the_dtype_of_the_files(folder, stores, dtype, which):
    rows = less_files(folder, dtype=getattr(torch, dtype))
    done = import_less(folder, stores.path, which=which)
    store = Datastore.open(stores.path, verify="full")
    want = torch.load(folder / "all_orig.pt", weights_only=True) if which == "normalized" else rows
    assert (
        (done.rows, done.dtype, done.normalized)
        == (400, dtype, which == "normalized")
        == (len(store), store.dtype, done.normalized)
    )
    np.testing.assert_array_equal(store.rows(), want.float().numpy())
    assert store.ids() == list(range(400))
    assert store.complete


def test_a_row_of_nan_is_flagged_and_named_in_the_report(folder, stores):
    less_files(folder)
    done = import_less(folder, stores.path)
    flags = Datastore.open(stores.path).metadata()["flags"]
    assert np.flatnonzero(flags & FLAG_NONFINITE).tolist() == [7]
    assert np.flatnonzero(flags & FLAG_ZERO).tolist() == [9]
    assert (done.flagged, done.zero) == (1, 1)
    assert "with NaN or Inf (flagged, never selected): 1" in str(done)


def test_the_fullest_files_are_taken_and_the_report_says_which(folder, stores):
    less_files(folder)
    assert import_less(folder, stores.path).files == ("all_unormalized.pt",)
    (folder / "all_unormalized.pt").unlink()
    assert import_less(folder, f"{stores.path}2").files == ("grads-160.pt", "grads-320.pt", "grads-400.pt")
    for path in folder.glob("grads-*"):
        path.unlink()
    done = import_less(folder, f"{stores.path}3")
    assert done.files == ("all_orig.pt",)
    assert "each divided by its length" in str(done)
    with pytest.raises(DatastoreError, match=r"expected grads-<count>\.pt, got \['all_orig\.pt'\]"):
        import_less(folder, f"{stores.path}4", which="chunks")


def test_the_spec_says_what_is_not_known_and_norms_are_not_invented(folder, stores):
    less_files(folder)
    import_less(folder, stores.path)
    store = Datastore.open(stores.path)
    assert store.spec.projection == ForeignProjection(P, "less")
    assert store.spec.gamma is None
    assert store.spec.parameters == ()
    record = store.spec.data["imported"]
    assert record["not_known"] == [
        "projection.matrix", "parameters", "ids", "grad_norm", "gamma_norm", "tokens", "loss", "data.digest",
        "gamma", "checkpoint",
    ]  # fmt: skip
    assert (record["from"], record["files"], record["dtype"], record["normalized"]) == ("less", 1, "float32", False)
    known = store.metadata()
    assert np.isnan(known["grad_norm"]).all()
    assert np.isnan(known["gamma_norm"]).all()
    assert (known["tokens"] == -1).all()


def test_what_the_caller_knows_is_kept(folder, stores):
    less_files(folder)
    names = [f"dolly_{i}" for i in range(400)]
    import_less(folder, stores.path, matrix="a100", gradient_type="adam", checkpoint={"name": "ckpt105"}, ids=names)
    store = Datastore.open(stores.path)
    assert store.ids() == names
    assert store.spec.gamma == Gamma.less()
    assert store.spec.checkpoint == {"name": "ckpt105"}
    assert store.spec.projection.matrix == "a100"
    assert not {"ids", "gamma", "checkpoint", "projection.matrix"} & set(store.spec.data["imported"]["not_known"])


def test_imported_rows_compare_only_under_one_name_of_the_matrix(folder, stores):
    native = stores.spec(proj_dim=P)
    named, other, unnamed = (StoreSpec(ForeignProjection(P, "less", m)) for m in ("a100", "h100", None))
    check_comparable(named, named)
    for a, b, said in (
        (named, native, r"projection\.kind: 'foreign' against 'xor'"),
        (native, unnamed, r"projection\.kind: 'xor' against 'foreign'"),
        (named, other, r"projection\.matrix: 'a100' against 'h100'"),
        (named, unnamed, r"projection\.matrix: 'a100' against None"),
        (unnamed, unnamed, r"projection\.matrix: not known against not known"),
    ):
        with pytest.raises(SpecMismatchError, match=said + r"[\s\S]*import both under one name"):
            check_comparable(a, b)


def test_selection_on_imported_stores_is_that_of_less_and_native_stores_are_refused(tmp_path, stores):
    from gradsift.selection import select

    made = {}
    for name, seed in (("train", 0), ("target", 1)):
        less_files(tmp_path / name, n=30, seed=seed, bad=name == "train")
        import_less(tmp_path / name, tmp_path / f"{name}.store", matrix="m", which="normalized")
        made[name] = torch.load(tmp_path / name / "all_orig.pt", weights_only=True)
    train, target = (Datastore.open(tmp_path / f"{name}.store") for name in made)
    stores.make(10, proj_dim=P)
    scores = (made["train"] @ made["target"].T).mean(-1)  # as its matching.py does for one subtask
    scores[7] = -torch.inf  # which it would select first
    assert list(select([train], [target], count=5).ids) == scores.topk(5).indices.tolist()
    with pytest.raises(SpecMismatchError, match="import both under one name"):
        select([train], [Datastore.open(stores.path)], count=5)


def test_an_interrupted_import_goes_on_and_changed_files_are_refused(folder, stores, monkeypatch):
    from gradsift.datastore import less

    rows = less_files(folder)
    monkeypatch.setattr(less, "_STEP_BYTES", 64 * 4 * P)
    real, made = less._float32, []

    def stop_after_four(part, stored):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(1)
        return real(part, stored)

    monkeypatch.setattr(less, "_float32", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        import_less(folder, stores.path, shard_rows=100)
    assert len(Datastore.open(stores.path)) == 200
    monkeypatch.setattr(less, "_float32", real)
    with pytest.raises(DatastoreExistsError):
        import_less(folder, stores.path, shard_rows=100)
    assert import_less(folder, stores.path, shard_rows=100, resume=True).rows == 400
    np.testing.assert_array_equal(Datastore.open(stores.path).rows(), rows.numpy())
    torch.save(rows + 1, folder / "all_unormalized.pt")
    with pytest.raises(SpecMismatchError, match=r"data\.imported\.digest"):
        import_less(folder, stores.path, shard_rows=100, resume=True)


def test_a_missing_chunk_is_named(folder, stores):
    less_files(folder)
    (folder / "grads-320.pt").unlink()
    with pytest.raises(DatastoreError, match=r"grads-400\.pt.*expected rows 160 … 399.*a file is missing"):
        import_less(folder, stores.path, which="chunks")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(folder, stores, tmp_path, zipped):
    folder.mkdir(parents=True)
    torch.save(Evil(tmp_path / "owned"), folder / "all_orig.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DatastoreCorruptError, match="nothing in it was run"):
        import_less(folder, stores.path)
    assert not (tmp_path / "owned").exists()
    torch.load(folder / "all_orig.pt", weights_only=False)
    assert (tmp_path / "owned").exists()  # the file is what it is meant to be


def test_old_files_that_cannot_be_mapped_are_loaded(folder, stores):
    folder.mkdir(parents=True)
    rows = torch.randn(10, P)
    torch.save(rows, folder / "all_orig.pt", _use_new_zipfile_serialization=False)
    import_less(folder, stores.path)
    np.testing.assert_array_equal(Datastore.open(stores.path).rows(), rows.numpy())


def test_a_flipped_bit_in_a_file_is_found(folder, stores):
    less_files(folder)
    path = folder / "all_unormalized.pt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DatastoreCorruptError, match="expected its checksum"):
        import_less(folder, stores.path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DatastoreError, match=r"all_unormalized\.pt"):
        import_less(folder, stores.path)


def test_a_packed_file_is_refused_since_its_bytes_are_not_the_numbers(folder, stores):
    less_files(folder)
    path = folder / "all_unormalized.pt"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    with pytest.raises(DatastoreCorruptError, match="expected no compression"):
        import_less(folder, stores.path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(1).expand(10**9, P), "got 4, which it repeats"),
        (torch.zeros(3, P, dtype=torch.float64), "got torch.float64"),
        (torch.zeros(3), r"\(N, P\)"),
        (torch.zeros(0, P), r"\(N, P\)"),
        ({"a": torch.zeros(3, P)}, "expected one tensor, got dict"),
    ],
)
def test_tensors_of_other_kinds_are_refused(folder, stores, value, said):
    folder.mkdir(parents=True)
    torch.save(value, folder / "all_orig.pt")
    with pytest.raises(DatastoreError, match=said):
        import_less(folder, stores.path)
    assert not stores.path.exists()


def test_folders_that_hold_something_else_are_refused(folder, stores):
    folder.mkdir(parents=True)
    with pytest.raises(DatastoreError, match="name the folder dim<P>"):
        import_less(folder, stores.path)
    torch.save(torch.zeros(3, P), folder / "all_orig.pt")
    torch.save(torch.zeros(3, P), folder / "reps-3.pt")
    with pytest.raises(DatastoreError, match="hidden states"):
        import_less(folder, stores.path)
    with pytest.raises(DatastoreError, match="No such file"):
        import_less(folder / "none", stores.path)


def test_arguments_are_checked(folder, stores):
    less_files(folder, n=20, proj_dim=500)
    with pytest.raises(ValueError, match="proj_dim: expected a power of two"):
        import_less(folder, stores.path)
    torch.save(torch.zeros(20, P), folder / "all_unormalized.pt")
    for option, value in (("which", "both"), ("gradient_type", "adamw"), ("ids", ["a"]), ("dtype", "int3")):
        with pytest.raises(ValueError, match=f"{option}: expected"):
            import_less(folder, stores.path, **{option: value})


@pytest.mark.slow
def test_memory_is_bounded_by_the_parts_not_the_file(folder, stores):
    """The peak of a process that imports 128 MiB stays far below it; pages of the mapped file are not its own."""
    folder.mkdir(parents=True)
    torch.save(torch.randn(1, 8192).repeat(4096, 1), folder / "all_unormalized.pt")
    code = (
        "import sys; from gradsift.datastore import import_less, less; import torch\n"
        "def own():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1]) >> 10\n"
        "less._STEP_BYTES = 8 << 20\n"
        "real, before, most = less._float32, own(), [0]\n"
        "def seen(*a):\n    most[0] = max(most[0], own())\n    return real(*a)\n"
        "less._float32 = seen\n"
        "import_less(sys.argv[1], sys.argv[2], dtype='bfloat16', shard_rows=256)\n"
        "print(most[0] - before)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, folder, stores.path], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 64  # MiB: a part, a shard of 4 MiB and its copies


def test_without_torch_the_error_says_how_to_get_it(folder, stores, monkeypatch):
    less_files(folder, n=10)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyMissingError, match=r"gradsift\[torch\]"):
        import_less(folder, stores.path)
