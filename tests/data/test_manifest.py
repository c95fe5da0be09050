"""What a run notes of its data set, and what it says when it has changed."""

import pytest

from sa_flax.data.manifest import Manifest, changes, check_unmoved, from_json
from sa_flax.errors import InputError

EARLIER = Manifest(
    "/old",
    {
        "train": {"a.png": "1", "b.png": "2", "c.png": "3"},
        "validation": {"d.png": "4"},
        "test": {"e.png": "5"},
    },
    ("x.png: broken",),
)


def test_it_can_be_written_and_read():
    assert from_json(EARLIER.to_json()) == Manifest(
        EARLIER.source, EARLIER.splits, EARLIER.left_out, {r: {} for r in EARLIER.splits}
    )
    for text in (
        "",
        "[]",
        "{}",
        '{"source": 1}',
        EARLIER.to_json().replace('"1"', "1"),
        "[" * 5000,
    ):
        with pytest.raises(InputError, match="is not a list"):
            from_json(text)


def test_changes_are_listed():
    now = Manifest(
        "/old",
        {
            "train": {"a.png": "1", "b.png": "changed", "f.png": "6", "d.png": "4"},
            "validation": {"moved.png": "3"},
            "test": {},
        },
    )
    assert changes(EARLIER, now) == [
        "b.png: changed (to train)",
        "d.png: validated, now to train",
        "e.png: no longer there (tested)",
        "f.png: new (to train)",
        "moved.png: was c.png, was trained on (now to validate)",
    ]
    assert changes(EARLIER, EARLIER) == []
    assert now.digest != EARLIER.digest


def test_a_set_may_move_but_not_change_as_well():
    moved = Manifest("/new", EARLIER.splits)
    assert check_unmoved(EARLIER, moved) == []
    assert moved.digest == EARLIER.digest
    other = Manifest("/new", {"train": {"z.png": "9"}, "validation": {}, "test": {}})
    with pytest.raises(InputError) as refused:
        check_unmoved(EARLIER, other)
    assert "trains on /old; /new holds other pictures:\n  a.png: no longer" in str(refused.value)
    assert "--data.source /old" in str(refused.value)
