"""Names of variables do not depend on what else a process has made."""

import keras
import pytest

from limoe_tf.train import names
from tests.shared import tiny


def make():
    model = tiny.limoe(plan=("dense", "sparse"), routing="experts_per_modality")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return model


def shapes(named):
    return {name: tuple(variable.shape) for name, variable in named.items()}


def test_a_second_model_of_a_process_has_the_names_of_the_first():
    first, second = make(), make()
    assert [v.path for v in first.weights] != [v.path for v in second.weights]
    assert shapes(names.of_state(first)) == shapes(names.of_state(second))


def test_every_variable_has_one_name_and_slots_stand_below_their_weights():
    model = make()
    weights, state = names.of_weights(model), names.of_state(model)
    assert len({id(v) for v in weights.values()}) == len(weights) == len(model.weights)
    assert weights.items() <= state.items()
    owners = {name for name in weights if weights[name].trainable}
    slots = {name for name in state if name.startswith("optimizer/") and "/momentum" in name}
    # A slot of "model/a/b" is called "optimizer/a/b/momentum".
    assert {
        f"model/{s.removeprefix('optimizer/').removesuffix('/momentum')}" for s in slots
    } == owners
    assert len(state) == len(weights) + len(model.optimizer.variables) + sum(
        name.startswith("seeds/") for name in state
    )


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["dense_7/kernel", "dense_7/bias"], ["dense/kernel", "dense/bias"]),
        (["dense_7/kernel", "dense_9/kernel"], ["dense/kernel", "dense_1/kernel"]),
        (["block_00/x_3/w", "block_01/x_4/w"], ["block_00/x/w", "block_01/x/w"]),
        (["block_0/w", "block_2/w"], ["block_0/w", "block_2/w"]),
    ],
)
def test_numbers_that_keras_gave_are_counted_from_the_first_of_a_parent(paths, expected):
    siblings = {}
    assert [names._renumbered(path, siblings) for path in paths] == expected
