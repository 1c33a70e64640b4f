"""What is said where CUDA cannot be used or a call cannot be made: ``python cases_driver.py WHAT``.

The stand-in driver does wrong what GRADSIFT_MOCK_FAULT names. Prints the class and the message of what was raised.
"""

import os
import sys
import threading

import numpy as np
from emulated import _cuda_args

from gradsift import ProjectionSpec, _native, backends
from gradsift.errors import GradsiftError
from gradsift.ops.project_rows import cuda
from gradsift.ops.quantise import cuda as quantise
from gradsift.specs import Gamma

GRADS = np.arange(600, dtype=np.float32).reshape(2, 300)


def sketch(out=None, place=(0, 0), proj_dim=256):
    _cuda_args.place = lambda _array: place
    out = np.full((2, proj_dim), np.nan, np.float32) if out is None else out
    cuda.project_rows(
        GRADS, ProjectionSpec(proj_dim), "w", (1, 300), None, None, Gamma.sgd(), None, out, None, False, None
    )
    return out


def report(call):
    try:
        call()
    except (GradsiftError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("nothing was raised")


def call():
    report(sketch)


def reason():
    print(f"reason: {_native.cuda_unavailable_reason()}")
    print(f"why_not: {backends.why_not('cuda')}")
    print(backends.explain("project_rows"))
    report(lambda: backends.choose("project_rows", device="cuda"))
    report(sketch)
    report(lambda: _native.cuda_device_info(0))


def devices():
    print(_native.cuda_device_count(), _native.cuda_device_info(1)["name"], _native.cuda_driver_version())
    report(lambda: _native.cuda_device_info(2))
    report(lambda: sketch(place=(-1, 0)))


def long_rows():
    """Quantised on a card whose blocks have little shared memory."""
    rows = np.ones((2, 32768), np.float32)
    out = np.empty((2, 32768), np.uint8), np.empty(2, np.float32), np.empty(2)
    report(lambda: quantise.quantise_rows(rows, 8, 1, *out, None))
    quantise.quantise_rows(rows[:, :16384], 8, 1, *out, None)


def stream():
    sketch(place=(0, 0x5EED))


def threads():
    """Eight threads at once, the first call of the process among them."""
    want, found = None, []
    workers = [threading.Thread(target=lambda: found.append(sketch())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    want = sketch()
    print(f"{sum(np.array_equal(got, want) for got in found)} of {len(found)} alike")


def fork():
    sketch()
    if os.fork() == 0:
        report(sketch)
        print(f"reason: {_native.cuda_unavailable_reason()}", flush=True)
        os._exit(0)
    os.wait()
    sketch()
    print("the parent goes on")


def fork_before_use():
    if os.fork() == 0:
        sketch()
        print("the child sketches", flush=True)
        os._exit(0)
    os.wait()
    sketch()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
