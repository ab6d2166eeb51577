"""Arguments are returned, or refused with the rule and what was received."""

import numpy as np
import pytest

from limoe_tf import checks


@pytest.mark.parametrize("value", [1, 9, np.int64(3), np.uint8(255)])
def test_integers_in_range_are_returned_as_python_integers(value):
    returned = checks.positive_int("depth", value)
    assert returned == value and type(returned) is int


@pytest.mark.parametrize("value", [2, 5])
def test_both_bounds_belong_to_the_range(value):
    assert checks.integer_in("num_choices", value, 2, 5) == value
    assert checks.number_in("share", float(value), 2, 5) == value


@pytest.mark.parametrize(
    "value, low, high, fault",
    [
        (0, 1, None, "`depth` must be at least 1. Received: depth=0"),
        (-3, 0, None, "`depth` must be at least 0. Received: depth=-3"),
        (9, 1, 8, "`depth` must be between 1 and 8. Received: depth=9"),
        (0, 1, 8, "`depth` must be between 1 and 8. Received: depth=0"),
    ],
)
def test_integers_out_of_range_are_refused(value, low, high, fault):
    with pytest.raises(ValueError) as error:
        checks.integer_in("depth", value, low, high)
    assert str(error.value) == fault


@pytest.mark.parametrize("value", [1.0, "1", None, True, [1], np.float32(1)])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError) as error:
        checks.positive_int("depth", value)
    assert str(error.value) == f"`depth` must be an integer. Received: depth={value!r}"


@pytest.mark.parametrize("value", [0, 0.25, np.float32(0.5), 1])
def test_numbers_in_range_are_returned_as_they_are(value):
    assert checks.number_in("share", value, 0, 1) is value


@pytest.mark.parametrize(
    "value, high, fault",
    [
        (-0.1, None, "`share` must be at least 0. Received: share=-0.1"),
        (1.5, 1, "`share` must be between 0 and 1. Received: share=1.5"),
        (float("nan"), 1, "`share` must be between 0 and 1. Received: share=nan"),
        (float("nan"), None, "`share` must be at least 0. Received: share=nan"),
    ],
)
def test_numbers_out_of_range_and_nan_are_refused(value, high, fault):
    with pytest.raises(ValueError) as error:
        checks.number_in("share", value, 0, high)
    assert str(error.value) == fault


@pytest.mark.parametrize("value", ["0.5", None, False, [0.5]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError) as error:
        checks.number_in("share", value, 0, 1)
    assert str(error.value) == f"`share` must be a number. Received: share={value!r}"


def test_one_of_the_allowed_is_returned_and_others_are_told_which_there_are():
    assert checks.one_of("order", "random", ("first", "random")) == "random"
    with pytest.raises(ValueError) as error:
        checks.one_of("order", "last", ("first", "random"))
    assert str(error.value) == "`order` must be one of 'first', 'random'. Received: order='last'"


def test_an_existing_file_is_returned_as_text(tmp_path):
    path = tmp_path / "vocabulary.model"
    path.write_text("pieces")
    assert checks.existing_file("vocabulary", path) == str(path)
    assert checks.existing_file("vocabulary", str(path)) == str(path)


@pytest.mark.parametrize("name", ["missing.model", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, name):
    path = str(tmp_path / name)
    with pytest.raises(ValueError, match="`vocabulary` must be an existing file") as error:
        checks.existing_file("vocabulary", path)
    assert repr(path) in str(error.value)


def test_what_is_no_path_is_refused():
    with pytest.raises(TypeError, match="`vocabulary` must be a path. Received: vocabulary=7"):
        checks.existing_file("vocabulary", 7)
