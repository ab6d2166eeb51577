"""Results become a table and a JSON file."""

import json
import os

import numpy as np
import pytest

from limoe_tf.evaluate import results

RESULTS = {
    "zero_shot": {"seen": np.float32(0.5), "unseen": 1 / 3},
    "retrieval": {"text_to_image": {"recall_at_1": 0.00012345}},
    "parameters": 1234567,
}


def test_results_become_a_rounded_table():
    assert results.markdown_table(RESULTS).splitlines() == [
        "| result                              |    value |",
        "|-------------------------------------|---------:|",
        "| zero_shot/seen                      |   0.5000 |",
        "| zero_shot/unseen                    |   0.3333 |",
        "| retrieval/text_to_image/recall_at_1 | 0.000123 |",
        "| parameters                          |  1234567 |",
    ]


def test_results_become_json_in_full_and_leave_nothing_else(tmp_path):
    path = tmp_path / "runs" / "results.json"
    results.write_json(path, {"old": 1})
    results.write_json(path, RESULTS)
    assert json.loads(path.read_text()) == RESULTS
    assert os.listdir(path.parent) == ["results.json"]


def test_results_that_json_cannot_hold_leave_the_old_file_alone(tmp_path):
    path = tmp_path / "results.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        results.write_json(path, {"accuracy": float("nan")})
    with pytest.raises(TypeError, match="must hold numbers, strings and lists"):
        results.write_json(path, {"model": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_results_that_share_a_name_are_an_error():
    with pytest.raises(ValueError, match="'a/b' twice"):
        results.flatten({"a/b": 1, "a": {"b": 2}})
    with pytest.raises(TypeError, match="Received: key 1"):
        results.flatten({1: 2.0})
