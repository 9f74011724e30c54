"""The page of a report as Jinja templates: one file, no script, nothing fetched. Rendered with autoescape on.

A report has a template of its own: it extends ``frame`` by the block ``body`` and imports what it needs from ``parts``.
"""

from __future__ import annotations

from typing import Any

import jinja2

STYLE = """
:root { --ink: #23272e; --soft: #667080; --line: #e2e5e9; --panel: #f7f8fa; --good: #1a7f4b; --bad: #b3363f; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } h4 { font-size: .93rem; margin: 1.1rem 0 .35rem; }
p, li { max-width: 76ch; }
.headline { font-size: 1.15rem; margin: .25rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.notice { background: #fff8e6; border: 1px solid #f0dfae; border-radius: 6px; padding: .6rem .9rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--line); } th:first-child, td:first-child { text-align: left; }
td small { display: block; color: var(--soft); white-space: nowrap; }
td small.wrap { white-space: normal; }
td small.worry { color: var(--bad); font-weight: 600; }
.left th, .left td { text-align: left; }
.named { white-space: nowrap; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.pair { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); }
.sample { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; background: var(--panel); }
.sample header { display: flex; gap: 1rem; align-items: flex-start; }
.sample img { width: 132px; height: 132px; object-fit: contain; background: #fff; border: 1px solid var(--line); }
.sample p { margin: 0 0 .35rem; } .sample td, .sample th { padding: .3rem .45rem; }
.sample td:first-child { white-space: nowrap; }
.sample.wide { grid-column: 1 / -1; }
.answers { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); }
.answers section { border-top: 1px solid var(--line); padding-top: .5rem; min-width: 0; font-size: .93rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.sample p.said { max-height: 24rem; overflow-y: auto; }
details { margin: .35rem 0; font-size: .9rem; } summary { cursor: pointer; color: var(--soft); }
:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
nav ul { columns: 2 18rem; column-gap: 2.5rem; padding-left: 1.2rem; } nav li { break-inside: avoid; }
section.task { margin-top: 3.5rem; border-top: 3px solid var(--line); }
section.task > h2 { border: 0; margin: 0; font-size: 1.35rem; }
@media (max-width: 520px) { main { padding: 1.25rem .8rem 3rem; } th, td { padding: .4rem .45rem; }
  .sample header { flex-wrap: wrap; } .sample td:first-child { white-space: normal; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
  .narrow th + th { writing-mode: vertical-rl; vertical-align: bottom; } .narrow th, .narrow td { padding: .4rem .2rem; }
  .narrow th + th, .narrow td + td { text-align: center; }
  .scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: #fff; } }
@media print { .sample p.said { max-height: none; } }
.question { font-weight: 600; }
.right { color: var(--good); } .wrong { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

FRAME = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</main>
</body>
</html>
"""

PARTS = """\
{% macro figure(source, alt, caption) %}{% if source %}<figure><img src="{{ source }}" alt="{{ alt }}">
<figcaption>{{ caption }}</figcaption></figure>{% endif %}{% endmacro %}

{% macro dot(colour) %}{% if colour %}<span class="dot" style="background: {{ colour }}"></span>{% endif %}{% endmacro %}

{% macro table(heads, rows, narrow=false) %}{# narrow: many columns of short values, whose heads turn on small screens #}
<div class="scroll" tabindex="0" role="region" aria-label="Table"><table{% if narrow %} class="narrow"{% endif %}>
<thead><tr>{% for head in heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>
{%- if cell.colour %}<span class="named">{{ dot(cell.colour) }}{{ cell.value }}</span>
{%- elif cell.strong %}<strong>{{ cell.value }}</strong>{% else %}{{ cell.value }}{% endif %}
{%- if cell.small %}<small{% if cell.wraps %} class="wrap"{% endif %}>{{ cell.small }}</small>{% endif %}
{%- for line in cell.more %}<small>{{ line }}</small>{% endfor %}
{%- if cell.worry %}<small class="worry">{{ cell.worry }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}

{% macro sample(card) %}{# the caller gives the cells of an answer's row #}
<article class="sample">
<header>{% for image in card.images %}<img src="{{ image }}" alt="Image of the question">{% endfor %}
<div><p class="question">{{ card.question }}</p>
{% for note in card.notes %}<p class="soft">{{ note }}</p>{% endfor %}</div></header>
<table class="left"><tbody>{% for answer in card.answers %}<tr>{{ caller(answer) }}</tr>{% endfor %}</tbody></table>
</article>{% endmacro %}

{% macro facts(lists, level=3) %}{% for heading, pairs in lists %}<h{{ level }}>{{ heading }}</h{{ level }}>
<dl>{% for name, value in pairs %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endfor %}{% endmacro %}
"""

_environment = jinja2.Environment(
    loader=jinja2.DictLoader({"frame": FRAME, "parts": PARTS}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def render(template: str, title: str, **values: Any) -> str:
    """Return the page of a report's template."""
    return _environment.from_string(template).render(title=title, style=STYLE, **values)
