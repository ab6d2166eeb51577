"""What a gin file describes: a model, its data, its training and its evaluation."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from limoe_tf import checks, companions, whole_file
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import all_captions
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import Source
from limoe_tf.data.words import UnsuitableSize, Vocabulary, train_vocabulary
from limoe_tf.evaluate import run_tasks
from limoe_tf.mesh import system
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.model import patch_codes, sizes
from limoe_tf.tpu import stateless
from limoe_tf.train.average import steps_to_average
from limoe_tf.train.freeze import frozen as frozen_weights
from tpu_jobs import patch_codebook

_VOCABULARY = "vocabulary.model"
# Arguments of `compile` that some models have, with their defaults.
_DEFAULTS = {"same_text_positives": False, "num_slices": 1}
STEP_OPTIONS = ("loss_weights", *_DEFAULTS)


class Experiment:
    """The parts of a run; a gin file binds each argument.

    Args:
      model: function of `expert_mesh` that makes a `Limoe`, a `TwoTower` or a `VlMoe`.
      optimizer: Keras optimizer.
      train_source: source of the training pairs; a `data.mixture.Mixture` for several.
      training_batches: `data.batches.training_batches`, for a `VlMoe`
        `data.masked_batches.masked_batches`, with the bindings of the gin file.
      tasks: dict by name of functions (model, vocabulary) -> dict of numbers, such as
        `evaluate.tasks`.
      batch_size: pairs in a global batch.
      steps: updates of the whole run.
      vocabulary: path of a SentencePiece model; None trains one of the model's size on the training
        captions and writes it to the run's folder.
      codebook: path of a codebook, for a model whose targets are codes of patches; None fits one to
        images of `train_source` and writes it to the run's folder.
      init_from: what the run begins with: the folder of a run, a checkpoint or a `.keras` file, see
        `train.init_from.init_from`; None for new weights. A run that has checkpoints goes on from
        these.
      init_backbone: what the backbone of a model of `limoe_tf.downstream` begins with, as
        `init_from`; its heads are new. Without `vocabulary`, that of the run at this path is taken.
      init_optimizer, init_noise: `optimizer` and `noise` of that function.
      bad_records: `data.bad_records.BadRecords`, which limits the bad records; None for its default
        limits.
      loss_weights: weights that differ from the `default_weights` of the model.
      same_text_positives: whether pairs with equal texts are positives of each other.
      num_slices: slices of a replica's batch that are computed sequentially.
      freeze: patterns of the names of weights that are not trained, see
        `train.fit.TrainableModel.freeze`; None trains all.
      max_skipped: consecutive steps that may be skipped because they are not finite.
      max_rollbacks: how often the run may roll back to a checkpoint after more than those, and skip
        the batches since then.
      jit_compile: whether XLA compiles the step.
      mesh: how several replicas share the experts, such as "data:4;expert:8"; None for as many
        shards of the experts as fit. One replica holds all experts.
      steps_per_execution: steps per call from the host; must divide `steps` and the steps between
        two logs, checkpoints or evaluations.
      seed: of initial values and of the order of the data.
      log_every_steps: steps between two lines of `metrics.jsonl` and points in TensorBoard.
      checkpoint_every_steps: steps between two checkpoints.
      average_last: number of the last checkpoint steps of the run whose weights are averaged into a
        checkpoint in the folder `averaged`; None for no average.
      evaluate_every_steps: steps between two evaluations; None evaluates at the end only.
    """

    def __init__(
        self,
        *,
        model: Callable[..., keras.Model],
        optimizer: keras.optimizers.Optimizer,
        train_source: Source | Mixture,
        training_batches: Callable[..., tf.data.Dataset],
        tasks: Mapping[str, Callable[..., dict[str, Any]]],
        batch_size: int,
        steps: int,
        vocabulary: str | os.PathLike | None = None,
        codebook: str | os.PathLike | None = None,
        init_from: str | os.PathLike | None = None,
        init_backbone: str | os.PathLike | None = None,
        init_optimizer: bool = False,
        init_noise: float = 0.0,
        bad_records: BadRecords | None = None,
        loss_weights: Mapping[str, float] | None = None,
        same_text_positives: bool = False,
        num_slices: int = 1,
        freeze: str | Sequence[str] | None = None,
        max_skipped: int = 10,
        max_rollbacks: int = 3,
        jit_compile: bool = False,
        mesh: str | None = None,
        steps_per_execution: int = 1,
        seed: int = 0,
        log_every_steps: int = 50,
        checkpoint_every_steps: int = 1000,
        average_last: int | None = None,
        evaluate_every_steps: int | None = None,
    ):
        self.model = _made(model, mesh, seed)
        if freeze is not None:
            self.model.freeze(freeze)
        self.frozen = frozen_weights(self.model)
        self.optimizer = optimizer
        self.train_source, self.training_batches = train_source, training_batches
        self.tasks = run_tasks.checked(tasks)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.steps = checks.positive_int("steps", steps)
        self.vocabulary = vocabulary
        if vocabulary is not None:
            checks.existing_file("vocabulary", vocabulary)
        self.codebook = codebook
        if codebook is not None:
            checks.existing_file("codebook", codebook)
        if init_from is None and (init_optimizer or init_noise):
            raise ValueError(
                "`init_optimizer` and `init_noise` must come with init_from. "
                f"Received: init_optimizer={init_optimizer}, init_noise={init_noise}"
            )
        if init_backbone is not None and (init_from is not None or not _has_backbone(self.model)):
            raise ValueError(
                "`init_backbone` must be for a model of limoe_tf.downstream, and stand alone. "
                f"Received: init_backbone={init_backbone!r}, init_from={init_from!r}, "
                f"{type(self.model).__name__}"
            )
        self.init_backbone = init_backbone
        self.init_from, self.init_optimizer, self.init_noise = init_from, init_optimizer, init_noise
        self.bad_records = BadRecords() if bad_records is None else bad_records
        self.loss_weights = loss_weights
        self.max_skipped = checks.integer_in("max_skipped", max_skipped, 0)
        self.max_rollbacks = checks.integer_in("max_rollbacks", max_rollbacks, 0)
        self.same_text_positives, self.num_slices = same_text_positives, num_slices
        self.jit_compile, self.seed = jit_compile, seed
        self.log_every_steps = checks.positive_int("log_every_steps", log_every_steps)
        self.checkpoint_every_steps = checks.positive_int(
            "checkpoint_every_steps", checkpoint_every_steps
        )
        if average_last is not None:
            steps_to_average(to_step=steps, every_steps=checkpoint_every_steps, last=average_last)
        self.average_last = average_last
        if evaluate_every_steps is not None:
            checks.positive_int("evaluate_every_steps", evaluate_every_steps)
        self.evaluate_every_steps = evaluate_every_steps
        self.steps_per_execution = checks.positive_int("steps_per_execution", steps_per_execution)
        for name in ("steps", "log_every_steps", "checkpoint_every_steps", "evaluate_every_steps"):
            if (getattr(self, name) or 0) % steps_per_execution:
                raise ValueError(
                    f"`steps_per_execution` must divide {name}={getattr(self, name)}. "
                    f"Received: steps_per_execution={steps_per_execution}"
                )

    @property
    def step_options(self) -> dict[str, Any]:
        """The arguments of the model's `compile` that change what a step computes."""
        options = {name: getattr(self, name) for name in _DEFAULTS}
        # A model without them says so if they are asked for.
        found = {
            name: value
            for name, value in options.items()
            if name in self.model.compile_options or value != _DEFAULTS[name]
        }
        return {"loss_weights": self.loss_weights, **found}

    def make_vocabulary(self, workdir: str) -> None:
        """Trains the vocabulary in the run's folder, if none exists there and none is given.

        Raises:
          ValueError: if too many records are bad, or the captions do not suit the vocabulary size.
        """
        path, size = self.vocabulary_path(workdir), self.model.vocabulary_size
        if self.vocabulary is None and not tf.io.gfile.exists(path):
            print(f"Training a vocabulary of {size} pieces: {path}", flush=True)
            captions = all_captions(self.train_source, bad_records=self.bad_records)
            try:
                train_vocabulary(captions, path=path, size=size, algorithm="bpe")
            except UnsuitableSize as error:
                raise ValueError(f"{error}, the model's `vocabulary_size`") from error

    def take_vocabulary(self, workdir: str) -> None:
        """Copies the vocabulary of the run of `init_backbone` to this run, if none is named."""
        given, path = os.path.join(self.init_backbone, _VOCABULARY), self.vocabulary_path(workdir)
        if self.vocabulary is None and tf.io.gfile.exists(given):
            with tf.io.gfile.GFile(given, "rb") as file:
                whole_file.write(path, file.read())

    def load_vocabulary(self, workdir: str, *, weights: str | None = None) -> Vocabulary:
        """Returns the Vocabulary of the run, with which its model belongs from now on.

        Args:
          workdir: folder of the run.
          weights: path of the checkpoint that has been restored; None for new weights.

        Raises:
          ValueError: if there is none, its size is not the model's, or it is another than the one
            with which the weights were trained.
        """
        path, known = self.vocabulary_path(workdir), companions.of(self.model).get("vocabulary")
        if weights and not tf.io.gfile.exists(path):
            raise ValueError(
                "The vocabulary with which weights were trained must be in the folder of the run, "
                "or named by experiment.Experiment.vocabulary. Received: no "
                f"{path!r} for {weights!r}, SHA-256 of its vocabulary {known or 'not known'}"
            )
        vocabulary = Vocabulary(path, text_length=self.model.text_length)
        if vocabulary.size != self.model.vocabulary_size:
            raise ValueError(
                f"The vocabulary must have the model's vocabulary_size="
                f"{self.model.vocabulary_size} pieces. Received: {path!r} with {vocabulary.size}"
            )
        if weights and not known:
            print(f"{weights} does not say what its vocabulary was; taking {path}", flush=True)
        companions.join(self.model, vocabulary=vocabulary)
        return vocabulary

    def vocabulary_path(self, workdir: str) -> str:
        """Returns where the vocabulary of the run is."""
        return self.vocabulary or os.path.join(workdir, _VOCABULARY)

    def load_codebook(self, workdir: str, *, weights: str | None = None) -> None:
        """Gives the model its codebook, if it has codes of patches; fits one if there is none.

        Args:
          workdir: folder of the run.
          weights: path of the checkpoint that has been restored; None for new weights.

        Raises:
          ValueError: if it is not that of the model, or another than the one with which the weights
            were trained.
        """
        if getattr(self.model, "patch_codes", None) is None:
            if self.codebook is not None:
                raise ValueError(
                    "`codebook` is for a model whose targets are codes of patches. "
                    f"Received: codebook={self.codebook!r} for {type(self.model).__name__}"
                )
            return
        path = self.codebook or os.path.join(workdir, "codebook.npz")
        if weights is None and not tf.io.gfile.exists(path):
            patch_codebook.build(
                self.train_source,
                path=path,
                num_codes=self.model.patch_codes.num_codes,
                patch_size=self.model.patch_size,
                image_size=self.model.image_size,
            )
        self.model.use_codebook(patch_codes.PatchCodebook(path))

    def open_batches(
        self,
        vocabulary: Vocabulary,
        *,
        start_step: int = 0,
        record_index: RecordIndex | None = None,
    ) -> tf.data.Dataset:
        """Returns the endless training batches from a step on; bad records go to `bad_records`."""

        def make_batches(input_context):
            return self.training_batches(
                self.train_source,
                vocabulary=vocabulary,
                batch_size=self.batch_size,
                seed=self.seed,
                start_step=start_step,
                bad_records=self.bad_records,
                record_index=record_index,
                input_context=input_context,
                **self.model.data_options,
            )

        return system.distributed(self.model.distribute_strategy, make_batches)

    def run_tasks(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns the tasks' results as of `evaluate.run_tasks.run`; prints what each has read."""
        found, failed = {}, {}
        for name, numbers, reason in run_tasks.each(self.tasks, self.model, vocabulary):
            if reason is not None:
                failed[name] = reason
                print(f"{name} failed: {reason}", flush=True)
                continue
            found[name] = numbers
            for source, read in getattr(self.tasks[name], "read", {}).items():
                counts = [f"{number:,} {of}" for of, number in read.items() if of != "bad_records"]
                print(f"{name}: {', '.join(counts)}, {read['bad_records']}: {source}", flush=True)
        return {**found, "failed": failed} if failed else found


def architecture(model: keras.Model) -> dict[str, Any]:
    """Returns the constructor values of a model, or of the backbone that it has."""
    return (model.backbone if _has_backbone(model) else model).get_config()


def _has_backbone(model):
    return hasattr(model, "backbone")


def _made(make_model, mesh, seed):
    num_replicas, options = system.num_replicas(), {}
    if num_replicas > 1:
        options["expert_mesh"] = replica_mesh(make_model, num_replicas, mesh)
    keras.utils.set_random_seed(seed)
    return make_model(**options)


def replica_mesh(
    make_model: Callable[..., keras.Model], num_replicas: int, shape: str | None = None
) -> ExpertMesh:
    """Returns the `ExpertMesh` of a number of replicas.

    Args:
      make_model: function of `expert_mesh` that makes the model whose experts they share.
      num_replicas: number of replicas.
      shape: such as "data:4;expert:8"; None for the largest number of shards that fits.

    Raises:
      ValueError: if the mesh of that shape does not have `num_replicas` devices.
    """
    mesh = ExpertMesh(shape or _largest_mesh(make_model, num_replicas), spans="replicas")
    if mesh.num_devices != num_replicas:
        raise ValueError(
            f"`mesh` must have a place for each of the {num_replicas} replicas. "
            f"Received: mesh={shape!r}"
        )
    return mesh


def _largest_mesh(make_model, num_replicas):
    with stateless.without_memory():
        values = architecture(make_model(expert_mesh=None))
    plan = sizes.checked_plan(values["plan"], values["depth"])
    if "sparse" not in plan:
        return f"data:{num_replicas}"
    pools = 2 if values.get("routing") == "experts_per_modality" else 1
    given = values["num_experts"]
    experts = [
        count
        for one in (given.values() if isinstance(given, Mapping) else [given])
        for count in sizes.checked_experts(one, plan, pools=pools).values()
    ]
    shards = math.gcd(*experts, num_replicas)
    return f"data:{num_replicas // shards};expert:{shards}"
