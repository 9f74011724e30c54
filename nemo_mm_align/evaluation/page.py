"""What report.html shows, as templates for `reporting.page`: macros for one task's section, and the page of a single task."""

MACROS = """\
{% from "parts" import dot, facts, figure, sample, table %}
{% macro verdict(answer) %}{% if answer.verdict %}<span class="{{ answer.verdict }}">{{ answer.verdict }}</span>: {% endif %}
{{ answer.scores }}{% endmacro %}

{% macro judgements(answer) %}{% if answer.judgements %}<details><summary>What the judge said</summary>
{% for text in answer.judgements %}<p class="said">{{ text }}</p>{% endfor %}</details>{% endif %}{% endmacro %}

{% macro side_by_side(card) %}<article class="sample wide">
<header>{% for image in card.images %}<img src="{{ image }}" alt="Image of the question">{% endfor %}
<div><p class="question said">{{ card.question }}</p>
{% for question in card.follow_ups %}<p class="question said">Turn {{ loop.index + 1 }}: {{ question }}</p>{% endfor %}
{% for note in card.notes %}<p class="soft said">{{ note }}</p>{% endfor %}</div></header>
<div class="answers">{% for answer in card.answers %}<section>
<p><strong>{{ dot(answer.colour) }}{{ answer.label }}</strong></p>
{% for text in answer.turns %}{% if answer.turns | length > 1 %}<p class="soft">Turn {{ loop.index }}</p>{% endif %}
<p class="said" tabindex="0">{{ text }}</p>{% endfor %}
<p class="soft">{{ verdict(answer) }}</p>{{ judgements(answer) }}</section>{% endfor %}</div>
</article>{% endmacro %}

{% macro section(s, level, missing="") %}
{% for sentence in s.headline %}<p class="headline">{{ sentence }}</p>
{% endfor %}
<p class="soft">{{ s.basis }}</p>
{% if missing %}<p class="notice">Not run, and therefore not in the tables and plots: {{ missing }}.</p>{% endif %}

{% for sentence in s.regressions %}<p class="notice"><strong class="wrong">Regression.</strong> {{ sentence }}</p>
{% endfor %}
{% if s.regression_note %}<p class="soft">{{ s.regression_note }}</p>{% endif %}
{% for note in s.notes %}<p class="notice">{{ note }}</p>{% endfor %}

{% if s.steered %}<h{{ level }}>The same question at several settings</h{{ level }}>
<p class="soft">Held-out questions, drawn at random; one attribute is asked at each of its values, the others at their
defaults.</p>
<div class="samples">{% for card in s.steered %}{% call(answer) sample(card) %}
<td>{{ answer.asked }}</td>
<td>{{ answer.text }}<small class="wrap">judged {{ answer.scores }}</small></td>{% endcall %}{% endfor %}</div>{% endif %}

<h{{ level }}>Methods on held-out prompts</h{{ level }}>
{{ table(s.method_heads, s.method_rows) }}
<p class="soft">{% for about in s.abouts %}{{ about }} {% endfor %}In brackets: 95 % intervals {{ s.interval_basis }}. Differences
to the base are paired. {{ s.tests_basis }}</p>
{% for sentence in s.cautions %}<p>{{ sentence }}</p>
{% endfor %}
{{ figure(s.shares_plot, "Bars of the shares in the table above, per method", "") }}

{% for one in s.breakdowns %}<h{{ level }}>{{ one.label }}</h{{ level }}>
{% if one.about %}<p class="soft">{{ one.about }}</p>{% endif %}

{{ table(one.heads, one.rows) }}
{% endfor %}

{% if s.attributes_plot %}<h{{ level }}>Judged attributes</h{{ level }}>
{{ figure(s.attributes_plot, "Bars of the mean judged value of every attribute, per method",
          "Mean of the judge's values. " ~ s.taste) }}
{{ table(s.attribute_heads, s.attribute_rows) }}{% endif %}

{% if s.steering_plot %}<h{{ level }}>Steering: asked against judged</h{{ level }}>
{{ figure(s.steering_plot, "Curves of asked against judged values, per attribute, with the diagonal", "One attribute is "
          ~ "asked at each value, the others at their defaults. The dashed diagonal is perfect obedience.") }}
{{ table(s.steering_heads, s.steering_rows) }}
<p class="soft">Spearman's rank correlation of asked and judged over single answers: 1 is perfect obedience, 0 none; at equal
length: with the number of words held constant. Cross-talk: change of another attribute's judged value per step asked.
Score: of the answers at each asked value. Slope: change of the judged value per step asked. Never against: share of prompts whose
judged value never falls as more is asked for; strictly: rises at every step. Range: largest less smallest mean.</p>
{% for one in s.cross_talk %}<h{{ level + 1 }}>{{ dot(one.colour) }}{{ one.label }}: {{ s.cross_talk_title }}</h{{ level + 1 }}>
{% if loop.first %}<p class="soft">{{ s.cross_talk_about }}</p>{% endif %}
{{ table(one.heads, one.rows, narrow=true) }}{% endfor %}{% endif %}

{% if s.length_score_plot %}<h{{ level }}>Score against length</h{{ level }}>
{{ figure(s.length_score_plot, "Mean score of answers from short to long, a line per method", "Answers in bins of equal size, "
          ~ "from short to long. Lines that lie apart differ at the same length; lines that rise say that length pays.") }}
{% endif %}

{% if s.lengths_plot or s.text_plot %}<h{{ level }}>Length{% if s.text_plot %} and language ability{% endif %}</h{{ level }}>
<div class="pair">
{{ figure(s.lengths_plot, "Bars of the mean answer length, per method", "Words per answer, where they are counted.") }}
{{ figure(s.text_plot, "Bars of the share of text instructions followed, by stage",
          "What visual tuning and each method leave of the ability to follow text instructions.") }}
</div>{% endif %}

{% if s.losses_plot %}<h{{ level }}>Training curves</h{{ level }}>
{{ figure(s.losses_plot, "Training loss against optimizer step, one panel per method",
          "Losses of different methods measure different things; compare within a panel only.") }}{% endif %}

{% if s.health %}<h{{ level }}>Health of the trainings</h{{ level }}>
<p class="soft">What each training found in its own curves: a deserved look, not a proven fault. Compared are the first and the
last fifth of its steps.</p>
{% for card in s.health %}<h{{ level + 1 }}>{{ dot(card.colour) }}{{ card.label }}: {{ card.verdict }} after
{{ card.steps }} steps</h{{ level + 1 }}>
<ul>{% for text, worry in card.findings %}<li>{% if worry %}<strong class="wrong">{{ text }}</strong>{% else %}{{ text }}
{%- endif %}</li>
{% endfor %}</ul>{% endfor %}{% endif %}

{% if s.samples %}<h{{ level }}>Sample answers</h{{ level }}>
<p class="soft">{{ s.sample_note }}</p>
<div class="samples">{% for card in s.samples %}{% if card.wide %}{{ side_by_side(card) }}{% else %}
{% call(answer) sample(card) %}
<td>{{ dot(answer.colour) }}{{ answer.label }}</td>
<td>{{ answer.text }}<small class="wrap">{{ verdict(answer) }}</small>{{ judgements(answer) }}</td>{% endcall %}{% endif %}
{% endfor %}</div>{% endif %}

<h{{ level }}>How this was made</h{{ level }}>
{% if s.training_rows %}
{{ table(["Method", "Examples", "Epochs", "Optimizer steps", "Seconds", "Settings"], s.training_rows) }}{% endif %}
{% if s.layout_rows %}<h{{ level + 1 }}>Layout, as the ranks reported it</h{{ level + 1 }}>
{{ table(["Stage", "Processes", "Tensor", "Pipeline", "Data"], s.layout_rows) }}{% endif %}
{{ facts(s.fact_lists, level + 1) }}
{% endmacro %}

{% macro costs(heads, rows, level) %}{% if rows %}<h{{ level }}>What judging cost</h{{ level }}>
{{ table(heads, rows) }}{% endif %}{% endmacro %}
"""

TEMPLATE = (
    """\
{% extends "frame" %}
"""
    + MACROS
    + """\
{% block body %}
{{ section(section_values, 2, missing) }}
{{ costs(cost_heads, cost_rows, 2) }}
{% endblock %}
"""
)
