"""The pages: one prompt with a score per attribute, the list of answers, the end. Works without a mouse.

Nothing comes from elsewhere. All addresses are relative to the folder that carries the secret.
"""

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style nonce="{{ nonce }}">
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #1a1a1a; background: #fff; }
pre { font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
img { display: block; max-width: 100%; max-height: 60vh; margin: .5rem 0; border: 1px solid #767676; }
article { border: 1px solid #767676; border-radius: .5rem; padding: 0 1rem 1rem; margin: 1.5rem 0; }
fieldset { border: 0; border-top: 1px solid #ccc; margin: 1rem 0 0; padding: .5rem 0 0; }
legend { font-weight: 600; padding: 0 .5rem 0 0; }
fieldset p { margin: 0 0 .25rem; color: #444; }
.level { display: block; padding: .1rem .25rem; }
.level:focus-within, textarea:focus, input:focus, button:focus { outline: 3px solid #1f5fbf; outline-offset: 2px; }
textarea { width: 100%; box-sizing: border-box; font: inherit; }
button { font: inherit; padding: .5rem 1rem; margin: 0 .5rem 0 0; }
.bar { position: sticky; bottom: 0; background: #fff; border-top: 1px solid #767676; padding: .75rem 0; }
.error { border: 2px solid #a40000; padding: .5rem 1rem; }
.note { border: 2px solid #1f5fbf; padding: .5rem 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border: 1px solid #767676; padding: .25rem .5rem; text-align: left; vertical-align: top; }
.turn { border-left: 4px solid #ccc; padding-left: 1rem; margin: 1rem 0; }
@media (prefers-color-scheme: dark) {
  body, .bar { background: #161616; color: #eee; } fieldset p { color: #bbb; } .error { border-color: #ff8080; }
  a, a:visited { color: #8ab4f8; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p role="status">{{ done }} of {{ total }} prompts labelled as {{ judge }}.
{%- if waiting %} {{ waiting }} left for later.{% endif %}</p>
{% block help %}{% endblock %}
</header>
<main>
{% block main %}{% endblock %}
</main>
</body>
</html>
"""

TASK = """{% extends "frame" %}
{% block help %}<p>Keys: a digit chooses a score and goes on, Tab moves, Ctrl+Enter saves.</p>{% endblock %}
{% block main %}
{% if skipped %}<p>This prompt was left for later before.</p>{% endif %}
{% if answered %}<p class="note" id="answered">You answered prompt {{ prompt }} at {{ answered }} UTC. Saving replaces that
answer; the ledger keeps both.</p>{% endif %}
{% if error %}<p class="error" role="alert" id="error">{{ error }} Nothing was saved.</p>{% endif %}
<section aria-labelledby="conversation">
<h2 id="conversation">Conversation</h2>
{% for turn in turns %}
<div class="turn"><strong>{{ turn.speaker }}</strong>
{% for part in turn.parts %}
{% if part.image is none %}{% if part.text %}<pre>{{ part.text }}</pre>{% endif %}
{% else %}<img src="{{ part.image }}" alt="Image {{ part.number }} of the conversation">{% endif %}
{% endfor %}
</div>
{% endfor %}
</section>
<form method="post" action="./" autocomplete="off" id="label">
<input type="hidden" name="key" value="{{ key }}">
<input type="hidden" name="revision" value="{{ revision }}">
{% if want_reference %}
<section aria-labelledby="own"><h2 id="own">Your own answer</h2>
<label for="reference">What would you answer to the last question? (optional)</label>
<textarea id="reference" name="reference" rows="3">{{ values.get("reference", "") }}</textarea></section>
{% endif %}
{% for candidate in candidates %}
<article aria-labelledby="candidate-{{ candidate.position }}">
<h2 id="candidate-{{ candidate.position }}">Candidate {{ candidate.position }} of {{ candidates|length }}</h2>
{% if candidate.text.strip() %}<pre>{{ candidate.text }}</pre>{% else %}<p><em>(an empty answer)</em></p>{% endif %}
{% for score in candidate.scores %}
<fieldset data-scores{% if score.description %} aria-describedby="{{ score.field }}-about"{% endif %}>
<legend>Candidate {{ candidate.position }}: {{ score.name }}</legend>
<p id="{{ score.field }}-about">{{ score.description }}</p>
{% if score.choices %}
{% for choice in score.choices %}
<label class="level"><input type="radio" name="{{ score.field }}" value="{{ choice.value }}" required
 {%- if values.get(score.field) == choice.value %} checked{% endif %}>
{{ choice.value }}{% if choice.text %}: {{ choice.text }}{% endif %}</label>
{% endfor %}
{% else %}
{% for choice in score.levels %}<p>{{ choice.value }}: {{ choice.text }}</p>{% endfor %}
<label>Score from {{ score.minimum }} to {{ score.maximum }}
<input type="number" name="{{ score.field }}" min="{{ score.minimum }}" max="{{ score.maximum }}" step="{{ score.step }}"
 required value="{{ values.get(score.field, "") }}"></label>
{% endif %}
</fieldset>
{% endfor %}
<label for="{{ candidate.note }}">Reasons for candidate {{ candidate.position }} (optional)</label>
<textarea id="{{ candidate.note }}" name="{{ candidate.note }}" rows="2">{{ values.get(candidate.note, "") }}</textarea>
</article>
{% endfor %}
<div class="bar">
<button name="action" value="save" id="save">{{ "Save the correction" if answered else "Save and go on" }}</button>
{% if not answered %}
<button name="action" value="skip" id="skip" formnovalidate>Leave for later</button>
{% endif %}
{% if before %}
<button name="action" value="back" id="back" formnovalidate>Back to the answer before</button>
{% endif %}
{% if answered %}
<button name="action" value="next" id="next" formnovalidate>Leave it as it was</button>
{% endif %}
<button name="action" value="answers" id="answers" formnovalidate>All answers</button>
<button name="action" value="stop" id="stop" formnovalidate>Stop labelling</button>
</div>
</form>
<script nonce="{{ nonce }}">
const form = document.getElementById("label");
const boxes = [...form.querySelectorAll("fieldset[data-scores]")];
const first = (box) => box.querySelector("input:checked") || box.querySelector("input");
first(boxes[0]).focus({ preventScroll: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit(document.getElementById("save"));
    return;
  }
  if (event.target.type !== "radio" || event.ctrlKey || event.metaKey || event.altKey) return;
  const box = event.target.closest("fieldset[data-scores]");
  const choice = [...box.querySelectorAll("input")].find((input) => input.value === event.key);
  if (!choice) return;
  event.preventDefault();
  choice.checked = true;
  const next = boxes[boxes.indexOf(box) + 1];
  (next ? first(next) : document.getElementById("save")).focus();
});
</script>
{% endblock %}
"""

ANSWERS = """{% extends "frame" %}
{% block main %}
<h2>All answers</h2>
<p><a href="./" id="next">Go on labelling</a></p>
<table>
<thead><tr><th>Prompt</th><th>Question</th><th>Scores of the candidates as shown ({{ names|join(", ") }})</th>
<th>Answered (UTC)</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td><a href="prompt-{{ row.key }}">{{ row.prompt }}</a></td><td>{{ row.question }}</td>
<td>{% for scores in row.scores %}{{ loop.index }}: {{ scores }}{% if not loop.last %}<br>{% endif %}{% endfor %}</td>
<td>{{ row.time }}{% if row.revision %}, correction {{ row.revision }}{% endif %}</td></tr>
{% endfor %}
</tbody>
</table>
{% endblock %}
"""

COMPLETE = """{% extends "frame" %}
{% block main %}
<p id="complete">All is labelled. Answers can still be corrected; Finish ends the command.</p>
<form method="post" action="./">
<div class="bar">
<button name="action" value="stop" id="stop">Finish</button>
{% if before %}
<button name="action" value="back" id="back">Back to the answer before</button>
{% endif %}
<button name="action" value="answers" id="answers">All answers</button>
</div>
</form>
{% endblock %}
"""

CLOSING = """{% extends "frame" %}
{% block main %}
<p id="finished">{{ closing }} You can close this page.</p>
{% endblock %}
"""

TEMPLATES = {"frame": FRAME, "task": TASK, "answers": ANSWERS, "complete": COMPLETE, "closing": CLOSING}
