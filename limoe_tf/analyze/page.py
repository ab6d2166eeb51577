"""The report as one self-contained HTML file."""

import base64
import html
from collections.abc import Mapping, Sequence

from limoe_tf.analyze.findings import Findings
from limoe_tf.analyze.pictures import Picture

_WORDS, _DROPPED = 20, 8

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1d20; --soft: #5a6169; --line: #d5d9de;
  --pick: #1d5c94; --picked: #fff; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --ink: #e4e6e9; --soft: #a2a9b1;
  --line: #3a4047; --pick: #8fc1ee; --picked: #10151a; }
  .chart { filter: brightness(1.6); } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 .5em; } h1 { margin-top: .3em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.side { display: grid; gap: 1.2rem 2rem; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 20rem), 1fr)); align-items: start; }
figure { margin: 0; max-width: 30rem; } .whole figure { max-width: none; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .875rem; }
fieldset { border: 0; margin: 0 0 1rem; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem; }
legend { padding: 0; margin-bottom: .3rem; font-weight: 600; }
label { border: 1px solid var(--line); border-radius: .4rem; padding: .45rem .7rem; cursor: pointer;
  display: flex; gap: .4rem; align-items: center; }
label small { color: var(--soft); }
label:has(:checked) { background: var(--pick); border-color: var(--pick); color: var(--picked); }
label:has(:checked) small { color: inherit; }
label:has(:focus-visible) { outline: 3px solid var(--ink); outline-offset: 2px; }
input { margin: 0; accent-color: currentColor; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .925rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
summary { cursor: pointer; padding: .4rem 0; }
[hidden] { display: none; }
"""
# Without the script everything is shown.
_SCRIPT = """
for (const group of document.querySelectorAll("fieldset")) {
  const show = () => {
    for (const input of group.querySelectorAll("input"))
      document.getElementById(input.value).hidden = !input.checked;
  };
  group.addEventListener("change", show);
  show();
}
"""


def page(
    found: Mapping[str, Findings],
    *,
    facts: Mapping[str, str],
    names: Sequence[str],
    comparing: Sequence[Picture],
    overviews: Mapping[str, Picture],
    of_layer: Mapping[str, Sequence[Picture]],
    of_experts: Mapping[str, Sequence[Picture | None]],
) -> str:
    """Returns the report as HTML.

    Args:
      found: dict of `findings.Findings` by layer.
      facts: dict of strings by strings, shown at the top.
      names: list of the labels of the text tokens.
      comparing: `pictures.Picture`s that compare all layers.
      overviews: dict of Pictures by layer, of all its experts.
      of_layer: dict of lists of Pictures by layer.
      of_experts: dict of lists by layer of a Picture or None for each expert.
    """
    head = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    ids = {layer: layer.replace("/", "_") for layer in found}
    choice = _choice("Layer", "layer", {ids[layer]: (layer, "") for layer in found})
    sections = "".join(
        _layer(layer, ids[layer], one, names, overviews[layer], of_layer[layer], of_experts[layer])
        for layer, one in found.items()
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Inside a sparse model</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Inside a sparse model</h1>\n<dl>{head}</dl>\n"
        f'<h2>All layers</h2>\n<div class="side">{"".join(map(_figure, comparing))}</div>\n'
        f"<h2>One layer</h2>\n{choice}\n{sections}\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _layer(layer, layer_id, found, names, overview, pictures, of_experts):
    words = found.experts
    labels = {
        f"{layer_id}_expert_{number}": (str(number), word) for number, word in enumerate(words)
    }
    experts = "".join(
        _expert(layer, f"{layer_id}_expert_{number}", number, found, names, of_experts[number])
        for number in range(len(words))
    )
    texts = found.of_modality("text")
    dropped = _dropped(texts, names) if texts else ""
    return (
        f'<section id="{layer_id}">\n<h3>{_text(layer)}</h3>\n'
        f'<div class="whole">{_figure(overview, is_chart=False)}</div>\n'
        f'<div class="side">{"".join(map(_figure, pictures))}{dropped}</div>\n'
        f"<details><summary>All experts in numbers</summary>{_numbers(found)}</details>\n"
        f"{_choice(f'Expert of {layer}', layer_id, labels)}\n{experts}</section>\n"
    )


def _expert(layer, expert_id, number, found, names, picture):
    parts = [_figure(picture)] if picture else []
    if texts := found.of_modality("text"):
        rows = [
            (names[kind], f"{count:,}", f"{share:.0%}")
            for kind, count, share in texts.typical(number, _WORDS)
        ]
        caption = f"Typical word pieces of expert {number}: its tokens, and their share of all"
        nothing = f"<p>No text token goes to expert {number}.</p>"
        parts.append(_table(caption, ("piece", "tokens", "of all"), rows) if rows else nothing)
    return (
        f'<section id="{expert_id}">\n<h4>{_text(layer)}, expert {number}: '
        f'{found.experts[number]}</h4>\n<div class="side">{"".join(parts)}</div>\n</section>\n'
    )


def _numbers(found):
    names = list(found.tallies)
    heads = ["expert", "kind", *(f"{name}, %" for name in names), *(f"{n} dropped" for n in names)]
    shares = [tally.shares() for tally in found.tallies.values()]
    dropped = [tally.dropped.sum(axis=1) for tally in found.tallies.values()]
    rows = [
        (number, word, *(f"{100 * s[number]:.1f}" for s in shares), *(d[number] for d in dropped))
        for number, word in enumerate(found.experts)
    ]
    return _table("Share of each modality's tokens, and tokens dropped", heads, rows)


def _dropped(tally, names):
    rows = [
        (names[kind], f"{count:,}", f"{share:.1%}")
        for kind, count, share in tally.most_dropped(_DROPPED)
    ]
    if not rows:
        return "<p>No text token is dropped.</p>"
    return _table("Most dropped word pieces", ("piece", "dropped", "of its tokens"), rows)


def _choice(legend, name, labels):
    """Returns radio buttons, of which the checked one selects what is shown."""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (not number)}>'
        f"{_text(label)}{f' <small>{word}</small>' if word else ''}</label>"
        for number, (value, (label, word)) in enumerate(labels.items())
    )
    return f"<fieldset><legend>{_text(legend)}</legend>{buttons}</fieldset>"


def _figure(picture, is_chart=None):
    kind = "png" if picture.data.startswith(b"\x89PNG") else "jpeg"
    is_chart = kind == "png" if is_chart is None else is_chart
    look = ' class="chart"' if is_chart else ""
    data = base64.b64encode(picture.data).decode("ascii")
    return (
        f'<figure><img{look} src="data:image/{kind};base64,{data}" '
        f'alt="{_text(picture.alternative)}">'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>\n"
    )


def _table(caption, heads, rows):
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_text(c)}</td>' for c in row)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _text(value):
    return html.escape(str(value))
