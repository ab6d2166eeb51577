"""What a gin file describes: a model, its data, its training and its evaluation."""

import os
import re

import gin
import keras

from limoe_tf import checks
from limoe_tf.data.batches import all_captions
from limoe_tf.data.words import Vocabulary, train_vocabulary


class Experiment:
    """The parts of a run; a gin file binds each argument.

    Args:
      model: `Limoe` or `TwoTower`.
      optimizer: Keras optimizer.
      train_source: source of the training pairs.
      training_batches: `data.batches.training_batches`, with the bindings of the gin file.
      tasks: dict by name of functions (model, vocabulary) -> dict of numbers, such as
        `evaluate.tasks`.
      batch_size: pairs in a global batch.
      steps: updates of the whole run.
      vocabulary: path of a SentencePiece model; None trains one of the model's size on the training
        captions, in the run's folder.
      loss_weights: weights that differ from `objectives.total.DEFAULT_WEIGHTS`.
      jit_compile: whether XLA compiles the step.
      seed: of the order of the data, of initial values and of noise.
      log_every_steps: steps between two lines of `metrics.jsonl` and points in TensorBoard.
      checkpoint_every_steps: steps between two checkpoints.
      evaluate_every_steps: steps between two evaluations; None evaluates at the end only.
    """

    def __init__(
        self,
        *,
        model,
        optimizer,
        train_source,
        training_batches,
        tasks,
        batch_size,
        steps,
        vocabulary=None,
        loss_weights=None,
        jit_compile=False,
        seed=0,
        log_every_steps=50,
        checkpoint_every_steps=1000,
        evaluate_every_steps=None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.train_source = train_source
        self.training_batches = training_batches
        self.tasks = dict(tasks)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.steps = checks.positive_int("steps", steps)
        self.vocabulary = vocabulary
        self.loss_weights = loss_weights
        self.jit_compile = jit_compile
        self.seed = seed
        self.log_every_steps = log_every_steps
        self.checkpoint_every_steps = checkpoint_every_steps
        self.evaluate_every_steps = evaluate_every_steps

    def load_vocabulary(self, workdir):
        """Returns the Vocabulary, trained first if the gin file names none and there is none yet.

        Raises:
          ValueError: if its size is not the model's.
        """
        path = self.vocabulary or os.path.join(workdir, "vocabulary.model")
        if self.vocabulary is None and not os.path.exists(path):
            print(f"Training a vocabulary of {self.model.vocabulary_size} pieces: {path}", flush=True)
            captions = all_captions(self.train_source)
            train_vocabulary(
                captions, path=path, size=self.model.vocabulary_size, algorithm="bpe"
            )
        vocabulary = Vocabulary(path, text_length=self.model.text_length)
        if vocabulary.size != self.model.vocabulary_size:
            raise ValueError(
                f"The vocabulary must have the model's vocabulary_size="
                f"{self.model.vocabulary_size} pieces. Received: {path!r} with {vocabulary.size}"
            )
        return vocabulary

    def run_tasks(self, vocabulary):
        """Returns the tasks' numbers as a nested dict."""
        return {name: task(self.model, vocabulary) for name, task in self.tasks.items()}


def parse(gin_files, bindings):
    """Reads gin files and single bindings.

    Raises:
      ValueError: if a file is missing or a line of it is wrong.
    """
    for path in gin_files:
        checks.existing_file("gin_file", path)
    try:
        gin.parse_config_files_and_bindings(gin_files, bindings)
    except (ImportError, AttributeError, SyntaxError, LookupError) as error:
        raise ValueError(f"A gin file or binding is wrong: {error}") from error


def build():
    """Returns the Experiment that the parsed gin files describe.

    Raises:
      ValueError: if a line of them has had no use: a mistyped name, or a leftover.
    """
    experiment = gin.get_configurable(Experiment)()
    # A binding may be used under scopes that it does not name, as TrainSource.x in train/TrainSource.x.
    used = _names(gin.operative_config_str())
    # The batches are made later, when the vocabulary is there; Python checks their names then.
    unused = sorted(
        name
        for name in _names(gin.config_str())
        if ".training_batches." not in name and not any(f"/{u}".endswith(f"/{name}") for u in used)
    )
    if unused:
        raise ValueError(f"Every line of a gin file must be of use. Received: unused={unused}")
    return experiment


def _names(text):
    """Returns the bound names of a gin text."""
    return set(re.findall(r"^([\w./]+) *=", text, flags=re.MULTILINE))


def set_seed():
    """Seeds initial values with the gin files' `Experiment.seed`, before the model is built."""
    keras.utils.set_random_seed(gin.get_bindings(Experiment).get("seed", 0))
