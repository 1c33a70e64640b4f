"""`GradientCollector`: sketches of per-sample update directions, a batch at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from gradsift import backends
from gradsift.collector import modes
from gradsift.collector.batches import LanguageBatch, read_batch, sample_losses
from gradsift.collector.capture import Pass, Site, sites_of
from gradsift.collector.guard import UseGuard
from gradsift.collector.kinds import OTHER
from gradsift.collector.layout import Layout
from gradsift.collector.moments import Moments
from gradsift.collector.parameters import ModulesFilter, TrainedParameter, choose, trained_parameters, unwrap
from gradsift.collector.sketching import Projector
from gradsift.errors import CollectError, MomentsError
from gradsift.sketches import Sketches
from gradsift.specs import GAMMA_KINDS, Gamma, ProjectionSpec

logger = logging.getLogger("gradsift.collector")

# How far the hidden states of a sample in a packed batch may be from those of the sample alone: a model that attends
# across samples is off by 1e-2 and more, roundings by 1e-6 (float32) or 1e-2 (bfloat16).
_PACKED_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
_PACKED_COARSE_TOLERANCE = 5e-2


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
        Of the projection ops.

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
    The ops run on the CPU: with the model on another device, layer inputs and gradients are copied to the host.
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
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(spec, ProjectionSpec):
            raise TypeError(f"spec: expected a ProjectionSpec, got {type(spec).__name__}")
        backends.choose("project_linear", backend)
        self._model = unwrap(model)
        all_trained = trained_parameters(self._model)
        if not all_trained:
            raise ValueError("model: expected parameters with requires_grad, got none; load the adapter as trainable")
        self._trained = choose(all_trained, modules)
        self._loss_fn = loss_fn
        if loss_fn is None and _output_layer(self._model) is None:
            raise ValueError(
                f"loss_fn: expected a function, since {type(self._model).__name__} has no output embeddings and so is "
                "no causal language model, got None"
            )
        self.gamma = _resolve_gamma(gamma, moments)
        if self.gamma.needs_moments:
            _check_moments(self._trained, moments)
        self._projector = Projector(spec, self.gamma, moments or {}, backend)
        self._sites = sites_of(self._trained)
        self._owners = {id(t.parameter): (t.name, frozenset(id(o.module) for o in t.owners)) for t in self._trained}
        self._paths: dict[str, str] = {}
        self._samples = self._batches = 0
        self._told: set[str] = set()
        self._packing_tried = False

    @property
    def spec(self) -> ProjectionSpec:
        """The projection."""
        return self._projector.spec

    @property
    def parameters(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(canonical name, shape) of the parameters that gradients are taken of, in model order."""
        return tuple((t.name, t.shape) for t in self._trained)

    def collect(self, batch: Any) -> Sketches:
        """Sketches of the B samples of `batch`, in its order.

        Parameters
        ----------
        batch : mapping of torch tensors on the model's device, or what `loss_fn` takes
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
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(modes.evaluation(self._model))
            stack.enter_context(modes.frozen(self._model))
            if self._loss_fn is None:
                return self._collect_language(read_batch(batch, self._model, _device(self._model)))
            return self._collect_any(batch, self._loss_fn)

    def report(self) -> dict[str, Any]:
        """What was collected and how, JSON-able.

        ``paths`` maps each way a gradient went to its parameters' names: "linear" (fused, never formed), "rows" (formed
        per sample: norms, biases), "sparse" (embeddings), "dense" (one parameter used in several ways, formed one
        sample at a time), "per_sample" (the module run again for each sample), "zero" (not used in the last batch),
        "not_seen" (nothing collected yet). ``entries`` counts the parameter entries of each.
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
        }

    def _collect_any(self, batch: Any, loss_fn: Callable[[nn.Module, Any], torch.Tensor]) -> Sketches:
        current = self._pass()
        with current.hooks():
            with self._guard(current):
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

    def _collect_language(self, batch: LanguageBatch) -> Sketches:
        if not batch.tokens.any():
            zeros = np.zeros(batch.n_samples)
            self._samples += batch.n_samples
            self._batches += 1
            rows = np.zeros((batch.n_samples, self.spec.proj_dim), dtype=np.float32)
            return Sketches(rows, zeros, zeros.copy(), zeros.astype(np.float32), batch.tokens)
        current = self._pass()
        with ExitStack() as stack:
            stack.enter_context(current.hooks())
            if modes.is_reentrant(self._model):
                stack.enter_context(modes.inputs_require_grad(self._model))
            with self._guard(current):
                logits, hidden = self._logits(batch, current)
            if batch.layout.packed and batch.n_samples > 1 and not self._packing_tried:
                self._try_packing(batch, hidden, current)
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
    ) -> Sketches:
        current.start_backward(layout, label_layout)
        if losses.requires_grad:
            # Not under autocast: the backward's dtypes are those the forward recorded.
            with torch.autocast(losses.device.type, enabled=False):
                losses.float().sum().backward()  # type: ignore[no-untyped-call]
        rows, norms = current.finish(self._trained)
        without = torch.as_tensor(tokens == 0)
        rows[without] = 0.0
        norms[without] = 0.0
        self._paths.update(current.paths)
        self._samples += layout.n_samples
        self._batches += 1
        grad_norm, gamma_norm = norms.clamp(min=0.0).sqrt().numpy().T
        loss = losses.detach().float().cpu().numpy()
        return Sketches(rows.numpy(), grad_norm.copy(), gamma_norm.copy(), loss, tokens)

    def _pass(self) -> Pass:
        for site in self._sites:
            if site.kind == OTHER:
                self._tell(site, "there is no fused path for it")
        return Pass(self._sites, self._projector, self._tell)

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

    def _logits(self, batch: LanguageBatch, current: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, M, vocabulary) logits of the predicting tokens, and the hidden states (1, M, d) they came from."""
        seen: list[torch.Tensor] = []
        with self._only_predicting(batch, current, seen):
            output = self._model(**batch.inputs)
        if len(seen) != 1:
            raise CollectError(
                f"model: expected its output embeddings to be called once in a forward, got {len(seen)} calls; give "
                "loss_fn= for a model that computes its logits otherwise"
            )
        logits = output.logits if hasattr(output, "logits") else output[0]
        M = len(batch.predicting)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or tuple(logits.shape[:2]) != (1, M):
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise CollectError(f"model: expected logits of shape (1, {M}, vocabulary), got {got}; give loss_fn=")
        if M and int(batch.targets.max()) >= logits.shape[-1]:
            raise ValueError(
                f"batch['labels']: expected token ids below {logits.shape[-1]}, got {int(batch.targets.max())}"
            )
        return logits, seen[0]

    @contextmanager
    def _only_predicting(self, batch: LanguageBatch, current: Pass, seen: list[torch.Tensor]) -> Iterator[None]:
        """Hands the output layer only the tokens that predict a label: each other would cost a vocabulary."""
        head = _output_layer(self._model)
        assert head is not None

        def gather(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            if tuple(hidden.shape[:-1]) != batch.layout.lead:
                raise CollectError(
                    f"output embeddings: expected hidden states of leading shape {batch.layout.lead}, got "
                    f"{tuple(hidden.shape)}; give loss_fn="
                )
            hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.predicting.to(hidden.device))[None]
            seen.append(hidden.detach())
            current.in_output_layer = True
            return (hidden, *args[1:]), kwargs

        def done(module: nn.Module, args: Any, output: Any) -> None:
            current.in_output_layer = False

        # Around all other hooks, so that those of this module see what its forward sees.
        before = head.register_forward_pre_hook(gather, with_kwargs=True, prepend=True)
        after = head.register_forward_hook(done)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _try_packing(self, batch: LanguageBatch, hidden: torch.Tensor, current: Pass) -> None:
        """Once: the last sample with labels must have the hidden states it has alone, or samples see each other."""
        b = int(np.flatnonzero(batch.tokens)[-1])
        offsets = batch.label_layout.offsets
        packed = hidden[:, int(offsets[b]) : int(offsets[b + 1])].float()
        phase, current.phase = current.phase, "quiet"
        with torch.no_grad(), modes.no_checkpointing(self._model):
            _, alone = self._logits(batch.alone(b), current)
        current.phase = phase
        if not packed.isfinite().all() or batch.layout.offsets[b] == 0:
            return
        self._packing_tried = True
        error = float(torch.linalg.vector_norm(packed - alone.float()) / torch.linalg.vector_norm(alone.float()))
        # Under autocast hidden states may be float32 and what they come from is not.
        exact = {} if torch.is_autocast_enabled(hidden.device.type) else _PACKED_TOLERANCE
        if error > exact.get(hidden.dtype, _PACKED_COARSE_TOLERANCE):
            raise CollectError(
                "batch: expected a model whose attention does not cross the samples of a packed batch, got hidden "
                f"states that differ by {error:.1e} from those of the sample alone; collect from padded batches"
            )


def _output_layer(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    return layer if isinstance(layer, nn.Module) else None


def _device(model: nn.Module) -> torch.device:
    """Where the inputs belong: with the embeddings, or the first parameter."""
    get = getattr(model, "get_input_embeddings", None)
    embeddings = get() if callable(get) else None
    first = next((embeddings if isinstance(embeddings, nn.Module) else model).parameters(), None)
    return next(model.parameters()).device if first is None else first.device


def _resolve_gamma(gamma: object, moments: object) -> Gamma:
    if isinstance(gamma, Gamma):
        return gamma
    if not isinstance(gamma, str):
        raise TypeError(f"gamma: expected a Gamma or one of {GAMMA_KINDS}, got {type(gamma).__name__}")
    if gamma not in GAMMA_KINDS:
        raise ValueError(f"gamma: expected a Gamma or one of {GAMMA_KINDS}, got {gamma!r}")
    if gamma in ("sgd", "sign", "less"):
        return getattr(Gamma, gamma)()  # type: ignore[no-any-return]
    if not isinstance(moments, Moments):
        raise ValueError(
            f"moments: expected Moments, from which gamma={gamma!r} takes betas, eps and step, got "
            f"{type(moments).__name__}; load_moments reads them, or give a Gamma with its numbers"
        )
    if gamma == "second_moment":
        return Gamma.second_moment(moments.betas[1], moments.eps, moments.step)
    make = Gamma.adam if gamma == "adam" else Gamma.affine
    return make(*moments.betas, moments.eps, moments.step)


def _check_moments(trained: tuple[TrainedParameter, ...], moments: object) -> None:
    if not isinstance(moments, Mapping):
        raise ValueError(
            "moments: expected a mapping of canonical names to (exp_avg, exp_avg_sq), got "
            f"{type(moments).__name__}; load_moments reads them from a checkpoint"
        )
    missing = [t.name for t in trained if t.name not in moments]
    if missing:
        raise MomentsError(
            f"moments: expected one entry for each trained parameter, got none for {', '.join(missing)}; load those "
            "of this model's own training, or leave the parameters out with modules="
        )
    wrong = [
        f"{t.name} {tuple(m.shape)} instead of {t.shape}"
        for t in trained
        for m in moments[t.name]
        if tuple(m.shape) != t.shape
    ]
    if wrong:
        raise MomentsError(f"moments: expected the shapes of the trained parameters, got {'; '.join(wrong)}")
