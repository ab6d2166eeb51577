"""Mesh TensorFlow imports, and neither TensorFlow nor the log notices."""

import logging

import tensorflow as tf

from limoe_tf.mesh.expert_mesh import ExpertMesh


def test_lowering_logs_no_details_and_leaves_other_messages_alone():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        ExpertMesh("data:2;expert:4").run(tf.identity, tf.zeros([8, 5, 3]), [])
        logger.info("a message of the user's")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert messages == ["a message of the user's"]


def test_tensorflow_keeps_no_name_lent_for_the_import():
    assert not hasattr(tf.compat.v1, "estimator")
