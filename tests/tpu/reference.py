"""Trains every case with Keras' fit on one CPU device, without XLA, and writes what came of it.

    python -m tests.tpu.reference FOLDER

This runs in the CPU environment: that of the TPU tools can compile for TPUs only.
"""

import collections
import functools
import multiprocessing
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.train import names, step, steps
from tests.tpu import cases


def state_of(model):
    return {name: variable.numpy() for name, variable in names.of_state(model).items()}


def gradients_of(model, batch):
    """The gradient of every weight, by name, from the model's present state."""
    by_id = {id(v): name for name, v in names.of_weights(model).items()}
    differentiate = tf.function(lambda b: step.differentiate(model, b, model.loss_weights)[1])
    found = differentiate({name: tf.constant(value) for name, value in batch.items()})
    return {by_id[id(v)]: g.numpy() for v, g in zip(model.trainable_variables, found)}


def run(case):
    """Returns the states before and after the steps, the first gradients, and each step's logs."""
    model = cases.make_model(case)
    model.compile(cases.make_optimizer(case), detailed_logs=True)
    initial = state_of(model)
    cases.prepared(case, initial)
    batches = cases.batches(case)

    def restore():
        for name, variable in names.of_state(model).items():
            variable.assign(initial[name])

    restore()
    gradients = gradients_of(model, batches[0])
    restore()
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(joined).batch(cases.GLOBAL_BATCH)
    history = collections.defaultdict(list)

    def record(batch, logs):
        for name, value in steps.with_experts(model, logs).items():
            history[name].append(value)

    recorder = keras.callbacks.LambdaCallback(on_train_batch_end=record)
    model.fit(dataset, epochs=cases.STEPS, steps_per_epoch=1, verbose=0, callbacks=[recorder])
    return {
        **{f"initial:{name}": value for name, value in cases.float32(initial).items()},
        **{f"final:{name}": value for name, value in cases.float32(state_of(model)).items()},
        **{f"gradient:{name}": value for name, value in gradients.items()},
        **{f"logs:{name}": np.array(value) for name, value in history.items()},
    }


def write(folder, case):
    np.savez(folder / f"{case}.npz", **run(case))


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(functools.partial(write, folder), cases.CASES, chunksize=1)


if __name__ == "__main__":
    main(sys.argv[1])
