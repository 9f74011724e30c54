"""What ``annotations.html`` shows, as a template for `reporting.page`."""

TEMPLATE = """\
{% extends "frame" %}
{% from "parts" import facts, figure, sample, table %}
{% block body %}
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
<div class="samples">{% for card in samples %}{% call(answer) sample(card) %}
<td>{{ answer.place }}</td>
<td>{{ answer.text }}<small class="wrap">{{ answer.scores }}</small>
{% if answer.reasoning %}<small class="wrap">{{ answer.reasoning }}</small>{% endif %}</td>
{% endcall %}{% endfor %}</div>{% endif %}

<h2>How this was made</h2>
{{ facts(fact_lists) }}
<h3>Checks</h3>
<ul>{% for check in checks %}<li>{{ check }}</li>{% endfor %}</ul>
{% endblock %}
"""
