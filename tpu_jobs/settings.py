"""What a run was trained with so far, and what of it a start with other gin lines changes.

All that a gin file says takes effect at once when a run goes on, but what only a beginning can
use, which is refused. A line on the screen and the comments of `config.gin` name what has changed
and when.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping

import tensorflow as tf

import gin
from limoe_tf.data.mixture import Mixture
from tpu_jobs.experiment import Experiment

DATA = "data"
# What draws or sets the values that a model begins with.
_OF_THE_BEGINNING = re.compile(
    r"(Experiment\.(seed|init_\w+)|\.logit_(scale|bias)|\.same_expert_init)$"
)
_OF_THE_ORDER = re.compile(
    rf"(Experiment\.(batch_size|train_source)|\.shuffle_window|Mixture\.(parts|weights)|^{DATA})$"
)
_MACRO = re.compile(r"%([\w./]+)")
_NOTE = "# Until step"


class Settings:
    """The settings of a run, with those that were in effect before.

    `variable` belongs in the run's checkpoints: `Checkpoints(..., others={"run/settings":
    settings.variable})`. So what a run is compared with is what its checkpoint was trained with.

    Args:
      now: dict of the settings of this start, values as texts, see `read`.
      bound: names of those that gin files and flags name; the others have defaults, which another
        version of the package may have added.
    """

    def __init__(self, now: Mapping[str, str], *, bound: Collection[str]):
        self.now, self.bound = now, bound
        self.before = []
        self.variable = tf.Variable("{}", name="settings")

    def go_on(self, step: int, *, config: str = "") -> None:
        """Takes over what the restored checkpoint says; prints what is another from here on.

        Args:
          step: that of the checkpoint.
          config: text of the run's `config.gin`, which stands in for a checkpoint that does not
            know its settings.

        Raises:
          ValueError: if a setting differs that only the beginning of a run can use.
        """
        stored = json.loads(self.variable.numpy())
        # What this start has noted stays where a rollback leads to a checkpoint without settings.
        self.before = stored.get("before", self.before)
        changed = self._changed(stored.get("now") or parse(config))
        fixed = [name for name in changed if _OF_THE_BEGINNING.search(name)]
        # A checkpoint of step 0 without settings is of imported weights, which nothing has drawn.
        if fixed and (stored or step > 0):
            raise ValueError(
                "What a run begins with must stay as it was, or another folder be named. "
                f"Received: {self._listed(changed, fixed)}"
            )
        if changed and step > 0:
            self.before = [*self.before, [step, changed]]
            print(f"Other settings from step {step} on: {self._listed(changed)}", flush=True)
            if any(_OF_THE_ORDER.search(name) for name in changed):
                print(
                    "So the order of the data is another one: that of a run which had these "
                    f"settings from the start, from step {step} on. Pairs may come again or not "
                    "at all in this pass over them.",
                    flush=True,
                )
        self.begin()

    def begin(self) -> None:
        """Puts the settings where the next checkpoint finds them."""
        self.variable.assign(json.dumps({"now": self.now, "before": self.before}))

    def notes(self) -> str:
        """Returns comments for `config.gin` that say what was in effect before."""
        notes = [
            f"{_NOTE} {step}: {_shown(name, value)}"
            for step, changed in self.before
            for name, value in sorted(changed.items())
        ]
        # A checkpoint may be a stranger's: a second line of a text in it would be one of gin.
        return "".join(" ".join(note.splitlines()) + "\n" for note in notes)

    def _changed(self, before):
        """Returns the dict of the earlier values, None where there was none."""
        both = {name: before.get(name) for name in before.keys() | self.now}
        return {
            name: value
            for name, value in sorted(both.items())
            if value != self.now.get(name) and self._is_told(name, before)
        }

    def _is_told(self, name, before):
        """Returns whether a differing setting says something that no other says."""
        if name in before and name in self.now:
            return True
        # A configurable that is used here or there only: what refers to it differs too.
        if not all(any(_owner(n) == _owner(name) for n in one) for one in (before, self.now)):
            return False
        return name in before or name in self.bound

    def _listed(self, changed, names=None):
        return "; ".join(
            f"{_shown(name, self.now.get(name))} (was {_or_none(changed[name])})"
            for name in names or changed
        )


def read(experiment: Experiment) -> Settings:
    """Returns the Settings that the parsed gin files describe, and of the training data's files."""
    now = parse(gin.operative_config_str())
    now[DATA] = _fingerprint(experiment.train_source)
    return Settings(now, bound=parse(gin.config_str()).keys())


def parse(text: str) -> dict[str, str]:
    """Returns the bindings of a text as gin writes it, name to value, with macros filled in."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    statements = []
    for line in lines:
        if line.startswith(" ") and statements:
            statements[-1] = f"{statements[-1].removesuffix(chr(92)).rstrip()} {line.strip()}"
        else:
            statements.append(line)
    pairs = [one.partition(" = ")[::2] for one in statements if " = " in one]
    bindings = {name.strip(): value.strip() for name, value in pairs}
    macros = {name: value for name, value in bindings.items() if "." not in name}
    return {
        name: _MACRO.sub(lambda found: macros.get(found[1], found[0]), value)
        for name, value in bindings.items()
        if name not in macros
    }


def _fingerprint(source):
    """Returns in a few words by which files a source's order is known, wherever they lie."""
    parts = source.parts.values() if isinstance(source, Mixture) else [source]
    files = [file for part in parts for file in part.files]
    known = [[file.path.rpartition("/")[2], file.first, file.count] for file in files]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
    return f"{len(files)} files, {digest}"


def _owner(name):
    return name.rpartition(".")[0]


def _shown(name, value):
    return f"{name} = {_or_none(value)}"


def _or_none(value):
    return "not set" if value is None else value
