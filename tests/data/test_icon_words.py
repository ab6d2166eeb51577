import pytest

from limoe_tf.data import icon_words


def styles(names=(), title="A Set", **others):
    return icon_words.Styles({"info": {"name": title}, "icons": dict.fromkeys(names), **others})


@pytest.mark.parametrize(
    "name, words, style",
    [
        ("account-arrow-left", "account arrow left", ""),
        ("home-24-regular", "home", ""),
        ("home-24-filled", "home", "filled"),
        ("home-line-duotone", "home", "line duotone"),
        # A word of the name stays.
        ("line-duotone", "line", "duotone"),
        ("duotone", "duotone", ""),
        ("arrow-2-24-filled", "arrow 2", "filled"),
    ],
)
def test_listed_endings_are_the_style_without_its_sizes(name, words, style):
    titles = {"24-regular": "", "24-filled": "", "duotone": "", "line-duotone": ""}
    parsed = styles(suffixes=titles).parse(name)
    assert parsed == (words, style)
    assert parsed.caption == f"{words} {style}".strip()


@pytest.mark.parametrize(
    "title, style", [("Outline 24x24", "outline"), ("Regular", ""), ("Line", "line")]
)
def test_the_title_of_the_style_without_an_ending_is_its_word(title, style):
    parsed = styles(suffixes={"": title, "solid": "Solid"}).parse("home")
    assert parsed == ("home", style)


def test_listed_beginnings_are_the_style_too():
    parse = styles(prefixes={"baseline": "Baseline", "twotone": "Two-Tone"}).parse
    assert parse("twotone-arrow-left") == ("arrow left", "twotone")
    assert parse("baseline-home") == ("home", "")


def test_a_word_for_a_style_is_one_where_enough_names_end_in_it():
    # Of 100 names 4 end in "outline", 3 in "line", 5 in "14".
    names = [f"a{i}-{end}" for end, n in (("outline", 4), ("line", 3), ("14", 5)) for i in range(n)]
    parse = styles([*names, *(f"b{i}" for i in range(88))]).parse
    assert parse("home-outline") == ("home", "outline")
    assert parse("chart-line") == ("chart line", "")
    assert parse("bench-14") == ("bench", "")
    assert parse("home-outline-14") == ("home", "outline")
    assert parse("home-two-tone") == ("home", "two tone")
    assert parse("outline") == ("outline", "")


def test_the_title_of_the_set_has_the_style_if_the_name_has_none():
    parse = styles(["a-filled"], title="Some Icons Solid").parse
    assert parse("home") == ("home", "solid")
    assert parse("home-filled") == ("home", "filled")


@pytest.mark.parametrize(
    "name, thing, key",
    [
        ("arrow left", "arrow left", "arrowleft"),
        ("arrowleft", "arrowleft", "arrowleft"),
        ("arrow left 2 01", "arrow left", "arrowleft"),
        ("2 24", "2", "2"),
    ],
)
def test_spellings_and_drawings_of_one_thing_have_one_key(name, thing, key):
    assert icon_words.Words(name, "filled").thing == thing
    assert icon_words.key_of(thing) == key


@pytest.mark.parametrize("name", ["1", "1111", "a", "x 2", "1f600", "00a9", "1f1e6 1f1f9"])
def test_numbers_characters_and_code_points_say_nothing(name):
    assert icon_words.says_nothing(name)


@pytest.mark.parametrize("name", ["tv", "3d", "4k", "2fa", "h 1 b tag", "facade", "at"])
def test_words_say_something(name):
    assert not icon_words.says_nothing(name)


def test_codes_say_nothing_in_sets_of_flags():
    for name in ("at", "es pv", "lang en", "gb eng", "en us extra"):
        assert icon_words.says_nothing(name, prefix="flag")
    for name in ("flag austria", "united nations", "mizoram"):
        assert not icon_words.says_nothing(name, prefix="flag")


def test_names_of_countries_are_read_from_emojis():
    chars = {"1f1e6-1f1f9": "flag-austria", "1f600": "grinning-face", "2049-fe0f": "mark"}
    others = {"1f1e6-1f1f9": "flag-for-austria"}
    found = icon_words.countries([{}, {"chars": chars}, {"chars": others}])
    assert found == {"at": "flag austria"}
