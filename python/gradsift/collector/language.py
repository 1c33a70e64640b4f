"""The forward of a causal language model: logits of the tokens that predict, and whether packed samples stay apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from gradsift.collector import modes
from gradsift.collector.arguments import output_layer
from gradsift.collector.attention import SamplesApart, UnsupportedAttentionError, packs_by_itself
from gradsift.collector.batches import LanguageBatch
from gradsift.collector.capture import Pass
from gradsift.errors import CollectError

# How far the hidden states of a sample in a packed batch may be from those of the sample alone: a model that attends
# across samples is off by 1e-2 and more, roundings by 1e-6 (float32) or 1e-2 (bfloat16).
_PACKED_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
_PACKED_COARSE_TOLERANCE = 5e-2


class LanguageForward:
    """Calls a model on a `LanguageBatch`.

    Attributes
    ----------
    apart : SamplesApart
        Attention of packed batches.
    packing_tried : bool
        Whether a packed batch was held against a sample alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.apart = SamplesApart(model)
        self.packing_tried = False

    @property
    def prefers_packed(self) -> bool:
        """Whether packed batches cost less than padded ones of the same samples, as far as the model tells."""
        return self.apart.supported or packs_by_itself(self._model)

    def logits(self, batch: LanguageBatch, current: Pass) -> tuple[torch.Tensor, torch.Tensor]:
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
        if batch.largest_id >= logits.shape[-1]:
            raise ValueError(f"batch['labels']: expected token ids below {logits.shape[-1]}, got {batch.largest_id}")
        return logits, seen[0]

    @contextmanager
    def _only_predicting(self, batch: LanguageBatch, current: Pass, seen: list[torch.Tensor]) -> Iterator[None]:
        """Hands the output layer only the tokens that predict a label: each other would cost a vocabulary."""
        head = output_layer(self._model)
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

    def try_packing(self, batch: LanguageBatch, hidden: torch.Tensor, current: Pass) -> None:
        """Once: a sample must have the hidden states it has alone by the model's own attention, or samples see others.

        The last with labels whose states are finite, since the first has nobody before it to see.
        """
        offsets = batch.label_layout.offsets
        b, packed = -1, hidden[:, :0]
        for b in np.flatnonzero(batch.tokens)[::-1].tolist():
            packed = hidden[:, int(offsets[b]) : int(offsets[b + 1])].float()
            if packed.isfinite().all():
                break
        else:
            return
        phase, current.phase = current.phase, "quiet"
        with torch.no_grad(), modes.no_checkpointing(self._model), self.apart.off():
            _, alone = self.logits(batch.alone(b), current)
        current.phase = phase
        error = float(torch.linalg.vector_norm(packed - alone.float()) / torch.linalg.vector_norm(alone.float()))
        # Under autocast hidden states may be float32 and what they come from is not.
        exact = {} if torch.is_autocast_enabled(hidden.device.type) else _PACKED_TOLERANCE
        if error > exact.get(hidden.dtype, _PACKED_COARSE_TOLERANCE):
            if self.apart.supported:
                raise UnsupportedAttentionError
            raise CollectError(
                "batch: expected a model whose attention does not cross the samples of a packed batch, got hidden "
                f"states that differ by {error:.1e} from those of the sample alone; collect from padded batches"
            )
        self.packing_tried = bool(batch.layout.offsets[b] > 0)
