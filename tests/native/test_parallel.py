"""Threads, batch splits and forks: same bits, no hang, no crash."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gradsift
from gradsift import Gamma, ProjectionSpec, ops

SPEC = ProjectionSpec(8192, seed=5)
ADAM = Gamma.adam(step=9)
# 384 × 640 weights and 160 tokens are five slices of a sample; 96 tokens three, 0 tokens one.
OUT, IN, OFFSETS = 384, 640, np.array([0, 160, 160, 256])


@pytest.fixture
def layer(rng):
    a = rng.standard_normal((OFFSETS[-1], IN), dtype=np.float32)
    g = rng.standard_normal((OFFSETS[-1], OUT), dtype=np.float32)
    m, v = rng.standard_normal((OUT, IN), dtype=np.float32), rng.random((OUT, IN), dtype=np.float32)
    return a, g, (m, v)


def linear(layer, threads, offsets=OFFSETS):
    a, g, moments = layer
    norms = np.full((len(offsets) - 1, 2), np.nan)
    rows = ops.project_linear(
        a[offsets[0] : offsets[-1]],
        g[offsets[0] : offsets[-1]],
        SPEC,
        param="w",
        cu_seqlens=offsets - offsets[0],
        gamma=ADAM,
        moments=moments,
        norms=norms,
        backend="cpu",
        threads=threads,
    )
    return rows, norms


def rows_of(layer, threads, batch=slice(None)):
    _, g, moments = layer
    norms = np.full((len(g[:3][batch]), 2), np.nan)
    grads = np.stack([moments[0] * scale for scale in (1.0, -0.5, 3.0)]).astype(np.float32)[batch]
    rows = ops.project_rows(
        grads, SPEC, param="w", gamma=ADAM, moments=moments, norms=norms, backend="cpu", threads=threads
    )
    return rows, norms


@pytest.mark.parametrize("op", [linear, rows_of])
def test_the_same_bits_for_one_two_and_three_threads(isa, layer, op):
    rows, norms = op(layer, 1)
    assert np.isfinite(rows).all()
    assert np.isfinite(norms).all()
    for threads in (2, 3):
        again, norms_again = op(layer, threads)
        np.testing.assert_array_equal(again, rows)
        np.testing.assert_array_equal(norms_again, norms)


def test_the_same_bits_alone_and_in_a_batch(isa, layer):
    rows, norms = linear(layer, 2)
    whole, whole_norms = rows_of(layer, 2)
    for b in range(3):
        alone, alone_norms = linear(layer, 2, OFFSETS[b : b + 2])
        np.testing.assert_array_equal(alone[0], rows[b])
        np.testing.assert_array_equal(alone_norms[0], norms[b])
        np.testing.assert_array_equal(rows_of(layer, 2, slice(b, b + 1))[0][0], whole[b])
        np.testing.assert_array_equal(rows_of(layer, 2, slice(b, b + 1))[1][0], whole_norms[b])


def test_python_threads_may_call_at_once(native, layer):
    want, _ = linear(layer, 1)
    with ThreadPoolExecutor(4) as pool:
        for got, _ in pool.map(lambda _: linear(layer, 2), range(12)):
            np.testing.assert_array_equal(got, want)


FORK = """
import os, sys
import numpy as np
from gradsift import ProjectionSpec, ops
rng = np.random.default_rng(0)
a, g = rng.standard_normal((6, 32, 256), np.float32), rng.standard_normal((6, 32, 64), np.float32)
call = lambda: ops.project_linear(a, g, ProjectionSpec(256), param="w", backend="cpu", threads=3)
want = call()
for generation in range(3):
    child = os.fork()
    if child == 0:
        threads = len(os.listdir("/proc/self/task"))
        if not np.array_equal(call(), want):
            os._exit(3)
        if len(os.listdir("/proc/self/task")) != threads + 2:
            os._exit(4)
        continue
    _, status = os.waitpid(child, 0)
    assert np.array_equal(call(), want)
    os._exit(os.waitstatus_to_exitcode(status))
os._exit(0)
"""
EXIT_CODES = {3: "a child computed something else", 4: "a child did not start helpers of its own"}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_a_child_forked_after_use_has_a_pool_of_its_own_and_so_have_its_children(native):
    env = {**os.environ, "PYTHONPATH": str(Path(gradsift.__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", FORK], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, EXIT_CODES.get(done.returncode, done.stderr)
