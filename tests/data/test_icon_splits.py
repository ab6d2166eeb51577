import pytest

from limoe_tf.data import icon_splits


def test_sets_of_one_author_prefix_or_relation_are_one_family():
    authors = {
        "fa": "Dave",
        "fa6-solid": "Someone",
        "la": "Icons8",  # Related to `fa`.
        "wpf": " icons8 ",
        "carbon": "IBM",
        "other": "IBM",
        "alone": "X",
    }
    assert icon_splits.families(authors) == {
        **dict.fromkeys(("fa", "fa6-solid", "la", "wpf"), "fa"),
        **dict.fromkeys(("carbon", "other"), "carbon"),
        "alone": "alone",
    }


@pytest.mark.parametrize(
    "other, author",
    [
        ("other", "IBM"),  # The author's.
        ("carbon2-filled", "Someone"),  # The same beginning.
    ],
)
def test_a_family_on_both_sides_is_named(other, author):
    icon_splits.check_sides({"carbon": "IBM", "free": "X", "teenyicons": "Y"})
    with pytest.raises(ValueError, match=f"`TEST_SETS` must .* carbon for tests, {other} for"):
        icon_splits.check_sides({"carbon": "IBM", other: author})


def test_related_sets_are_on_one_side():
    for members in icon_splits.RELATED.values():
        assert not set(members) & set(icon_splits.TEST_SETS)


def test_a_fiftieth_of_the_names_is_held_out_whatever_the_set():
    names = [f"name{i}" for i in range(20_000)]
    held_out = sum(map(icon_splits.is_held_out, names))
    # 400 with a standard deviation of 20.
    assert 320 <= held_out <= 480
    for name in names[:200]:
        kept_apart = icon_splits.is_held_out(name)
        assert icon_splits.split_of("fa", name) == ("test_names" if kept_apart else "train")
        assert icon_splits.split_of("carbon", name) == "test_sets"


def test_the_hash_of_a_name_stays():
    found = [name for name in (f"name{i}" for i in range(200)) if icon_splits.is_held_out(name)]
    # SHA-256 of these begins with less than 0.02 * 256 = 5.12, and that of no other.
    assert found == ["name60", "name96", "name195"]
