"""The command that says whether a gin file's step compiles for a slice and fits it."""

import subprocess
import sys

import pytest

from tests.tpu.conftest import ROOT

B16 = ["TRAIN_FILES = ''", "TEST_FILES = ''", "VOCABULARY = ''"]


def run(gin_file, topology, global_batch, *flags, bindings=()):
    command = [sys.executable, "-m", "tpu_jobs.compile_check", f"--gin_file=gin/runs/{gin_file}"]
    command += [f"--topology={topology}", f"--global_batch={global_batch}", *flags]
    command += [f"--gin_param={binding}" for binding in bindings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_quickstart_fits_and_is_held_against_the_dense_model():
    done = run("quickstart.gin", "v5e:2x4", 128)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("v5e:2x4: 8 chips")
    # Two sparse layers: to the experts and back, forward and backward.
    assert "all-to-all            8 among 8" in done.stdout
    assert "times as long" in done.stdout.splitlines()[-1]


def test_b16_fits_at_the_batch_of_the_paper():
    # 128 pairs a chip, as 128 chips have of 16,384.
    done = run("b16.gin", "v5e:4x8", 4096, "--nocompare_dense", bindings=B16)
    assert done.returncode == 0, done.stderr
    # Six sparse layers with the 32 experts on 32 chips.
    assert "among 32" in done.stdout and "of 16 GiB" in done.stdout


def test_a_step_that_does_not_fit_is_an_error_that_names_the_largest_buffers():
    names = ("depth = 1", "plan = ('dense',)", "attention_chunks = 1")
    shallow = [f"limoe.Limoe.from_size.{name}" for name in names]
    done = run("b16.gin", "v5e:2x2", 16_384, "--nocompare_dense", bindings=B16 + shallow)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if "largest buffers" in line)
    assert "[4096,12,196,196]" in "".join(lines[first + 1 :])  # Attention within 4,096 images.
    assert lines[-1].startswith("error: The step does not fit a chip of v5e:2x2: it needs ")


def test_the_options_of_the_job_are_compiled():
    slices = ["experiment.Experiment.num_slices = 3"]
    done = run("quickstart.gin", "v5e:2x4", 128, "--nocompare_dense", bindings=slices)
    assert done.returncode == 1
    assert "`num_slices` must divide the 16 pairs of a replica's batch" in done.stderr


@pytest.mark.parametrize(
    "topology, global_batch, flags, message",
    [
        ("v9:2x2", 128, [], "`chip of topology` must be one of 'v4', 'v5e', 'v5p', 'v6e'"),
        ("v5e:3x3", 9, ["--mesh=data:9"], "`topology` must be a slice that there is"),
        ("v5e:2x4", 100, [], "`global_batch` must be divisible by the 8 replicas"),
        ("v5e:2x4", 128, ["--mesh=data:4"], "a place for each of the 8 replicas"),
        ("v5e:4x4", 128, ["--mesh=expert:16"], "`num_experts` must be divisible by the size 16"),
    ],
)
def test_what_cannot_be_compiled_is_one_line_of_error(topology, global_batch, flags, message):
    done = run("quickstart.gin", topology, global_batch, *flags)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("tpu", ["local", "no-such-tpu"])
def test_a_tpu_that_is_not_there_is_one_line_of_error(tpu, tmp_path):
    command = [sys.executable, "-m", "tpu_jobs.train", "--gin_file=gin/runs/quickstart.gin"]
    command += [f"--tpu={tpu}", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: `tpu` must be 'local' on a TPU VM, or ")
    assert f"tpu={tpu!r}" in done.stderr
