"""Writes the kernel driver's cases: `python tests/native/driver/write_cases.py FILE [--few]`.

Inputs, and what the NumPy float64 reference makes of them; budgets from docs/numerics.md. `--few` leaves out what is
slow under a sanitizer or an emulator. cases.h has the layout.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gradsift import Gamma, ProjectionSpec
from gradsift.naming import parameter_id
from gradsift.ops import project_linear, project_rows
from gradsift.specs import GAMMA_KINDS, PROJECTION_KINDS

HEADER = struct.Struct("<64s10q2Q2q5d")
OPS = ("project_linear", "project_rows", "sparse")
DTYPES = ("float32", "bfloat16")
W = "model.layers.0.self_attn.q_proj.weight"

# Their scale, 1/√nonzeros or 1/√P, is a power of two: small integers come out exactly.
EXACT_SPECS = [
    ProjectionSpec(256, 2**64 - 1),
    ProjectionSpec(1024, 1, nonzeros=4),
    ProjectionSpec(8192, 2),
    ProjectionSpec(16384, 3),
    ProjectionSpec(65536, 4, nonzeros=4),
    ProjectionSpec(256, 5, kind="rademacher"),
]
SPECS = [
    ProjectionSpec(256, 6, nonzeros=2),
    ProjectionSpec(512, 7),
    ProjectionSpec(2048, 8, nonzeros=8),
    ProjectionSpec(8192, 9, nonzeros=2),
    ProjectionSpec(32768, 10, nonzeros=8),
    ProjectionSpec(65536, 11),
    ProjectionSpec(512, 12, kind="rademacher"),
]
GAMMAS = [Gamma.sgd(), Gamma.adam(step=37), Gamma.less(), Gamma.affine(step=37), Gamma.second_moment(step=37)]

# tokens of each sample, d_out, d_in
LINEAR = [
    ((5, 0, 9, 1), 17, 131),
    ((33, 7), 193, 8),
    ((12, 0, 3), 8, 576),
    ((1,), 1, 1),
    ((0, 0), 5, 130),
    ((), 4, 5),
    ((3,), 0, 5),
    ((2, 1), 5, 0),
    ((6, 6, 6), 33, 140),
    ((13, 29), 61, 257),
    ((4, 4), 16, 16),
    ((3, 3), 65, 129),
    # Many tokens, and rows whose distance crowds the cache: panels are packed and copied.
    ((513, 2), 20, 70),
    ((514,), 140, 20),
    ((71,), 17, 4096),
    ((70, 3), 4096, 17),
]
# Several slices of a sample, so that threads share it.
LARGE_LINEAR = [((210, 0, 40), 129, 641), ((300,), 640, 129)]
# samples, rows, columns
ROWS = [(3, 17, 131), (1, 1, 1), (2, 9, 128), (0, 4, 5), (2, 0, 5), (2, 5, 0), (5, 1, 577), (3, 65, 257), (2, 300, 3)]
LARGE_ROWS = [(2, 1400, 1031)]
# rows listed for each sample, rows of the parameter, columns
SPARSE = [((3, 0, 5), 50, 131), ((1,), 1, 1), ((0, 0), 7, 9), ((40, 2), 1000, 64), ((7, 7, 7), 8, 257)]


@dataclass
class Shape:
    op: str
    lengths: tuple[int, ...]  # tokens, or listed rows; for whole rows d_out of each sample
    d_out: int
    d_in: int

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def offsets(self) -> np.ndarray:
        return np.cumsum((0, *self.lengths)).astype("<i8")


def shapes(few: bool) -> list[Shape]:
    linear = LINEAR + ([] if few else LARGE_LINEAR)
    rows = ROWS + ([] if few else LARGE_ROWS)
    return [
        *(Shape("project_linear", *shape) for shape in linear),
        *(Shape("project_rows", (d_out,) * batch, d_out, d_in) for batch, d_out, d_in in rows),
        *(Shape("sparse", *shape) for shape in SPARSE),
    ]


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers that `dtype` holds exactly: bfloat16 is the upper half of a float32."""
    values = np.ascontiguousarray(values, np.float32)
    return values if dtype == "float32" else (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def as_bytes(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def row_ids(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    lists = [rng.permutation(shape.d_out)[:n] for n in shape.lengths]
    return np.concatenate([np.zeros(0, int), *lists]).astype("<i8")


def budgets() -> dict[tuple[str, str], float]:
    path = Path(__file__).parents[2] / "ops" / "budgets.py"
    spec = importlib.util.spec_from_file_location("budgets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_budgets()


BUDGETS = budgets()


def case(
    rng: np.random.Generator,
    shape: Shape,
    spec: ProjectionSpec,
    gamma: Gamma,
    dtype: str,
    moments_dtype: str,
    exact: bool,
) -> bytes:
    linear = shape.op == "project_linear"

    def draw(*size: int, scale: float = 1.0) -> np.ndarray:
        values = rng.integers(-3, 4, size) if exact else scale * rng.normal(size=size)
        return as_dtype(values, dtype)

    inputs, grads = draw(shape.total, shape.d_in), draw(shape.total, shape.d_out, scale=1e-2)
    moments = None
    if gamma.needs_moments:
        spread = 10.0 ** rng.uniform(-3, 3, size=(shape.d_out, shape.d_in))
        m, v = 0.3 * spread * rng.normal(size=spread.shape), np.square(spread * rng.uniform(0.5, 2, spread.shape))
        moments = (as_dtype(m, moments_dtype), as_dtype(v, moments_dtype))
    ids = row_ids(rng, shape) if shape.op == "sparse" else None
    batch = len(shape.lengths)
    norms = np.full((batch, 2), np.nan)
    arguments = {"param": W, "gamma": gamma, "moments": moments, "norms": norms, "backend": "reference"}
    if linear:
        sketches = project_linear(inputs, grads, spec, cu_seqlens=shape.offsets, **arguments)
    elif ids is None:
        sketches = project_rows(inputs.reshape(batch, shape.d_out, shape.d_in), spec, **arguments)
    else:
        arguments |= {"shape": (shape.d_out, shape.d_in), "row_ids": ids, "cu_seqlens": shape.offsets}
        sketches = project_rows(inputs, spec, **arguments)

    op = "project_linear" if linear else "project_rows"
    quantity = "rademacher" if spec.kind == "rademacher" else gamma.kind
    name = (
        f"{shape.op} {'x'.join(map(str, (batch, shape.total, shape.d_out, shape.d_in)))} "
        f"{spec.kind}{spec.proj_dim}/{spec.nonzeros} {gamma.kind} {dtype[0]}{moments_dtype[0]}"
    )
    assert len(name) < 64, name
    header = HEADER.pack(
        name.encode(),
        OPS.index(shape.op),
        DTYPES.index(dtype),
        -1 if moments is None else DTYPES.index(moments_dtype),
        batch,
        shape.d_out,
        shape.d_in,
        shape.total,
        PROJECTION_KINDS.index(spec.kind),
        spec.proj_dim,
        spec.nonzeros,
        spec.seed,
        parameter_id(W),
        GAMMA_KINDS.index(gamma.kind),
        gamma.step or 0,
        gamma.beta1 or 0.0,
        gamma.beta2 or 0.0,
        gamma.eps or 0.0,
        0.0 if exact else BUDGETS[op, quantity],
        0.0 if exact else BUDGETS[op, "norms"],
    )
    parts = [header]
    if shape.op != "project_rows":
        parts.append(shape.offsets.tobytes())
    if ids is not None:
        parts.append(ids.tobytes())
    parts.append(as_bytes(inputs, dtype))
    if linear:
        parts.append(as_bytes(grads, dtype))
    parts += [as_bytes(moment, moments_dtype) for moment in moments or ()]
    return b"".join([*parts, sketches.astype("<f4").tobytes(), norms.astype("<f8").tobytes()])


def fits(shape: Shape, spec: ProjectionSpec) -> bool:
    """Whether budgets were measured for so many entries to a number of the sketch: they grow with it, docs/numerics.md.

    The dense kind is also slow: each entry reaches all P.
    """
    entries = shape.d_out * shape.d_in
    return entries <= 2304 if spec.kind == "rademacher" else entries * spec.nonzeros <= 9 * spec.proj_dim


def cases(few: bool) -> Iterator[bytes]:
    rng = np.random.default_rng(20240402)
    everything = shapes(few)
    for turn, (shape, dtype, kind) in enumerate(product(everything, DTYPES, ("sgd", "sign"))):
        spec = EXACT_SPECS[turn % len(EXACT_SPECS)]
        if spec.kind == "rademacher" and not fits(shape, spec):
            spec = EXACT_SPECS[0]
        yield case(rng, shape, spec, Gamma(kind), dtype, "float32", exact=True)
    filled = [s for s in everything if s.total and s.d_out and s.d_in and any(fits(s, spec) for spec in SPECS)]
    turn = 0
    for gamma, dtype, moments_dtype, repeat in product(GAMMAS, DTYPES, DTYPES, range(2 if few else 6)):
        if not gamma.needs_moments and moments_dtype != "float32":
            continue
        shape = filled[(turn * 5 + repeat) % len(filled)]
        fitting = [spec for spec in SPECS if fits(shape, spec)]
        turn += 1
        yield case(rng, shape, fitting[turn % len(fitting)], gamma, dtype, moments_dtype, exact=False)


def write(path: Path, few: bool) -> int:
    blobs = list(cases(few))
    with path.open("wb") as file:
        write_to(file, blobs)
    return len(blobs)


def write_to(file: BinaryIO, blobs: list[bytes]) -> None:
    file.write(b"GSCASES1" + struct.pack("<q", len(blobs)))
    file.writelines(blobs)


if __name__ == "__main__":
    target, *rest = sys.argv[1:]
    print(f"{write(Path(target), few='--few' in rest)} cases in {target}")
