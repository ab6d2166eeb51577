"""A model begins with the weights of another: resized, upcycled, with more and fewer experts."""

import shutil

import keras
import numpy as np
import pytest

from limoe_tf import companions
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train import names
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.init_from import init_from
from limoe_tf.train.optimizer import Adafactor, AdamW
from limoe_tf.train.positions import resized_grid, resized_line
from tests.shared import tiny

DENSE = {"depth": 1, "plan": ("dense",)}
SPARSE = {"depth": 1, "plan": ("sparse",)}
EXPERT = "model/encoder/block_00/moe/experts/kernel_in"
ROUTER = "model/encoder/block_00/moe/router/kernel"


def drawn(model, seed=0):
    """Gives all weights random values, so that none is what another model begins with."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(scale=0.5, size=variable.shape))
    model.logit_scale_log.assign(3.0)
    return model


def saved(model, folder, optimizer="sgd", steps=0):
    """Trains some steps, saves a checkpoint, and returns its path."""
    model.compile(optimizer)
    for step in range(steps):
        model.train_step(tiny.tensors(4, seed=step))
    return Checkpoints(model, folder).save()


def values(model):
    return {name: variable.numpy() for name, variable in names.of_weights(model).items()}


def contrast(model, batch, training=True):
    """The contrastive loss of a batch."""
    return float(model.forward(batch, training=training).losses["contrastive"])


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense model and the folder of a run that holds its checkpoint."""
    folder, model = tmp_path_factory.mktemp("dense"), drawn(tiny.limoe(**DENSE))
    saved(model, folder / "checkpoints", AdamW(0.01), steps=2)
    return model, folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A sparse model of four experts, and the path of its checkpoint."""
    model = drawn(tiny.limoe(**SPARSE))
    return model, saved(model, tmp_path_factory.mktemp("sparse"))


@pytest.mark.parametrize("kind", ["run", "folder", "checkpoint", "keras"])
def test_positions_are_resized_and_all_else_is_copied(dense, kind, tmp_path):
    model, folder = dense
    path = {
        "run": folder,
        "folder": folder / "checkpoints",
        "checkpoint": folder / "checkpoints" / "ckpt-2",
        "keras": tmp_path / "model.keras",
    }[kind]
    if kind == "keras":
        model.save(path)
    other = tiny.limoe(**DENSE, image_size=12, text_length=7)
    notes = init_from(other, path)
    assert notes == [
        "image positions: 4 to 9, interpolated",
        "text positions: 5 to 7, interpolated",
    ]
    found, wanted = values(other), values(model)
    table = wanted["model/image_embed/positions"]
    wanted["model/image_embed/positions"] = resized_grid(table, 9)
    wanted["model/text_embed/positions"] = resized_line(wanted["model/text_embed/positions"], 7)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_optimizer_stays_as_it_is_unless_it_is_asked_for(dense):
    model, folder = dense
    other = tiny.limoe(**DENSE, text_length=3)
    other.compile(AdamW(0.02))
    assert init_from(other, folder) == ["text positions: 5 to 3, the first ones"]
    assert not any(np.any(v.numpy()) for v in other.optimizer.variables[2:])
    assert int(other.optimizer.iterations) == 0
    init_from(other, folder, optimizer=True)
    assert int(other.optimizer.iterations) == 2
    assert float(other.optimizer.learning_rate) == pytest.approx(0.02)
    before, after = names.of_state(model), names.of_state(other)
    for name in set(before) - {"optimizer/learning_rate"}:
        if "text_embed/positions/" in name:  # Slots of resized positions begin anew.
            assert not after[name].numpy().any()
        elif not name.endswith("text_embed/positions"):
            np.testing.assert_array_equal(after[name].numpy(), before[name].numpy(), err_msg=name)


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"width": 8}, r"model/encoder/final_norm/beta: float32\[12\], in the model float32\[8\]"),
        (
            {"patch_size": 2},
            r"image_embed/projection/kernel: float32\[48, 12\], in the model .*12,",
        ),
        ({"vocabulary_size": 20}, r"text_embed/embeddings: float32\[19, 12\], in the model"),
        ({"depth": 2, "plan": ("dense",) * 2}, "not in the checkpoint: model/encoder/block_01/att"),
        ({"contrastive": "sigmoid"}, "not in the checkpoint: model/logit_bias"),
        ({"modalities": ("text",)}, "not in the model: model/image_embed/positions"),
        ({"hidden_width": 8, **SPARSE}, r"experts of .*mlp_in/bias: float32\[4, 16\], in the mod"),
    ],
)
def test_what_does_not_match_is_named_and_changes_nothing(dense, changes, fault):
    other = tiny.limoe(**{**DENSE, **changes})
    before = values(other)
    with pytest.raises(ValueError, match=f"(?s)must match it, .*ckpt-2'.*{fault}"):
        init_from(other, dense[1])
    for name, value in values(other).items():
        np.testing.assert_array_equal(value, before[name])


def test_sparse_weights_do_not_fit_a_dense_model(sparse):
    with pytest.raises(ValueError, match="(?s)checkpoint: .*mlp_in/bias.*not in the model: .*moe"):
        init_from(tiny.limoe(**DENSE), sparse[1])


def test_a_vocabulary_goes_along_and_another_one_is_refused(tmp_path):
    model = tiny.limoe(**DENSE, companions={"vocabulary": "a" * 64})
    path = saved(model, tmp_path)
    other = tiny.limoe(**DENSE)
    init_from(other, path)
    assert companions.of(other) == {"vocabulary": "a" * 64}
    strange = tiny.limoe(**DENSE, companions={"vocabulary": "b" * 64})
    before = strange.text_embed.embeddings.numpy()
    with pytest.raises(ValueError, match="must meet the vocabulary .*where the model has bbb"):
        init_from(strange, path)
    np.testing.assert_array_equal(strange.text_embed.embeddings, before)


def test_a_place_without_weights_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "ckpt-3", tmp_path / "model.keras"):
        with pytest.raises(ValueError, match=f"folder of a run .* Received: path='{path}'"):
            init_from(tiny.limoe(**DENSE), path)
    with pytest.raises(ValueError, match="`optimizer` needs a compiled model"):
        init_from(tiny.limoe(**DENSE), tmp_path, optimizer=True)
    with pytest.raises(ValueError, match="`model` must be built"):
        init_from(keras.Sequential(), tmp_path)


@pytest.mark.parametrize("options", [{}, {"num_choices": 2}, {"routing": "experts_per_modality"}])
def test_an_upcycled_model_begins_with_the_loss_of_the_dense_one(dense, options):
    model, folder = dense
    batch = tiny.tensors(6)
    # Room for all tokens at one expert, as in a dense block.
    room = {**SPARSE, "capacity_factor": 4.0, **options}
    upcycled = tiny.limoe(**room, normalize_gates=True)
    (note, *_) = init_from(upcycled, folder)
    assert note.startswith("block_00/moe") and "experts, copies of the dense MLP" in note
    np.testing.assert_allclose(contrast(upcycled, batch), contrast(model, batch), rtol=1e-5)
    # Gates that are not normalized make the block's output smaller.
    plain = tiny.limoe(**room)
    init_from(plain, folder)
    assert abs(contrast(plain, batch) - contrast(model, batch)) > 1e-3


def test_experts_are_copies_and_the_router_is_new(dense):
    model, folder = dense
    upcycled = tiny.limoe(**SPARSE)
    router = values(upcycled)[ROUTER]
    init_from(upcycled, folder)
    found, mlp = values(upcycled), values(model)
    for part, layer in (("in", "mlp_in"), ("out", "mlp_out")):
        for what in ("kernel", "bias"):
            expected = mlp[f"model/encoder/block_00/mlp/{layer}/{what}"]
            for expert in found[f"model/encoder/block_00/moe/experts/{what}_{part}"]:
                np.testing.assert_array_equal(expert, expected)
    np.testing.assert_array_equal(found[ROUTER], router)


@pytest.mark.parametrize(
    "make_optimizer", [AdamW, lambda rate: Adafactor(rate, min_dim_size_to_factor=8)]
)
def test_slots_of_the_dense_mlp_become_those_of_each_expert(make_optimizer, tmp_path):
    model = tiny.limoe(**DENSE)
    path = saved(model, tmp_path, make_optimizer(0.01), steps=2)
    upcycled = tiny.limoe(**SPARSE)
    upcycled.compile(make_optimizer(0.01))
    init_from(upcycled, path, optimizer=True)
    before, after = names.of_state(model), names.of_state(upcycled)
    slots = [name for name in after if name.startswith("optimizer/encoder/block_00/moe/")]
    assert len(slots) >= 2 * 5
    for name in slots:
        if "/router/" in name:
            assert not after[name].numpy().any()
            continue
        variable, slot = name.split("/")[-2:]
        what, end = variable.split("_")
        source = f"optimizer/encoder/block_00/mlp/mlp_{end}/{what}/{slot}"
        for expert in after[name].numpy():
            np.testing.assert_array_equal(expert, before[source].numpy())
    assert int(upcycled.optimizer.iterations) == 2
    assert np.isfinite(float(upcycled.train_step(tiny.tensors(4))["loss"]))


def test_the_state_of_another_optimizer_is_refused(dense):
    for plan in (DENSE, SPARSE):
        other = tiny.limoe(**plan)
        other.compile(Adafactor(0.01))
        with pytest.raises(ValueError, match="not in the checkpoint: optimizer/.*/second_moment"):
            init_from(other, dense[1], optimizer=True)


def test_twice_the_experts_and_choices_answer_as_before(sparse):
    # Each expert and its copy have half of its gate.
    model, path = sparse
    twice = tiny.limoe(**SPARSE, num_experts=8, num_choices=2)
    assert init_from(twice, path) == ["block_00/moe: experts [0, 1, 2, 3, 0, 1, 2, 3] of 4"]
    batch = tiny.tensors(6)
    for name in ("image", "text"):
        expected = model(batch)[0][name]
        np.testing.assert_allclose(twice(batch)[0][name], expected, atol=1e-5)


def test_copies_are_taken_in_turn_and_noise_is_for_those_that_are_there_already(sparse):
    before = values(sparse[0])
    more = tiny.limoe(**SPARSE, num_experts=6)
    init_from(more, sparse[1], noise=0.1)
    found = values(more)
    np.testing.assert_array_equal(found[EXPERT], before[EXPERT][[0, 1, 2, 3, 0, 1]])
    np.testing.assert_array_equal(found[ROUTER][:, :4], before[ROUTER])
    change = found[ROUTER][:, 4:] - before[ROUTER][:, :2]
    assert 0.5 < change.std() / (0.1 * before[ROUTER].std()) < 2 and change.all()
    again = tiny.limoe(**SPARSE, num_experts=6)
    init_from(again, sparse[1], noise=0.1)
    np.testing.assert_array_equal(values(again)[ROUTER], found[ROUTER])


def test_fewer_experts_are_those_that_are_named(sparse):
    before, fewer = values(sparse[0]), tiny.limoe(**SPARSE, num_experts=2)
    with pytest.raises(ValueError, match="block_00/moe: 4 experts, in the model 2; `experts` says"):
        init_from(fewer, sparse[1])
    assert init_from(fewer, sparse[1], experts={0: [3, 1]}) == ["block_00/moe: experts [3, 1] of 4"]
    found = values(fewer)
    np.testing.assert_array_equal(found[EXPERT], before[EXPERT][[3, 1]])
    np.testing.assert_array_equal(found[ROUTER], before[ROUTER][:, [3, 1]])


@pytest.mark.parametrize(
    "experts, fault",
    [
        ({0: [1, 4]}, r"block_00/moe: experts \[1, 4\] of 4, in the model 2"),
        ({0: [1]}, r"block_00/moe: experts \[1\] of 4, in the model 2"),
        ({0: [0, 1], 3: [0, 1]}, "experts: block 3 is not sparse in both"),
    ],
)
def test_experts_that_there_are_not_are_named(sparse, experts, fault):
    with pytest.raises(ValueError, match=fault):
        init_from(tiny.limoe(**SPARSE, num_experts=2), sparse[1], experts=experts)


@pytest.mark.parametrize("mesh", ["data:2;expert:2", "expert:4"])
def test_replicas_that_share_the_experts_begin_as_one_device(sparse, dense, mesh):
    for path in (sparse[1], dense[1]):
        one = tiny.limoe(**SPARSE, num_experts=8)
        with tiny.strategy_of(4).scope():
            spanned = ExpertMesh(mesh, spans="replicas")
            many = tiny.limoe(**SPARSE, num_experts=8, expert_mesh=spanned)
        assert init_from(many, path) == init_from(one, path)
        experts = many.encoder.blocks[0].feed_forward.experts
        whole = one.encoder.blocks[0].feed_forward.experts
        for sharded, expected in zip(experts.trainable_variables, whole.trainable_variables):
            parts = np.split(expected.numpy(), 8 // sharded.shape[0])
            for number, part in enumerate(sharded.value.values):
                np.testing.assert_array_equal(part, parts[spanned.shard_of(number)])
        for part in many.logit_scale_log.value.values:
            np.testing.assert_array_equal(part, one.logit_scale_log)


def test_a_damaged_checkpoint_is_named(sparse, tmp_path):
    folder = shutil.copytree(sparse[1].rpartition("/")[0], tmp_path / "copy")
    data = folder / "ckpt-0.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(OSError, match="Cannot read checkpoint .*ckpt-0"):
        init_from(tiny.limoe(**SPARSE), folder)


def test_vlmoe_begins_at_another_resolution_with_its_class_token_and_with_experts(tmp_path):
    model = tiny.vlmoe(plan=("dense", "dense"))
    path = saved(model, tmp_path)
    other = tiny.vlmoe(plan=("dense", "sparse"), image_size=24)
    notes = init_from(other, path)
    assert notes[0] == "image positions: 17 to 37, interpolated"
    assert all("copies of the dense MLP" in note for note in notes[1:]) and len(notes) == 3
    found, wanted = values(other), values(model)
    table = wanted["model/image_embed/positions"]
    np.testing.assert_array_equal(found["model/image_embed/positions"], resized_grid(table, 37))
    np.testing.assert_array_equal(found["model/image_embed/positions"][0], table[0])
    for modality in ("image", "text"):
        layer = f"model/encoder/block_01/feed_forwards/{modality}"
        for expert in found[f"{layer}/experts/kernel_in"]:
            np.testing.assert_array_equal(expert, wanted[f"{layer}/mlp_in/kernel"])
