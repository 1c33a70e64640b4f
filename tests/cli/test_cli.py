"""The command line as a user meets it: help, messages, exit statuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

import gradsift as gs
from gradsift.cli import main
from gradsift.cli.commands import app
from gradsift.selection import REDUCTIONS, SELECTORS
from gradsift.selection.selectors import BUDGETS

STEPS = ["run", "warmup", "collect", "select", "train", "evaluate"]
VERBS = [
    *STEPS,
    "config",
    "doctor",
    "demo",
    "explain",
    "fidelity",
    "quantiles",
    "report",
    "store append",
    "store convert",
    "store export",
    "store gc",
    "store import-less",
    "store info",
    "store merge",
    "store subset",
    "store verify",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert f"Example:  gradsift {verb}" in capsys.readouterr().out


def test_select_names_every_selector_reduction_and_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--help"]) == 0
    said = re.findall(r"[\w-]+", capsys.readouterr().out)
    assert {*SELECTORS, "bm25", *REDUCTIONS, *BUDGETS} <= set(said)


def test_what_only_reads_a_run_does_not_offer_to_write_it_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("explain", "report"):
        assert main([verb, "--help"]) == 0
        assert "Write here" not in capsys.readouterr().out


def test_no_verb_is_left_out_of_the_tests_above() -> None:
    found = []
    for name, verb in app.commands.items():
        found += [f"{name} {sub}" for sub in verb.commands] if isinstance(verb, click.Group) else [name]
    assert sorted(found) == sorted(VERBS)


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from gradsift.cli import main; main(['--help']); "
        "print(sorted({'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_of_ours_is_one_message_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().err.endswith("none.toml: expected a configuration file, got nothing there\n")


def test_traceback_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(gs.errors.ConfigError):
        main(["--traceback", "run", str(tmp_path / "none.toml")])


def test_a_wrong_call_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "Missing argument 'CONFIG'" in capsys.readouterr().err


def test_config_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text('run_dir = "r"\n[modell]\n', encoding="utf-8")
    assert main(["config", str(path)]) == 1
    assert "modell: expected no such key" in capsys.readouterr().err


def test_doctor_says_what_takes_each_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "run on triton, cpu, reference" in text
    assert "backend cpu" in text
    assert gs.__version__ in text


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    rows = np.random.default_rng(0).normal(size=(5, 256)).astype(np.float32)
    with gs.Datastore.create(path, spec=gs.ProjectionSpec(proj_dim=256), dtype="float32") as writer:
        writer.append([f"s{i}" for i in range(5)], rows)
    return path


def test_store_info_is_json_with_the_row_count(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["store", "info", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 5
    assert main(["store", "info", str(store)]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.split()[1:])
    assert (lines["rows"], lines["gaps"], lines["dtype"]) == ("5", "none", "float32")


def test_store_verify_passes_a_whole_store_and_fails_a_damaged_one(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "verify", str(store)]) == 0
    shard = next(store.glob("*.gs"))
    data = bytearray(shard.read_bytes())
    data[4096 + 17] ^= 1
    shard.write_bytes(data)
    assert main(["store", "verify", str(store)]) == 1
    assert shard.name in "".join(capsys.readouterr())


def test_stores_are_cut_merged_extended_and_cleared_from_the_command_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids").write_text("s3\ns1\n", encoding="utf-8")
    some, others, both, merged = (str(tmp_path / name) for name in ("some", "others", "both", "merged"))
    assert main(["store", "subset", str(store), some, "--ids", str(tmp_path / "ids")]) == 0
    assert main(["store", "subset", str(store), others, "--rows", "0, 2,4-4"]) == 0
    assert gs.Datastore.open(some).ids() == ["s1", "s3"]
    assert gs.Datastore.open(others).ids() == ["s0", "s2", "s4"]
    assert main(["store", "append", some, others, "--out", both]) == 0
    assert gs.Datastore.open(both).ids() == ["s1", "s3", "s0", "s2", "s4"]
    assert main(["store", "merge", merged, some, some]) == 0
    assert gs.Datastore.open(merged).ids() == ["s1", "s3"]
    (Path(some) / (".tmp-" + "0" * 32)).touch()
    capsys.readouterr()
    assert main(["store", "gc", "--dry-run", some]) == 0
    assert "1 left-over files found" in capsys.readouterr().out
    assert main(["store", "gc", some]) == 0
    assert not list(Path(some).glob(".tmp-*"))
    assert main(["store", "subset", str(store), some, "--rows", "1-x"]) == 2
    assert main(["store", "merge", merged, str(store)]) == 1
    assert "expected one spec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["info", "nosuch://b"], 2, "URL of a file system"),
        (["verify", "nosuch://b"], 2, "URL of a file system"),
        (["convert", "nosuch://b", "OUT", "--dtype", "int8"], 2, "URL of a file system"),
        (["append", "STORE", "nosuch://b"], 2, "URL of a file system"),
        (["merge", "memory://b", "STORE"], 2, "path: expected a local directory"),
        (["subset", "STORE", "OUT"], 2, "expected one of the two"),
        (["subset", "STORE", "OUT", "--rows", "3-1"], 2, "rising ranges as in 0-99,200, got '3-1'"),
        (["subset", "STORE", "OUT", "--rows", "\u00b2"], 2, "numbers and rising ranges"),
        (["subset", "STORE", "OUT", "--rows", "1-999999999999"], 2, "expected rows below 5"),
        (["subset", "STORE", "OUT", "--ids", "BYTES"], 2, "--ids: expected UTF-8"),
        (["import-less", "FOLDER", "OUT", "--ids", "BYTES"], 2, "--ids: expected UTF-8"),
        (["export", "STORE", "OUT/x.safetensors"], 1, "cannot be written: No such file"),
        (["export", "STORE", "OUT/x.parquet"], 1, "cannot be written: No such file"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_wrong_call_of_a_store_verb_is_explained_and_makes_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\n")
    names = {"STORE": str(store), "OUT": str(tmp_path / "out"), "BYTES": str(tmp_path / "bytes"), "FOLDER": str(store)}
    given = [names.get(a, a.replace("OUT/", f"{tmp_path / 'out'}/")) for a in arguments]
    assert main(["store", *given]) == status
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ids_that_are_integers_are_taken_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gs.Datastore.create(tmp_path / "numbered", spec=gs.ProjectionSpec(256)) as writer:
        writer.append([10, -11, 12], np.ones((3, 256), np.float32))
    (tmp_path / "ids").write_text("12\n-11\n", encoding="utf-8")
    (tmp_path / "wrong").write_text("12\neleven\n", encoding="utf-8")
    call = ["store", "subset", str(tmp_path / "numbered"), str(tmp_path / "out"), "--ids"]
    assert main([*call, str(tmp_path / "wrong")]) == 2
    assert "--ids: expected integers, as the ids of the store are, got 'eleven'" in capsys.readouterr().err
    assert main([*call, str(tmp_path / "ids")]) == 0
    assert gs.Datastore.open(tmp_path / "out").ids() == [-11, 12]


def test_store_convert_says_what_it_made_and_refuses_the_dtype_there_is(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["store", "convert", str(store), str(out), "--dtype", "int4"]) == 0
    assert "5 rows as int4" in capsys.readouterr().out
    assert gs.Datastore.open(out, verify="full").dtype == "int4"
    assert main(["store", "convert", str(store), str(out), "--dtype", "float32"]) == 2
    assert "dtype: expected another" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, how: signal.Signals) -> None:
    """The verb is replaced by one that waits, so that the signal meets a command at work."""
    code = (
        # A shell that starts a job in the background has it ignore SIGINT, and its children with it.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import gradsift.cli.commands as a\nfrom gradsift.cli import main\n"
        "def wait(): print('working', flush=True); time.sleep(60)\n"
        "a.doctor.callback = wait\nsys.exit(main(['doctor']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            time.sleep(0.2)
            process.send_signal(how)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "the same command goes on from there" in err
