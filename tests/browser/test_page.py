"""The page of `tpu_jobs.analyze` in a real browser; `make test-browser` runs this."""

import pytest

from limoe_tf.analyze import findings, page, pictures, tables
from limoe_tf.analyze.overview import overview
from tests.browser import webdriver
from tests.shared import tiny

LAYERS = ("block_00", "block_01")
SHOWN = 'return [...document.querySelectorAll("section")].filter(s => s.checkVisibility())'
BACK = "return getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser():
    with webdriver.Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found, _ = findings.find(tiny.limoe(plan=("sparse", "sparse")), [tiny.tensors(6)])
    names = tables.names_of([f"▁word{number}" for number in range(19)])
    text = page.page(
        found,
        facts={"Data": "random numbers"},
        names=names,
        comparing=pictures.of_layers(found),
        overviews={layer: overview(layer, one, names) for layer, one in found.items()},
        of_layer={layer: pictures.of_layer(layer, one) for layer, one in found.items()},
        of_experts=pictures.of_experts(found),
    )
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, path):
    browser.show_as(width=1200)
    browser.open(path)
    return browser


def shown(browser):
    return browser.ask(f"{SHOWN}.map(s => s.id)")


def test_a_click_shows_each_layer_and_each_of_its_experts(opened):
    assert shown(opened) == ["block_00", "block_00_expert_0"]
    for layer in reversed(LAYERS):
        opened.click(f"input[value={layer}]")
        for expert in (2, 0, 3, 1):
            opened.click(f"input[value={layer}_expert_{expert}]")
            assert shown(opened) == [layer, f"{layer}_expert_{expert}"]


def test_the_keyboard_goes_from_layer_to_layer_and_on_to_experts(opened):
    for _ in range(20):
        opened.press("tab")
        if opened.ask("return document.activeElement.name") == "layer":
            break
    opened.press("right")
    assert shown(opened) == ["block_01", "block_01_expert_0"]
    for _ in range(20):
        opened.press("tab")
        if opened.ask("return document.activeElement.name") == "block_01":
            break
    opened.press("right")
    assert shown(opened) == ["block_01", "block_01_expert_1"]


@pytest.mark.parametrize("dark, ground", [(False, "rgb(255, 255, 255)"), (True, "rgb(20, 23, 26)")])
def test_the_page_follows_the_colour_scheme(opened, dark, ground):
    opened.show_as(width=1200, dark=dark)
    assert opened.ask(BACK) == ground


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_sticks_out_at_any_width(opened, width):
    opened.show_as(width=width)
    for layer in LAYERS:
        opened.click(f"input[value={layer}]")
        assert opened.ask("return innerWidth") == width
        assert opened.ask("return document.documentElement.scrollWidth") <= width


def test_every_picture_is_decoded_and_nothing_is_fetched(opened):
    sizes = opened.ask("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert sizes and all(complete and width > 0 for complete, width in sizes)
    fetched = opened.ask("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
