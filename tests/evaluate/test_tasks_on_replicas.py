"""Evaluation on replicas gives the numbers of one device, whatever the last batch holds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data.sources import TfrecordSource
from limoe_tf.evaluate import embed, few_shot, results, tasks
from limoe_tf.mesh.expert_mesh import ExpertMesh
from tests.shared import record_files, tiny

NAMES = ["red", "green", "blue"]


def letters(captions):
    """Stands in for a vocabulary of 19 pieces, five to a text."""
    text = tf.cast(tf.io.decode_raw(captions, tf.uint8, fixed_length=5), tf.int32)
    return text % 19, text != 0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns eleven images of noise of the labels 0, 1 and 2, with one or two captions each."""
    rng, records = np.random.default_rng(0), []
    for i in range(11):
        image = tf.io.encode_png(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).numpy()
        captions = [rng.bytes(6).hex().encode() for _ in range(1 + i % 2)]
        records.append(record_files.example(jpg=image, caption=captions, label=[i % 3]))
    path = record_files.write(tmp_path_factory.mktemp("replicas") / "noise", records)
    return TfrecordSource(path, labels="label")


def evaluated(source, *, batch_size, num_replicas=1, mesh=None):
    """Returns the numbers of all tasks by name, and the features of some images."""
    keras.utils.set_random_seed(3)
    with tiny.strategy_of(num_replicas).scope():
        model = tiny.limoe(expert_mesh=mesh and ExpertMesh(mesh, spans="replicas"))
    batch = {"batch_size": batch_size}
    each = {
        "zero_shot": tasks.ZeroShot(source, class_names=NAMES, **batch),
        "retrieval": tasks.Retrieval(source, **batch),
        "minibatches": tasks.ContrastiveAccuracy(source, minibatch_size=6, **batch),
        "pooled": few_shot.FewShot(source, source, shots=(1, 3), num_seeds=2, **batch),
    }
    found = {name: task(model, letters) for name, task in each.items()}
    for task in each.values():
        assert task.read[source.name]["images"] == 11
    images = np.random.default_rng(1).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    return results.flatten(found), embed.feature_encoder(model)(images).numpy()


def test_four_replicas_and_a_partial_batch_give_the_numbers_of_one_device_and_one_batch(source):
    # Batches of seven images: four replicas get eight, of which one is a copy. The last four images
    # are filled up to seven and then to eight.
    found, features = evaluated(source, batch_size=7, num_replicas=4, mesh="data:2;expert:2")
    expected, wanted = evaluated(source, batch_size=11)
    np.testing.assert_allclose(features, wanted, atol=1e-5)
    assert found == pytest.approx(expected, abs=1e-5)
    # Numbers that a copy or a missing image would change; the error is no multiple of 1 / 11.
    assert 0 < expected["retrieval/text_to_image/recall_at_5"] < 1
    assert expected["zero_shot/all_calibration_error"] * 11 % 1 > 1e-3
