"""The page of ``annotations.html`` as a Jinja template: one file, no script, nothing fetched. Autoescape is on."""

TEMPLATE = """\
{% macro figure(source, alt, caption) %}{% if source %}<figure><img src="{{ source }}" alt="{{ alt }}">
<figcaption>{{ caption }}</figcaption></figure>{% endif %}{% endmacro %}
{% macro table(heads, rows) %}<div class="scroll"><table>
<thead><tr>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell.value }}
{%- if cell.small %}<small>{{ cell.small }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}
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
<p class="headline">{{ headline }}</p>
<p class="soft">{{ made_with }}</p>
{% for finding in findings %}<p class="notice">Look at this: {{ finding }}</p>
{% else %}<p>None of the checks at the end of this page found anything unusual.</p>
{% endfor %}

<h2>Distribution of each attribute</h2>
{{ figure(distributions, "Bars: share of candidates per value, one panel per attribute and one for the score", score_means) }}
{{ table(attribute_heads, attribute_rows) }}

<h2>Correlations</h2>
{{ figure(correlations, "Matrix of correlations between attributes, score and length",
          "Pearson, over all candidates. A dash: one of the two is constant. Length is counted in words.") }}

{% if position_rows %}<h2>Position</h2>
<p>Candidates are shuffled for every request; a fair judge scores every place alike.</p>
<div class="pair">
{{ figure(positions, "Difference of the score from its prompt's mean, by place in the request", "With 95 % intervals.") }}
{{ table(["Place", "Candidates", "Mean score", "minus prompt's mean"], position_rows) }}
</div>{% endif %}

{% for section in agreements %}<h2>Agreement: {{ section.title }}</h2>
<p>{{ section.text }}</p>
{% if section.rows %}{{ table(section.heads, section.rows) }}{% endif %}
{% if section.pairwise %}<p>{{ section.pairwise }}</p>{% endif %}
{% if section.rows %}<p class="soft">In brackets: 95 % intervals, prompts resampled. Kappa: quadratic weights. A dash: not
defined, since one of the two is constant.</p>{% endif %}{% endfor %}

{% if calls_text %}<h2>Calls</h2>
<p>{{ calls_text }}</p>
{% if failure_rows %}{{ table(["Class of failure", "Calls", "of all"], failure_rows) }}{% endif %}
{{ figure(timeline, "Mean score in the order in which the judgements were made",
          "Mean score of a prompt's candidates over time, with 95 % intervals.") }}{% endif %}

{% if samples %}<h2>Samples</h2>
<p class="soft">{{ samples | length }} prompts, drawn at random.</p>
<div class="samples">{% for sample in samples %}<article class="sample">
<header>{% for image in sample.images %}<img src="{{ image }}" alt="Image of the question">{% endfor %}
<div><p class="question">{{ sample.question }}</p>
{% if sample.reference %}<p class="soft">The judge's own answer: {{ sample.reference }}</p>{% endif %}</div></header>
<table class="left"><tbody>{% for answer in sample.answers %}<tr><td>{{ answer.place }}</td>
<td>{{ answer.text }}<small class="wrap">{{ answer.scores }}</small>
{% if answer.reasoning %}<small class="wrap">{{ answer.reasoning }}</small>{% endif %}</td></tr>{% endfor %}</tbody></table>
</article>{% endfor %}</div>{% endif %}

<h2>How this was made</h2>
{% for heading, facts in fact_lists %}<h3>{{ heading }}</h3>
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endfor %}
<h3>Checks</h3>
<ul>{% for check in checks %}<li>{{ check }}</li>{% endfor %}</ul>
</main>
</body>
</html>
"""
