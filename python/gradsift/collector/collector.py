"""`GradientCollector`: sketches of per-sample update directions, a batch at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from gradsift import backends
from gradsift.collector import modes
from gradsift.collector.arguments import check_moments, device_of, output_layer, resolve_gamma
from gradsift.collector.attention import UnsupportedAttentionError
from gradsift.collector.batches import LanguageBatch, read_batch, sample_losses
from gradsift.collector.capture import Pass, Site, sites_of
from gradsift.collector.clock import Clock
from gradsift.collector.guard import UseGuard
from gradsift.collector.kinds import OTHER, op_of
from gradsift.collector.language import LanguageForward
from gradsift.collector.layout import Layout
from gradsift.collector.memory import LOGIT_BYTES, SavedBytes
from gradsift.collector.moments import Moments
from gradsift.collector.parameters import ModulesFilter, choose, trained_parameters, unwrap
from gradsift.collector.precision import choose_float32_matmul
from gradsift.collector.sketching import Projector, projection_device
from gradsift.collector.transfer import PendingSketches
from gradsift.sketches import Sketches
from gradsift.specs import Gamma, ProjectionSpec

logger = logging.getLogger("gradsift.collector")


class GradientCollector:
    """Sketches S·Γ(g) of every sample's gradient g, equal to what batches of one sample would give.

    g is the gradient of the mean loss over the sample's own label tokens with respect to the trained parameters. One
    batched forward and backward: as each layer's output gradient arrives it is turned into sketches with the layer's
    input and dropped; parameter gradients are never formed, except where `report` says so.

    Parameters
    ----------
    model : torch.nn.Module
        Parameters with ``requires_grad`` are the trained ones; tied weights are one. A causal language model of
        transformers, with or without PEFT, or any module together with `loss_fn`.
    spec : ProjectionSpec
    gamma : Gamma or str
        The map Γ. A name takes its numbers (betas, eps, step) from `moments`.
    moments : Moments or mapping of canonical name to (exp_avg, exp_avg_sq), optional
        Needed by "adam", "less", "affine" and "second_moment"; see `load_moments`.
    modules : str, names, or function, optional
        Which trained parameters, by canonical name: a regular expression searched for in it, the names themselves, or
        a function from name to bool. None: all.
    loss_fn : function (model, batch) -> (B,) tensor, optional
        Replaces the language-model loss: each sample's own loss. Tensors in the model then have B as their first
        dimension; ``tokens`` of the sketches is 1.
    backend : {"auto", "cpu", "reference"}
        Of the projection ops. "auto" takes the GPU's for a model on a CUDA device, and refuses where one that is needed
        cannot run; "cpu" and "reference" copy layer inputs and gradients to the host.
    float32_matmul : {"auto", "unchanged"}
        How float32 matrices are multiplied meanwhile: by the fastest library measured to be as accurate as torch's
        default, or as torch is set. `report` and the log say which. The model's own dtype is never changed.
    profile : bool or Clock
        Measure where the time goes; `report` then holds it. A `Clock` is shared with whoever else counts on it.

    Raises
    ------
    TypeError, ValueError
        An argument is not as written above.
    MomentsError
        Moments are missing for a trained parameter, or shaped otherwise.
    BackendUnavailableError
        The named backend cannot run here.

    Notes
    -----
    While it collects, the model is in evaluation mode with dropout off (gradient checkpointing stays on if it is
    enabled) and its parameters require no gradient; afterwards all is as before and no ``.grad`` was touched.
    On a CUDA device hooks launch on the stream of the backward and wait for nothing after the first batch, but for the
    row numbers of trained embeddings; moments are copied there once. A model on another device (MPS, …) is collected
    by the CPU's kernels.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: ProjectionSpec,
        gamma: Gamma | str = "sgd",
        moments: Moments | Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
        modules: ModulesFilter | None = None,
        loss_fn: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        backend: str = "auto",
        float32_matmul: str = "auto",
        profile: bool | Clock = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(spec, ProjectionSpec):
            raise TypeError(f"spec: expected a ProjectionSpec, got {type(spec).__name__}")
        self._model = unwrap(model)
        all_trained = trained_parameters(self._model)
        if not all_trained:
            raise ValueError("model: expected parameters with requires_grad, got none; load the adapter as trainable")
        self._trained = choose(all_trained, modules)
        self._loss_fn = loss_fn
        if loss_fn is None and output_layer(self._model) is None:
            raise ValueError(
                f"loss_fn: expected a function, since {type(self._model).__name__} has no output embeddings and so is "
                "no causal language model, got None"
            )
        self.gamma = resolve_gamma(gamma, moments)
        if self.gamma.needs_moments:
            check_moments(self._trained, moments)
        device = device_of(self._model)
        if not isinstance(profile, Clock):
            profile = Clock(
                enabled=profile, synchronize=partial(torch.cuda.synchronize, device) if device.type == "cuda" else None
            )
        self._clock = profile
        self._matmul = choose_float32_matmul(device, float32_matmul)
        self._sites = sites_of(self._trained)
        where = projection_device(device, backend)
        for op in sorted({op_of(site.kind) for site in self._sites}):
            backends.choose(op, backend, where.type)
        self._projector = Projector(spec, self.gamma, moments or {}, backend, where)
        self._owners = {id(t.parameter): (t.name, frozenset(id(o.module) for o in t.owners)) for t in self._trained}
        self._paths: dict[str, str] = {}
        self._samples = self._batches = 0
        self._told: set[str] = set()
        self._forward = LanguageForward(self._model)

    @property
    def spec(self) -> ProjectionSpec:
        """The projection."""
        return self._projector.spec

    @property
    def parameters(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(canonical name, shape) of the parameters that gradients are taken of, in model order."""
        return tuple((t.name, t.shape) for t in self._trained)

    @property
    def prefers_packed(self) -> bool:
        """Whether packed batches cost less than padded ones of the same samples, as far as the model tells."""
        return self._loss_fn is None and self._forward.prefers_packed

    def try_packed(self, batch: Any) -> None:
        """Collects `batch`, packed samples of which two or more have labels, and counts it nowhere.

        Afterwards `prefers_packed` knows whether samples attend apart. Raises what `collect` does: some models take no
        packed batches, and of some only the shapes in padded ones tell whose a token is.
        """
        tried = self._forward.packing_tried
        self._launch(batch).result()
        self._forward.packing_tried = tried

    def collect(self, batch: Any) -> Sketches:
        """Sketches of the B samples of `batch`, in its order.

        Parameters
        ----------
        batch : mapping of torch tensors, or what `loss_fn` takes
            On the CPU, from where they are sent to the model's device, or already there, which costs a copy back.
            Padded: ``input_ids``, ``attention_mask`` and ``labels`` (B, T), labels −100 where nothing is to be
            predicted. Packed: ``input_ids``, ``position_ids`` and ``labels`` (1, N), with ``cu_seqlens`` (B + 1,):
            sample b is tokens ``cu_seqlens[b]:cu_seqlens[b + 1]``. The first token of a sample is never predicted.

        Returns
        -------
        Sketches
            NumPy. A sample without labels has zeros everywhere; one whose loss is not finite has what came of it.

        Raises
        ------
        TypeError, ValueError
            The batch is not as written above.
        CollectError
            Gradients cannot be told apart by sample in some module, or the model lets samples see each other.
        """
        return self.start(batch).result()

    def start(self, batch: Any) -> PendingSketches:
        """Launches what `collect` does and returns without waiting for a GPU: ``start(batch).result()`` is `collect`.

        A loop that starts a batch before it asks for the result of the last keeps the device busy. On the CPU all is
        done at once.
        """
        pending = self._launch(batch)
        self._samples += len(pending)
        self._batches += 1
        return pending

    def _launch(self, batch: Any) -> PendingSketches:
        with ExitStack() as stack:
            stack.enter_context(self._clock.part("other"))
            stack.enter_context(self._matmul.set())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(modes.evaluation(self._model))
            stack.enter_context(modes.frozen(self._model))
            if self._loss_fn is None:
                return self._collect_read(read_batch(batch, self._model, device_of(self._model)))
            return self._collect_any(batch, self._loss_fn)

    @property
    def precision(self) -> dict[str, str]:
        """What the model computes in: ``parameters`` (dtypes), ``float32_matmul`` (torch's setting), ``why`` that."""
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in self._model.parameters()})
        return {
            "parameters": ", ".join(dtypes),
            "float32_matmul": self._matmul.setting,
            "why": self._matmul.why,
        }

    def bytes_per_token(self, batch: Any) -> int:
        """Bytes that collecting takes beyond the model, a token, if no sample is longer than the one in `batch`.

        Collects `batch`, one language-model sample, and counts what autograd keeps meanwhile. To that come the logits
        of a token, as if every token had a label: a bound for the batches of usual data, not for each. The sample
        needs a label, without which nothing is computed.
        """
        head = output_layer(self._model)
        if self._loss_fn is not None or head is None:
            raise ValueError("batch: expected a collector of the language-model loss, got one with loss_fn")
        counts = self._samples, self._batches
        saved = SavedBytes(self._model)
        with saved.counted():
            self.collect(batch)
        self._samples, self._batches = counts
        assert isinstance(head.weight, torch.Tensor)
        return -(-saved.peak // int(batch["input_ids"].numel())) + LOGIT_BYTES * int(head.weight.shape[0])

    def report(self) -> dict[str, Any]:
        """What was collected and how, JSON-able.

        ``paths`` maps each way a gradient went to its parameters' names: "linear" (fused, never formed), "rows" (formed
        per sample: norms, biases), "sparse" (embeddings), "dense" (one parameter used in several ways, formed one
        sample at a time), "per_sample" (the module run again for each sample), "zero" (not used in the last batch),
        "not_seen" (nothing collected yet). ``entries`` counts the parameter entries of each. ``time``
        (`Clock.report`) is there if it was asked for.
        """
        paths: dict[str, list[str]] = {}
        entries: Counter[str] = Counter()
        for t in self._trained:
            path = self._paths.get(t.name, "not_seen")
            paths.setdefault(path, []).append(t.name)
            entries[path] += t.parameter.numel()
        return {
            "batches": self._batches,
            "samples": self._samples,
            "paths": paths,
            "entries": dict(entries),
            "dropout": "off",
            "dropout_modules": modes.dropout_modules(self._model),
            "gradient_checkpointing": bool(modes.checkpointed(self._model)),
            "precision": self.precision,
            **({"time": self._clock.report()} if self._clock.enabled else {}),
        }

    def _collect_any(self, batch: Any, loss_fn: Callable[[nn.Module, Any], torch.Tensor]) -> PendingSketches:
        current = self._pass()
        with current.hooks():
            with self._clock.part("forward"), self._guard(current):
                losses = loss_fn(self._model, batch)
            if not isinstance(losses, torch.Tensor):
                raise TypeError(f"loss_fn: expected to return a (B,) tensor, got {type(losses).__name__}")
            if losses.ndim != 1 or not losses.is_floating_point():
                raise ValueError(
                    f"loss_fn: expected to return one loss a sample, (B,) and floating, got {losses.dtype} of shape "
                    f"{tuple(losses.shape)}"
                )
            layout = Layout.of_samples(len(losses))
            return self._sketch(current, losses, layout, None, np.ones(len(losses), dtype=np.int64))

    def _collect_read(self, batch: LanguageBatch) -> PendingSketches:
        # One sample alone costs the model's own attention nothing, and there is nothing to try it against.
        apart = self._forward.apart
        if not (batch.layout.packed and batch.n_samples > 1 and apart.supported):
            return self._collect_language(batch)
        try:
            with apart.on(batch.layout.offsets):
                return self._collect_language(batch)
        except UnsupportedAttentionError:
            apart.refuse()
            self._forward.packing_tried = False
        return self._collect_language(batch)

    def _collect_language(self, batch: LanguageBatch) -> PendingSketches:
        if not batch.tokens.any():
            B = batch.n_samples
            rows = torch.zeros(B, self.spec.proj_dim, device="cpu")
            zeros = torch.zeros(B, 2, dtype=torch.float64, device="cpu")
            return PendingSketches(rows, zeros, zeros[:, 0], batch.tokens)
        current = self._pass()
        with ExitStack() as stack:
            stack.enter_context(current.hooks())
            if modes.is_reentrant(self._model):
                stack.enter_context(modes.inputs_require_grad(self._model))
            with self._clock.part("forward"), self._guard(current):
                logits, hidden = self._forward.logits(batch, current)
            if batch.layout.packed and batch.n_samples > 1 and not self._forward.packing_tried:
                self._forward.try_packing(batch, hidden, current)
            with self._clock.part("forward"):
                losses = sample_losses(logits, batch)
            del logits
            return self._sketch(current, losses, batch.layout, batch.label_layout, batch.tokens)

    def _sketch(
        self,
        current: Pass,
        losses: torch.Tensor,
        layout: Layout,
        label_layout: Layout | None,
        tokens: np.ndarray,
    ) -> PendingSketches:
        current.start_backward(layout, label_layout)
        if losses.requires_grad:
            # Not under autocast: the backward's dtypes are those the forward recorded.
            with self._clock.part("backward"), torch.autocast(losses.device.type, enabled=False):
                losses.float().sum().backward()  # type: ignore[no-untyped-call]
        rows, norms = current.finish(self._trained)
        self._paths.update(current.paths)
        return PendingSketches(rows, norms, losses, tokens)

    def _pass(self) -> Pass:
        for site in self._sites:
            if site.kind == OTHER:
                self._tell(site, "there is no fused path for it")
        return Pass(self._sites, self._projector, self._tell, self._clock)

    def _tell(self, site: Site, why: str) -> None:
        if site.name in self._told:
            return
        self._told.add(site.name)
        logger.warning(
            "%s: per-sample autograd, since %s (%s)",
            site.where,
            why,
            ", ".join(t.name for t in site.attributes.values()),
        )

    def _guard(self, current: Pass) -> Any:
        """Watches the first batch for parameters that are used outside their module."""
        if self._batches:
            return nullcontext()
        reentrant = modes.is_reentrant(self._model)
        counts = lambda: current.phase == "forward" and (reentrant or torch.is_grad_enabled())  # noqa: E731
        return UseGuard(self._owners, current.running, counts)
