"""Trains the rows of the papers' comparison, sparse and dense models of equal cost, and reports.

    .venv/bin/python -m benchmarks.papers [--only icons] [--seeds 0 1 2] [--dry_run]

A row is a gin file in a folder of gin/papers, which is that of its data. Each run is a job in a
folder of its own: started again, this goes on where it was ended. Every number of finished runs,
and their curves, are kept in docs/papers.json, which makes the tables and curves of
docs/results.md; what stands there with the same command is not trained again.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
from benchmarks import jobs, papers_report
from limoe_tf import whole_file
from limoe_tf.evaluate.results import flatten
from tpu_jobs import gin_files

ROWS = jobs.ROOT / "gin" / "papers"
FOUND = jobs.ROOT / "docs" / "papers.json"


class Run(NamedTuple):
    """A row of some data, trained with a seed and a learning rate; None for the row's own rate."""

    data: str
    row: str
    seed: int
    rate: float | None

    @property
    def gin_file(self) -> str:
        """The gin file of the row, from the root of the repository."""
        return f"gin/papers/{self.data}/{self.row}.gin"

    @property
    def lines(self) -> list[str]:
        """The lines of gin by which the run differs from its row."""
        rate = [] if self.rate is None else [f"LEARNING_RATE = {self.rate:g}"]
        return [f"experiment.Experiment.seed = {self.seed}", *rate]

    @property
    def name(self) -> str:
        """The folder of the run, in that of all runs."""
        rate = "" if self.rate is None else f"_rate_{self.rate:g}"
        return f"{self.data}/{self.row}{rate}_seed_{self.seed}"


def runs_of(only: Sequence[str], seeds: Sequence[int], rates: Sequence[float | None]) -> list[Run]:
    """Returns all runs: of each seed all rows, so that early ones can be compared.

    Args:
      only: names of data, such as "icons", or of rows, such as "icons/dense"; empty for all.
      seeds: of the runs.
      rates: learning rates; None is the rate that the row names.

    Raises:
      ValueError: if there is no such data or row.
    """
    rows = sorted(path.relative_to(ROWS).with_suffix("").parts for path in ROWS.glob("*/*.gin"))
    known = {*("/".join(row) for row in rows), *(data for data, _ in rows)}
    if unknown := sorted({*only} - known):
        raise ValueError(f"`only` must be among {', '.join(sorted(known))}. Received: {unknown}")
    wanted = [row for row in rows if not only or {row[0], "/".join(row)} & {*only}]
    return [Run(*row, seed, rate) for seed in seeds for rate in rates for row in wanted]


def cost(run: Run, lines: Sequence[str] = ()) -> dict[str, int]:
    """Returns what a run costs, without reading its data.

    Args:
      run: Run.
      lines: more lines of gin.

    Returns:
      dict of `flops_per_pair`, of a forward pass, `parameters`, `steps` and `batch_size`.
    """
    gin_files.parse([run.gin_file], [*run.lines, *lines])
    bound = gin.get_bindings("Experiment", resolve_references=False)
    made = {name: bound[name].scoped_configurable_fn() for name in ("model", "steps", "batch_size")}
    gin.clear_config()
    model = made.pop("model")
    flops = model.forward_flops()["total"]
    return {"flops_per_pair": flops, "parameters": model.num_parameters, **made}


def command_of(run: Run, lines: Sequence[str] = ()) -> str:
    """Returns the command that repeats a run."""
    lines = [f"--gin_param={line}" for line in (*run.lines, *lines)]
    command = ["python", "-m", "tpu_jobs.train", f"--gin_file={run.gin_file}"]
    return shlex.join([*command, f"--workdir=runs/papers/{run.name}", *lines])


def commit() -> str:
    """Returns the commit of this checkout, with a plus sign if files have been changed since."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=jobs.ROOT, capture_output=True, text=True).stdout

    return git("rev-parse", "--short", "HEAD").strip() + "+" * bool(git("status", "--porcelain"))


def measure(
    runs: Sequence[Run],
    folder: pathlib.Path,
    *,
    lines: Sequence[str] = (),
    kept: pathlib.Path = FOUND,
) -> list[dict[str, Any]]:
    """Trains what is not trained yet; writes what is found after each run.

    Args:
      runs: of `runs_of`.
      folder: where the runs go.
      lines: more lines of gin, of all runs.
      kept: JSON file of what is found; the runs in it that have the same command are not repeated.

    Returns:
      list of a dict for each run of the file: its fields, `commit`, `command`, `cost`, `results`
      and `curve`, see `papers_report.curve`.
    """
    known = {run["name"]: run for run in finished(kept)}
    for number, run in enumerate(runs):
        price, workdir, command = cost(run, lines), folder / run.name, command_of(run, lines)
        if known.get(run.name, {}).get("command") == command:
            continue
        made_by = "unknown"
        if jobs.results_of(workdir, price["steps"]) is None:
            print(f"{run.name}, run {number + 1} of {len(runs)}", flush=True)
            made_by, settings = commit(), [*run.lines, *lines]
            workdir.parent.mkdir(parents=True, exist_ok=True)
            jobs.train(run.gin_file, settings, workdir, name=run.name, steps=price["steps"])
        found = {"commit": made_by, "command": command, "cost": price}
        found["results"] = flatten(jobs.results_of(workdir, price["steps"]))
        found["curve"] = papers_report.curve(workdir, price["batch_size"])
        known[run.name] = {"name": run.name, **run._asdict(), **found}
        lines_of_runs = ",\n".join(map(json.dumps, known.values()))
        whole_file.write(kept, f"[\n{lines_of_runs}\n]\n".encode())
    return list(known.values())


def finished(kept: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what `measure` has written, or an empty list."""
    return json.loads(kept.read_text("utf-8")) if kept.exists() else []


def rate(finished: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the FLOPs of a second that finished runs have had, or None if there is none."""
    seconds = sum(run["results"]["seconds_of_training"] for run in finished)
    flops = sum(papers_report.flops_of(run["cost"]) for run in finished)
    return flops / seconds if seconds else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="data or rows: icons, icons/dense")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[None], help="learning rates")
    parser.add_argument("--gin_param", nargs="+", default=[], help="more lines of gin, of all runs")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/papers"))
    parser.add_argument("--dry_run", action="store_true", help="print what the runs would cost")
    parser.add_argument("--docs", type=pathlib.Path, help="docs/results.md, to write the tables to")
    options = parser.parse_args()
    try:
        runs = runs_of(options.only, options.seeds, options.rates)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.dry_run:
        print(
            papers_report.costs(
                [(run.name, cost(run, options.gin_param)) for run in runs], rate(finished(FOUND))
            )
        )
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    found = measure(runs, options.folder, lines=options.gin_param)
    print(papers_report.tables(found))
    if options.docs:
        papers_report.write(found, options.docs)


if __name__ == "__main__":
    main()
