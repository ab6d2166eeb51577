"""The job that shows what is inside a run's model."""

import csv
import html.parser
import re

import pytest

import gin
from tpu_jobs import analyze, evaluation

class Reader(html.parser.HTMLParser):
    """Collects what a page refers to, its pictures and its choices."""

    def __init__(self):
        super().__init__()
        self.pictures, self.references, self.choices, self.ids = [], [], [], []
        self.figures = self.captions = 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.figures += tag == "figure"
        self.captions += tag == "figcaption"
        self.references += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.pictures.append(attrs.get("alt", ""))
        if tag == "input":
            self.choices.append(attrs["value"])


@pytest.fixture(scope="module")
def page(shapes_run):
    """Analyzes a small run; returns the folder that is written."""
    run, _ = shapes_run
    experiment = evaluation.of_run(str(run))
    path = analyze.analyze(experiment, str(run), output=str(run / "seen"), num_images=20)
    gin.clear_config()
    assert path == str(run / "seen" / "index.html")
    return run / "seen"


def test_the_page_stands_alone(page):
    text = (page / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.references and all(one.startswith("data:image/") for one in reader.references)
    assert not re.search(r"https?://|@import|url\(", text)
    assert reader.pictures and all(reader.pictures)
    assert reader.figures == reader.captions == len(reader.pictures)
    assert len(text) < 5_000_000


def test_each_choice_shows_a_part_of_the_page(page):
    reader = Reader()
    reader.feed((page / "index.html").read_text())
    assert reader.choices == ["block_01", *(f"block_01_expert_{e}" for e in range(8))]
    assert set(reader.choices) <= set(reader.ids)


def test_the_tables_count_every_token(page):
    layers, experts, tokens = (
        list(csv.DictReader((page / f"{name}.csv").read_text().splitlines()))
        for name in ("layers", "experts", "tokens")
    )
    assert [(row["layer"], row["modality"]) for row in layers] == [
        ("block_01", "image"), ("block_01", "text"),
    ]  # fmt: skip
    for row in layers:
        assert int(row["tokens"]) == int(row["choices"]) > 0
        for parts in (experts, tokens):
            mine = [part for part in parts if part["modality"] == row["modality"]]
            assert sum(int(part["choices"]) for part in mine) == int(row["choices"])
            assert sum(int(part["dropped"]) for part in mine) == int(row["dropped"])
    assert {row["kind"] for row in experts} <= {"image", "text", "mixed", "idle"}


def test_every_picture_of_the_page_is_a_file_too(page):
    reader = Reader()
    reader.feed((page / "index.html").read_text())
    assert len(list((page / "images").glob("*.png"))) == len(reader.pictures)


def test_a_source_that_is_not_there_is_an_error(shapes_run):
    run, _ = shapes_run
    experiment = evaluation.of_run(str(run))
    with pytest.raises(ValueError, match="`source` must be one of 'retrieval', 'success_rate'"):
        analyze.analyze(experiment, str(run), source="nonsense")
    gin.clear_config()
