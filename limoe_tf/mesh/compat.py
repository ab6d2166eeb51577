"""Imports Mesh TensorFlow 0.1.21 on TensorFlow 2.16 and later, and filters its log."""

import logging
import os
import types

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.framework import ops


def _names_to_patch():
    """The names that Mesh TensorFlow reads while it is imported: (module, name, value)."""
    estimator = types.ModuleType("tensorflow.compat.v1.estimator")
    estimator.CheckpointSaverListener = type("CheckpointSaverListener", (), {})
    estimator.SessionRunHook = tf1.train.SessionRunHook
    return [
        (tf1, "estimator", estimator),
        (ops, "register_tensor_conversion_function", tf.register_tensor_conversion_function),
    ]


def _import_mesh_tensorflow():
    """Imports it with the names that this TensorFlow lacks, and removes those afterwards."""
    patched = [entry for entry in _names_to_patch() if not hasattr(entry[0], entry[1])]
    for module, name, value in patched:
        setattr(module, name, value)
    try:
        import mesh_tensorflow

        return mesh_tensorflow
    finally:
        for module, name, _ in patched:
            delattr(module, name)


def _worth_reading(record):
    """False for the counters that Mesh TensorFlow logs each time a program is lowered."""
    inside = os.path.abspath(record.pathname).startswith(os.path.dirname(mtf.__file__) + os.sep)
    return record.levelno >= logging.WARNING or not inside


mtf = _import_mesh_tensorflow()
tf.get_logger().addFilter(_worth_reading)
