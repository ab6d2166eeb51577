import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.data import sources
from limoe_tf.model import k_means
from limoe_tf.model.limoe_features import LimoeFeatures
from limoe_tf.model.patch_codes import PatchCodebook
from tests.shared import small_runs, tiny
from tests.shared.record_files import example, jpeg, write, write_pairs
from tpu_jobs import build_patch_codes, gin_files, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = {"num_codes": 6, "patch_size": 8, "image_size": 16, "max_images": 64}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    # 70 images: a first batch of 64 is not all of them.
    path = tmp_path_factory.mktemp("source") / "train.tfrecord"
    return sources.TfrecordSource(write_pairs(path, 70))


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """Returns the path of the file that the command writes, and what it prints."""
    path = tmp_path_factory.mktemp("built") / "new" / "codebook.npz"
    command = [sys.executable, "-m", "tpu_jobs.build_patch_codes", f"--source={source.name}"]
    command += [f"--{name}={value}" for name, value in SETTINGS.items()]
    done = subprocess.run(
        [*command, f"--output={path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return path, done.stdout


def test_the_command_writes_a_codebook_and_says_how_it_is_used(source, built):
    path, printed = built
    codebook = PatchCodebook(path)
    assert codebook.centres.shape == (6, 11) and codebook.patch_size == 8
    assert f"Fitting 6 codes to images of {source.name}: {path}" in printed
    assert "no bad records" in printed
    pattern = rf"wrote {path} \(SHA-256 {codebook.sha256}\): 6 of 6 codes in use, entropy "
    pattern += r"(\S+) nats, given the code on the left (\S+),"
    entropy, given_left = map(float, re.search(pattern, printed).groups())
    # Images are of one grey each, evenly spread: codes are used almost equally often, and the patch
    # on the left tells nearly all.
    assert 1.2 < entropy <= np.log(6) + 5e-4
    assert given_left < 0.75 * entropy


def test_an_existing_file_is_replaced_only_if_asked_for(source, built, tmp_path):
    path = tmp_path / "codebook.npz"
    path.write_bytes(b"precious")
    with pytest.raises(
        ValueError, match="The file exists; --overwrite replaces it. Received: output="
    ):
        build_patch_codes.build(source, path=str(path), **SETTINGS)
    assert path.read_bytes() == b"precious"
    # The same seed gives the same file, by the command or not.
    build_patch_codes.build(source, path=str(path), **SETTINGS, overwrite=True)
    assert path.read_bytes() == built[0].read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["codebook.npz"]


def test_another_seed_gives_other_codes(source, built, tmp_path):
    path = str(tmp_path / "codebook.npz")
    other = build_patch_codes.build(source, path=path, **SETTINGS, seed=1)
    assert other.sha256 == PatchCodebook(path).sha256 != PatchCodebook(built[0]).sha256


def train_without_tasks(name, workdir, bindings):
    gin_files.parse([str(ROOT / "gin" / "runs" / f"{name}.gin")], bindings)
    experiment = gin_files.build()
    experiment.tasks = {}
    train.train(experiment, str(workdir))
    gin.clear_config()
    return experiment.model


def names_in(checkpoint):
    return set(tf.train.load_checkpoint(str(checkpoint)).get_variable_to_shape_map())


def test_codes_of_a_trained_limoe_are_targets_of_a_run_that_goes_on(source, tmp_path):
    workdir, path = tmp_path / "limoe", tmp_path / "codes.npz"
    with small_runs.few_shapes(tmp_path) as bindings:
        train_without_tasks("quickstart", workdir, bindings)
    command = [sys.executable, "-m", "tpu_jobs.build_patch_codes", f"--source={source.name}"]
    command += ["--features=limoe", f"--workdir={workdir}", "--num_codes=6", "--max_images=64"]
    done = subprocess.run(
        [*command, f"--output={path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"Fitting 6 codes to features of images of {source.name}: {path}" in done.stdout
    assert re.search(r"6 of 6 codes in use, entropy \S+ nats, given the code on", done.stdout)
    codebook = PatchCodebook(path)
    # The sizes are the run's: patches of 16 pixels, and a width of 16.
    assert codebook.patch_size == 16 and codebook.centres.shape == (6, 16)
    with small_runs.few_scenes(tmp_path) as bindings:
        bindings = [*bindings, f"experiment.Experiment.codebook = {str(path)!r}"]
        runs = {name: tmp_path / name for name in ("whole", "cut")}
        train_without_tasks("vlmoe_quickstart", runs["whole"], bindings)
        train_without_tasks("vlmoe_quickstart", runs["cut"], [*bindings, "STEPS = 2"])
        model = train_without_tasks("vlmoe_quickstart", runs["cut"], bindings)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, [3, 64, 64, 3]), tf.uint8)
    samples = LimoeFeatures(codebook.model)(images).numpy()
    codes = k_means.nearest(samples, codebook.centres)
    np.testing.assert_array_equal(model.patch_targets(images), codes)
    # The checkpoints know the file and hold nothing of the LIMoE.
    checkpoints = {name: folder / "checkpoints" / "ckpt-4" for name, folder in runs.items()}
    names = names_in(checkpoints["whole"])
    assert names == names_in(checkpoints["cut"])
    whole, cut = (tf.train.load_checkpoint(str(path)) for path in checkpoints.values())
    stored = json.loads(whole.get_tensor("companions/.ATTRIBUTES/VARIABLE_VALUE"))
    assert stored["codebook"] == codebook.sha256
    assert {name for name in names if "patch_codes" in name} == {
        "model/patch_codes/centres/.ATTRIBUTES/VARIABLE_VALUE"
    }
    assert not [name for name in names if "limoe" in name or "features" in name]
    for name in names - {"_CHECKPOINTABLE_OBJECT_GRAPH", "run/settings/.ATTRIBUTES/VARIABLE_VALUE"}:
        np.testing.assert_array_equal(cut.get_tensor(name), whole.get_tensor(name), name)


def test_a_limoe_of_other_sizes_is_refused(source, tmp_path):
    limoe = tiny.limoe(image_size=16)
    with pytest.raises(ValueError, match="must be the LIMoE's, {'patch_size': 4, 'image_size': 16"):
        build_patch_codes.build(source, path=str(tmp_path / "a.npz"), limoe=limoe, **SETTINGS)
    settings = {**SETTINGS, "patch_size": 4}
    codebook = build_patch_codes.build(
        source, path=str(tmp_path / "a.npz"), limoe=limoe, **settings
    )
    assert codebook.centres.shape == (6, 12) and codebook.looks.shape == (6, 11)


def test_bad_records_are_reported_and_captions_not_missed(tmp_path, capsys):
    records = [example(jpg=b"" if i == 9 else jpeg(i)) for i in range(64)]
    source = sources.TfrecordSource(write(tmp_path / "a", records), captions=None)
    path = str(tmp_path / "codebook.npz")
    build_patch_codes.build(source, path=path, **SETTINGS)
    # The window is of 2,048 records, and holds the bad one 32 times.
    assert re.search(r"\d+ x empty image \(\S+/a record 9\)", capsys.readouterr().out)


def test_more_codes_than_patches_that_look_different_are_refused(tmp_path):
    # Five pictures of four patches each.
    records = [example(jpg=jpeg(i % 5, height=16, width=16)) for i in range(64)]
    source = sources.TfrecordSource(write(tmp_path / "a", records), captions=None)
    path = tmp_path / "codebook.npz"
    with pytest.raises(ValueError, match="number of patches that look different. .*=21 for 20"):
        build_patch_codes.build(source, path=str(path), **{**SETTINGS, "num_codes": 21})
    assert not path.exists()
    codebook = build_patch_codes.build(source, path=str(path), **{**SETTINGS, "num_codes": 20})
    assert len(np.unique(codebook.centres, axis=0)) == 20


def test_a_source_without_images_is_refused(tmp_path):
    path = write(tmp_path / "a", [example(caption=b"no picture")])
    source = sources.TfrecordSource(path, image=None)
    with pytest.raises(ValueError, match="A source must have images to train on. Received: .*/a"):
        build_patch_codes.build(source, path=str(tmp_path / "codebook.npz"), **SETTINGS)


def test_files_without_images_are_refused_by_what_is_missing(tmp_path):
    records = [example(caption=b"no picture")] * 3
    source = sources.TfrecordSource(write(tmp_path / "a", records))
    with pytest.raises(ValueError, match=r"may be bad. .* x feature missing .*\[caption\]"):
        build_patch_codes.build(source, path=str(tmp_path / "codebook.npz"), **SETTINGS)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"patch_size": 5}, "must be a multiple of `patch_size`. .* image_size=16, patch_size=5"),
        ({"patch_size": 0}, "`patch_size` must be at least 1"),
        ({"max_images": 63}, "`max_images` must be at least 64"),
        ({"num_codes": 0}, "`num_codes` must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_errors(source, tmp_path, values, message):
    path = str(tmp_path / "codebook.npz")
    with pytest.raises(ValueError, match=message):
        build_patch_codes.build(source, path=path, **{**SETTINGS, **values})
