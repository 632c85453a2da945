"""One self-contained HTML page: every exhibit with its caption and table, and the fidelity ledger."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd

from optrepro import damage, provenance
from optrepro.catalogue import Choice

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>optrepro: report</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; }
nav { columns: 2; margin: 1rem 0 2rem; }
nav a { display: block; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; margin: 1rem 0; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #444; position: sticky; top: 0; background: white; }
summary { cursor: pointer; color: #555; }
</style>
<h1>optrepro: report</h1>
<nav>
{% for e in exhibits %}<a href="#{{ e.name }}">{{ e.title }}</a>
{% endfor %}<a href="#fidelity">Choices and their sources</a>
</nav>
{% for e in exhibits %}
<section id="{{ e.name }}">
<h2>{{ e.title }}</h2>
<img alt="{{ e.title }}" src="data:image/png;base64,{{ e.png }}">
<p>{{ e.caption }}</p>
<details><summary>The numbers</summary><div class="table">{{ e.table | safe }}</div></details>
</section>
{% endfor %}
<section id="fidelity">
<h2>Choices and their sources</h2>
<p>Every setting whose value we could not find in a paper, with its value and the reason for it.</p>
<div class="table">{{ ledger | safe }}</div>
</section>
</html>
""",
    autoescape=True,
)


def write(sidecars: Sequence[Path], choices: Sequence[Choice], out: Path) -> None:
    """Write the page.

    Args:
        sidecars: JSON sidecars of the exhibits, in the order of the page; their other files are beside them.
        choices: the fidelity ledger.
        out: the HTML file.
    """
    ledger = pd.DataFrame([choice.model_dump() for choice in choices])
    page = _PAGE.render(
        exhibits=[_exhibit(path) for path in sidecars],
        ledger=ledger.to_html(index=False, border=0),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)


def _exhibit(sidecar: Path) -> dict[str, str]:
    record = damage.record(sidecar, "exhibit", "title", "caption")
    numbers, picture = (provenance.verified(sidecar.with_suffix(kind), sidecar) for kind in (".csv", ".png"))
    with damage.reading(numbers, "a table in CSV"):
        table = pd.read_csv(numbers, dtype=str, keep_default_na=False)
    return {
        "name": record["exhibit"],
        "title": record["title"],
        "caption": record["caption"],
        "png": base64.b64encode(picture.read_bytes()).decode(),
        "table": table.to_html(index=False, border=0),
    }
