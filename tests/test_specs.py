"""Specs: equal specs name comparable sketches, and nothing else passes for one."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.specs import GAMMA_KINDS, Gamma, ProjectionSpec, StoreSpec, canonical_json

GAMMAS = [
    Gamma.sgd(),
    Gamma.sign(),
    Gamma.less(),
    Gamma.adam(0.9, 0.95, 1e-6, 17),
    Gamma.affine(0.8, 0.99, 1e-8, 1),
    Gamma.second_moment(0.999, 1e-8, 12),
]
STORE = StoreSpec(
    ProjectionSpec(proj_dim=1024, seed=2**63, nonzeros=4),
    Gamma.adam(step=5),
    parameters=(("a.weight", (3, 4)), ("a.bias", (3,))),
    checkpoint={"step": 5, "learning_rate": 2e-5},
    data={"rows": 12},
)
# Stores keep this text; a change of it is a change of the format.
STORE_JSON = (
    '{"checkpoint":{"learning_rate":2e-05,"step":5},"data":{"rows":12},'
    '"gamma":{"beta1":0.9,"beta2":0.999,"eps":1e-08,"kind":"adam","step":5},'
    '"loss":"mean_over_own_label_tokens","parameters":[["a.weight",[3,4]],["a.bias",[3]]],'
    '"projection":{"kind":"xor","nonzeros":4,"proj_dim":1024,"seed":9223372036854775808,"version":1}}'
)


def test_every_gamma_kind_has_an_example_here():
    assert {g.kind for g in GAMMAS} == set(GAMMA_KINDS)


@given(st.integers(8, 16), st.integers(0, 2**64 - 1), st.sampled_from([1, 2, 4, 8]))
def test_projection_survives_json(log2_dim, seed, nonzeros):
    spec = ProjectionSpec(2**log2_dim, seed, "xor", nonzeros)
    assert ProjectionSpec.from_dict(json.loads(canonical_json(spec.to_dict()))) == spec


@pytest.mark.parametrize("gamma", GAMMAS, ids=lambda g: g.kind)
def test_gamma_survives_json(gamma):
    assert Gamma.from_dict(json.loads(canonical_json(gamma.to_dict()))) == gamma


def test_store_spec_survives_json_with_its_digest():
    assert canonical_json(STORE.to_dict()) == STORE_JSON
    again = StoreSpec.from_dict(json.loads(STORE_JSON))
    assert again == STORE
    assert again.digest == STORE.digest == hashlib.blake2b(STORE_JSON.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"projection": ProjectionSpec(proj_dim=1024, seed=2**63 + 1, nonzeros=4)},
        {"projection": ProjectionSpec(proj_dim=2048, seed=2**63, nonzeros=4)},
        {"projection": ProjectionSpec(proj_dim=1024, seed=2**63, nonzeros=1)},
        {"projection": ProjectionSpec(proj_dim=1024, seed=2**63, kind="rademacher")},
        {"gamma": Gamma.adam(step=6)},
        {"gamma": Gamma.affine(step=5)},
        {"gamma": None},
        {"parameters": (("a.weight", (4, 3)), ("a.bias", (3,)))},
        {"parameters": (("a.bias", (3,)), ("a.weight", (3, 4)))},
        {"checkpoint": {"step": 5, "learning_rate": 2.1e-5}},
        {"data": {"rows": 13}},
        {"loss": "sum"},
    ],
)
def test_each_field_of_a_store_spec_changes_its_digest(change):
    assert dataclasses.replace(STORE, **change).digest != STORE.digest


def test_one_number_written_as_int_or_float_has_one_digest():
    ints, floats = Gamma("adam", 0, 0.5, 1e-8, 1), Gamma("adam", 0.0, 0.5, 1e-8, 1)
    assert canonical_json(ints.to_dict()) == canonical_json(floats.to_dict())


def test_lists_from_json_and_tuples_from_code_are_equal_parameters():
    listed = dataclasses.replace(STORE, parameters=[["a.weight", [3, 4]], ["a.bias", [3]]])
    assert listed == STORE


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"proj_dim": 8000}, ValueError, "proj_dim: expected a power of two from 256 to 65536, got 8000"),
        ({"proj_dim": 128}, ValueError, "proj_dim: expected a power of two from 256 to 65536, got 128"),
        ({"proj_dim": 131072}, ValueError, "proj_dim: expected a power of two from 256 to 65536, got 131072"),
        ({"proj_dim": 8192.0}, TypeError, "proj_dim: expected an int, got float"),
        ({"seed": -1}, ValueError, "seed: expected 0 … 2**64 - 1, got -1"),
        ({"seed": 2**64}, ValueError, f"seed: expected 0 … 2**64 - 1, got {2**64}"),
        ({"seed": True}, TypeError, "seed: expected an int, got bool"),
        ({"kind": "gauss"}, ValueError, "kind: expected one of ('xor', 'rademacher'), got 'gauss'"),
        ({"nonzeros": 3}, ValueError, "nonzeros: expected 1, 2, 4 or 8, got 3"),
        (
            {"kind": "rademacher", "nonzeros": 2},
            ValueError,
            'nonzeros: expected 1 for kind="rademacher", which has no zeros, got 2',
        ),
    ],
)
def test_a_projection_that_names_no_matrix_is_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        ProjectionSpec(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Gamma("adamw"), ValueError, f"kind: expected one of {GAMMA_KINDS}, got 'adamw'"),
        (lambda: Gamma("adam"), ValueError, "beta1: expected a number for Gamma 'adam', got None"),
        (lambda: Gamma("sgd", step=3), ValueError, "step: expected None for Gamma 'sgd', got 3"),
        (lambda: Gamma.adam(beta1=1.0), ValueError, "beta1: expected 0 <= beta1 < 1, got 1.0"),
        (lambda: Gamma.adam(beta2=float("nan")), ValueError, "beta2: expected 0 <= beta2 < 1, got nan"),
        (lambda: Gamma.adam(beta2="0.9"), TypeError, "beta2: expected a float, got str"),
        (lambda: Gamma.adam(eps=0.0), ValueError, "eps: expected 2**-126 <= eps < 1, got 0.0"),
        (lambda: Gamma.adam(eps=1e-45), ValueError, "eps: expected 2**-126 <= eps < 1, got 1e-45"),
        (lambda: Gamma.adam(step=0), ValueError, "step: expected a count >= 1, got 0"),
        (lambda: Gamma.adam(step=3.0), TypeError, "step: expected an int, got float"),
    ],
)
def test_a_gamma_without_its_numbers_is_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


PROJECTION = ProjectionSpec().to_dict()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: ProjectionSpec.from_dict({**PROJECTION, "version": 2}), "projection version: expected 1, got 2"),
        (
            lambda: ProjectionSpec.from_dict({k: v for k, v in PROJECTION.items() if k != "version"}),
            "projection version: expected 1, got None",
        ),
        (
            lambda: ProjectionSpec.from_dict({k: v for k, v in PROJECTION.items() if k != "seed"}),
            "projection: expected the keys ['kind', 'nonzeros', 'proj_dim', 'seed'], got none of the name ['seed']",
        ),
        (
            lambda: ProjectionSpec.from_dict({**PROJECTION, "colour": 1}),
            "projection: expected the keys ['kind', 'nonzeros', 'proj_dim', 'seed'], got also ['colour']",
        ),
        (lambda: Gamma.from_dict({}), "gamma: expected the keys ['kind'], got none of the name ['kind']"),
        (
            lambda: StoreSpec.from_dict({"loss": "sum"}),
            "spec: expected the keys ['projection'], got none of the name ['projection']",
        ),
    ],
)
def test_a_record_with_missing_or_unknown_keys_is_refused(read, message):
    with pytest.raises(ValueError, match="expected") as caught:
        read()
    assert str(caught.value) == message


def test_two_parameters_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"^parameters: expected each name once, got \['a'\] more than once$"):
        StoreSpec(ProjectionSpec(), parameters=(("a", (1,)), ("b", (1,)), ("a", (2,))))
