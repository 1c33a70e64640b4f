"""Stores from strangers: none crashes or hangs the reader, runs code, reaches outside, or has memory for a claim."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import gradsift
from gradsift import Datastore
from gradsift.errors import DatastoreCorruptError, DatastoreError

ATTACKS = Path(__file__).parent / "attacks"
MAKE = runpy.run_path(str(ATTACKS / "make_attacks.py"))
ALL = {**MAKE["SMALL"], **MAKE["NAMED"], **MAKE["BIG"]}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What happened to a process that opened all of them, under limits of memory and time, by the attack's name."""
    folder = tmp_path_factory.mktemp("attacks")
    MAKE["write"](folder / "all", ALL)
    command = [sys.executable, str(ATTACKS / "open_attacks.py"), str(folder / "all")]
    source = str(Path(gradsift.__file__).parents[1])
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": source}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {lines[-1]['name'] if lines else 'nothing'}: {done.stderr[-2000:]}"
    assert [p.name for p in folder.iterdir()] == ["all"], "something was written beside the stores"
    return folder / "all", {line["name"]: line for line in lines}


def test_the_attacks_that_are_kept_are_those_of_the_script():
    kept = {p.name: {f.name: f.read_bytes() for f in p.iterdir()} for p in (ATTACKS / "kept").iterdir()}
    assert kept == {name: files for name, (files, _, _) in MAKE["SMALL"].items()}


def test_what_the_attacks_are_made_from_is_a_good_store(tmp_path):
    MAKE["write"](tmp_path, {"good": (MAKE["store"](MAKE["GOOD"]), "", "")})
    store = Datastore.open(tmp_path / "good", verify="full")
    assert store.ids() == ["a", "b", "c"]
    assert (store.rows() == 1).all()


def test_what_the_quantised_attacks_are_made_from_is_a_good_store(tmp_path):
    MAKE["write"](tmp_path, {"good": (MAKE["quantised"](), "", "")})
    store = Datastore.open(tmp_path / "good", verify="full")
    assert store.dtype == "int8"
    assert store.ids() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ALL)
def test_an_attack_is_refused_for_what_it_is(name, found):
    _, want, says = ALL[name]
    got = found[1][name]
    where = "read:" if want.startswith("read:") else ""
    refusal = got.get("read") if where else got["open"]
    assert (got["open"] is None) == (bool(where) or want == "nothing")
    if want != "nothing":
        assert refusal[0] in want.removeprefix("read:").split("|")
        assert name in refusal[1], "the message names the store"
        assert re.search(says, refusal[1].replace(f"/{name}/", "/"))
        assert refusal[1].isprintable()
        assert len(refusal[1]) < 1000
        assert not got.get("ok"), "verify found nothing"


@pytest.mark.parametrize("name", ALL)
def test_an_attack_costs_memory_by_what_is_there_and_not_by_what_it_claims(name, found):
    size = sum(map(len, ALL[name][0].values()))
    assert found[1][name]["peak_bytes"] < (1 << 20) + 32 * size


@pytest.mark.parametrize("name", ALL)
def test_an_attack_opens_nothing_but_files_of_its_own_directory(name, found):
    """Files are opened by bare names in the directory's handle, which is what is listed, too."""
    folder, lines = found
    own = {str(folder / name), *ALL[name][0]}
    assert {path for path in lines[name]["opened"] if not path.isdigit()} <= own


@pytest.mark.parametrize("place", ["spec.json", MAKE["NAME"]])
@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "link to a folder", "fifo", "folder", "socket", "device", "loop of links"]
)
def test_what_is_no_regular_file_is_refused_at_once(kind, place, tmp_path):
    MAKE["write"](tmp_path, {"s": (MAKE["store"](MAKE["GOOD"]), "", "")})
    path, elsewhere = tmp_path / "s" / place, tmp_path / "elsewhere"
    path.rename(elsewhere)
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "link to a folder":
        path.symlink_to(tmp_path)
    elif kind == "loop of links":
        path.symlink_to(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
        except PermissionError:
            path.symlink_to("/dev/zero")  # who may not make a device can still link to one
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(place)
        finally:
            os.chdir(here)
    with pytest.raises(DatastoreError, match=place) as caught:
        Datastore.open(tmp_path / "s")
    if kind != "socket":
        assert isinstance(caught.value, DatastoreCorruptError)
    if place != "spec.json":
        store = Datastore.open(tmp_path / "s", on_error="skip")
        assert [(lost.first, lost.stop) for lost in store.damaged] == [(0, 3)]


def test_a_linked_temporary_is_neither_followed_nor_touched_by_a_resuming_writer(tmp_path, stores):
    stores.make(2)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (stores.path / ".tmp-0").symlink_to(precious)
    (stores.path / ".tmp-1").symlink_to(tmp_path)
    (stores.path / ".tmp-2").mkdir()
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        writer.append(["more"], stores.sketches(1))
    assert precious.read_text() == "mine"
    assert len(Datastore.open(stores.path, verify="full")) == 3


def test_a_link_in_the_place_of_a_shard_is_not_written_through(tmp_path, stores):
    stores.make(2)
    name = stores.shards()[0].name.replace("0-00000002-", "2-00000001-")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        (stores.path / name).symlink_to(precious)
        writer.append(["more"], stores.sketches(1))
        with pytest.raises(DatastoreCorruptError, match="symbolic link"):
            writer.commit()
        writer.close()
    assert precious.read_text() == "mine"
