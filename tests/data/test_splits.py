"""Held-out pictures: told by folders or cut by names, never moved into training."""

import random

import pytest

from sa_flax.data import manifest as manifests
from sa_flax.data.manifest import Manifest
from sa_flax.data.splits import Candidate, divide, position, roles_of_folders
from sa_flax.errors import InputError


def candidate(name: str, shorter: int = 64, content: str = "") -> Candidate:
    digest = content or f"content of {name}"
    return Candidate(name, shorter, digest, digest, None)


def parts_of(names, *, crop=16, earlier=None, **kwargs):
    """Names by role, notes and what is skipped."""
    candidates = [n if isinstance(n, Candidate) else candidate(n) for n in names]
    parts, notes, skipped = divide(
        candidates, crop=crop, where="the set", earlier=earlier, **kwargs
    )
    return {role: {c.name for c in found} for role, found in parts.items()}, notes, skipped


def manifest_of(parts: dict[str, set[str]], source: str = "the set") -> Manifest:
    return Manifest(
        source, {r: {n: f"content of {n}" for n in names} for r, names in parts.items()}
    )


def test_pictures_added_never_move_another():
    """From name and value of the hash alone, as long as no set would be empty."""
    moments = random.Random(0)
    for _ in range(300):
        names = [f"{moments.getrandbits(64):x}.jpg" for _ in range(moments.randint(3, 400))]
        before, *_ = parts_of(names)
        natural = {n for n in names if position(n) < 0.1}
        added = [f"new{moments.getrandbits(64):x}.jpg" for _ in range(moments.randint(1, 50))]
        after, *_ = parts_of(names + added)
        for role in ("train", "validation", "test"):
            assert before[role]
            assert after[role]
        assert before["validation"] & natural <= after["validation"]
        assert before["test"] & natural <= after["test"]
        # What is trained on stays so, unless it is needed to fill a set that would be empty.
        if len(before["validation"] & natural) and len(before["test"] & natural):
            assert before["train"] <= after["train"]


def test_a_run_that_goes_on_never_trains_on_what_it_held_out():
    """However few pictures there are, and however many come or go, as long as it is noted."""
    moments = random.Random(1)
    for _ in range(300):
        names = [f"{moments.getrandbits(64):x}.jpg" for _ in range(moments.randint(3, 40))]
        before, *_ = parts_of(names)
        noted = manifests.from_json(manifest_of(before).to_json())
        for _ in range(3):
            names += [f"{moments.getrandbits(64):x}.jpg" for _ in range(moments.randint(0, 40))]
            after, *_ = parts_of(names, earlier=noted)
            held_out = {n for role in ("validation", "test") for n in noted.roles()[0] if
                        noted.roles()[0][n] == role}  # fmt: skip
            assert not held_out & after["train"]
            for role, there in before.items():
                assert there <= after[role]
            before = after
            noted = manifest_of(after).remembering(noted)


# No hash among them would be held out by its value.
FEW = [name for i in range(20) if position(name := f"{i}.png") >= 0.1][:12]


def test_a_picture_taken_away_and_brought_back_serves_for_the_same():
    whole, notes, _ = parts_of(FEW)
    (tested,) = whole["test"]
    assert f"few pictures: {tested} alone serves to test" in notes
    others = [n for n in FEW if n != tested]
    with pytest.raises(InputError, match="keeps to test are gone"):
        parts_of(others, earlier=manifest_of(whole))
    few, *_ = parts_of([*others, "more.png"], earlier=manifest_of(whole))
    assert few["test"] == {"more.png"}, "a new picture takes the place of one that is gone"
    noted = manifest_of(few).remembering(manifest_of(whole))
    again, *_ = parts_of([*FEW, "more.png"], earlier=noted)
    assert again["test"] == {tested, "more.png"}


def test_a_renamed_picture_serves_for_the_same():
    before, *_ = parts_of(FEW)
    (tested,) = before["test"]
    for number in range(50):
        renamed = candidate(f"renamed{number}.png", content=f"content of {tested}")
        names = [*(n for n in FEW if n != tested), renamed]
        after, *_ = parts_of(names, earlier=manifest_of(before))
        assert after["test"] == {renamed.name}


def test_shares_of_a_large_folder():
    parts, notes, _ = parts_of([f"{i}.png" for i in range(4000)])
    assert 150 < len(parts["validation"]) < 250
    assert 150 < len(parts["test"]) < 250
    assert "5% are held out to validate and to test (each), by the hashes" in notes[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a", "val/b", "test/c"], "tvx"),
        (["Train/a", "VALID/b", "Testing/c"], "tvx"),
        (["training/a", "dev/b", "eval/c"], "tvx"),
        (["images/train/deep/a", "images/val/b", "images/test/c"], "tvx"),
        (["dog/train/a", "cat/train/b", "dog/test/c"], "ttx"),
        (["DIV2K_train_HR/a", "DIV2K_valid_HR/b"], "tv"),
        (["train2017/a", "val2017/b", "test-2017/c", "README.png"], "tvx-"),
        (["train/a", "val2017/b", "extra/c", "d"], "tv--"),
        (["train/a", "test/b", "extra/c", "d"], "tx--"),
        (["test/a", "holiday/b", "c"], "xtt"),
        # No splits: everything is pooled.
        (["a", "b"], ""),
        (["train/a", "plane/b"], ""),
        (["train/a", "train/b"], ""),
        (["trainers/a", "contest/b"], ""),
        (["school test/a", "training day/b", "holiday/c"], ""),
        (["train.png", "test.png"], ""),
        (["2019/train/a", "2020/school/test/b", "c"], ""),
    ],
)
def test_folders_that_are_splits(names, expected):
    roles, notes = roles_of_folders(names)
    letters = {"train": "t", "validation": "v", "test": "x", None: "-"}
    assert "".join(letters[roles[n]] for n in names if n in roles) == expected
    assert bool(notes) == bool(expected)
    beside = [n for n, letter in zip(names, expected, strict=False) if letter == "-"]
    for name in beside:
        assert name in notes[1]
        assert f"{len(beside)} picture" in notes[1]


def test_what_folders_lack_is_cut_from_train():
    train = [f"train/{i}.png" for i in range(200)]
    parts, notes, _ = parts_of([*train, "test/a.png", "extra/b.png"])
    assert parts["test"] == {"test/a.png"}
    assert 1 <= len(parts["validation"]) < 30
    assert parts["train"] | parts["validation"] == set(train)
    assert notes == (
        "split by its folders: train to train, test to test",
        "1 picture beside these folders not used: extra/b.png",
        "5% of those to train are cut off to validate (each), by the hashes of their names",
    )
    with pytest.raises(InputError, match=r"all pictures lie in test, val, .* held out"):
        parts_of(["test/a", "val/b"])


def test_a_held_out_picture_stays_so_when_a_folder_of_its_kind_is_added():
    train = [f"train/{i}.png" for i in range(100)]
    before, *_ = parts_of(train)
    after, *_ = parts_of([*train, "test/new.png", "val/new.png"], earlier=manifest_of(before))
    assert before["test"] < after["test"]
    assert before["validation"] < after["validation"]
    assert not (before["test"] | before["validation"]) & after["train"]


def test_small_pictures_are_named():
    small = [candidate(f"small{i}.png", 12) for i in range(30)]
    parts, _, skipped = parts_of([*small, candidate("tiny.png", 10), *"abcdefgh"], crop=16)
    held_out = parts["validation"] | parts["test"]
    assert "tiny.png" not in held_out
    assert not any(c.name in parts["train"] for c in small)
    named = [line.split(":")[0] for line in skipped]
    assert sorted(named) == sorted({"tiny.png", *(c.name for c in small)} - held_out)
    assert "its shorter side has 12 pixels; 16 are the least" in skipped[-1]
    with pytest.raises(
        InputError, match=r"small\d*.png, has a shorter side of 12 .* to 12 or less"
    ):
        parts_of(small, crop=16)


def test_too_few():
    with pytest.raises(InputError, match=r"holds 2 pictures .* at least 3"):
        parts_of(["a", "b"])
    with pytest.raises(InputError, match="no pictures that can be read"):
        parts_of([])


def test_copies_of_held_out_pictures_are_not_trained_on():
    copy = candidate("train/copy.png", content="content of test/a.png")
    parts, _, skipped = parts_of([copy, "train/b.png", "train/c.png", "test/a.png", "val/d.png"])
    assert parts["train"] == {"train/b.png", "train/c.png"}
    assert skipped == ("train/copy.png: a copy of test/a.png, which is held out",)
    # Six black pictures are better than none, but it is said.
    parts, notes, skipped = parts_of([candidate(f"{i}.png", content="black") for i in range(6)])
    assert len(parts["train"]) == 4
    assert sum("for want of others" in line for line in notes) == 4
