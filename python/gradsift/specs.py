"""What names a sketch: the projection, the map Γ, and the record a datastore keeps of both.

Nothing here computes; two parties that hold equal specs hold comparable sketches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

PROJECTION_KINDS = ("xor", "rademacher")
GAMMA_KINDS = ("sgd", "adam", "less", "affine", "second_moment", "sign")
_GAMMA_NUMBERS = {
    "sgd": (),
    "adam": ("beta1", "beta2", "eps", "step"),
    "less": ("beta1", "beta2", "eps"),
    "affine": ("beta1", "beta2", "eps", "step"),
    "second_moment": ("beta2", "eps", "step"),
    "sign": (),
}
# Kernels hold eps in float32, where a smaller one would be zero and Γ(0) with v = 0 would be NaN.
_SMALLEST_EPS = 2.0**-126


def _check_int(name: str, value: object, contract: str, ok: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if not ok:
        raise ValueError(f"{name}: expected {contract}, got {value}")


def _check_proj_dim(p: int) -> None:
    ok = _is_int(p) and 256 <= p <= 65536 and p & (p - 1) == 0
    _check_int("proj_dim", p, "a power of two from 256 to 65536", ok)


def canonical_json(value: Any) -> str:
    """`value` as the one JSON text that digests are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """BLAKE2b-128 of `canonical_json(value)`, 32 hexadecimal digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ProjectionSpec:
    """Names one random matrix, the same on every backend, device, batch split and rank (docs/projection-spec.md).

    Parameters
    ----------
    proj_dim : int
        P, the length of a sketch: a power of two, 256 … 65,536.
    seed : int
        0 … 2**64 − 1.
    kind : {"xor", "rademacher"}
        ``"xor"``: count-sketch with XOR masks, one signed add a parameter entry. ``"rademacher"``: dense ±1/√P,
        the yardstick, slower by a factor of P.
    nonzeros : {1, 2, 4, 8}
        Independent XOR sketches that are summed, scaled by 1/√nonzeros. 1 serves gradients mapped by Adam and real
        LoRA gradients; take 4 for very sparse raw gradients. Must be 1 for ``"rademacher"``.
    """

    VERSION: ClassVar[int] = 1

    proj_dim: int = 8192
    seed: int = 0
    kind: str = "xor"
    nonzeros: int = 1

    def __post_init__(self) -> None:
        _check_proj_dim(self.proj_dim)
        _check_int("seed", self.seed, "0 … 2**64 - 1", _is_int(self.seed) and 0 <= self.seed < 2**64)
        if self.kind not in PROJECTION_KINDS:
            raise ValueError(f"kind: expected one of {PROJECTION_KINDS}, got {self.kind!r}")
        _check_int("nonzeros", self.nonzeros, "1, 2, 4 or 8", self.nonzeros in (1, 2, 4, 8))
        if self.kind == "rademacher" and self.nonzeros != 1:
            raise ValueError(f'nonzeros: expected 1 for kind="rademacher", which has no zeros, got {self.nonzeros}')

    def to_dict(self) -> dict[str, Any]:
        return {"version": self.VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ProjectionSpec:
        record = dict(record)
        version = record.pop("version", None)
        if version != cls.VERSION:
            raise ValueError(f"projection version: expected {cls.VERSION}, got {version!r}")
        return cls(**_fields(cls, "projection", record, required=("proj_dim", "seed", "kind", "nonzeros")))


@dataclass(frozen=True)
class ForeignProjection:
    """Stands where `ProjectionSpec` would, for rows that another program projected by a matrix of its own.

    No backend can draw that matrix; what can be said of it is who drew it, and a name that people agree on.

    Parameters
    ----------
    proj_dim : int
        P, a power of two, 256 … 65,536.
    source : str
        The program the rows come from.
    matrix : str, optional
        A name for the matrix. Rows compare only with rows that were imported under the same name; under none, with
        no others.
    """

    VERSION: ClassVar[int] = 1
    KIND: ClassVar[str] = "foreign"

    proj_dim: int
    source: str
    matrix: str | None = None

    def __post_init__(self) -> None:
        _check_proj_dim(self.proj_dim)
        for name, value in (("source", self.source), ("matrix", self.matrix)):
            if not (isinstance(value, str) or (value is None and name == "matrix")):
                raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
            if value is not None and not value.strip():
                raise ValueError(f"{name}: expected a name, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        return {"version": self.VERSION, "kind": self.KIND, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ForeignProjection:
        record = dict(record)
        version = record.pop("version", None)
        if version != cls.VERSION or record.pop("kind", None) != cls.KIND:
            raise ValueError(f"projection: expected version {cls.VERSION} of kind {cls.KIND!r}, got others")
        return cls(**_fields(cls, "projection", record, required=("proj_dim", "source", "matrix")))


@dataclass(frozen=True)
class Gamma:
    """The map Γ from a sample's gradient g to its update direction, a formula and its numbers.

    Made by the class methods; all are elementwise in g and the parameter's moments m, v (``exp_avg``,
    ``exp_avg_sq``). `step` is the optimizer's step count t at the checkpoint.
    """

    kind: str
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in GAMMA_KINDS:
            raise ValueError(f"kind: expected one of {GAMMA_KINDS}, got {self.kind!r}")
        numbers = _GAMMA_NUMBERS[self.kind]
        for name in ("beta1", "beta2", "eps", "step"):
            value = getattr(self, name)
            if (value is None) == (name in numbers):
                want = "a number" if name in numbers else "None"
                raise ValueError(f"{name}: expected {want} for Gamma {self.kind!r}, got {value}")
            if name != "step" and value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise TypeError(f"{name}: expected a float, got {type(value).__name__}")
                # 0 and 0.0 are one number and must have one digest.
                object.__setattr__(self, name, float(value))
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"{name}: expected 0 <= {name} < 1, got {value}")
        if self.eps is not None and not _SMALLEST_EPS <= self.eps < 1.0:
            raise ValueError(f"eps: expected 2**-126 <= eps < 1, got {self.eps}")
        if self.step is not None:
            _check_int("step", self.step, "a count >= 1", _is_int(self.step) and self.step >= 1)

    @property
    def needs_moments(self) -> bool:
        """Whether the formula reads m or v."""
        return self.kind in ("adam", "less", "affine", "second_moment")

    @classmethod
    def sgd(cls) -> Gamma:
        """``Γ = g``: targets, and raw-gradient methods."""
        return cls("sgd")

    @classmethod
    def sign(cls) -> Gamma:
        """``Γ = sign(g)``."""
        return cls("sign")

    @classmethod
    def adam(cls, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, step: int = 1) -> Gamma:
        """What torch's AdamW would add, without rate and decay.

        ``m' = β1·m + (1−β1)·g``, ``v' = β2·v + (1−β2)·g²``,
        ``Γ = (m' / (1−β1^(t+1))) / (√(v' / (1−β2^(t+1))) + ε)``.
        """
        return cls("adam", beta1, beta2, eps, step)

    @classmethod
    def affine(cls, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, step: int = 1) -> Gamma:
        """`adam` with v' replaced by v, bias-corrected at t: affine in g.

        ``Γ = (m' / (1−β1^(t+1))) / (√(v / (1−β2^t)) + ε)``.
        """
        return cls("affine", beta1, beta2, eps, step)

    @classmethod
    def second_moment(cls, beta2: float = 0.999, eps: float = 1e-8, step: int = 1) -> Gamma:
        """``Γ = g / (√(v / (1−β2^t)) + ε)``: what bergson calls Adam."""
        return cls("second_moment", None, beta2, eps, step)

    @classmethod
    def less(cls) -> Gamma:
        """What the released LESS code computes: ``m' / √(v' + 1e-8)``, β = (0.9, 0.999), no bias correction."""
        return cls("less", 0.9, 0.999, 1e-8, None)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Gamma:
        return cls(**_fields(cls, "gamma", record, required=("kind",)))


@dataclass(frozen=True)
class StoreSpec:
    """Everything that decides what the rows of a datastore mean; its digest is the store's id.

    Parameters
    ----------
    projection : ProjectionSpec, or ForeignProjection for rows that another program made
    gamma : Gamma, optional
    parameters : tuple of (canonical name, shape)
        In the order of the model.
    checkpoint : mapping
        ``name``, ``step``, ``learning_rate``, ``weights_digest``, ``moments_digest``: what is known.
    data : mapping
        ``rows`` (how many a finished store holds), ``digest``, ``tokenizer``, ``template``, ``max_length``.
    loss : str
        Normalisation of the loss.
    """

    projection: ProjectionSpec | ForeignProjection
    gamma: Gamma | None = None
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "mean_over_own_label_tokens"

    def __post_init__(self) -> None:
        if not isinstance(self.projection, (ProjectionSpec, ForeignProjection)):
            raise TypeError(f"projection: expected a ProjectionSpec, got {type(self.projection).__name__}")
        if self.gamma is not None and not isinstance(self.gamma, Gamma):
            raise TypeError(f"gamma: expected a Gamma or None, got {type(self.gamma).__name__}")
        if not isinstance(self.loss, str):
            raise TypeError(f"loss: expected a str, got {type(self.loss).__name__}")
        parameters = tuple((name, tuple(shape)) for name, shape in self.parameters)
        for name, shape in parameters:
            if not isinstance(name, str):
                raise TypeError(f"parameters: expected names, got {name!r} ({type(name).__name__})")
            if not all(_is_int(size) and size >= 0 for size in shape):
                raise ValueError(f"parameters: expected a shape of integers from 0 for {name!r}, got {shape}")
        names = Counter(name for name, _ in parameters)
        if len(names) < len(parameters):
            twice = sorted(name for name, count in names.items() if count > 1)
            raise ValueError(f"parameters: expected each name once, got {twice} more than once")
        object.__setattr__(self, "parameters", parameters)

    def to_dict(self) -> dict[str, Any]:
        return {
            "projection": self.projection.to_dict(),
            "gamma": self.gamma.to_dict() if self.gamma else None,
            "parameters": [[name, list(shape)] for name, shape in self.parameters],
            "checkpoint": dict(self.checkpoint),
            "data": dict(self.data),
            "loss": self.loss,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> StoreSpec:
        values = _fields(cls, "spec", record, required=("projection",))
        projection = values["projection"]
        foreign = projection.get("kind") == ForeignProjection.KIND
        values["projection"] = (ForeignProjection if foreign else ProjectionSpec).from_dict(projection)
        if values.get("gamma") is not None:
            values["gamma"] = Gamma.from_dict(values["gamma"])
        return cls(**values)

    @property
    def digest(self) -> str:
        return digest_of(self.to_dict())


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fields(cls: type, what: str, record: Mapping[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    """`record` as keyword arguments of `cls`; unknown keys and absent `required` ones are refused by name."""
    known = {f.name for f in dataclasses.fields(cls)}
    unknown, absent = sorted(set(record) - known), sorted(set(required) - set(record))
    if unknown:
        raise ValueError(f"{what}: expected the keys {sorted(known)}, got also {unknown}")
    if absent:
        raise ValueError(f"{what}: expected the keys {sorted(required)}, got none of the name {absent}")
    return dict(record)
