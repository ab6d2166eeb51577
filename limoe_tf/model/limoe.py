"""LIMoE: one Transformer with sparse blocks, shared by images and texts.

Axis letters: B examples, N tokens of a stream, D width, Z embedding size, E experts, K choices.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.model import counts, inputs, sizes
from limoe_tf.model.block import Block
from limoe_tf.model.contrastive import ContrastiveModel
from limoe_tf.model.embed import PatchEmbed, WordEmbed
from limoe_tf.model.encoder import Encoder
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.heads import Head
from limoe_tf.model.per_stream import PerStream
from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.moe.sparse_values import OF_MODELS
from limoe_tf.report import Report

MODALITIES = ("image", "text")
ROUTING = ("shared", "router_per_modality", "experts_per_modality")
CONTRASTIVE = ("softmax", "sigmoid")


@keras.saving.register_keras_serializable(package="limoe_tf")
class Limoe(ContrastiveModel):
    """One tower for images and texts, with experts in the sparse blocks of the plan.

    A batch is a dict: `image` <uint8>[B, H, W, 3], or <float>[B, H, W, 3] in [-1, 1]; `text`
    <int32>[B, N]; `text_valid` <bool>[B, N], False on padding. Either modality may be absent.

    Args:
      width: D.
      depth, num_heads: number of blocks, and of attention heads in each.
      hidden_width: of a dense feed-forward and of each expert.
      patch_size, image_size: sides in pixels; the former divides the latter.
      text_length, vocabulary_size: word pieces of a text (with padding), and in the vocabulary.
      embedding_size: Z; the width if None.
      plan: "dense" or "sparse" for each block; every second block is sparse if None.
      num_experts: E, of each sparse block, or a sequence of a number for each of them.
      num_choices: K, experts per token.
      capacity_factor: slots of an expert in training, in proportion to an even share of the tokens;
        None drops no token.
      inference_capacity_factor: the same at inference.
      normalize_gates: whether the gates of a token's kept choices are divided by their sum.
      group_size: examples whose tokens compete for slots; a replica's whole batch if None.
      dispatch_order: one of `moe.assign.ORDERS`.
      router_noise: in training, noise of standard deviation `router_noise / E`; 0 for none.
      routing: "shared", "router_per_modality", or "experts_per_modality", which gives each modality
        half of the experts and a router of its own.
      modalities: both, or one: the model then has no weights of the other. Training needs both.
      min_experts: dict of the soft minimum of experts in use; None: `balance.default_min_experts`.
      same_expert_init: whether all experts of a layer start from the same values.
      mask_padding: if True, padding takes no slot, is not attended to, and is left out of means and
        losses; if False it is an ordinary token, as in the lab's other models.
      contrastive: "softmax", or "sigmoid" for the loss of SigLIP, which has a learned bias.
      logit_scale: initial inverse temperature.
      max_logit_scale: upper bound of it; None for none.
      logit_bias: initial bias of the sigmoid loss; the softmax loss has none.
      expert_mesh: `mesh.expert_mesh.ExpertMesh` that shards the experts, or its shape, such as
        "data:2;expert:4"; None for one device. Not saved with the model.
      attention_chunks: so many chunks of the examples attend one after another, each computed again
        in the backward pass, so that the tables of scores fit the memory on a TPU chip; 1 for all
        at once, None for a number by their size. Counts where XLA compiles, see `SelfAttention`.
      recompute_blocks: whether blocks are recomputed in the backward pass, see `Encoder`.
      seed: of the routers' noise.

    Reference: https://arxiv.org/abs/2206.02770; https://arxiv.org/abs/2303.15343 (sigmoid loss).
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        hidden_width: int,
        patch_size: int,
        image_size: int,
        text_length: int = 16,
        vocabulary_size: int = 32_000,
        embedding_size: int | None = None,
        plan: Sequence[str] | None = None,
        num_experts: int | Sequence[int] = 8,
        num_choices: int = 1,
        capacity_factor: float | None = 1.05,
        inference_capacity_factor: float | None = None,
        normalize_gates: bool = False,
        group_size: int | None = None,
        dispatch_order: str = "batch_priority",
        router_noise: float = 1.0,
        routing: str = "shared",
        modalities: Sequence[str] = MODALITIES,
        min_experts: Mapping[str, float] | None = None,
        same_expert_init: bool = True,
        mask_padding: bool = False,
        contrastive: str = "softmax",
        logit_scale: float = 10.0,
        max_logit_scale: float | None = None,
        logit_bias: float = -10.0,
        expert_mesh: ExpertMesh | str | None = None,
        attention_chunks: int | None = None,
        recompute_blocks: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        others = ("self", "kwargs", "expert_mesh", "others", "__class__")
        self._config = {name: value for name, value in locals().items() if name not in others}
        self.expert_mesh = ExpertMesh(expert_mesh) if isinstance(expert_mesh, str) else expert_mesh
        self.width = checks.positive_int("width", width)
        self.image_size, self.max_logit_scale = image_size, max_logit_scale
        self.text_length, self.vocabulary_size = text_length, vocabulary_size
        self.embedding_size = width if embedding_size is None else embedding_size
        self.plan = sizes.checked_plan(plan, depth)
        self.num_heads, self.hidden_width, self.mask_padding = num_heads, hidden_width, mask_padding
        if max_logit_scale is not None:
            checks.number_in("max_logit_scale", max_logit_scale, logit_scale)
        checks.one_of("routing", routing, ROUTING)
        self.modalities = tuple(modalities)
        checks.one_of("modalities", self.modalities, (MODALITIES, *zip(MODALITIES)))
        pools = len(self.modalities) if routing == "experts_per_modality" else 1
        self._num_experts = sizes.checked_experts(num_experts, self.plan, pools=pools)
        patches = {"patch_size": patch_size, "image_size": image_size}
        self.image_embed = PatchEmbed(width, **patches, **self._named("image_embed"))
        vocabulary = {"vocabulary_size": vocabulary_size, "text_length": text_length}
        self.text_embed = WordEmbed(width, **vocabulary, **self._named("text_embed"))
        self.encoder = self._make_encoder()
        self.image_head = Head(self.embedding_size, **self._named("image_head"))
        self.text_head = Head(self.embedding_size, **self._named("text_head"))
        checks.number_in("logit_scale", logit_scale, 1e-6)
        checks.one_of("contrastive", contrastive, CONTRASTIVE)
        checks.number_in("logit_bias", logit_bias, -math.inf)
        self.build()

    @classmethod
    def from_size(cls, size: str, **overrides) -> "Limoe":
        """Builds a named architecture.

        Args:
          size: one of the names in `model.sizes`, such as "B/16".
          **overrides: constructor values to add or replace.

        Raises:
          ValueError: if the size is not known.
        """
        return cls(**{**sizes.constructor_values(size), **overrides})

    @property
    def progress_logs(self) -> tuple[str, ...]:
        """The accuracy and, of sparse models, the success rates."""
        rates = ("success_rate_image", "success_rate_text") if "sparse" in self.plan else ()
        return ("accuracy", *rates)

    @property
    def useful_flops(self) -> int:
        """FLOPs of a forward pass of one pair, without empty slots."""
        return self.forward_flops(capacity_factor=1.0)["total"]

    def forward_flops(self, **changes: Any) -> dict[str, int]:
        """Returns FLOPs by part, with empty slots, see `counts.forward_flops`.

        Args:
          **changes: arguments of the constructor for which others count than the model's.
        """
        values = {**self.get_config(), **changes}
        fields = dataclasses.fields(counts.Architecture)
        architecture = counts.Architecture(**{field.name: values[field.name] for field in fields})
        return counts.forward_flops(architecture)

    def _named(self, name):
        return {"name": name, "dtype": self.dtype_policy}

    def _make_encoder(self):
        makers = {"dense": self._dense_feed_forward, "sparse": self._sparse_feed_forward}
        return self._encoder_of(makers[kind] for kind in self.plan)

    def _encoder_of(self, makers, name="encoder"):
        blocks = [
            Block(
                self.num_heads,
                make(number),
                attention_chunks=self._config["attention_chunks"],
                **self._named(f"block_{number:02d}"),
            )
            for number, make in enumerate(makers)
        ]
        return Encoder(blocks, recompute=self._config["recompute_blocks"], **self._named(name))

    def _dense_feed_forward(self, _):
        return DenseFeedForward(self.hidden_width, **self._named("mlp"))

    def _sparse_feed_forward(self, number):
        experts, routing = self._num_experts[number], self._config["routing"]
        if routing != "experts_per_modality":
            routers = "per_modality" if routing == "router_per_modality" else "shared"
            return self._sparse(number, self.modalities, experts, "moe", routers)
        layers = {
            name: self._sparse(number, (name,), experts, name, "shared") for name in self.modalities
        }
        return PerStream(layers, **self._named("moe"))

    def _sparse(self, number, modalities, num_experts, name, routers):
        return SparseFeedForward(
            self.hidden_width,
            num_experts=num_experts,
            routers=routers,
            modalities=modalities,
            seed=self._config["seed"] * len(self.plan) + number,
            expert_mesh=self.expert_mesh,
            min_experts=self._config["min_experts"],
            **{value: self._config[value] for value in OF_MODELS},
            **self._named(name),
        )

    def build(self, input_shape=None):
        shapes = {
            "image": (None, self.image_size, self.image_size, 3),
            "text": (None, self.text_length),
        }
        streams = {}
        for name in self.modalities:  # Layers of another modality stay without weights.
            embed = getattr(self, f"{name}_embed")
            embed.build(shapes[name])
            streams[name] = embed.compute_output_shape(shapes[name])
        self.encoder.build(streams)
        for name, shape in streams.items():
            getattr(self, f"{name}_head").build(shape)
        scale, bias = (self._config[name] for name in ("logit_scale", "logit_bias"))
        self.logit_scale_log = self._scalar("logit_scale_log", math.log(scale))
        has_bias = self._config["contrastive"] == "sigmoid"
        self.logit_bias = self._scalar("logit_bias", bias) if has_bias else None
        self.built = True

    def _scalar(self, name, value):
        start = keras.initializers.Constant(value)
        return self.add_weight(
            name=name, shape=(), initializer=start, dtype="float32", autocast=False
        )

    def call(self, batch: Mapping, training: bool | None = None) -> tuple[dict, Report]:
        """Returns the embeddings and the Report.

        Args:
          batch: see the class.
          training: whether the training capacity factor and the routers' noise apply.

        Returns:
          dict of `image` and `text` <float32>[B, Z] of unit length, each where its modality is in
          the batch, `logit_scale` <float32>[] and, for the sigmoid loss, `logit_bias` <float32>[];
          and the Report of all blocks.
        """
        streams, valid = self._embed(batch)
        streams, report = self.encoder(streams, valid, training=training)
        heads = {"image": self.image_head, "text": self.text_head}
        embeddings = {name: heads[name](stream, valid[name]) for name, stream in streams.items()}
        embeddings["logit_scale"] = self.logit_scale()
        if self.logit_bias is not None:
            embeddings["logit_bias"] = tf.convert_to_tensor(self.logit_bias)
        return embeddings, report

    def check_values(self, batch: Mapping) -> None:
        """Raises unless the pixels and ids of NumPy arrays or eager tensors are in range."""
        inputs.check_values(batch, self.vocabulary_size)

    def _embed(self, batch):
        """Returns streams and their valid flags; the only place that reads a batch's keys."""
        inputs.check_keys(batch, self.modalities)
        streams, valid = {}, {}
        if "image" in batch:
            streams["image"], valid["image"] = self.image_embed(batch["image"]), None
        if "text" in batch:
            streams["text"] = self.text_embed(batch["text"])
            inputs.check_valid(batch["text_valid"], batch["text"])
            valid["text"] = batch["text_valid"] if self.mask_padding else None
        return streams, valid

    def logit_scale(self) -> tf.Tensor:
        """Returns the inverse temperature, <float32>[]."""
        scale = tf.exp(tf.convert_to_tensor(self.logit_scale_log))
        return scale if self.max_logit_scale is None else tf.minimum(scale, self.max_logit_scale)

    def encode_image(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, Z] of images as in a batch, at inference."""
        return self.encode({"image": images})["image"]

    def encode_text(self, text: tf.Tensor, text_valid: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, Z] of texts as in a batch, at inference."""
        return self.encode({"text": text, "text_valid": text_valid})["text"]

    def image_features(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, D], the mean of an image's tokens before the head, at inference."""
        return self.features({"image": images}, training=False)[0]["image"]

    def features(
        self, batch: Mapping, training: bool | None = None
    ) -> tuple[dict[str, tf.Tensor], Report]:
        """Returns the means of each modality's tokens before the head, and the Report.

        Args:
          batch: see the class.
          training: see `call`.

        Returns:
          dict of <float>[B, D], `image` and `text`, where they are in the batch; and the Report.
        """
        streams, valid = self._embed(batch)
        streams, report = self.encoder(streams, valid, training=training)
        heads = {"image": self.image_head, "text": self.text_head}
        pooled = {name: heads[name].pool(one, valid[name]) for name, one in streams.items()}
        return pooled, report

    def get_config(self):
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return {**super().get_config(), **self._config, "dtype": dtype}
