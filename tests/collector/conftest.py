"""Tiny models, and the oracle that every collected sketch is held against: batches of one sample through autograd."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gradsift import Gamma, ProjectionSpec  # noqa: E402
from gradsift.collector import GradientCollector, Moments  # noqa: E402
from gradsift.naming import canonical_name  # noqa: E402
from gradsift.ops.gamma import apply_gamma  # noqa: E402
from gradsift.ops.projection import matrix_shape, sketch  # noqa: E402

SPEC = ProjectionSpec(proj_dim=256, seed=11)
VOCABULARY = 100
LENGTHS = (9, 5, 12)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(7)


@pytest.fixture
def spec():
    return SPEC


def _common(**overrides):
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        # Larger than the usual 0.02, so that attention and losses are far from uniform and a leak shows.
        "initializer_range": 0.2,
    }
    return settings | overrides


@pytest.fixture
def make_model():
    """Builds a tiny model with random weights, none of them zero."""

    def make(kind="llama", **overrides):
        if kind == "llama":
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_common(**overrides)))
        elif kind == "mistral":
            config = transformers.MistralConfig(**_common(sliding_window=4, **overrides))
            model = transformers.MistralForCausalLM(config)
        else:
            settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
            settings |= {"initializer_range": 0.2} | overrides
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return model.eval()

    return make


@pytest.fixture
def with_lora():
    """`model` with LoRA adapters whose B is not zero, as after training."""
    peft = pytest.importorskip("peft")

    def wrap(model, *names, target=("q_proj", "k_proj", "v_proj", "o_proj"), **settings):
        # Rank 3 and an odd alpha: a forgotten scaling is not 1.
        config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=list(target), task_type="CAUSAL_LM", **settings)
        with warnings.catch_warnings():
            # PEFT asks transformers for a property by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped = peft.get_peft_model(model, config, adapter_name=names[0] if names else "default")
            for name in names[1:]:
                wrapped.add_adapter(name, config)
        if len(names) > 1:
            wrapped.base_model.set_adapter(list(names))
        with torch.no_grad():
            for p in wrapped.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn_like(p))
        return wrapped.eval()

    return wrap


@pytest.fixture
def samples():
    """(ids, labels) of three samples of different lengths, with differing numbers of labels."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator)
        labels = ids.clone()
        labels[: 1 + i] = -100
        out.append((ids, labels))
    return out


def padded(samples, side="right", pad=0):
    T = max(len(ids) for ids, _ in samples)
    batch = {k: [] for k in ("input_ids", "attention_mask", "labels")}
    for ids, labels in samples:
        for key, row, fill in (
            ("input_ids", ids, pad),
            ("attention_mask", torch.ones_like(ids), 0),
            ("labels", labels, -100),
        ):
            padding = torch.full((T - len(row),), fill, dtype=row.dtype)
            batch[key].append(torch.cat([row, padding] if side == "right" else [padding, row]))
    return {k: torch.stack(rows) for k, rows in batch.items()}


def packed(samples):
    return {
        "input_ids": torch.cat([ids for ids, _ in samples])[None],
        "labels": torch.cat([labels for _, labels in samples])[None],
        "position_ids": torch.cat([torch.arange(len(ids)) for ids, _ in samples])[None],
        "cu_seqlens": torch.tensor(np.cumsum([0, *(len(ids) for ids, _ in samples)]), dtype=torch.int32),
    }


LAYOUTS = {
    "padded_right": padded,
    "padded_left": lambda samples: padded(samples, side="left"),
    "packed": packed,
}


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request):
    """A function from samples to a batch: every layout there is."""
    return LAYOUTS[request.param]


@pytest.fixture
def batch_of():
    return LAYOUTS


@pytest.fixture
def make_moments():
    """Random moments for (name, shape) pairs, of the size real gradients have."""

    def make(parameters, step=5, dtype=torch.float32):
        generator = torch.Generator().manual_seed(5)
        entries = {}
        for name, shape in parameters:
            m = 0.05 * torch.randn(shape, generator=generator)
            v = 0.05 * (0.1 + torch.rand(shape, generator=generator)) ** 2
            entries[name] = m.to(dtype), v.to(dtype)
        return Moments(entries, betas=(0.9, 0.99), eps=1e-6, step=step)

    return make


def _is_conv1d(model, raw):
    return type(model.get_submodule(raw.rpartition(".")[0])).__name__ == "Conv1D" and raw.endswith(".weight")


@pytest.fixture
def alone():
    """Sketches of samples one by one: plain autograd, then Γ and projection by their float64 definitions.

    Returns (rows, grad_norm, gamma_norm, loss). `names` maps raw parameter names where canonical ones would clash.
    """

    def compute(model, samples, gamma=None, moments=None, *, loss_of=None, names=None, keep=lambda name: True):
        gamma = gamma or Gamma.sgd()
        model = copy.deepcopy(model).eval()
        results = []
        for sample in samples:
            model.zero_grad(set_to_none=True)
            if loss_of is None:
                ids, labels = sample
                loss = model(input_ids=ids[None], labels=labels[None], use_cache=False).loss
            else:
                loss = loss_of(model, sample)
            loss.backward()
            row, g2, u2 = np.zeros(SPEC.proj_dim), 0.0, 0.0
            for raw, p in model.named_parameters():
                name = (names or {}).get(raw, canonical_name(raw))
                if not p.requires_grad or not keep(name):
                    continue
                g = (torch.zeros_like(p) if p.grad is None else p.grad).double()
                g = (g.T if _is_conv1d(model, raw) else g).numpy()
                m, v = (x.double().numpy() for x in moments[name]) if gamma.needs_moments else (None, None)
                update = apply_gamma(gamma, g, m, v)
                rows, columns = matrix_shape(update.shape)
                row += sketch(SPEC, name, np.arange(rows), update.reshape(1, rows, columns))[0]
                g2, u2 = g2 + np.sum(g * g), u2 + np.sum(update * update)
            results.append((row, g2**0.5, u2**0.5, loss.item()))
        return tuple(np.array(x) for x in zip(*results, strict=True))

    return compute


def _relative(got, want):
    return np.linalg.norm(np.asarray(got, np.float64) - want, axis=-1) / np.linalg.norm(want, axis=-1)


@pytest.fixture
def relative():
    """‖got − want‖ / ‖want‖ of each row."""
    return _relative


# Both sides round in float32, in orders of their own: at most 1.1e-6 was seen on these models.
FLOAT32_BUDGET = 5e-6


@pytest.fixture
def check(alone):
    """Collects `batch` and holds every sample against itself alone; returns the collector."""

    def run(
        model,
        samples,
        batch,
        gamma="sgd",
        moments=None,
        *,
        budget=FLOAT32_BUDGET,
        reference_model=None,
        loss_of=None,
        names=None,
        keep=lambda name: True,
        **settings,
    ):
        collector = GradientCollector(model, SPEC, gamma, moments, backend="reference", **settings)
        got = collector.collect(batch)
        want = alone(
            model if reference_model is None else reference_model,
            samples,
            collector.gamma,
            moments,
            loss_of=loss_of,
            names=names,
            keep=keep,
        )
        assert got.rows.dtype == np.float32
        assert got.rows.shape == (len(samples), SPEC.proj_dim)
        assert _relative(got.rows, want[0]).max() < budget
        np.testing.assert_allclose(got.grad_norm, want[1], rtol=budget)
        np.testing.assert_allclose(got.gamma_norm, want[2], rtol=budget)
        np.testing.assert_allclose(got.loss, want[3], rtol=budget)
        return collector

    return run
