"""What `benchmarks.papers` shows: costs, tables of means over seeds, curves of the losses."""

import collections
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks import timing
from limoe_tf.train.callbacks import read_records

MARKS = ("<!-- papers: begin -->", "<!-- papers: end -->")
# By the names of results; a row shows those that it has.
SHOWN = {
    "zero_shot/all": "zero-shot",
    "zero_shot/all_top_5": "top 5",
    "zero_shot/seen": "zero-shot, seen",
    "zero_shot/unseen": "never seen",
    "retrieval/text_to_image/recall_at_1": "text to image R@1",
    "retrieval/text_to_image/recall_at_10": "R@10",
    "retrieval/image_to_text/recall_at_1": "image to text R@1",
    "retrieval/image_to_text/recall_at_10": "R@10 ",
    "masked/mlm": "MLM, nats",
    "masked/mim": "MIM, nats",
    "masked/vlm_text": "VLM, words",
    "masked/vlm_image": "VLM, patches",
    "fusion/colour/own_image": "hidden colours",
    "fusion/shape/own_image": "hidden shapes",
}
_LOSSES = tuple(name for name in SHOWN if name.startswith(("masked/", "fusion/")))
# Forward and backward pass.
_PASSES = 3
_POINTS_OF_CURVE = 200


def flops_of(cost: Mapping[str, int]) -> int:
    """Returns the floating-point operations of a run, of what `papers.cost` returns."""
    return _PASSES * cost["flops_per_pair"] * cost["batch_size"] * cost["steps"]


def costs(runs: Sequence[tuple[str, Mapping[str, int]]], flops_per_second: float | None) -> str:
    """Returns a table of what runs cost.

    Args:
      runs: names, with what `papers.cost` returns.
      flops_per_second: of finished runs; None leaves the hours out.
    """
    rows = []
    for name, cost in runs:
        flops = flops_of(cost)
        hours = "" if flops_per_second is None else f"{flops / flops_per_second / 3600:.1f}"
        rows.append([name, f"{cost['flops_per_pair'] / 1e6:.1f}", f"{cost['parameters'] / 1e6:.1f}",
                     f"{cost['steps']:,}", f"{flops / 1e12:,.0f}", hours])  # fmt: skip
    columns = ["run", "MFLOP of a pair, forward", "M parameters", "steps", "TFLOP in all", "hours"]
    return timing.grid(columns, rows)


def by_row(found: Sequence[Mapping[str, Any]]) -> dict[tuple, list[Mapping[str, Any]]]:
    """Returns the runs of all seeds, by (data, row, rate)."""
    groups = collections.defaultdict(list)
    for run in found:
        groups[run["data"], run["row"], run["rate"]].append(run)
    return groups


def _by_data(found):
    """Returns the runs of each of the data, in the order of their names."""
    names = sorted({run["data"] for run in found})
    return {name: [run for run in found if run["data"] == name] for name in names}


def tables(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table in Markdown for each of the data: means of seeds, with the largest distance.

    Args:
      found: as of `papers.measure`.
    """
    texts = []
    for data, of_data in _by_data(found).items():
        shown = [name for name in SHOWN if any(name in run["results"] for run in of_data)]
        rows = [_line(key, runs, shown) for key, runs in by_row(of_data).items()]
        columns = ["", "seeds", "MFLOP", "M parameters", *(SHOWN[name] for name in shown)]
        commands = "\n".join(f"{run['command']}  # {run['commit']}" for run in of_data)
        texts.append(f"### {data}\n\n{timing.grid(columns, rows)}\n\n```text\n{commands}\n```")
    return "\n\n".join(texts)


def _line(key, runs, shown):
    _, row, rate = key
    name = row if rate is None else f"{row}, rate {rate:g}"
    cost = runs[0]["cost"]
    cells = [f"{cost['flops_per_pair'] / 1e6:.1f}", f"{cost['parameters'] / 1e6:.1f}"]
    return [name, str(len(runs)), *cells, *(_mean(runs, result) for result in shown)]


def _mean(runs, result):
    values = [run["results"][result] for run in runs]
    middle = np.mean(values)
    factor, decimals, unit = (1, 3, "") if result in _LOSSES else (100, 1, " %")
    largest = factor * np.abs(values - middle).max()
    spread = f" ± {largest:.{decimals}f}" if len(values) > 1 else ""
    return f"{factor * middle:.{decimals}f}{spread}{unit}"


def curves(found: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws the losses of runs over their pairs, as an SVG.

    Args:
      found: runs of one data set, as of `papers.measure`.
      path: of the picture.
    """
    with matplotlib.rc_context({"svg.hashsalt": "papers", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        for number, (key, runs) in enumerate(by_row(found).items()):
            for run in runs:
                label = " ".join(map(str, filter(None, key[1:]))) if run is runs[0] else None
                axes.plot(*run["curve"], color=f"C{number}", linewidth=1, label=label)
        axes.set(xlabel="pairs", ylabel=_drawn_loss(found[0]), yscale="log")
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


def _drawn_loss(run):
    return "loss of masked patches" if "masked/mim" in run["results"] else "contrastive loss"


def curve(workdir: pathlib.Path, batch_size: int) -> list[list[float]]:
    """Returns the pairs that a run has seen, and its losses: means of neighbours, 200 are left."""
    records = read_records(str(workdir / "metrics.jsonl"))
    together = max(1, len(records) // _POINTS_OF_CURVE)
    whole = len(records) // together * together
    loss = "mim" if "mim" in records[0] else "contrastive"
    values = [[record["step"] * batch_size, record[loss]] for record in records[:whole]]
    return np.reshape(values, [-1, together, 2]).mean(axis=1).T.round(4).tolist()


def write(found: Sequence[Mapping[str, Any]], docs: pathlib.Path) -> None:
    """Writes tables and curves into a page, between `MARKS`, and the pictures beside it.

    Args:
      found: as of `papers.measure`.
      docs: the page, in a folder that has a folder `images`.

    Raises:
      ValueError: if the page has no such marks.
    """
    page = docs.read_text("utf-8")
    if any(page.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"`docs` must have each of the lines {MARKS} once. Received: {docs}")
    pictures = []
    for data, of_data in _by_data(found).items():
        picture = f"images/papers_{data}.svg"
        curves(of_data, docs.parent / picture)
        pictures.append(f"![The {_drawn_loss(of_data[0])} on {data}, by row]({picture})")
    begin, end = (page.index(mark) for mark in MARKS)
    body = "\n\n".join([MARKS[0], tables(found), *pictures, ""])
    docs.write_text(page[:begin] + body + page[end:], "utf-8")
