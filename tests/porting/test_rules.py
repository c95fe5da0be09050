"""The rule engine: both directions, and every kind of misfit reported."""

import numpy as np
import pytest

from sa_flax.porting.rules import (
    AS_IS,
    CHANNELS,
    CONV,
    DENSE,
    Exempt,
    PortingError,
    Rule,
    RuleTable,
    to_flax,
    to_torch,
)

TABLE = RuleTable(
    "test",
    (
        Rule("net.0.weight", "convs.0.kernel", CONV),
        Rule("net.{3*i+2}.weight", "convs.{i+1}.kernel", CONV),
        Rule("net.{3*i+3}.weight", "norms.{i}.scale"),
        Rule("head.weight", "head.kernel", DENSE),
        Rule("gate.{stage}.{block}.w", "stages.{stage}.{block}.gate", CHANNELS),
    ),
    (Exempt("net.{3*i+3}.steps", beside="norms.{i}.scale", value=np.int64(0)),),
)


def _leaves() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "convs.0.kernel": (3, 2, 1, 4),
        "convs.1.kernel": (3, 2, 4, 4),
        "convs.2.kernel": (3, 2, 4, 1),
        "norms.0.scale": (4,),
        "norms.1.scale": (4,),
        "head.kernel": (4, 7),
        "stages.1.0.gate": (5,),
        "stages.0.11.gate": (5,),
    }
    return {path: rng.standard_normal(shape).astype("f4") for path, shape in shapes.items()}


def test_names_and_layouts_there_and_back():
    leaves = _leaves()
    arrays = to_torch(TABLE, leaves)
    assert {name: array.shape for name, array in arrays.items()} == {
        "net.0.weight": (4, 1, 3, 2),
        "net.2.weight": (4, 4, 3, 2),
        "net.5.weight": (1, 4, 3, 2),
        "net.3.weight": (4,),
        "net.6.weight": (4,),
        "net.3.steps": (),
        "net.6.steps": (),
        "head.weight": (7, 4),
        "gate.1.0.w": (1, 5, 1, 1),
        "gate.0.11.w": (1, 5, 1, 1),
    }
    assert arrays["net.2.weight"][3, 1, 2, 0] == leaves["convs.1.kernel"][2, 0, 1, 3]
    assert arrays["net.3.steps"].dtype == np.int64
    back = to_flax(TABLE, arrays, leaves)
    assert back.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(back[path], leaf)


def test_written_arrays_are_copies():
    leaves = _leaves()
    to_torch(TABLE, leaves)["net.3.weight"][:] = 9
    assert not (leaves["norms.0.scale"] == 9).any()


def test_exempt_entries_may_be_absent():
    leaves = _leaves()
    arrays = to_torch(TABLE, leaves)
    del arrays["net.3.steps"], arrays["net.6.steps"]
    assert to_flax(TABLE, arrays, leaves).keys() == leaves.keys()


def test_everything_that_does_not_fit_is_reported_at_once():
    leaves = _leaves()
    arrays = to_torch(TABLE, leaves)
    arrays["stranger"] = np.zeros(3)
    arrays["net.8.weight"] = np.zeros((1, 4, 3, 2))  # a rule, but no such layer in the model
    del arrays["head.weight"]
    arrays["net.2.weight"] = np.zeros((4, 4, 3, 3))
    arrays["net.3.weight"] = np.zeros(4, np.int32)
    with pytest.raises(PortingError) as caught:
        to_flax(TABLE, arrays, leaves)
    error = caught.value
    assert [line.split()[0] for line in error.unused] == ["stranger", "net.8.weight"]
    assert "no convs.3.kernel" in error.unused[1]
    assert [line.split()[0] for line in error.unfilled] == ["head.kernel"]
    assert [line.split(":")[0] for line in error.misfits] == ["net.2.weight", "net.3.weight"]
    assert "(4, 4, 3, 3)" in error.misfits[0]
    assert "(4, 4, 3, 2)" in error.misfits[0]
    assert error.count == 5
    for word in ("stranger", "head.kernel", "net.2.weight", "net.3.weight"):
        assert word in str(error)


def test_a_long_list_is_cut_in_the_message_but_not_in_the_error():
    arrays = to_torch(TABLE, _leaves()) | {f"stranger{i}": np.zeros(1) for i in range(50)}
    with pytest.raises(PortingError, match="and 40 more") as caught:
        to_flax(TABLE, arrays, _leaves())
    assert len(caught.value.unused) == 50
    assert len(str(caught.value).splitlines()) < 20


def test_two_rules_on_one_entry():
    table = RuleTable("twice", (Rule("a.{i}.w", "x.{i}"), Rule("a.{2*i}.w", "y.{i}")))
    leaves = {"x.1": np.zeros(2, "f4"), "y.1": np.zeros(2, "f4")}
    with pytest.raises(PortingError) as caught:
        to_flax(table, {"a.1.w": np.zeros(2), "a.2.w": np.zeros(2)}, leaves)
    assert len(caught.value.ambiguous) == 1
    assert "a.2.w" in caught.value.ambiguous[0]


def test_two_entries_for_one_leaf():
    table = RuleTable("same", (Rule("a", "x"), Rule("b", "x")))
    leaves = {"x": np.zeros(2, "f4")}
    with pytest.raises(PortingError) as caught:
        to_flax(table, {"a": np.zeros(2), "b": np.zeros(2)}, leaves)
    assert caught.value.ambiguous == ["x: by the entries a and b"]
    with pytest.raises(PortingError) as caught:
        to_torch(table, leaves)
    assert len(caught.value.ambiguous) == 1


def test_writing_is_strict_too():
    leaves = _leaves() | {"unknown.kernel": np.zeros(3, "f4")}
    with pytest.raises(PortingError) as caught:
        to_torch(TABLE, leaves)
    assert caught.value.unused == ["unknown.kernel (3,)"]
    table = RuleTable("merge", (Rule("a", "x"), Rule("a", "y")))
    with pytest.raises(PortingError) as caught:
        to_torch(table, {"x": np.zeros(1), "y": np.zeros(1)})
    assert len(caught.value.ambiguous) == 1


def test_an_exempt_entry_with_a_rule_is_ambiguous():
    table = RuleTable("both", (Rule("a", "x"),), (Exempt("a"),))
    with pytest.raises(PortingError) as caught:
        to_flax(table, {"a": np.zeros(1)}, {"x": np.zeros(1, "f4")})
    assert "exempt" in caught.value.ambiguous[0]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.{i}.w", "net.01.w"),  # no number is written so
        ("net.{2*i}.w", "net.3.w"),
        ("net.{i+2}.w", "net.1.w"),
        ("net.{i}.{i}.w", "net.1.2.w"),
        ("net.{i}.w", "net.1.w.v"),
        ("net.{i}.w", "netx1.w"),
    ],
)
def test_templates_do_not_match_more_than_they_say(name, path):
    assert Rule(name, "x.{i}").flax_path(path) is None


@pytest.mark.parametrize("bad", ["a.{}", "a.{1i}", "a.{i*2}", "a.{i", "a.i}"])
def test_malformed_templates_are_refused(bad):
    with pytest.raises(ValueError, match="holes are written"):
        Rule(bad, bad)


def test_both_sides_of_a_rule_need_the_same_holes():
    with pytest.raises(ValueError, match="same holes"):
        Rule("a.{i}", "b.{j}")


def test_half_precision_is_widened_to_the_leaf():
    array = np.array([0.5, -2.0], np.float16)
    table = RuleTable("half", (Rule("a", "x", AS_IS),))
    filled = to_flax(table, {"a": array}, {"x": np.zeros(2, "f4")})["x"]
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled, array)
