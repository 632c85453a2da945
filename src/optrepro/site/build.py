"""Build the site of a scale: write its pages from the templates in ``docs``, and let Sphinx make HTML of them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from optrepro.catalogue import Choice
from optrepro.config import ConfigError
from optrepro.exhibits import style
from optrepro.exhibits.claims import LOOKS
from optrepro.site import fragments, material
from optrepro.site.material import KINDS, Judged, Material, Origin, Shown

NEEDED = {"sphinx": "sphinx", "furo": "furo", "myst_parser": "myst-parser", "sphinx_copybutton": "sphinx-copybutton"}
PLOTLY = "plotly"
NAMES = {"svg": "SVG", "csv": "CSV", "tex": "TeX"}  # of the downloads
# The pages that stand for files of the project, so that links between those become links between pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "guides/extend.md",
    "config": "reference/config.md",
    "config/README.md": "reference/config.md",
    "data/README.md": "guides/data.md",
    "figures": "index.md",
    "figures/README.md": "index.md",
    "figures/claims.md": "claims.md",
    "profiles/README.md": "guides/clusters.md",
    "results/README.md": "reference/results.md",
    "src/optrepro/optimizers/weights/README.md": "reference/models.md",
}
SIGNS = {verdict: sign for verdict, (_, sign) in LOOKS.items()}


def build(scale: str, out: Path, folder: Path = Path("config"), docs: Path = Path("docs")) -> str:
    """Build the site of a scale, or of the published results, in the folder `out`; return what Sphinx complains about.

    Args:
        scale: the scale, or ``published``.
        out: folder of the site; what it held is replaced.
        folder: the config folder.
        docs: the templates, with the configuration of Sphinx.

    Raises: ConfigError if nothing is drawn or a package is missing; DamagedFileError for a damaged file.
    """
    found = material.read(scale, folder)
    _require()
    with tempfile.TemporaryDirectory() as place:
        source, made = Path(place, "source"), Path(place, "site")
        write(found, docs, source)
        complaints = _sphinx(source, made)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, out)
    return complaints


def write(found: Material, docs: Path, source: Path) -> None:
    """Write the pages, in Markdown, and the files beside them to the folder `source`, as Sphinx reads them."""
    shutil.copytree(docs, source, ignore=shutil.ignore_patterns("_jinja"))
    for path in source.rglob("*.md"):
        path.write_text(fragments.in_full(path.read_text(), docs / path.relative_to(source)))
    loader = jinja2.FileSystemLoader([source, docs / "_jinja"])
    templates = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {
        "text": fragments.text,
        "folded": fragments.folded,
        "heading": fragments.heading,
    }
    common = {
        "site": found,
        "verdict": _verdict,
        "provenance": _provenance,
        "sections": _sections,
        "exhibit_of": _exhibit_of,
        "tally": _tally,
        "map": _map,
        "judged": _judged,
        "ledger": _ledger,
        "downloads": _downloads,
        "numbers": _numbers,
        "curves": _curves,
    }
    pages: dict[str, dict[str, Any]] = {
        path.relative_to(source).as_posix(): {} for path in sorted(source.rglob("*.md"))
    }
    pages |= {f"papers/{system}.md": {"system": system, "paper": paper} for system, paper in _shown_papers(found)}
    places = PAGES | {(docs / page).as_posix(): page for page in pages}
    for page, more in pages.items():
        template = templates.get_template("paper.md" if page.startswith("papers/") else page)
        taken = partial(_section, here=page, pages=places)
        root = "../" * page.count("/")
        rendered = template.render(**common, **more, section=taken, root=root)
        written = fragments.linked(rendered, docs / page, here=page, pages=places)
        (source / page).parent.mkdir(exist_ok=True)
        (source / page).write_text(written)
    (source / "objects.json").write_text(json.dumps(list(_objects(found))))
    _files(found, source / "_extra" / "exhibits")
    if any(shown.series for shown in found.exhibits):
        _plotly(source / "_static")


def _require() -> None:
    """Raises: ConfigError if a package of the site's is not installed."""
    if missing := [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]:
        raise ConfigError(f"the site needs {', '.join(missing)}; install the extra: pip install '.[site]'")


def _sphinx(source: Path, out: Path) -> str:
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", f"{source}/.doctrees", str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"Sphinx could not build the site: {done.stderr.strip()[-2000:]}")
    (out / ".buildinfo").unlink(missing_ok=True)
    return done.stderr.replace(f"{source}/", "")


def _shown_papers(found: Material) -> Iterator[tuple[str, Any]]:
    return ((system, paper) for system, paper in found.papers.items() if found.of(system))


def _objects(found: Material) -> Iterator[tuple[str, str, str, str]]:
    """What the search finds one by one: of each its kind, its name, its page and its place there."""
    for shown in found.exhibits:
        if shown.entry.system in found.papers:
            yield "exhibit", f"{shown.name}: {shown.title}", f"papers/{shown.entry.system}", shown.name
    for each in found.claims:
        yield "claim", each.claim.statement.removesuffix("."), "claims", f"claim-{each.claim.id}"
    for number, choice in enumerate(found.choices):
        yield "choice", choice.path, "choices", _anchor(number)


def _files(found: Material, folder: Path) -> None:
    """The files of the exhibits, which readers see and download."""
    folder.mkdir(parents=True)
    for shown in found.exhibits:
        for path in shown.files.values():
            shutil.copyfile(path, folder / path.name)


def _plotly(folder: Path) -> None:
    """The library that draws the curves that readers pick from; a page loads it when a reader asks for them."""
    spec = importlib.util.find_spec(PLOTLY)
    if spec is None or spec.origin is None:
        raise ConfigError("the site needs plotly; install the extra: pip install '.[site]'")
    shutil.copyfile(Path(spec.origin).with_name("package_data") / "plotly.min.js", folder / "plotly.min.js")


# --- What the templates ask for -------------------------------------------------------------------------------------


def _section(file: str, title: str | None = None, *, here: str, pages: Mapping[str, str]) -> str:
    return fragments.section(Path(file), title, here, pages)


def _verdict(verdict: str) -> Markup:
    """A verdict with its sign, so that it can be read without colours."""
    shape = Markup('<span class="verdict {}"><b aria-hidden="true">{}</b> {}</span>')
    return shape.format(verdict.replace(" ", "-"), SIGNS.get(verdict, "○"), verdict)


def _tally(claims: Iterable[Judged], root: str = "") -> Markup:
    """How many claims of the papers, and how many controls of this project, have each verdict, a line for each."""
    found = list(claims)
    lines = ((each, [claim for claim in found if claim.own == own]) for own, each in KINDS.items())
    return Markup("\n").join(_counts(each, given, root) for each, given in lines if given)


def _counts(name: str, claims: Sequence[Judged], root: str) -> Markup:
    """How many claims have each verdict, in the order of the signs; the numbers lead to the claims."""
    verdicts = [each.verdict for each in claims]
    line = Markup('<p class="counts"><b>{} {}, {}:</b> {}</p>')
    link = Markup('<a class="count" href="{}claims.html#all-verdicts">{} {}</a>')
    counts = (
        link.format(root, verdicts.count(verdict), _verdict(verdict))
        for verdict in dict.fromkeys([*SIGNS, *verdicts])
        if verdict in verdicts
    )
    return line.format(len(claims), name, material.on_proxy(claims), Markup(" ").join(counts))


def _map(found: Material) -> str:
    """What a paper shows, the exhibits about it, the verdicts, the scale reached, and the paper's setting."""
    exhibits = {shown.name: shown for shown in found.exhibits}
    rows = [
        {
            "paper": each.paper.partition(" (")[0],
            "in the paper": each.part,
            "exhibits": Markup("<br>").join(_to_exhibit(exhibits[name]) for name in each.exhibits) or "–",
            "verdicts": Markup("<br>").join(_verdict(verdict) for verdict in each.verdicts) or "–",
            "scale reached": each.scale,
            "the paper's setting": Markup("<br>").join(each.settings) or "–",
        }
        for each in found.reproduced
    ]
    return fragments.raw(fragments.table(pd.DataFrame(rows, dtype=object), "Map from the papers to the exhibits"))


def _judged(found: Material, claims: Iterable[Judged], root: str) -> str:
    """A table of claims: the verdict, the claim, the exhibit that tests it, the scale, and where the claim is made."""
    exhibits = {shown.name: shown for shown in found.exhibits}
    rows = [
        {
            "verdict": _verdict(each.verdict),
            "claim": fragments.link(each.claim.statement, f"{root}claims.html#claim-{each.claim.id}"),
            "exhibit": _to_exhibit(exhibits[each.claim.exhibit], root) if each.claim.exhibit in exhibits else "–",
            "scale": each.scale,
            "the paper's setting": each.claim.setting or "–",
            "source": each.claim.source,
        }
        for each in claims
    ]
    return fragments.raw(fragments.table(pd.DataFrame(rows, dtype=object), "Claims and verdicts"))


def _sections(claims: Iterable[Judged]) -> Iterator[tuple[tuple[str, bool], list[Judged]]]:
    """The claims by paper, with this project's own after the paper's."""
    groups: dict[tuple[str, bool], list[Judged]] = {}
    for each in claims:
        groups.setdefault((each.paper.title, each.own), []).append(each)
    yield from groups.items()


def _exhibit_of(found: Material, each: Judged) -> Markup | str:
    return next((_to_exhibit(shown) for shown in found.exhibits if shown.name == each.claim.exhibit), "–")


def _provenance(origin: Origin) -> Markup:
    """Where results come from, in a line."""
    time = (
        f"{origin.core_hours:.1f} core hours"
        if origin.core_hours >= 1
        else f"{60 * origin.core_hours:.0f} core minutes"
    )
    commits = f"commits {', '.join(origin.commits)}" if len(origin.commits) > 1 else f"commit {''.join(origin.commits)}"
    known = {
        "scale": " and ".join(origin.scales),
        "code": commits if origin.commits else "",
        "machine": "; ".join((*origin.machines, *origin.versions)),
        "time": f"{time}, {origin.runs} jobs" if origin.runs else "",
    }
    items = Markup("").join(Markup("<li><span>{}</span> {}</li>").format(*each) for each in known.items() if each[1])
    return Markup('<ul class="provenance">{}</ul>').format(items)


def _ledger(choices: Sequence[Choice]) -> str:
    """The table of choices, whose rows links lead to."""
    rows = [
        {
            "setting": Markup("<code>{}</code>").format(each.path),
            "value": _value(each.value),
            "standing": each.standing,
            "why": each.why,
        }
        for each in choices
    ]
    anchors = [_anchor(number) for number in range(len(choices))]
    return fragments.raw(fragments.table(pd.DataFrame(rows, dtype=object), "Choices and their sources", anchors))


def _anchor(number: int) -> str:
    """Where a choice stands in its table."""
    return f"choice-{number + 1}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _to_exhibit(shown: Shown, root: str = "") -> Markup:
    return fragments.link(f"`{shown.name}`", f"{root}papers/{shown.entry.system}.html#{shown.name}")


def _downloads(shown: Shown, root: str = "") -> Markup:
    links = (
        Markup('<a href="{}exhibits/{}" download>{}</a>').format(root, path.name, NAMES[kind])
        for kind, path in shown.files.items()
    )
    return Markup('<p class="downloads">Download {}</p>').format(Markup(" ").join(links))


def _numbers(shown: Shown) -> str:
    return fragments.table(shown.table, f"Numbers of {shown.name}")


def _dash(optimizer: str) -> str:
    """The dashes of an optimizer's curves, as plotly names them."""
    dashes = style.look(optimizer).dashes
    return "solid" if isinstance(dashes, str) else ",".join(f"{2 * length:g}px" for length in dashes[1])


def _curves(shown: Shown) -> str:
    """The curves that readers pick from, as JSON that HTML can hold."""
    series = dict(shown.series or {})
    series["lines"] = {key: {"color": style.look(key).color, "dash": _dash(key)} for key in series["labels"]}
    return json.dumps(series, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
