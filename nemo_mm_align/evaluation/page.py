"""The report's page as a Jinja template: one file, no script, nothing fetched. Rendered with autoescape on."""

STYLE = """
:root { --ink: #23272e; --soft: #667080; --line: #e2e5e9; --panel: #f7f8fa; --good: #1a7f4b; --bad: #b3363f; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
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
.left th, .left td { text-align: left; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.pair { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 470px), 1fr)); }
.sample { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; background: var(--panel); }
.sample header { display: flex; gap: 1rem; align-items: flex-start; }
.sample img { width: 132px; height: 132px; object-fit: contain; background: #fff; border: 1px solid var(--line); }
.sample p { margin: 0 0 .35rem; } .sample td, .sample th { padding: .3rem .45rem; }
.question { font-weight: 600; }
.right { color: var(--good); } .wrong { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

TEMPLATE = """\
{% macro td(cell) %}<td>{{ cell.value }}{% if cell.small %}<small>{{ cell.small }}</small>{% endif %}</td>{% endmacro %}
{% macro figure(source, alt, caption) %}{% if source %}<figure><img src="{{ source }}" alt="{{ alt }}">
<figcaption>{{ caption }}</figcaption></figure>{% endif %}{% endmacro %}
{% macro heads(names) %}<tr>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>{% endmacro %}
{% macro cells(values) %}<tr>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>{% endmacro %}
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
{% for sentence in headline %}<p class="headline">{{ sentence }}</p>
{% endfor %}
<p class="soft">{{ basis }}</p>
{% if missing %}<p class="notice">Not run, and therefore not in the tables and plots: {{ missing }}.</p>{% endif %}
{% for note in notes %}<p class="notice">{{ note }}</p>{% endfor %}

<h2>Methods on held-out prompts</h2>
<div class="scroll"><table>
<thead><tr><th>Method</th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>
<td><span class="dot" style="background: {{ row.colour }}"></span>{{ row.label }}
{%- if row.asked %}<small class="wrap">asked {{ row.asked }}</small>{% endif %}</td>
{% for cell in row.cells %}{{ td(cell) }}{% endfor %}
</tr>{% endfor %}
</tbody></table></div>
<p class="soft">{{ score_means }} Hallucination: questions about something that is not in the image, answered as if it
were (lower is better). Text: instructions without an image that were followed. In brackets: 95 % intervals
{{ interval_basis }}. Differences to the base are paired.</p>
{% for sentence in cautions %}<p>{{ sentence }}</p>
{% endfor %}
{{ figure(shares_plot, "Bars of the shares in the table above, per method", "") }}

{% if attributes_plot %}<h2>Judged attributes</h2>
{{ figure(attributes_plot, "Bars of the mean judged value of every attribute, per method",
          "Mean of the judge's values. " ~ taste) }}
<div class="scroll"><table>
<thead><tr><th>Method</th>{% for name in attribute_names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr><td><span class="dot" style="background: {{ row.colour }}"></span>{{ row.label }}</td>
{% for cell in row.attributes %}{{ td(cell) }}{% endfor %}
</tr>{% endfor %}</tbody></table></div>{% endif %}

{% if steering_plot %}<h2>Steering: asked against judged</h2>
{{ figure(steering_plot, "Curves of asked against judged values, per attribute, with the diagonal", "One attribute is "
          ~ "asked at each value, the others at their defaults. The dashed diagonal is perfect obedience.") }}
<div class="scroll"><table>
<thead><tr><th>Attribute</th><th>Spearman</th><th>per seed</th>
{% for value in steering_values %}<th>asked {{ value }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in steering_rows %}<tr><td>{{ row.name }}</td>
{{ td(row.spearman) }}
<td>{{ row.per_seed }}</td>
{% for cell in row.cells %}{{ td(cell) }}{% endfor %}
</tr>{% endfor %}</tbody></table></div>
<p class="soft">Cells: mean judged value, and how many answers it rests on. Spearman's rank correlation over single
answers: 1 is perfect obedience, 0 none.</p>{% endif %}

{% if lengths_plot or text_plot %}<h2>Length and language ability</h2>
<div class="pair">
{{ figure(lengths_plot, "Bars of the mean answer length, per method", "Length of answers about images.") }}
{{ figure(text_plot, "Bars of the share of text instructions followed, by stage",
          "What visual tuning and each method leave of the ability to follow text instructions.") }}
</div>{% endif %}

{% if losses_plot %}<h2>Training curves</h2>
{{ figure(losses_plot, "Training loss against optimizer step, one panel per method",
          "Losses of different methods measure different things; compare within a panel only.") }}{% endif %}

{% if samples %}<h2>Sample answers</h2>
<p class="soft">{{ sample_note }}</p>
<div class="samples">{% for sample in samples %}<article class="sample">
<header>{% for image in sample.images %}<img src="{{ image }}" alt="Image of the question">{% endfor %}
<div><p class="question">{{ sample.question }}</p>
{% if sample.reference %}<p class="soft">Reference: {{ sample.reference }}</p>{% endif %}
{% if sample.note %}<p class="soft">{{ sample.note }}</p>{% endif %}</div></header>
<table class="left"><tbody>{% for answer in sample.answers %}<tr>
<td><span class="dot" style="background: {{ answer.colour }}"></span>{{ answer.label }}</td>
<td>{{ answer.text }}<small class="wrap"><span class="{{ answer.verdict }}">{{ answer.verdict }}</span>:
{{ answer.scores }}</small></td></tr>{% endfor %}</tbody></table>
</article>{% endfor %}</div>{% endif %}

<h2>How this was made</h2>
{% if training_rows %}<div class="scroll"><table>
<thead>{{ heads(["Method", "Examples", "Epochs", "Optimizer steps", "Seconds", "Settings"]) }}</thead>
<tbody>{% for row in training_rows %}{{ cells(row) }}{% endfor %}</tbody>
</table></div>{% endif %}
{% if layout_rows %}<h3>Layout, as the ranks reported it</h3>
<div class="scroll"><table>
<thead>{{ heads(["Stage", "Processes", "Tensor", "Pipeline", "Data"]) }}</thead>
<tbody>{% for row in layout_rows %}{{ cells(row) }}{% endfor %}</tbody>
</table></div>{% endif %}
{% for heading, facts in fact_lists %}<h3>{{ heading }}</h3>
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endfor %}
</main>
</body>
</html>
"""
