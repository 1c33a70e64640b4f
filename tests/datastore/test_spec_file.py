"""spec.json may come from a stranger: only canonical bytes of a valid spec are accepted."""

from __future__ import annotations

import json

import pytest

from gradsift import Datastore, Gamma, ProjectionSpec, StoreSpec
from gradsift.datastore import check_comparable, spec_differences
from gradsift.datastore.spec_file import MAX_BYTES, pack_spec, parse_spec
from gradsift.errors import DatastoreCorruptError, DatastoreVersionError, SpecMismatchError
from gradsift.specs import canonical_json, digest_of

SPEC = StoreSpec(
    ProjectionSpec(proj_dim=256, seed=2**64 - 1),
    Gamma.adam(step=9),
    (("a.weight", (2, 3)), ("b.bias", (3,))),
    {"name": "c", "step": 9, "learning_rate": 1e-05},
    {"rows": 5, "template": 'with "quotes" and [brackets] \\'},
)
GOOD = pack_spec(SPEC, "float16").decode()


def changed(**fields):
    record = json.loads(GOOD)
    for path, value in fields.items():
        *parents, last = path.split("__")
        at = record
        for key in parents:
            at = at[key]
        at[last] = value
    record["digest"] = digest_of(record["spec"])
    return canonical_json(record)


def test_a_spec_comes_back_as_it_was():
    spec, dtype = parse_spec(GOOD.encode(), "spec.json")
    assert spec == SPEC
    assert dtype == "float16"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD.replace('"step":9', '"step":9,"step":9', 1), "twice"),
        (GOOD.replace('{"digest"', '{"version":1,"digest"'), "twice"),
        (GOOD + "\n", "canonical"),
        (GOOD.replace(":", ": ", 1), "canonical"),
        (GOOD + GOOD, "JSON"),
        (GOOD[:-1], "JSON"),
        ("", "JSON"),
        ("[]", "one object"),
        ("null", "one object"),
        ('{"format":"parquet"}', "gradsift-datastore"),
        (changed(extra=1), "keys"),
        (changed(spec__extra=1), "spec"),
        (changed(spec__projection__proj_dim=257), "proj_dim"),
        (changed(spec__projection__proj_dim="256"), "proj_dim"),
        (changed(spec__projection=None), "spec"),
        (changed(spec=None), "spec"),
        (changed(spec=[]), "spec"),
        (changed(spec__parameters=[["a"]]), "spec"),
        (changed(spec__parameters=7), "spec"),
        (changed(spec__checkpoint=[1]), "spec"),
        (changed(spec__data={"rows": -5}), "rows"),
        (changed(spec__gamma={"kind": "adamw"}), "kind"),
        (changed(spec__parameters=[[None, [1]], ["a", [1]]]), "expected names, got None"),
        (changed(spec__parameters=[["a", [1.5]]]), "a shape of integers"),
        (changed(spec__parameters=[["a", [-1]]]), "a shape of integers"),
        (changed(spec__parameters=[["a", [1]], ["a", [2]]]), "each name once"),
        (changed(spec__loss=["mean"]), "loss: expected a str"),
        (GOOD.replace('"learning_rate":1e-05', '"learning_rate":1e999'), "finite|JSON|canonical"),
        (GOOD.replace('"learning_rate":1e-05', '"learning_rate":NaN'), "NaN"),
        (GOOD.replace('"learning_rate":1e-05', '"learning_rate":' + "9" * 5000), "64 bits"),
        (GOOD.replace('"learning_rate":1e-05', '"learning_rate":' + "[" * 100_000 + "]" * 100_000), "nesting"),
        ("[" * 1_000_000, "nesting"),
        (GOOD.replace('"name":"c"', '"name":"d"'), "digest"),
        (GOOD.replace('"loss":"mean_over_own_label_tokens",', ""), "left out"),
        (GOOD.replace('"name":"c"', '"name":"\u00e9"'), "ASCII"),
        (changed(row_dtype="int4"), "required_features: expected 1 for int4, got 0"),
        (changed(required_features=1), "required_features: expected 0 for float16, got 1"),
    ],
)
def test_other_texts_are_refused(text, match):
    with pytest.raises(DatastoreCorruptError, match=match):
        parse_spec(text.encode(), "spec.json")


@pytest.mark.parametrize(
    "text",
    [
        changed(version=2),
        changed(version=True),
        changed(version=1.0),
        changed(required_features=4),
        changed(required_features=False),
        changed(row_dtype="int2"),
        changed(row_dtype=["float16"]),
        changed(row_dtype={"float16": 1}),
        changed(spec__projection__version=2),
    ],
)
def test_later_versions_are_refused_as_such(text):
    with pytest.raises(DatastoreVersionError, match=r"expected .*, got .*; open it with"):
        parse_spec(text.encode(), "spec.json")


@pytest.mark.parametrize(
    "template",
    ['"' + "[" * 50, "\\" + "[" * 50, '\\"' + "{" * 50, "\\\\", "[" * 50 + "\\", '"', "é" * 9],
)
def test_brackets_and_escapes_in_strings_are_no_nesting(template):
    spec, _ = parse_spec(changed(spec__data={"template": template}).encode(), "spec.json")
    assert spec.data["template"] == template
    nested = changed(spec__data={"template": template, "z": [[[[]]]]})
    with pytest.raises(DatastoreCorruptError, match="nesting"):
        parse_spec(nested.replace("[[[[]]]]", "[" * 40 + "]" * 40).encode(), "spec.json")


@pytest.mark.parametrize(
    "text", [changed(**{"x" * 5000: 1}), changed(version="9" * 5000), changed(row_dtype="f" * 5000)], ids=len
)
def test_messages_stay_short_whatever_a_stranger_wrote(text):
    with pytest.raises((DatastoreCorruptError, DatastoreVersionError)) as caught:
        parse_spec(text.encode(), "spec.json")
    assert len(str(caught.value)) < 500


def test_what_a_terminal_would_interpret_is_escaped_in_a_list_of_differences():
    other = with_(checkpoint={"\x1b[2J\udcff": 1}, parameters=(("\x1b]0;owned\x07", (3,)),))
    text = "\n".join(spec_differences(other, SPEC))
    assert "'\\x1b[2J\\udcff': 1 against nothing" in text
    assert text.replace("\n", "").isprintable()


def test_any_bit_flipped_anywhere_is_found():
    for offset in range(len(GOOD)):
        for bit in range(8):
            bad = bytearray(GOOD.encode())
            bad[offset] ^= 1 << bit
            with pytest.raises((DatastoreCorruptError, DatastoreVersionError)):
                parse_spec(bytes(bad), "spec.json")


def test_a_huge_file_is_refused_before_it_is_read(stores):
    stores.make(1)
    with open(stores.path / "spec.json", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatastoreCorruptError, match=f"at most {MAX_BYTES} bytes"):
        Datastore.open(stores.path)


def test_a_spec_that_could_not_be_read_back_is_not_written():
    deep = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(ValueError, match="nesting"):
        pack_spec(StoreSpec(ProjectionSpec(256), checkpoint={"x": deep}), "float32")


def with_(**fields):
    return StoreSpec(**{**SPEC.__dict__, **fields})


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (with_(projection=ProjectionSpec(256, seed=1)), f"projection.seed: {2**64 - 1} against 1"),
        (with_(parameters=(("a.weight", (2, 3)),)), "parameters.b.bias: [3] against nothing"),
        (with_(parameters=(("a.weight", (3, 2)), ("b.bias", (3,)))), "parameters.a.weight: [2, 3] against [3, 2]"),
        (with_(parameters=SPEC.parameters[::-1]), "parameters: order, from position 0: 'a.weight' against 'b.bias'"),
        (with_(checkpoint={**SPEC.checkpoint, "step": 10}), "checkpoint.step: 9 against 10"),
    ],
)
def test_stores_that_do_not_belong_together_are_refused_with_the_fields_that_differ(other, line):
    with pytest.raises(SpecMismatchError) as caught:
        check_comparable(SPEC, other)
    assert f"\n  {line}\n" in str(caught.value)
    assert line in spec_differences(SPEC, other)


def test_candidates_and_targets_may_differ_in_gamma_data_and_what_one_does_not_say():
    target = with_(gamma=Gamma.sgd(), data={"rows": 3}, loss="other", checkpoint={"name": "c", "moments_digest": None})
    check_comparable(SPEC, target)
    check_comparable(StoreSpec(SPEC.projection), SPEC)
    assert len(spec_differences(SPEC, target)) > 3


def test_only_specs_are_compared():
    with pytest.raises(TypeError, match="b: expected a StoreSpec, got dict"):
        check_comparable(SPEC, {})


def test_a_long_list_of_differences_is_cut():
    many = tuple((f"p{i}", (1,)) for i in range(100))
    with pytest.raises(SpecMismatchError, match="and 88 more"):
        check_comparable(with_(parameters=many), with_(parameters=tuple((n, (2,)) for n, _ in many)))
