"""The experts: E MLPs of one shape, and the ways to compute them.

Axis letters: E experts, M rows of an expert's buffer, R rows of all, D width, F hidden width.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from limoe_tf import checks, initial
from limoe_tf.mesh import replicas, shards
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.moe.mlp import packed_mlp, padded_mlp
from limoe_tf.xla import in_xla


class PerExpert(keras.initializers.Initializer):
    """Initializes a variable with a leading expert axis, each expert as if it were the only one.

    Args:
      initializer: a random initializer, for the values of one expert.
      same: whether all experts start from the same values.
      first: number of the first expert of the variable.
    """

    def __init__(
        self, initializer: str | keras.initializers.Initializer, *, same: bool, first: int = 0
    ):
        self.initializer = keras.initializers.get(initializer)
        self.same = same
        self.first = first

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> tf.Tensor:
        if self.same:
            return tf.broadcast_to(self.initializer(shape[1:], dtype=dtype), shape)
        # A Keras initializer draws the same values at every call: each expert needs its own seed.
        config, seed = self.initializer.get_config(), self.initializer.seed
        draws = [
            self.initializer.from_config({**config, "seed": seed + self.first + e})
            for e in range(shape[0])
        ]
        return tf.stack([draw(shape[1:], dtype=dtype) for draw in draws])

    def get_config(self):
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "same": self.same,
            "first": self.first,
        }


@keras.saving.register_keras_serializable(package="limoe_tf")
class Experts(keras.layers.Layer):
    """Weights of E MLPs, and their outputs on one device or on a mesh of devices.

    On a mesh of replicas the weights are a replica's own experts, [E / shards, ...] instead of
    [E, ...]; the layer is built with the first shard, and `initial_value` returns those of all.

    Args:
      num_experts: E.
      hidden_width: F.
      same_init: whether all experts start from the same values.
      kernel_stddev, output_stddev: of the initial values of the kernels, and of the last one, see
        `initial.kernel`.
      expert_mesh: `mesh.expert_mesh.ExpertMesh` that shards the experts, or its shape such as
        "data:2;expert:4"; None for one device. It is a property of this process, not of the model:
        `get_config` leaves it out.
    """

    def __init__(
        self,
        num_experts: int,
        hidden_width: int,
        *,
        same_init: bool = True,
        kernel_stddev: float | None = None,
        output_stddev: float | None = None,
        expert_mesh: ExpertMesh | str | None = None,
        name: str = "experts",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.hidden_width = checks.positive_int("hidden_width", hidden_width)
        self.same_init = same_init
        self.kernel_stddev, self.output_stddev = kernel_stddev, output_stddev
        self.expert_mesh = ExpertMesh(expert_mesh) if isinstance(expert_mesh, str) else expert_mesh
        if self.sharded:
            self.expert_mesh.check_num_experts(num_experts)
            self.supports_jit = False  # XLA compiles for one device.

    @property
    def sharded(self) -> bool:
        """Whether the experts are split over several devices."""
        return self.expert_mesh is not None and self.expert_mesh.num_devices > 1

    @property
    def _in_shards(self):
        """Whether each replica has variables of its own experts only."""
        return self.sharded and self.expert_mesh.over_replicas

    @property
    def needs_padding(self) -> bool:
        """Whether shapes must not depend on values: on a mesh, and under XLA."""
        return self.sharded or in_xla()

    def packs(self, num_rows: int | None) -> bool:
        """Returns whether the packed form is used, where shapes allow both.

        The padded form also computes its empty rows, but is faster where an expert has few rows,
        or narrow ones (`python -m benchmarks --only parts` measures both).

        Args:
          num_rows: rows of an expert in the padded form; None if there is no bound, or none known.
        """
        return num_rows is None or (num_rows > 128 and self.hidden_width > 2048)

    def build(self, buffers_shape):
        width, hidden, experts = buffers_shape[-1], self.hidden_width, self.num_experts
        if self.sharded:
            experts = self.expert_mesh.num_local_experts(experts)
        self._initial = {}

        def weight(name, shape, initializer):
            initializer = PerExpert(initializer, same=self.same_init)
            self._initial[name] = (initializer, shape)
            variable = self.add_weight(name=name, shape=(experts, *shape), initializer=initializer)
            # The strategy gave all replicas the first shard. Without a value it has no parts.
            if isinstance(whole := self._whole(variable._value), shards.Whole):
                whole.assign(self.initial_value(name))
            return variable

        tiny = keras.initializers.RandomNormal(stddev=1e-6)
        self.kernel_in = weight("kernel_in", (width, hidden), initial.kernel(self.kernel_stddev))
        self.bias_in = weight("bias_in", (hidden,), tiny)
        self.kernel_out = weight("kernel_out", (hidden, width), initial.kernel(self.output_stddev))
        self.bias_out = weight("bias_out", (width,), tiny)
        self.built = True

    def initial_value(self, name: str) -> tf.Tensor:
        """Returns the initial value of the weight `name`, of all experts: <float>[E, ...]."""
        initializer, shape = self._initial[name]
        return initializer((self.num_experts, *shape))

    def call(
        self,
        buffers: tf.Tensor,
        sizes: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Returns the experts' outputs, of the shape of `buffers`.

        Args:
          buffers: <float>[E, M, D], or packed rows <float>[R, D] with `sizes`.
          sizes: <int32>[E] for packed rows.
          training: whether gradients are computed.
        """
        if sizes is None:
            return self.padded(buffers, self.tensors(), training=training)
        return packed_mlp(buffers, sizes, *self.tensors(), training=training)

    def tensors(self) -> list[tf.Tensor]:
        """Returns the weights as the experts compute with them, for `padded`."""
        names = ("kernel_in", "bias_in", "kernel_out", "bias_out")
        return [tf.convert_to_tensor(getattr(self, name)) for name in names]

    def padded(
        self, buffers: tf.Tensor, tensors: Sequence[tf.Tensor], *, training: bool
    ) -> tf.Tensor:
        """Returns the experts' outputs as a function of weights, too.

        Args:
          buffers: <float>[E, M, D].
          tensors: as of `tensors`.
          training: whether gradients are computed.
        """

        def local(*args):
            return padded_mlp(*args, training=training)

        self._check_replicas()
        if not self.sharded:
            return local(buffers, *tensors)
        context = replicas.current().replica if self._in_shards else None
        return self.expert_mesh.run(local, buffers, tensors, context=context)

    def compute_output_shape(self, buffers_shape):
        return buffers_shape

    def _check_replicas(self):
        """Refuses replicas of another mesh than the one this layer's variables are sharded over."""
        mesh = self.expert_mesh if self._in_shards else None
        if mesh is not replicas.current().mesh:
            raise ValueError(
                "Experts sharded over replicas must run on the replicas of their own mesh. "
                f"Received: a layer for {_named(mesh)}, run on {_named(replicas.current().mesh)}"
            )

    def save_own_variables(self, store):
        """Stores all experts, also those of other replicas."""
        if not self._in_shards:
            return super().save_own_variables(store)
        for number, variable in enumerate(self.weights):
            store[str(number)] = self._whole(variable.value).read()

    def load_own_variables(self, store):
        """Loads what `save_own_variables` stored, on any mesh."""
        if not self._in_shards:
            return super().load_own_variables(store)
        for number, variable in enumerate(self.weights):
            self._whole(variable.value).assign(store[str(number)][...])

    def _whole(self, variable):
        return shards.as_whole(variable, self.expert_mesh)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "hidden_width": self.hidden_width,
            "same_init": self.same_init,
            "kernel_stddev": self.kernel_stddev,
            "output_stddev": self.output_stddev,
        }


def _named(mesh):
    return (
        "replicas that each have all experts"
        if mesh is None
        else f"a mesh of replicas {mesh.shape}"
    )
