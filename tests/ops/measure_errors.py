"""Prints the largest errors of the native ops for docs/numerics.md: `python tests/ops/measure_errors.py`."""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
import torch

from gradsift import Gamma, ProjectionSpec, _native
from gradsift.ops import project_linear, project_rows

GAMMAS = [Gamma.sgd(), Gamma.adam(step=37), Gamma.less(), Gamma.affine(step=37), Gamma.second_moment(step=37)]
SPECS = [
    ProjectionSpec(1024, 5),
    ProjectionSpec(16384, 3),
    ProjectionSpec(8192, 1, nonzeros=2),
    ProjectionSpec(256, 5, kind="rademacher"),
]
SIZES = [(3, 40, 16, 576), (2, 300, 65, 131), (1, 1024, 64, 96)]  # B, T, d_out, d_in


def moments_like(rng: np.random.Generator, shape: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """As training leaves them, of six orders of magnitude."""
    spread = 10.0 ** rng.uniform(-3, 3, size=shape)
    m, v = 0.3 * spread * rng.normal(size=shape), np.square(spread * rng.uniform(0.5, 2, size=shape))
    return torch.tensor(m).to(dtype), torch.tensor(v).to(dtype)


def main(seeds: int) -> None:
    worst: dict[tuple[str, str], float] = defaultdict(float)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        spec, moments_dtype = SPECS[seed % 4], (torch.float32, torch.bfloat16)[seed // 4 % 2]
        for B, T, d_out, d_in in SIZES:
            for dtype in (torch.float32, torch.bfloat16):
                a, g, G = (
                    torch.tensor(scale * rng.normal(size=shape)).to(dtype)
                    for scale, shape in ((1, (B, T, d_in)), (1e-2, (B, T, d_out)), (1, (B, d_out, d_in)))
                )
                for gamma in GAMMAS:
                    moments = moments_like(rng, (d_out, d_in), moments_dtype) if gamma.needs_moments else None
                    for op, operands in ((project_linear, (a, g)), (project_rows, (G,))):
                        arguments = {"param": "w", "gamma": gamma, "moments": moments}
                        want_norms, norms = np.empty((B, 2)), np.empty((B, 2))
                        want = op(*operands, spec, norms=want_norms, backend="reference", **arguments).double()
                        for isa in _native.isas():
                            _native.set_isa(isa)
                            got = op(*operands, spec, norms=norms, backend="cpu", **arguments).double()
                            error = float(((got - want).norm(dim=1) / want.norm(dim=1)).max())
                            quantity = "rademacher" if spec.kind == "rademacher" else gamma.kind
                            worst[op.__name__, quantity] = max(worst[op.__name__, quantity], error)
                            of_norms = float(np.max(np.abs(norms / want_norms - 1)))
                            worst[op.__name__, "norms"] = max(worst[op.__name__, "norms"], of_norms)
    for (name, quantity), value in worst.items():
        print(f"| `{name}` | `{quantity}` | {value:.1e} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
