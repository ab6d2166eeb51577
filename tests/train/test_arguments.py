"""What `fit` and its relatives take, and what they refuse by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.shared import tiny

ONES = np.ones(8, "float32")


@pytest.fixture(scope="module")
def model():
    made = tiny.limoe(depth=1, plan=("sparse",))
    made.compile("sgd", run_eagerly=True)
    return made


class Sequence(keras.utils.PyDataset):
    def __init__(self, *rest):
        super().__init__()
        self.rest = rest

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return (tiny.batch(8), *self.rest) if self.rest else tiny.batch(8)


FORMS = {
    "dict": lambda: tiny.dataset(1),
    "one": lambda: tiny.dataset(1).map(lambda batch: (batch,)),
    "two": lambda: tiny.dataset(1).map(lambda batch: (batch, None)),
    "three": lambda: tiny.dataset(1).map(lambda batch: (batch, None, None)),
    "generator": lambda: (tiny.batch(8) for _ in range(1)),
    "generator of two": lambda: ((tiny.batch(8), None) for _ in range(1)),
    "sequence": lambda: Sequence(),
    "sequence of two": lambda: Sequence(None),
    "sequence of three": lambda: Sequence(None, None),
    "arrays": lambda: (tiny.batch(8), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_may_come_with_targets_and_weights_of_none(model, form):
    expected = model.test_on_batch(tiny.batch(8))
    assert model.evaluate(FORMS[form](), verbose=0) == pytest.approx(expected, abs=1e-5)


def test_data_of_python_is_validated_and_embedded_too(model):
    calls = []

    class Counted(Sequence):
        def on_epoch_end(self):
            calls.append("end")

    history = model.fit(Sequence(None), validation_data=Counted(None, None), epochs=2, verbose=0)
    assert len(history.history["val_loss"]) == 2 and calls
    found = model.predict(Sequence(None), verbose=0)
    np.testing.assert_allclose(found["text"], model(tiny.batch(8))[0]["text"], atol=1e-6)


def test_one_batch_is_trained_tested_and_embedded_as_in_fit(model):
    batch, before = tiny.batch(8), int(model.optimizer.iterations)
    tested = model.test_on_batch(batch, return_dict=True)
    trained = model.train_on_batch(batch, return_dict=True)
    assert tested.keys() < trained.keys() and int(model.optimizer.iterations) == before + 1
    assert np.isfinite(list(trained.values())).all()
    found = model.predict_on_batch(batch)
    np.testing.assert_allclose(found["text"], model(batch)[0]["text"], atol=1e-6)


def test_a_list_of_results_has_each_number_once_in_the_order_of_their_names(model):
    data = tiny.batch(8)
    listed = model.evaluate(data, verbose=0)
    by_name = model.evaluate(data, verbose=0, return_dict=True)
    assert len(listed) == len(by_name) == 6
    assert dict(zip(model.metrics_names, listed)) == by_name


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_targets_and_weights_are_refused_by_name(model, method, name):
    with pytest.raises(ValueError, match=rf"`{name}` has no use in `{method}`.* Received: {name}="):
        getattr(model, method)(tiny.batch(8), **{name: ONES})


def test_weights_of_classes_and_of_validation_data_are_refused_by_name(model):
    batch = tiny.batch(8)
    with pytest.raises(ValueError, match=r"`class_weight` has no use in `fit`.*=\{0: 2.0\}"):
        model.fit(batch, class_weight={0: 2.0})
    with pytest.raises(ValueError, match="`y` has no use in `fit`"):
        model.fit(batch, ONES)
    with pytest.raises(ValueError, match=r"`sample_weight` has no use in `fit\(validation_data"):
        model.fit(batch, validation_data=(batch, None, ONES))
    with pytest.raises(TypeError, match="'epoch'"):
        model.fit(batch, epoch=3)


@pytest.mark.parametrize("rest, name", [((ONES,), "y"), ((None, ONES), "sample_weight")])
def test_targets_and_weights_in_the_data_are_refused_by_name(model, rest, name):
    with pytest.raises(ValueError, match=f"`{name}` has no use in a batch: "):
        model.fit(Sequence(*rest), verbose=0)


@pytest.mark.parametrize(
    "options",
    [{"loss": "mse"}, {"metrics": ["accuracy"]}, {"weighted_metrics": ["accuracy"]}],
    ids=lambda options: next(iter(options)),
)
def test_losses_and_metrics_of_keras_are_refused_by_name(options):
    (name,) = options
    made = tiny.limoe(depth=1, plan=("dense",))
    with pytest.raises(ValueError, match=rf"`{name}` has no use in `compile`.*loss_weights"):
        made.compile("sgd", **options)
    made.compile("sgd", **{name: [] if name != "loss" else None})


def test_one_batch_alone_is_not_given_to_several_replicas():
    with tiny.strategy_of(2).scope():
        made = tiny.limoe(depth=1, plan=("dense",))
        made.compile("sgd")
    for method in (made.train_on_batch, made.test_on_batch, made.predict_on_batch):
        with pytest.raises(ValueError, match=f"`{method.__name__}` works on one replica.* 2 rep"):
            method(tiny.batch(8))


def test_the_callbacks_of_keras_find_numbers_in_detailed_logs(tmp_path):
    callbacks, made = keras.callbacks, tiny.limoe(depth=1, plan=("sparse",))
    made.compile(keras.optimizers.SGD(0.1), detailed_logs=True)
    history = made.fit(
        tiny.batch(16),
        batch_size=8,
        validation_data=(tiny.batch(8), None),
        verbose=0,
        callbacks=[
            callbacks.TensorBoard(f"{tmp_path}/events", update_freq=1),
            callbacks.ModelCheckpoint(f"{tmp_path}/{{val_loss:.2f}}.keras", save_best_only=True),
            callbacks.ModelCheckpoint(f"{tmp_path}/a.weights.h5", save_weights_only=True),
            callbacks.BackupAndRestore(f"{tmp_path}/backup", save_freq=1),
            callbacks.CSVLogger(f"{tmp_path}/log.csv"),
            callbacks.EarlyStopping("val_loss"),
            callbacks.ReduceLROnPlateau("loss"),
            callbacks.TerminateOnNaN(),
        ],
    ).history
    assert all(np.ndim(value) == 0 for values in history.values() for value in values)
    assert {name.rpartition("/")[2] for name in made.per_expert} >= {"tokens_image", "tokens_text"}
    assert all(value.shape == (4,) for value in made.per_expert.values())
    assert float(tf.reduce_sum(made.per_expert["block_00/tokens_text"])) > 0
    names = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert "block_00/success_rate_text" in names and not set(names) & set(made.per_expert)
    assert len(list(tmp_path.glob("*.keras"))) == 1


def test_pixels_and_ids_that_cannot_be_are_refused_before_anything_is_computed(model):
    batch = tiny.batch(8)
    bright, strange = ({**batch, k: 255 + batch[k].astype(t)} for k, t in
                       (("image", "float32"), ("text", "int32")))  # fmt: skip
    for call in (model.fit, model.evaluate, model.predict, model.train_on_batch, model.encode):
        with pytest.raises(ValueError, match=r"`image` of floats must be in \[-1, 1\]"):
            call(bright)
        with pytest.raises(ValueError, match="`text` must be ids from 0 to 18"):
            call(strange)
    with pytest.raises(ValueError, match="`text` must be ids from 0 to 18"):
        model.fit(batch, validation_data=(strange, None), verbose=0)
    with pytest.raises(TypeError, match="`text` must be integer ids, .*dtype=string"):
        model.encode_text(["a dog"], np.ones((1, 5), "bool"))


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_a_file_that_could_not_be_loaded_is_not_written(model, tmp_path, name):
    with pytest.raises(ValueError, match=f"`filepath` must end in .keras, .*{name}"):
        model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_export_of_keras_names_the_one_of_this_package(model, tmp_path):
    with pytest.raises(NotImplementedError, match="limoe_tf.export.saved_model.export"):
        model.export(str(tmp_path / "exported"))
