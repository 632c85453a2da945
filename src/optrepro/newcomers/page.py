"""A judgement as one self-contained HTML page: sentences to quote, figures, tables, checks, protocol, how to cite."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from optrepro import __version__
from optrepro.analysis import benchmark, comparison
from optrepro.exhibits import style
from optrepro.newcomers import judgement as judgements
from optrepro.newcomers.judgement import Judgement
from optrepro.newcomers.standing import Standing
from optrepro.newcomers.tasks import KEY
from optrepro.studies import kinds

OWN = style.WARNING  # colour of the newcomer; all others are grey

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}, judged</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
svg { max-width: 100%; height: auto; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; margin: 1rem 0; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
blockquote { border-left: 3px solid #b2182b; margin: 1rem 0; padding: 0 1rem; }
.warning { color: #b2182b; }
summary { cursor: pointer; color: #555; }
</style>
<h1>{{ name }}, judged</h1>
<p><code>{{ path }}</code>{% if settings != "{}" %} with <code>{{ settings }}</code>{% endif %}</p>
{% for task in tasks %}<blockquote>{{ task.sentence }}</blockquote>
{% endfor %}
{% for task in tasks %}
<section>
<h2>{{ task.name }}</h2>
<p>{{ task.protocol }} {{ name }}: {{ task.tuned }}.</p>
{% for warning in task.warnings %}<p class="warning">{{ warning }}</p>
{% endfor %}
{{ task.figure | safe }}
<details open><summary>Scores</summary><div class="table">{{ task.scores | safe }}</div></details>
<details><summary>Beside each peer</summary><div class="table">{{ task.pairs | safe }}</div></details>
<p>This machine: {{ task.machine }}. The rows beside it: {{ task.origin }}.</p>
</section>
{% endfor %}
{% for name, why in left_out.items() %}<p>Left out, {{ name }}: {{ why }}.</p>
{% endfor %}
{% if cost %}<h2>What a step costs</h2>
<p>Ratios to torch's AdamW, measured on this machine.</p>
<div class="table">{{ cost | safe }}</div>
{% endif %}
<h2>What the class does</h2>
<div class="table">{{ checks | safe }}</div>
<h2>How to cite</h2>
<p>optrepro {{ version }}, whose CITATION.cff names the project and the papers that the compared rows reproduce.
Please quote a sentence with the limits that end it: these are small problems, and a rank says no more.</p>
</html>
""",
    autoescape=True,
)


def write(judgement: Judgement, out: Path) -> Path:
    """Write the page to a file."""
    row = next(iter(judgement.standings.values())).study.facts.optimizers[KEY] if judgement.standings else {}
    page = _PAGE.render(
        name=judgement.target.name,
        path=judgement.target.path,
        settings=str(row.get("settings", {})),
        tasks=[_task(judgement, name, each) for name, each in judgement.standings.items()],
        left_out=judgement.left_out,
        cost="" if judgement.cost.empty else _html(judgement.cost),
        checks=_html(pd.DataFrame(judgement.report.findings)),
        version=__version__,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    return out


def figure(standing: Standing) -> Figure:
    """Scores with their intervals, and how they come about over the steps; the newcomer in a colour of its own."""
    table = standing.scores.iloc[::-1].reset_index(drop=True)
    page = Figure(figsize=(style.PAGE_WIDTH / 25.4, 1 + 0.16 * len(table)), layout="constrained")
    left, right = page.subplots(1, 2)
    for place, row in table.iterrows():
        color = OWN if row.optimizer == KEY else style.MUTED
        left.plot([row.score_low, row.score_high], [place, place], color=color, linewidth=1)
        left.plot(row.score, place, "o", color=color, markersize=4)
    left.set_yticks(range(len(table)), table.label)
    left.set_xlabel(standing.unit)
    curves, title, steps = _curves(standing)
    for key, curve in sorted(curves.groupby("optimizer"), key=lambda item: item[0] == KEY):
        own = key == KEY
        color, width = (OWN, 2.0) if own else (style.FAINT, 1.0)
        right.plot(curve.x, curve.y, color=color, linewidth=width, label=standing.label if own else None)
    right.set_xlabel(steps)
    right.set_title(title)
    right.legend()
    for axes in (left, right):
        style.grid(axes, "both")
    return page


def _curves(standing: Standing) -> tuple[pd.DataFrame, str, str]:
    """Columns optimizer, x, y, with what y and x are: the share of problems solved, or the criterion on test data."""
    study = standing.study
    if "functions" in study.facts.settings:
        table = benchmark.profile(study)
        table = table[(table.subset == "smooth") & (table.target == benchmark.TARGETS[0])]
        curves = table.rename(columns={"evaluations": "x", "share": "y"})
        title, steps = f"share solved (regret at most {benchmark.TARGETS[0]:g})", "evaluations"
    else:
        table = comparison.curves(study)
        curves = table[table.metric == f"test_{study.facts.criterion}"].rename(columns={"step": "x", "mean": "y"})
        title, steps = f"test {study.facts.criterion}", "steps"
    return curves[curves.optimizer.isin(standing.scores.optimizer)][["optimizer", "x", "y"]], title, steps


def _task(judgement: Judgement, name: str, standing: Standing) -> dict[str, object]:
    published = judgement.plan.published[judgement.plan.tasks[name].study]
    facts = published.results.facts
    study = kinds.study(facts.settings)
    network, rest = study.network_in_words(), [study.repetitions_in_words(), study.tuning_in_words(facts.datasets)]
    said = [f"{facts.dataset}." if facts.dataset else "", f"{network}." if network else "", *rest]
    drawing = style.svg(figure(standing), name)
    return {
        "name": name,
        "sentence": standing.sentence(),
        "protocol": " ".join(part for part in said if part),
        "tuned": standing.tuned,
        "warnings": [*judgement.plan.notes.get(name, ()), *standing.warnings],
        "figure": drawing[drawing.index("<svg") :],  # without the head of a file of its own
        "scores": _html(standing.scores.drop(columns="optimizer")),
        "pairs": _html(standing.pairs.drop(columns="peer")),
        "machine": judgement.machine[name],
        "origin": judgements.origin(published),
    }


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}", na_rep="–")
