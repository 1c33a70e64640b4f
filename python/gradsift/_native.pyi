"""Kernels on raw addresses; `gradsift.ops` checks the arguments. Wrong values raise ValueError."""

from typing import Any, TypeAlias

from typing_extensions import Buffer

# (address, dtype: 0 float32, 1 bfloat16 or, on CUDA, 2 float16, sample stride, row stride), strides in elements
_Rows: TypeAlias = tuple[int, int, int, int]
# (address, row stride in elements)
_Matrix: TypeAlias = tuple[int, int]
# (address or 0, dtype), contiguous
_Moment: TypeAlias = tuple[int, int]
# (index in specs.PROJECTION_KINDS, proj_dim, seed, nonzeros)
_Projection: TypeAlias = tuple[int, int, int, int]
# (index in specs.GAMMA_KINDS, beta1, beta2, eps, step)
_Gamma: TypeAlias = tuple[int, float, float, float, int]
# (address of the sketches, row stride, address of the norms or 0, row stride, whether to add)
_Output: TypeAlias = tuple[int, int, int, int, bool]

def project_linear(
    *,
    activations: _Rows,
    output_grads: _Rows,
    cu_seqlens: int,
    padded: bool,
    samples: int,
    d_out: int,
    d_in: int,
    projection: _Projection,
    param_id: int,
    gamma: _Gamma,
    first_moment: _Moment,
    second_moment: _Moment,
    output: _Output,
    threads: int,
) -> None: ...
def project_rows(
    *,
    grads: _Rows,
    row_ids: int,
    cu_seqlens: int,
    samples: int,
    d_out: int,
    d_in: int,
    projection: _Projection,
    param_id: int,
    gamma: _Gamma,
    first_moment: _Moment,
    second_moment: _Moment,
    output: _Output,
    threads: int,
) -> None: ...
def quantise_rows(
    *,
    rows: _Matrix,
    n_rows: int,
    proj_dim: int,
    bits: int,
    seed: int,
    codes: int,
    scales: int,
    norms: int,
    threads: int,
) -> None: ...
def dequantise_rows(
    *,
    codes: _Matrix,
    scales: int,
    n_rows: int,
    proj_dim: int,
    bits: int,
    seed: int,
    out: _Matrix,
    threads: int,
) -> None: ...

class ScoreTargets:
    def __init__(self, *, targets: _Matrix, columns: int, proj_dim: int, format: int, seed: int) -> None: ...

def score_rows(
    *,
    parts: list[tuple[ScoreTargets, int, int, int, float, _Matrix]],
    n: int,
    reduce: int,
    excluded: int,
    hide: int,
    influence: int,
    best: int,
    status: int,
    scores: _Matrix,
    threads: int,
) -> None: ...
def round_rows(*, rows: int, n: int, cols: int, stride: int, out: int, largest: int) -> None: ...
def crc32c(data: Buffer, value: int = 0) -> int: ...
def crc32c_blocks(data: Buffer, *, block_bytes: int, threads: int) -> list[int]: ...
def isas() -> list[str]: ...
def built_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...

cuda_targets: str

def cuda_built() -> bool: ...
def cuda_unavailable_reason() -> str: ...
def cuda_driver_version() -> int: ...
def cuda_device_count() -> int: ...
def cuda_device_info(device: int) -> dict[str, Any]: ...
def cuda_images() -> dict[str, bytes]: ...
def cuda_project_rows_scratch(*, samples: int, rows: int, cols: int, proj_dim: int) -> int: ...
def cuda_project_rows(
    *,
    place: tuple[int, int],
    grads: _Rows,
    row_ids: int,
    cu_seqlens: int,
    samples: int,
    longest: int,
    d_out: int,
    d_in: int,
    projection: _Projection,
    param_id: int,
    gamma: _Gamma,
    first_moment: _Moment,
    second_moment: _Moment,
    output: _Output,
    scratch: tuple[int, int],
) -> None: ...
def cuda_quantise_scratch(device: int, rows: int, proj_dim: int) -> int: ...
def cuda_quantise_rows(
    *,
    place: tuple[int, int],
    rows: _Matrix,
    n_rows: int,
    proj_dim: int,
    bits: int,
    seed: int,
    codes: int,
    scales: int,
    norms: int,
    scratch: int,
) -> None: ...
def cuda_dequantise_rows(
    *,
    place: tuple[int, int],
    codes: _Matrix,
    scales: int,
    n_rows: int,
    proj_dim: int,
    bits: int,
    seed: int,
    out: _Matrix,
    scratch: int,
) -> None: ...

class CudaScoreColumns:
    packed_bytes: int
    planes: int
    groups: int
    def __init__(self, *, targets: int, columns: int, proj_dim: int, format: int, shared_bytes: int) -> None: ...
    def pack(self, *, packed: int, scale: int) -> None: ...

# (state, counts, influence, row, best, capacity, k, largest block), the first five addresses
_TopRows: TypeAlias = tuple[int, int, int, int, int, int, int, int]

def cuda_score_rows(
    *,
    place: tuple[int, int],
    parts: list[tuple[CudaScoreColumns, int, int, int, int, int, int, float]],
    n: int,
    reduce: int,
    excluded: int,
    hide: int,
    influence: int,
    best: int,
    status: int,
    scores: _Matrix,
) -> None: ...
def cuda_top_rows_add(
    *, place: tuple[int, int], top: _TopRows, influence: int, best: int, n: int, first_row: int
) -> None: ...
def cuda_top_rows_finish(*, place: tuple[int, int], top: _TopRows) -> None: ...
