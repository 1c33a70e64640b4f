"""Forks and exits while kernels run: no hang, no crash, the right numbers in every process.

Each program runs in a process of its own that is killed, with all it started, when its time is up: a hang fails.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gradsift

SECONDS = 60
COMMON = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads, which is what is tried here
import numpy as np
from gradsift import ProjectionSpec, ops

rng = np.random.default_rng(0)
a, g = rng.standard_normal((6, 64, 256), np.float32), rng.standard_normal((6, 64, 128), np.float32)

def call(repeat=1):
    for _ in range(repeat):
        rows = ops.project_linear(a, g, ProjectionSpec(256), param="w", backend="cpu", threads=2)
    return rows

def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(program):
    """Exit status and what was printed; TimeoutExpired once the whole process group has been killed."""
    env = {**os.environ, "PYTHONPATH": str(Path(gradsift.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMON + program],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, printed


PROGRAMS = {
    "a child forked after a call computes, and so does its parent": """
want = call()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(call(20), want) else 3)
same = np.array_equal(call(20), want)
assert exit_code(child) == 0
assert same
""",
    "children forked while another thread is inside a call compute": """
want = call()
done = threading.Event()

def keep_calling():
    while not done.is_set():
        assert np.array_equal(call(), want)

threads = [threading.Thread(target=keep_calling) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(call(2), want) else 3)
    assert exit_code(child) == 0
done.set()
for thread in threads:
    thread.join()
assert np.array_equal(call(), want)
""",
    "a pool of forked processes and its parent compute at once": """
import multiprocessing
want = call()

def work(_):
    return call(3)

with multiprocessing.get_context("fork").Pool(3) as pool:
    results = pool.map_async(work, range(9))
    assert np.array_equal(call(10), want)
    assert all(np.array_equal(rows, want) for rows in results.get())
""",
    "a data loader's forked workers compute while the main process does": """
import torch

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.from_numpy(call())

want = call()
loader = torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork")
for batch in loader:
    assert all(np.array_equal(rows, want) for rows in batch.numpy())
    assert np.array_equal(call(), want)
""",
    "the interpreter exits while helpers wait": "call(); sys.exit(0)",
    "the interpreter exits while a thread nobody waits for is inside calls": """
call()

def forever():
    while True:
        call()

for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
""",
    "a child forked within a call's process exits by way of the interpreter": """
call()
child = os.fork()
if child == 0:
    call()
    sys.exit(0)
assert exit_code(child) == 0
""",
}


@pytest.mark.parametrize("claim", PROGRAMS)
def test_forks_and_exits(native, claim):
    if "import torch" in PROGRAMS[claim] and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code, printed = run(PROGRAMS[claim])
    assert code == 0, printed


def test_a_hang_fails_and_leaves_no_process(native, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 1)
    with pytest.raises(subprocess.TimeoutExpired):
        run("os.fork(); time.sleep(600)")
