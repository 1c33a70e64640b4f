"""Notices trained parameters that are used where no hook sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradsift.errors import CollectError

_HARMLESS = frozenset({"detach", "requires_grad_"})


class UseGuard(TorchFunctionMode):
    """Raises when a function of torch takes a trained parameter outside the forward of the module that owns it.

    Such a use (``linear(x, self.embedding.weight)``) would be missing from the parameter's gradient. `running` holds
    the owners whose forward is running; while `counts` is false nothing that happens reaches the loss.
    """

    def __init__(
        self,
        owners: Mapping[int, tuple[str, frozenset[int]]],
        running: list[nn.Module],
        counts: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._owners = owners
        self._running = running
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for value in (*args, *kwargs.values()):
            for leaf in value if isinstance(value, (list, tuple)) else (value,):
                found = self._owners.get(id(leaf)) if isinstance(leaf, nn.Parameter) else None
                if found is not None:
                    self._check(func, *found, result)
        return result

    def _check(self, func: Any, name: str, owners: frozenset[int], result: Any) -> None:
        # Shapes, dtypes and the like give no floating-point tensor.
        computes = isinstance(result, torch.Tensor) and result.is_floating_point()
        function = getattr(func, "__name__", str(func))
        if not computes or function in _HARMLESS or not self._counts():
            return
        if not any(id(module) in owners for module in self._running):
            raise CollectError(
                f"{name}: expected to be used only by the forward of the module it belongs to, got a use in "
                f"{function}() elsewhere, whose gradient would be missed; leave it out with modules="
            )
