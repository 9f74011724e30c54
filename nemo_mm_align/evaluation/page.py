"""What report.html shows, as a template for `reporting.page`."""

TEMPLATE = """\
{% extends "frame" %}
{% from "parts" import dot, facts, figure, sample, table %}
{% block body %}
{% for sentence in headline %}<p class="headline">{{ sentence }}</p>
{% endfor %}
<p class="soft">{{ basis }}</p>
{% if missing %}<p class="notice">Not run, and therefore not in the tables and plots: {{ missing }}.</p>{% endif %}
{% for note in notes %}<p class="notice">{{ note }}</p>{% endfor %}

{% if steered %}<h2>The same question at several settings</h2>
<p class="soft">Held-out questions, drawn at random; one attribute is asked at each of its values, the others at their
defaults.</p>
<div class="samples">{% for card in steered %}{% call(answer) sample(card) %}
<td>{{ answer.asked }}</td>
<td>{{ answer.text }}<small class="wrap">judged {{ answer.scores }}</small></td>{% endcall %}{% endfor %}</div>{% endif %}

<h2>Methods on held-out prompts</h2>
{{ table(method_heads, method_rows) }}
<p class="soft">{% for about in abouts %}{{ about }} {% endfor %}In brackets: 95 % intervals {{ interval_basis }}. Differences
to the base are paired.</p>
{% for sentence in cautions %}<p>{{ sentence }}</p>
{% endfor %}
{{ figure(shares_plot, "Bars of the shares in the table above, per method", "") }}

{% if attributes_plot %}<h2>Judged attributes</h2>
{{ figure(attributes_plot, "Bars of the mean judged value of every attribute, per method",
          "Mean of the judge's values. " ~ taste) }}
{{ table(attribute_heads, attribute_rows) }}{% endif %}

{% if steering_plot %}<h2>Steering: asked against judged</h2>
{{ figure(steering_plot, "Curves of asked against judged values, per attribute, with the diagonal", "One attribute is "
          ~ "asked at each value, the others at their defaults. The dashed diagonal is perfect obedience.") }}
{{ table(steering_heads, steering_rows) }}
<p class="soft">Spearman's rank correlation of asked and judged over single answers: 1 is perfect obedience, 0 none; at equal
length: with the number of words held constant. Cross-talk: change of another attribute's judged value per step asked.
Score: of the answers at each asked value. Slope: change of the judged value per step asked. Never against: share of prompts whose
judged value never falls as more is asked for; strictly: rises at every step. Range: largest less smallest mean.</p>{% endif %}

{% if lengths_plot or text_plot %}<h2>Length and language ability</h2>
<div class="pair">
{{ figure(lengths_plot, "Bars of the mean answer length, per method", "Length of answers about images.") }}
{{ figure(text_plot, "Bars of the share of text instructions followed, by stage",
          "What visual tuning and each method leave of the ability to follow text instructions.") }}
</div>{% endif %}

{% if losses_plot %}<h2>Training curves</h2>
{{ figure(losses_plot, "Training loss against optimizer step, one panel per method",
          "Losses of different methods measure different things; compare within a panel only.") }}{% endif %}

{% if health %}<h2>Health of the trainings</h2>
<p class="soft">What each training found in its own curves: a deserved look, not a proven fault. Compared are the first and the
last fifth of its steps.</p>
{% for card in health %}<h3>{{ dot(card.colour) }}{{ card.label }}: {{ card.verdict }} after {{ card.steps }} steps</h3>
<ul>{% for text, worry in card.findings %}<li>{% if worry %}<strong class="wrong">{{ text }}</strong>{% else %}{{ text }}
{%- endif %}</li>
{% endfor %}</ul>{% endfor %}{% endif %}

{% if samples %}<h2>Sample answers</h2>
<p class="soft">{{ sample_note }}</p>
<div class="samples">{% for card in samples %}{% call(answer) sample(card) %}
<td>{{ dot(answer.colour) }}{{ answer.label }}</td>
<td>{{ answer.text }}<small class="wrap"><span class="{{ answer.verdict }}">{{ answer.verdict }}</span>:
{{ answer.scores }}</small></td>{% endcall %}{% endfor %}</div>{% endif %}

<h2>How this was made</h2>
{% if training_rows %}
{{ table(["Method", "Examples", "Epochs", "Optimizer steps", "Seconds", "Settings"], training_rows) }}{% endif %}
{% if layout_rows %}<h3>Layout, as the ranks reported it</h3>
{{ table(["Stage", "Processes", "Tensor", "Pipeline", "Data"], layout_rows) }}{% endif %}
{{ facts(fact_lists) }}
{% endblock %}
"""
