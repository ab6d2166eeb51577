"""Hosts that feed replicas of one strategy: each reads its part, the global batches stay."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, sources
from tests.data.test_batches import numbers
from tests.shared.record_files import example, jpeg, write, write_pairs

SETTINGS = {"batch_size": 8, "image_size": 12, "seed": 5, "shuffle_window": 20}
AUGMENTED = {"crop": "random_resized_crop", "flip": True}


def parts_of(source, *, hosts, replicas, num_batches, **settings):
    """Returns the global batches, put together from what each host gives its replicas."""
    settings = {**SETTINGS, **settings}
    by_host = []
    for host in range(hosts):
        context = tf.distribute.InputContext(hosts, host, replicas)
        dataset = batches.training_batches(
            source, vocabulary=numbers, input_context=context, **settings
        )
        taken = list(dataset.take(num_batches * replicas // hosts))
        per_step = replicas // hosts
        by_host.append([taken[i : i + per_step] for i in range(0, len(taken), per_step)])
    return [
        {key: np.concatenate([part[key] for host in by_host for part in host[step]])
         for key in ("image", "text", "text_valid")}
        for step in range(num_batches)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sources.TfrecordSource(write_pairs(tmp_path_factory.mktemp("pairs") / "a", 40))


@pytest.fixture(scope="module", params=[0, 3])
def of_one_device(request, source):
    """Returns the number of a step, and six batches from there on."""
    one = batches.training_batches(
        source, vocabulary=numbers, start_step=request.param, **SETTINGS, **AUGMENTED
    )
    return request.param, list(one.take(6))


@pytest.mark.parametrize("hosts, replicas", [(1, 4), (2, 2), (2, 4), (4, 8)])
def test_the_global_batches_are_those_of_one_device(source, of_one_device, hosts, replicas):
    # A window of 20 records ends within a batch of 8.
    start_step, one = of_one_device
    found = parts_of(
        source, hosts=hosts, replicas=replicas, num_batches=6, start_step=start_step, **AUGMENTED
    )
    for batch, parts in zip(one, found, strict=True):
        for key, values in batch.items():
            np.testing.assert_array_equal(parts[key], values)


def test_a_host_decodes_its_own_records_only(tmp_path):
    order = batches.training_batches(
        sources.TfrecordSource(write_pairs(tmp_path / "valid", 16)),
        vocabulary=numbers, **{**SETTINGS, "shuffle_window": 16},
    )  # fmt: skip
    first = next(iter(order))["text"][:4, 0].numpy()  # The first host's part of the first batch.
    records = [
        example(jpg=b"" if i in first else jpeg(i), caption=[f"image {i} caption 0".encode()])
        for i in range(16)
    ]
    broken = sources.TfrecordSource(write(tmp_path / "broken", records))
    drawn = {}
    for host in range(2):
        context = tf.distribute.InputContext(2, host, 2)
        dataset = batches.training_batches(
            broken, vocabulary=numbers, input_context=context, **{**SETTINGS, "shuffle_window": 16}
        )
        drawn[host] = np.concatenate([batch["text"][:, 0] for batch in dataset.take(2)])
    assert len(set(drawn[1])) == 8 and not set(drawn[1]) & set(first)
    # The other host has four valid ones of its eight, which it repeats.
    assert len(set(drawn[0])) == 4 and not set(drawn[0]) & (set(first) | set(drawn[1]))


def test_a_host_prints_its_bad_records_and_stops_where_none_is_valid(tmp_path, capfd):
    records = [example(jpg=b"", caption=b"image 0 caption 0")] * 16
    broken = sources.TfrecordSource(write(tmp_path / "broken", records))
    dataset = batches.training_batches(
        broken,
        vocabulary=numbers,
        input_context=tf.distribute.InputContext(2, 0, 2),
        **{**SETTINGS, "shuffle_window": 16},
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="At least one record must be valid"):
        next(iter(dataset))
    # Half of the records are valid, so each host has some of them.
    records[::2] = [example(jpg=jpeg(5), caption=[b"image 5 caption 0"])] * 8
    write(tmp_path / "broken", records)
    for batch in dataset.take(2):  # All of a window.
        assert (batch["text"][:, 0] == 5).numpy().all()
    printed = capfd.readouterr().err
    assert "Bad records skipped: " in printed and "broken" in printed


def test_a_batch_that_replicas_cannot_share_is_refused(source):
    with pytest.raises(ValueError, match="divisible by the 3 replicas. Received: batch_size=8"):
        parts_of(source, hosts=1, replicas=3, num_batches=1)
