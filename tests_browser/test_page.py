"""The page of `tpu_jobs.analyze` in a real browser: layers and experts chosen by mouse and key."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests_browser")]

import tiny
import webdriver
from limoe_tf.analyze import findings, pictures
from limoe_tf.analyze.page import page

VISIBLE = """
return [...document.querySelectorAll("section")].filter(e => e.offsetParent).map(e => e.id)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that shows the page of a model of two sparse layers with four experts."""
    if lacks := webdriver.missing():
        pytest.exit(lacks, returncode=1)
    model = tiny.limoe(plan=("sparse", "sparse"))
    found, _ = findings.find(model, [tiny.tensors(6), tiny.tensors(6, seed=1)])
    text = page(
        found,
        facts={"Model": "a small one"},
        names=[f"piece {number}" for number in range(model.vocabulary_size + 1)],
        comparing=pictures.of_layers(found),
        of_layer={layer: pictures.of_layer(layer, one) for layer, one in found.items()},
        of_experts=pictures.of_experts(found),
    )
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text, "utf-8")
    with webdriver.Browser() as window:
        window.path = path
        yield window


@pytest.fixture(autouse=True)
def opened(browser):
    browser.show_as(width=1200)
    browser.open(browser.path)


def choose(browser, value):
    browser.ask(f"document.querySelector('input[value={value}]').scrollIntoView()")
    browser.click(f"input[value={value}]")


def test_one_layer_and_one_expert_are_shown_at_first(browser):
    assert browser.ask(VISIBLE) == ["block_00", "block_00_expert_0"]


def test_clicks_choose_layers_and_experts(browser):
    choose(browser, "block_01")
    assert browser.ask(VISIBLE) == ["block_01", "block_01_expert_0"]
    choose(browser, "block_01_expert_3")
    assert browser.ask(VISIBLE) == ["block_01", "block_01_expert_3"]
    choose(browser, "block_00")
    assert browser.ask(VISIBLE) == ["block_00", "block_00_expert_0"]
    # The other layer remembers its expert.
    choose(browser, "block_01")
    assert browser.ask(VISIBLE) == ["block_01", "block_01_expert_3"]


def test_keys_choose_too(browser):
    browser.press("tab")
    browser.press("right")
    assert browser.ask(VISIBLE) == ["block_01", "block_01_expert_0"]


def test_pictures_are_drawn_and_nothing_is_fetched(browser):
    drawn = "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
    assert browser.ask(drawn) and all(browser.ask(drawn))
    fetched = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert all(name.startswith("data:") for name in browser.ask(fetched))


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_as_wide_as_the_window(browser, width):
    browser.show_as(width=width)
    assert browser.ask("return document.documentElement.scrollWidth") <= width


def test_the_page_follows_the_colour_scheme(browser):
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.ask(colour)
    browser.show_as(width=1200, dark=True)
    assert light == "rgb(255, 255, 255)" != browser.ask(colour)
