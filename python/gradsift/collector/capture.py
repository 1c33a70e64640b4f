"""Hooks that catch each module's input and output gradient during one batched forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gradsift.collector.clock import Clock
from gradsift.collector.kinds import CONV1D, EMBEDDING, LINEAR, OTHER, agrees, kind_of, normalised, saves_input
from gradsift.collector.layout import Layout
from gradsift.collector.parameters import TrainedParameter
from gradsift.collector.per_sample import Call, float_tensors, replace_float_tensors
from gradsift.collector.sketching import Projector
from gradsift.collector.uses import OuterUse, RowsUse, SparseUse, Use, sum_by_sample
from gradsift.errors import CollectError


@dataclass(eq=False)
class Site:
    """A module that owns trained parameters, by attribute; `kind` may turn per-sample once it has been tried."""

    name: str
    module: nn.Module
    attributes: dict[str, TrainedParameter]
    kind: str
    tried: bool = False
    padding_tried: bool = False

    @property
    def where(self) -> str:
        return f"module {self.name or 'model'} ({type(self.module).__name__})"


def sites_of(trained: Sequence[TrainedParameter]) -> list[Site]:
    """The modules to watch, each once."""
    found: dict[int, Site] = {}
    for t in trained:
        for owner in t.owners:
            site = found.setdefault(id(owner.module), Site(owner.module_name, owner.module, {}, OTHER))
            site.attributes[owner.attribute] = t
    for site in found.values():
        site.kind = kind_of(site.module, frozenset(site.attributes))
    return list(found.values())


class _Tap(torch.autograd.Function):
    """Passes outputs on; its backward hands saved inputs and output gradients to `arrive`.

    Inputs go through ``save_for_backward`` so that activation checkpointing drops and recomputes them. Outputs leave
    detached rather than as views, since a view made here could not be modified in place by the next layer.
    """

    @staticmethod
    def forward(
        ctx: Any, arrive: Callable[..., None], n_saved: int, anchor: torch.Tensor, *tensors: torch.Tensor
    ) -> Any:
        ctx.arrive, ctx.n_saved = arrive, n_saved
        ctx.save_for_backward(*tensors[:n_saved])
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in tensors[n_saved:])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        ctx.arrive(ctx.saved_tensors, grads)
        return (None, None, None, *[None] * ctx.n_saved, *grads)


def _tap(
    arrive: Callable[..., None], anchor: torch.Tensor, saved: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    tapped: tuple[torch.Tensor, ...] = _Tap.apply(arrive, len(saved), anchor, *saved, *outputs)  # type: ignore[no-untyped-call]
    return tapped


class Pass:
    """One batch: counts calls in the forward, and adds a parameter's sketch once all its gradients have come back.

    Calls made while `phase` is "backward" are recomputations of checkpointed segments: tapped, not counted.
    """

    def __init__(
        self, sites: Sequence[Site], projector: Projector, on_fallback: Callable[[Site, str], None], clock: Clock
    ) -> None:
        self.phase = "forward"
        self.layout: Layout | None = None
        self.label_layout: Layout | None = None
        self.in_output_layer = False
        self.running: list[nn.Module] = []
        self.paths: dict[str, str] = {}
        self._sites = sites
        self._projector = projector
        self._on_fallback = on_fallback
        self._clock = clock
        self._expected: Counter[str] = Counter()
        self._arrived: Counter[str] = Counter()
        self._uses: dict[str, list[Use]] = {}
        self._fell_back: set[str] = set()
        self._rows: torch.Tensor | None = None
        self._norms: torch.Tensor | None = None
        # Makes every tapped output require a gradient although no parameter does.
        self._anchor = torch.zeros((), device="cpu", requires_grad=True)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watches the sites."""
        with ExitStack() as stack:
            for site in self._sites:
                before = site.module.register_forward_pre_hook(self._enter)
                stack.callback(before.remove)
                after = site.module.register_forward_hook(self._leave(site), with_kwargs=True)
                stack.callback(after.remove)
            yield

    def start_backward(self, layout: Layout, label_layout: Layout | None) -> None:
        """To be called between forward and backward: how samples lie in tensors before and in the output layer."""
        self.phase = "backward"
        self.layout, self.label_layout = layout, label_layout
        device = self._projector.device
        self._rows = torch.zeros(layout.n_samples, self._projector.spec.proj_dim, device=device)
        self._norms = torch.zeros(layout.n_samples, 2, dtype=torch.float64, device=device)

    def finish(self, trained: Sequence[TrainedParameter]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B, P) float32 and squared norms (B, 2) float64; parameters with gradients still to come get none."""
        assert self._rows is not None
        assert self._norms is not None
        with self._clock.part("kernels"):
            for t in trained:
                if t.name not in self.paths:
                    self._flush(t)
        return self._rows, self._norms

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self.phase == "forward":
            self.running.append(module)

    def _leave(self, site: Site) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if self.phase == "quiet":
                return None
            if self.phase == "forward":
                self.running.pop()
                self._expected.update({t.name for t in site.attributes.values()})
            return self._tap(site, args, kwargs, output)

        return hook

    def _tap(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        in_output_layer = self.in_output_layer
        if site.kind != OTHER:
            x: Any = args[0] if args else next(iter(kwargs.values()), None)
            if not site.tried:
                self._try(site, x, output)
        if not torch.is_grad_enabled():
            return None
        if site.kind != OTHER:
            saved = [x.detach()] if saves_input(site.kind, site.attributes) else []

            def arrive(tensors: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> None:
                with self._clock.part("kernels"):
                    self._arrive_fused(site, tensors, grads[0], in_output_layer)

            return _tap(arrive, self._anchor, saved, [output])[0]
        outputs = float_tensors(output)
        call, tensors = Call.record(site.module, args, kwargs, None if site.tried else outputs)

        def arrive_call(tensors: Sequence[torch.Tensor], grads: Sequence[torch.Tensor | None]) -> None:
            with self._clock.part("kernels"):
                self._arrive_call(site, call, tensors, grads, in_output_layer)

        tapped = _tap(arrive_call, self._anchor, tensors, outputs)
        return replace_float_tensors(output, tapped)

    def _try(self, site: Site, x: object, output: object) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            fits = isinstance(x, torch.Tensor) and isinstance(output, torch.Tensor)
            verdict = agrees(site.kind, site.module, x, output) if fits else False  # type: ignore[arg-type]
        if verdict is None:
            return
        site.tried = verdict
        if not verdict:
            self._on_fallback(site, f"its output is not that of a plain {site.kind}")
            site.kind = OTHER

    def _layout_of(self, in_output_layer: bool) -> Layout:
        layout = self.label_layout if in_output_layer else self.layout
        assert layout is not None
        return layout

    def _arrive_fused(
        self, site: Site, saved: Sequence[torch.Tensor], dy: torch.Tensor | None, in_output_layer: bool
    ) -> None:
        layout = self._layout_of(in_output_layer)
        uses: dict[str, Use] = {}
        if dy is not None:
            if not site.padding_tried and not in_output_layer:
                _check_padding(site, layout, dy)
            uses = _fused_uses(site, saved, dy, layout)
        self._add({t.name: t for t in site.attributes.values()}, site, uses)

    def _arrive_call(
        self,
        site: Site,
        call: Call,
        inputs: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
        in_output_layer: bool,
    ) -> None:
        layout = self._layout_of(in_output_layer)
        assert self._rows is not None
        assert self._norms is not None
        own = {t.name: (attribute, t) for attribute, t in site.attributes.items()}
        parameters = [t.parameter for _, t in own.values()]
        # The only use of a parameter is sketched sample by sample; others wait for their sum, (B, *shape) in memory.
        alone = {name for name, (_, t) in own.items() if self._expected[name] == 1 and len(t.owners) == 1}
        waiting = {
            name: torch.zeros(layout.n_samples, *t.parameter.shape, device=t.parameter.device)
            for name, (_, t) in own.items()
            if name not in alone
        }
        phase, self.phase = self.phase, "quiet"
        try:
            for b in range(layout.n_samples):
                per_parameter = call.gradients(parameters, inputs, grads, layout, b, where=site.where)
                for (name, (_, t)), grad in zip(own.items(), per_parameter, strict=True):
                    if name in waiting:
                        waiting[name][b] = grad
                    else:
                        self._projector.add_rows(t, grad[None], self._rows[b : b + 1], self._norms[b : b + 1])
        finally:
            self.phase = phase
        site.tried = True
        self._fell_back.update(own)
        for name in alone:
            self._arrived[name] += 1
            self.paths[name] = OTHER
        uses: dict[str, Use] = {own[name][0]: RowsUse(grads) for name, grads in waiting.items()}
        self._add({name: own[name][1] for name in waiting}, site, uses)

    def _add(self, parameters: dict[str, TrainedParameter], site: Site, uses: dict[str, Use]) -> None:
        for attribute, use in uses.items():
            self._uses.setdefault(site.attributes[attribute].name, []).append(use)
        for name, t in parameters.items():
            self._arrived[name] += 1
            if self._arrived[name] == self._expected[name]:
                self._flush(t)
            elif self._arrived[name] > self._expected[name]:
                raise CollectError(
                    f"{site.where}: expected as many backward passes as forward calls ({self._expected[name]}), got "
                    "more; run the backward once"
                )

    def _flush(self, t: TrainedParameter) -> None:
        assert self._rows is not None
        assert self._norms is not None
        path = self._projector.add(t, self._uses.pop(t.name, []), self._rows, self._norms)
        self.paths[t.name] = OTHER if t.name in self._fell_back else path


def _fused_uses(site: Site, saved: Sequence[torch.Tensor], dy: torch.Tensor, layout: Layout) -> dict[str, Use]:
    g = layout.tokens(dy, where=site.where)
    uses: dict[str, Use] = {}
    if "bias" in site.attributes:
        uses["bias"] = RowsUse(sum_by_sample(g.values, g.offsets))
    if "weight" not in site.attributes:
        return uses
    x = saved[0]
    if site.kind == EMBEDDING:
        assert isinstance(site.module, nn.Embedding)
        rows, grads, offsets = layout.tokens(x[..., None], where=site.where).values[:, 0], g.values.float(), g.offsets
        if site.module.padding_idx is not None:
            rows, grads, offsets = _without(rows, grads, offsets, site.module.padding_idx)
        uses["weight"] = SparseUse(rows, grads, offsets)
    elif site.kind in (LINEAR, CONV1D):
        # The output's dtype is the one the product was computed in: autocast brings the input to it.
        dtype = g.values.dtype if g.values.dtype in (torch.bfloat16, torch.float16) else torch.float32
        a, d = layout.tokens(x, where=site.where).values.to(g.values.dtype).to(dtype), g.values.to(dtype)
        uses["weight"] = OuterUse(d, a, g.offsets) if site.kind == LINEAR else OuterUse(a, d, g.offsets)
    else:
        hat = normalised(site.kind, site.module, layout.tokens(x, where=site.where).values)
        uses["weight"] = RowsUse(sum_by_sample(g.values.float() * hat, g.offsets))
    return uses


def _without(
    rows: torch.Tensor, grads: torch.Tensor, offsets: np.ndarray, padding: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Less the tokens of an embedding's padding row, which gets no gradient."""
    keep = rows != padding
    before = np.concatenate([[0], np.cumsum(keep.cpu().numpy())])
    return rows[keep], grads[keep], before[offsets].astype(np.int64)


def _check_padding(site: Site, layout: Layout, dy: torch.Tensor) -> None:
    """Once a module: the loss must not depend on padding, or samples would differ from themselves unpadded."""
    padding = layout.padding_of(dy)
    if padding is None:
        return
    site.padding_tried = True
    if bool(((padding != 0) & padding.isfinite()).any()):
        raise CollectError(
            f"{site.where}: expected no gradient at padding tokens, got some, so this model does not mask padding; "
            "collect with one sample a batch, or from packed batches"
        )
