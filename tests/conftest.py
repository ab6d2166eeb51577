"""Every test sees eight logical CPU devices, so that none about replicas or meshes is skipped."""

import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Almost every compiled program of the tests runs once, on small arrays: LLVM's optimizations take
# longer than they save. What XLA itself does with a program (fusion, layouts, precision) stays.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import tpu_jobs  # noqa: F401, I001 (first: it keeps libtpu from looking for a metadata server)
import pytest
import tensorflow as tf

LOGICAL_CPUS = 8
# Each needs more than `make test` installs, and has a target of its own.
collect_ignore = ["browser", "tpu"]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS,
)
# For the same reason graphs run as they were traced. Jobs that tests start as separate processes
# rewrite theirs, as a user's do.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

make_strategy = tf.distribute.MirroredStrategy.__init__


def with_keys_of_its_own(strategy, *arguments, **named):
    """Makes a strategy whose collectives no other strategy of the process has named.

    Otherwise a strategy with another number of devices is refused, and every one after it.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    make_strategy(strategy, *arguments, **named)


tf.distribute.MirroredStrategy.__init__ = with_keys_of_its_own


@pytest.fixture(autouse=True)
def fresh_keras():
    """Gives each test the same names and random numbers, and the float32 policy back."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def first_shapes_run(tmp_path_factory):
    """Trains quickstart.gin on a few shapes; returns the folder of the run and its bindings."""
    from tests.shared.small_runs import ROOT, call, few_shapes
    from tpu_jobs import train

    folder = tmp_path_factory.mktemp("shapes")
    with few_shapes(folder) as bindings:
        assert call(train, ROOT / "gin/runs/quickstart.gin", folder / "run", bindings) == 0
    return folder / "run", bindings


@pytest.fixture(scope="session")
def first_vlmoe_run(tmp_path_factory):
    """Trains vlmoe_quickstart.gin on a few scenes; returns the folder of the run and its lines."""
    from tests.shared.small_runs import ROOT, call, few_scenes
    from tpu_jobs import train

    folder = tmp_path_factory.mktemp("scenes")
    with few_scenes(folder / "data") as bindings:
        assert call(train, ROOT / "gin/runs/vlmoe_quickstart.gin", folder / "run", bindings) == 0
    return folder / "run", bindings


@pytest.fixture(scope="module")
def vlmoe_run(first_vlmoe_run, tmp_path_factory):
    """Returns a copy of that run, which the tests of a module may change, and its lines."""
    folder, bindings = first_vlmoe_run
    return shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "run"), bindings


@pytest.fixture(scope="module")
def shapes_run(first_shapes_run, tmp_path_factory):
    """Returns a copy of that run, which the tests of a module may change, and its bindings."""
    folder, bindings = first_shapes_run
    return shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "run"), bindings
