"""A pretrained model with a head for a task."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from limoe_tf import companions, report
from limoe_tf.downstream.batches import Fields, Record
from limoe_tf.export.downstream import Signature
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.report import Report
from limoe_tf.train.fit import TrainableModel
from limoe_tf.train.init_from import init_from

_OF_EXPERTS = r"/(experts|router)(_\w+)?/"


class FineTuned(TrainableModel):
    """A backbone and what a task adds to it: the base of the models of `limoe_tf.downstream`.

    A subclass has what raises NotImplementedError here, the attributes below, and `call(batch,
    training) -> (outputs, Report)`, with `outputs` a dict of <float>[B, ...]. Its constructor ends
    with `self.build()`.

    Args:
      backbone: built model, such as `VlMoe` with `masked_heads=False`; or a function that makes it
        of `name` and `expert_mesh`, such as `VlMoe.from_size` with the bindings of a gin file. Its
        weights then have names that begin with "backbone/".
      freeze_experts: whether routers and experts are frozen; `unfreeze` trains them.
      expert_mesh: of a backbone that is to be made; None for one device.

    Attributes:
      images: names of the encoded images of a record.
      texts: dict by name in a batch of the texts of a record that are read as one.
      passes: dict of how often an example is an "image", a "text" and a "pair" of the backbone.
      kept: names of more fields of a record that its `score` takes, where there are any.
      task_losses: names of the losses of the task; `per_replica` has those of its metrics, too.
    """

    images: ClassVar[Sequence[str]] = ()
    texts: ClassVar[Mapping[str, Sequence[str]]] = {}
    passes: ClassVar[Mapping[str, int]] = {}
    kept: ClassVar[Sequence[str]] = ()
    task_losses: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        backbone: TrainableModel | Callable[..., TrainableModel],
        *,
        freeze_experts: bool = True,
        expert_mesh: ExpertMesh | str | None = None,
        **kwargs: Any,
    ):
        if not isinstance(backbone, keras.Model):
            mesh = {} if expert_mesh is None else {"expert_mesh": expert_mesh}
            backbone = backbone(name="backbone", **mesh)
        needed = "pair_features" if "pair" in self.passes else "features"
        if not hasattr(backbone, needed):
            raise TypeError(
                f"The backbone of a {type(self).__name__} must have `{needed}`, as VlMoe has. "
                f"Received: a {type(backbone).__name__}"
            )
        kwargs.setdefault("dtype", backbone.dtype_policy)
        super().__init__(**kwargs)
        self.backbone = backbone
        self.expert_mesh = backbone.expert_mesh
        self.freeze_experts = freeze_experts
        self.image_size = backbone.image_size
        self.text_length, self.vocabulary_size = backbone.text_length, backbone.vocabulary_size

    def build(self, input_shape=None):
        for layer in self.heads:
            if not layer.built:
                layer.build((None, self.backbone.width))
        self.built = True
        if self.freeze_experts and "sparse" in self.backbone.plan:
            self.freeze(_OF_EXPERTS)

    def init_backbone(self, path: str | os.PathLike) -> list[str]:
        """Gives the backbone the weights of a pretrained model; heads of pretraining are left.

        Args:
          path: see `init_from.init_from`, whose rules and errors hold.

        Returns:
          List of what was not merely copied, in words.
        """
        gone = [n for n in self.backbone.head_names if getattr(self.backbone, n, None) is None]
        heads = "|".join(f"{name}/" for name in gone)
        changed = init_from(self.backbone, path, leave=heads or None)
        self.companions = {**self.companions, **companions.of(self.backbone)}
        return changed

    @property
    def heads(self) -> list[keras.layers.Layer]:
        """The layers that the task adds; each is built with the shape of features, [B, D]."""
        raise NotImplementedError

    def labels(self, record: Record) -> dict[str, tf.Tensor]:
        """Returns what training asks of a record, by name in the batch."""
        raise NotImplementedError

    def label_specs(self, size: int | None) -> dict[str, tf.TensorSpec]:
        """Returns the specs of the labels of `size` examples."""
        raise NotImplementedError

    def losses_of(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]) -> Report:
        """Returns the losses and metrics of the task: values of this replica's part of a batch."""
        raise NotImplementedError

    def signatures(self) -> dict[str, Signature]:
        """Returns by name what a SavedModel of it computes of files and strings."""
        raise NotImplementedError

    @property
    def default_weights(self) -> dict[str, float]:
        """1 for the losses of the task; for those of sparse layers the backbone's, 0 if frozen."""
        own, weights = self.backbone.per_replica, self.backbone.default_weights
        routes = any(re.search(_OF_EXPERTS, v.path) for v in self.trainable_variables)
        routing = {name: w if routes else 0.0 for name, w in weights.items() if name not in own}
        return {**routing, **dict.fromkeys(self.task_losses, 1.0)}

    @property
    def progress_logs(self) -> tuple[str, ...]:
        """The metrics of the task."""
        return tuple(name for name in self.per_replica if name not in self.task_losses)

    @property
    def useful_flops(self) -> int:
        """FLOPs of a forward pass of an example, with one expert a token, without the heads."""
        parts = self.backbone.forward_flops(capacity_factor=1.0)
        return sum(number * parts[name] for name, number in self.passes.items())

    @property
    def fields(self) -> Fields:
        """What the task reads of a record."""
        return Fields(self.images, self.texts, self.labels)

    @property
    def data_options(self) -> dict[str, Any]:
        """The `image_size` and the `fields` of `downstream.batches.task_batches`."""
        return {"image_size": self.image_size, "fields": self.fields}

    def forward(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> Report:
        """Returns the Report: the losses and metrics of the task, and those of the backbone."""
        outputs, parts = self(batch, training=training)
        return report.merged([self.losses_of(outputs, batch), parts])

    def batch_spec(self, size: int | None) -> dict[str, tf.TensorSpec]:
        """Returns the specs of a batch of `size` examples by name."""
        side, text = self.image_size, [size, self.text_length]
        specs = {name: tf.TensorSpec([size, side, side, 3], tf.uint8) for name in self.images}
        for name in self.texts:
            specs[name] = tf.TensorSpec(text, tf.int32)
            specs[f"{name}_valid"] = tf.TensorSpec(text, tf.bool)
        return {**specs, **self.label_specs(size)}

    def infer(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the outputs of the model at inference, <float32> each."""
        outputs, _ = self(batch, training=False)
        return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

    def get_config(self) -> dict[str, Any]:
        # What is frozen is kept by name.
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "freeze_experts": False,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return super().from_config({**config, "backbone": backbone}, custom_objects)


def by_example(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns parts [B, ...] as one [parts * B, ...], in which those of an example are neighbours.

    So the groups in which tokens are routed are the same wherever a batch is divided.
    """
    stacked = tf.stack(parts, axis=1)
    sizes = [size if size is not None else -1 for size in parts[0].shape[1:]]
    rows = parts[0].shape[0]
    return tf.reshape(stacked, [-1 if rows is None else rows * len(parts), *sizes])
