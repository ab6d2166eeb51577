import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import grid_scenes, sources, words
from limoe_tf.data.masked_batches import masked_batches
from limoe_tf.evaluate.masked_modelling import Fusion, MaskedLosses, code_floors
from limoe_tf.model import k_means, patch_codes
from limoe_tf.model.vlmoe import VlMoe

COLOURS = grid_scenes.COLOURS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few scenes, their vocabulary and a codebook."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_scenes, "SPLITS", {"train": 10, "validation": 1, "test": 40})
        patch.setattr(grid_scenes, "TRAIN_SCENES", {"40k": 10, "1m": 10})
        source = sources.TfdsSource("grid_scenes/40k", split="test", data_dir=str(folder))
    captions = [one for i in range(200) for one in grid_scenes.render("train", i).captions]
    path = str(folder / "words.model")
    words.train_vocabulary(captions, path=path, size=100, algorithm="bpe")
    images = np.stack([grid_scenes.render("train", i).image for i in range(40)])
    looks = patch_codes.features(tf.constant(images), patch_size=16).numpy()
    centres = k_means.fit(looks.reshape(-1, patch_codes.NUM_FEATURES), 8)
    codebook = patch_codes.write(str(folder / "codes.npz"), centres, patch_size=16)
    return source, words.Vocabulary(path, text_length=28), codebook


@pytest.fixture(scope="module")
def model(data):
    model = VlMoe(
        width=16, depth=2, num_heads=2, hidden_width=16, patch_size=16, image_size=64,
        fused_blocks=1, text_length=28, vocabulary_size=100, num_experts=2, num_codes=8,
    )  # fmt: skip
    model.use_codebook(data[2])
    return model


def read(data, model, batch_size, num_batches):
    batches = masked_batches(
        data[0], vocabulary=data[1], batch_size=batch_size, seed=0, **model.data_options
    )
    return list(batches.take(num_batches))


def test_floors_are_the_entropy_and_that_given_the_neighbour():
    # Rows of two columns; the right code is the left one plus 2.
    images = np.array([[0, 2, 1, 3], [0, 2, 1, 3], [1, 3, 1, 3], [0, 2, 0, 2]])
    found = code_floors(images, 5)
    counts = np.array([4, 4, 4, 4]) / 16
    assert found["used_codes"] == 4
    assert found["entropy"] == pytest.approx(-(counts * np.log(counts)).sum())
    # Images 0 and 2 count: left 0 once, left 1 three times, each of five codes once more. Images 1
    # and 3 ask for 0 -> 2 three times and for 1 -> 3 once.
    expected = -(3 * np.log(2 / 6) + np.log(4 / 8)) / 4
    assert found["entropy_given_left"] == pytest.approx(expected)


def test_losses_are_those_of_forward_on_the_batches(data, model):
    task = MaskedLosses(data[0], batch_size=10, num_batches=3)
    task.check(model)
    found = task(model, data[1])
    reports = [model.forward(batch, training=False) for batch in read(data, model, 10, 3)]
    for name in ("mlm", "mim", "vlm_text", "vlm_image"):
        losses = [float(report.losses[name]) for report in reports]
        hits = [float(report.metrics[f"{name}_accuracy"]) for report in reports]
        assert found[name] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found[f"{name}_accuracy"] == pytest.approx(np.mean(hits), abs=1e-6)
    images = np.concatenate([batch["lone_image"] for batch in read(data, model, 10, 3)])
    codes = model.patch_targets(tf.constant(images)).numpy()
    assert found["floors"] == code_floors(codes, 8)
    assert task.read[data[0].name]["pairs"] == 30


def test_fusion_is_the_loss_at_hidden_words_with_own_and_other_images(data, model):
    groups = {"colour": COLOURS, "size": ("small", "large")}
    found = Fusion(data[0], words=groups, batch_size=10, num_batches=2)(model, data[1])
    pieces = data[1].pieces()
    for name, group in groups.items():
        wanted = {pieces.index(f"▁{word}") for word in group}
        losses, seen = {"own_image": [], "other_image": []}, []
        for batch in read(data, model, 10, 2):
            batch = {key: value.numpy() for key, value in batch.items()}
            kept = ("text", "text_valid", "text_shown", "text_masked", "text_masked_present")
            texts = {key: tf.constant(batch[key]) for key in kept}
            for which, image in (
                ("own_image", batch["image"]),
                ("other_image", np.concatenate([batch["image"][-1:], batch["image"][:-1]])),
            ):
                streams, _ = model({**texts, "image": tf.constant(image)}, training=False)
                logits = model.word_logits(streams["pair_text"], texts["text_masked"])
                chances = tf.nn.log_softmax(logits).numpy()
                for row in range(10):
                    for number, place in enumerate(batch["text_masked"][row]):
                        word = batch["text"][row, place]
                        hidden = batch["text_shown"][row, place] == model.mask_id
                        if hidden and word in wanted:
                            losses[which].append(-chances[row, number, word])
                            seen += [word] if which == "own_image" else []
        for which, values in losses.items():
            assert found[name][which] == pytest.approx(np.mean(values), rel=1e-4)
        _, counts = np.unique(seen, return_counts=True)
        share = counts / counts.sum()
        assert found[name]["floor"] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-6)


def test_what_cannot_be_measured_is_refused(data, model):
    with pytest.raises(ValueError, match="one piece of the vocabulary.*'colour' with 'mauve'"):
        Fusion(data[0], words={"colour": ("red", "mauve")}, num_batches=1)(model, data[1])
    with pytest.raises(ValueError, match="`words` must be groups of words"):
        Fusion(data[0], words={"colour": ()})
    with pytest.raises(ValueError, match="`batch_size` must be at least 2"):
        Fusion(data[0], words={"colour": COLOURS}, batch_size=1)
    with pytest.raises(TypeError, match="`source` must be a source"):
        MaskedLosses("grid_scenes")
