from __future__ import annotations

import gzip
import hashlib
import json
import sys

import pytest

from gradsift.data import find_sources, read_samples
from gradsift.errors import DataError, DependencyMissingError


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed")


def test_a_directory_is_read_at_all_depths_in_order_of_paths(tmp_path, chat, write_lines):
    write_lines(tmp_path / "b.jsonl", chat("q", "2", id="2"))
    write_lines(tmp_path / "a" / "z.jsonl", chat("q", "1", id="1"))
    write_lines(tmp_path / "c.jsonl", chat("q", "3", id="3"))
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "manifest.json").write_text("{}")
    assert read_samples(tmp_path).ids == ["1", "2", "3"]


def test_a_glob_takes_data_files_only_and_sorts_them(tmp_path, chat, write_lines):
    for name in ("x2", "x1", "y1"):
        write_lines(tmp_path / f"{name}.jsonl", chat("q", name, id=name))
    (tmp_path / "x0.txt").write_text("not data")
    assert read_samples(str(tmp_path / "x*")).ids == ["x1", "x2"]
    assert read_samples(str(tmp_path / "**" / "y*.jsonl")).ids == ["y1"]


def test_a_list_keeps_its_order_and_reads_no_file_twice(tmp_path, chat, write_lines):
    for name in ("a", "b"):
        write_lines(tmp_path / f"{name}.jsonl", chat("q", name, id=name))
    samples = read_samples([tmp_path / "b.jsonl", tmp_path])
    assert samples.ids == ["b", "a"]
    assert len(samples.sources) == 2


def test_gzip_json_array_and_byte_order_mark_are_read(tmp_path, chat):
    rows = [chat("q", "1", id=1), chat("q", "2", id=2)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_bytes(b"\xef\xbb\xbf" + lines)
    for name in ("lines.jsonl.gz", "array.json", "lines.json"):
        samples = read_samples(tmp_path / name)
        assert [(sample.id, sample.line) for sample in samples] == [("1", 1), ("2", 2)]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path, chat):
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{json.dumps(chat('q', 'a'))}\n  \n{json.dumps(chat('q', 'b'))}")
    samples = read_samples(path)
    assert [sample.line for sample in samples] == [2, 4]
    assert samples.sources[0].rows == 2


def test_sources_carry_the_sha256_of_their_bytes(tmp_path, chat, write_lines):
    path = write_lines(tmp_path / "a.jsonl", chat("q", "a"))
    (info,) = read_samples(path).sources
    assert (info.name, info.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def test_parquet_gives_the_rows_of_the_same_jsonl(tmp_path, chat, write_lines, pyarrow):
    import pyarrow as pa

    rows = [chat("q", "1", id="a"), chat("q", "2", "r", "3", id="b")]
    pyarrow.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    from_parquet = read_samples(tmp_path / "a.parquet")
    from_lines = read_samples(write_lines(tmp_path / "a.jsonl", *rows))
    assert from_parquet.digest == from_lines.digest
    assert [sample.record for sample in from_parquet] == rows


def test_columns_that_are_null_are_not_there(tmp_path, pyarrow):
    import pyarrow as pa

    rows = [
        {"prompt": "p", "completion": "c", "instruction": None, "output": None},
        {"prompt": None, "completion": None, "instruction": "i", "output": "o"},
    ]
    pyarrow.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    samples = read_samples(tmp_path / "a.parquet")
    assert [sample.messages[1]["content"] for sample in samples] == ["c", "o"]


def test_parquet_records_can_be_written_as_json(tmp_path, pyarrow):
    import datetime

    import pyarrow as pa

    row = {"prompt": "p", "completion": "c", "when": datetime.datetime(2024, 1, 2), "raw": b"\x00", "x": float("nan")}
    pyarrow.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (sample,) = read_samples(tmp_path / "a.parquet")
    assert json.loads(json.dumps(sample.record, allow_nan=False)) == {
        "prompt": "p", "completion": "c", "when": "2024-01-02T00:00:00", "raw": "AA==", "x": None,
    }  # fmt: skip


def test_hugging_face_datasets_are_read_from_memory_and_from_disk(tmp_path, chat, datasets):
    rows = [chat("q", "1", id="a"), chat("q", "2", id="b")]
    dataset = datasets.Dataset.from_list(rows)
    dataset.save_to_disk(str(tmp_path / "saved"))
    want = read_samples(rows).digest
    assert read_samples(dataset).digest == want
    assert read_samples(tmp_path / "saved").digest == want


def test_hf_names_are_loaded_with_their_split(tmp_path, chat, write_lines, datasets, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_lines(tmp_path / "set" / "train.jsonl", chat("q", "1", id="a"), chat("q", "2", id="b"))
    assert read_samples(f"hf:{tmp_path}/set:train").ids == ["a", "b"]
    assert read_samples(f"hf:{tmp_path}/set:train[:1]").ids == ["a"]
    with pytest.raises(DataError, match="expected a dataset that loads"):
        read_samples(f"hf:{tmp_path}/nothing:train")


def test_a_saved_dataset_with_splits_must_be_narrowed_to_one(tmp_path, chat, datasets):
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([chat("q", "a")])})
    splits.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="saved/train"):
        read_samples(tmp_path / "saved")
    with pytest.raises(TypeError, match="pass one of train"):
        read_samples(splits)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jsonl", "does not exist"),
        ("table.csv", "expected a file that ends in .jsonl"),
        ("empty_dir", "expected a directory with .jsonl"),
        ("*.csv", "expected a pattern that matches"),
        ("broken.parquet", "expected a readable Parquet file"),
        ("broken.jsonl.gz", "expected a readable file"),
        ("cut.jsonl.gz", "expected a readable file"),
        ("broken.json", "expected an array of rows"),
    ],
)
def test_what_cannot_be_read_is_an_error_even_when_bad_rows_are_skipped(tmp_path, name, reason):
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "empty_dir").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing of it")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "p", "completion": "c"}\n' * 99)[:-9])
    (tmp_path / "broken.json").write_text('[{"a": 1},')
    if "parquet" in name:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.raises(DataError, match=reason) as error:
        read_samples(tmp_path / name, bad_rows="skip")
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_named_with_its_install_line(tmp_path, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.parquet").write_bytes(b"")
    source = tmp_path / "a.parquet" if package == "pyarrow" else "hf:name:train"
    with pytest.raises(DependencyMissingError, match=rf'{package}.*pip install "gradsift\[hf\]"'):
        read_samples(source)


@pytest.mark.parametrize("sources", [3, {"messages": []}, [3], b"path", [["a", 1]]])
def test_what_is_no_source_is_a_type_error(sources):
    with pytest.raises(TypeError, match=r"^sources: expected"):
        find_sources(sources)


def test_an_empty_list_of_sources_is_an_error():
    with pytest.raises(DataError, match="got an empty list"):
        find_sources([])


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:a:b:c:d"])
def test_an_hf_name_without_split_is_refused(text):
    with pytest.raises(ValueError, match="hf:NAME:SPLIT"):
        find_sources(text)
