"""Which stores belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gradsift.errors import SpecMismatchError
from gradsift.specs import ForeignProjection, StoreSpec, canonical_json

_SHOWN = 12
_FOREIGN = (
    "\nrows that were imported compare only with rows made by the same random matrix, which their files do not name: "
    "import both under one name for it if you know that they share it, or collect both with gradsift"
)


def check_comparable(a: StoreSpec, b: StoreSpec, *, names: tuple[str, str] = ("the first", "the second")) -> None:
    """Raises SpecMismatchError, listing the fields that differ, unless rows of `a` and `b` may be multiplied.

    Projection, parameters and checkpoint must agree; Γ, data and loss may differ, as they do between candidates and
    targets. What one of the two does not say (no parameters; a checkpoint field missing or None) is unknown, and no
    difference.
    """
    for name, spec in (("a", a), ("b", b)):
        if not isinstance(spec, StoreSpec):
            raise TypeError(f"{name}: expected a StoreSpec, got {type(spec).__name__}")
    left, right = _plain(a), _plain(b)
    projections = [record["projection"] for record in (left, right)]
    foreign = [projection["kind"] == ForeignProjection.KIND for projection in projections]
    found = _differences("projection", *projections)
    if all(foreign) and not found and projections[0]["matrix"] is None:
        found = ["projection.matrix: not known against not known"]
    if left["parameters"] and right["parameters"]:
        found += _parameter_differences(left["parameters"], right["parameters"])
    known = [
        {k: v for k, v in record["checkpoint"].items() if v is not None and other["checkpoint"].get(k) is not None}
        for record, other in ((left, right), (right, left))
    ]
    found += _differences("checkpoint", known[0], known[1])
    if found:
        raise SpecMismatchError(
            f"stores: expected equal projection, parameters and checkpoint, got ({names[0]} against {names[1]})\n"
            + listed(found)
            + (_FOREIGN if any(foreign) else "\ncollect both with the same checkpoint and projection")
        )


def spec_differences(a: StoreSpec, b: StoreSpec) -> list[str]:
    """Every field in which two specs differ, one line each: ``projection.seed: 0 against 1``."""
    left, right = _plain(a), _plain(b)
    found = _parameter_differences(left.pop("parameters"), right.pop("parameters"))
    return _differences("", left, right) + found


def listed(lines: list[str]) -> str:
    """`lines` indented, one below the other, the first dozen of them."""
    more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([f"  {line}" for line in lines[:_SHOWN]] + more)


def _plain(spec: StoreSpec) -> dict[str, Any]:
    """`spec` as it would come back from JSON, so that a tuple equals the list it is stored as."""
    record: dict[str, Any] = json.loads(canonical_json(spec.to_dict()))
    return record


def _differences(path: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found = []
        for key in sorted({*a, *b}):
            at = f"{path}.{_name(key)}" if path else _name(key)
            if key in a and key in b:
                found += _differences(at, a[key], b[key])
            else:
                found.append(f"{at}: {_value(a, key)} against {_value(b, key)}")
        return found
    return [] if canonical_json(a) == canonical_json(b) else [f"{path}: {a!r} against {b!r}"]


def _name(key: str) -> str:
    """`key`, which a stranger may have written, with what a terminal would interpret escaped."""
    return key if key.isprintable() else repr(key)


def _value(record: Mapping[str, Any], key: str) -> str:
    return repr(record[key]) if key in record else "nothing"


def _parameter_differences(a: list[Any], b: list[Any]) -> list[str]:
    shapes_a, shapes_b = dict(map(tuple, a)), dict(map(tuple, b))
    found = _differences("parameters", shapes_a, shapes_b)
    if not found and a != b:
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        found.append(f"parameters: order, from position {at}: {a[at][0]!r} against {b[at][0]!r}")
    return found
