"""Γ in float64: each kind against the code it is named for."""

import numpy as np
import pytest
import torch

from gradsift import Gamma
from gradsift.ops.gamma import apply_gamma
from gradsift.specs import GAMMA_KINDS

SHAPE = (7, 11)


@pytest.fixture
def gmv(rng):
    """A gradient and moments that a run could have left: v at least of the size of m²."""
    g, m = rng.normal(size=SHAPE), 0.3 * rng.normal(size=SHAPE)
    return 1e-3 * g, 1e-3 * m, 1e-6 * np.square(rng.normal(size=SHAPE)) + 1e-6 * m * m


def adamw_direction(g, m, v, beta1, beta2, eps, step, lr=1.0):
    """What one real step adds to a parameter, over −lr."""
    p = torch.nn.Parameter(torch.zeros(SHAPE, dtype=torch.float64))
    optimizer = torch.optim.AdamW([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=0.0)
    state = {"step": torch.tensor(float(step)), "exp_avg": torch.tensor(m), "exp_avg_sq": torch.tensor(v)}
    optimizer.load_state_dict({"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]})
    p.grad = torch.tensor(g)
    optimizer.step()
    return p.detach().numpy() / -lr


@pytest.mark.parametrize("step", [1, 2, 100, 100_000])
@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.8, 0.95, 1e-3), (0.0, 0.5, 1e-12)])
def test_adam_is_the_step_of_torch_adamw_without_rate_and_decay(step, beta1, beta2, eps, gmv):
    g, m, v = gmv
    want = adamw_direction(g, m, v, beta1, beta2, eps, step)
    np.testing.assert_allclose(apply_gamma(Gamma.adam(beta1, beta2, eps, step), g, m, v), want, rtol=1e-11)


def test_less_is_the_released_formula(gmv):
    g, m, v = gmv
    beta1, beta2, eps = 0.9, 0.999, 1e-08
    updated_avg = beta1 * m + (1 - beta1) * g
    updated_avg_sq = beta2 * v + (1 - beta2) * g**2
    want = updated_avg / np.sqrt(updated_avg_sq + eps)
    np.testing.assert_allclose(apply_gamma(Gamma.less(), g, m, v), want, rtol=1e-12)


def test_less_and_adam_differ_by_more_than_rounding_where_moments_are_small(gmv):
    g, m, v = gmv
    less, adam = apply_gamma(Gamma.less(), g, m, v), apply_gamma(Gamma.adam(step=1000), g, m, v)
    assert np.linalg.norm(less - adam) > 0.01 * np.linalg.norm(adam)


def test_affine_is_the_adam_step_with_the_second_moment_held(gmv):
    g, m, v = gmv
    gamma = Gamma.affine(0.9, 0.999, 1e-8, 12)
    # The state that AdamW's step with g turns into v, corrected as at the step before.
    before = (v / (1 - 0.999**12) * (1 - 0.999**13) - (1 - 0.999) * g * g) / 0.999
    np.testing.assert_allclose(
        apply_gamma(gamma, g, m, v), adamw_direction(g, m, before, 0.9, 0.999, 1e-8, 12), rtol=1e-9
    )


def test_affine_is_affine_in_the_gradient(gmv):
    g, m, v = gmv
    gamma = Gamma.affine(0.9, 0.999, 1e-8, 12)
    zero = apply_gamma(gamma, 0 * g, m, v)
    sum_of_parts = apply_gamma(gamma, g, m, v) + apply_gamma(gamma, 3 * g, m, v) - zero
    np.testing.assert_allclose(apply_gamma(gamma, 4 * g, m, v), sum_of_parts, rtol=1e-12)


def test_second_moment_divides_by_the_corrected_root_and_reads_no_momentum(gmv):
    g, m, v = gmv
    gamma = Gamma.second_moment(0.99, 1e-6, 5)
    want = g / (np.sqrt(v / (1 - 0.99**5)) + 1e-6)
    np.testing.assert_allclose(apply_gamma(gamma, g, m, v), want, rtol=1e-12)
    np.testing.assert_array_equal(apply_gamma(gamma, g, -5 * m, v), apply_gamma(gamma, g, m, v))


def test_sgd_and_sign_need_no_moments():
    g = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(apply_gamma(Gamma.sgd(), g), g)
    np.testing.assert_array_equal(apply_gamma(Gamma.sign(), g), [-1, 0, 1])


@pytest.mark.parametrize("kind", GAMMA_KINDS)
def test_a_parameter_that_never_had_a_gradient_moves_by_no_nan(kind):
    zero = np.zeros(SHAPE)
    gamma = {"adam": Gamma.adam(), "affine": Gamma.affine(), "second_moment": Gamma.second_moment()}.get(kind)
    got = apply_gamma(gamma or (Gamma.less() if kind == "less" else Gamma(kind)), zero, zero, zero)
    np.testing.assert_array_equal(got, zero)
