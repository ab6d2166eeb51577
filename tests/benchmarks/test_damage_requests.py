"""Damaged requests: a few of the many that `python -m benchmarks.damage_requests` sends."""

import re

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import damage_requests
from benchmarks.damage_requests import Request


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    return damage_requests.make_model(str(tmp_path_factory.mktemp("requests")))


def test_damaged_requests_are_answered_or_refused_by_name(signatures):
    said = []
    done, faults = damage_requests.compare(signatures, count=48, seed=1, progress=said.append)
    assert faults == [] and said == ["48 of 48 requests, 0 faults"]
    assert done["undamaged", "answered"] == 6  # Every eighth of 48.
    assert sum(done.values()) == 48 and done["truncated", "refused"] > 3
    assert "| undamaged" in damage_requests.table(done)


def request(whole):
    return Request("undamaged", "encode_image_bytes", [b""] * len(whole), whole)


def answering(embeddings):
    return {"encode_image_bytes": lambda images: {"embeddings": tf.constant(embeddings)}}


def refusing(message):
    def refuse(images):
        raise tf.errors.InvalidArgumentError(None, None, message)

    return {"encode_image_bytes": refuse}


@pytest.mark.parametrize(
    "signatures, fault",
    [
        (answering([[0.6, 0.8], [1.0, 0.0]]), None),
        (answering([[0.6, 0.8]]), "embeddings is not finite, or of another number of images"),
        (answering([[np.nan, 0.8], [1.0, 0.0]]), "embeddings is not finite, or of another"),
        (answering([[0.6, 0.8], [0.5, 0.0]]), "an embedding is not of length 1"),
        (refusing("Images must be whole. Received others at] [0]"), None),
        (refusing("Images must be whole. Received others at] [0 1]"), r"at \[1\] are refused"),
        (refusing("Out of memory"), "the error does not name images: Out of memory"),
    ],
)  # fmt: skip
def test_wrong_answers_and_refusals_are_faults(signatures, fault):
    _, found = damage_requests.send(signatures, request([False, True]))
    assert found is None if fault is None else re.search(fault, found)


@pytest.mark.parametrize("kind", damage_requests.KINDS)
def test_requests_are_the_same_for_the_same_seed(kind):
    first, again, other = (
        [one for one in damage_requests.make_requests(16, seed) if one.kind == kind]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert all(all(one.whole) for one in first) or kind != "undamaged"
