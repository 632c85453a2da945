"""The site of the published results: complete, whole without a network, and usable in a real browser."""

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

import optrepro.optimizers
from optrepro import catalogue, layout
from optrepro.analysis import tables
from optrepro.exhibits import style
from optrepro.exhibits.claims import OWN, PROXY
from optrepro.experiments.base.tidy import write_parquet
from optrepro.site import build, material

ROOT = Path(__file__).parents[2]
ENTRIES = catalogue.load(ROOT / "config")
LINKED = ("config", "docs", "figures", "data", "profiles", "src", "README.md", "CONTRIBUTING.md", "results/README.md")
LARGEST = 2_000_000  # bytes of a page
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 820, 1400)

pytestmark = pytest.mark.skipif(
    not (ROOT / "figures/claims.json").exists(), reason="nothing is published, so there is no site of it"
)


class Page(HTMLParser):
    """The ids in a page and the addresses that it names."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag != "form":
            self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the site is built from, and the tables of the curves that readers pick from."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "results/published").mkdir(parents=True)
    for part in (*LINKED, "results/published/tidy"):
        (folder / part).symlink_to(ROOT / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        curves = [entry.curves.table for entry in ENTRIES.exhibits.values() if entry.curves is not None]
        for name in dict.fromkeys(curves):
            ((_, table),) = tables.compute({name: ENTRIES.tables[name]}, layout.PUBLISHED)
            write_parquet(table, layout.table(layout.PUBLISHED, name))
        yield folder


@pytest.fixture(scope="module")
def site(project: Path) -> Path:
    """The site of the published results, built without a complaint."""
    assert build.build(layout.PUBLISHED, project / "site") == ""
    return project / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


# --- What is there --------------------------------------------------------------------------------------------------


def test_every_link_and_image_leads_to_something_in_the_site(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for address in page.addresses:
            if re.match(r"[a-z]+:", address):
                continue
            file, _, anchor = address.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                broken.append((path.relative_to(site).as_posix(), address))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loading = r"<(?:script|img|link|iframe|source)[^>]*(?:src|href)=\"(?:https?:)?//[^>]*"
    assert [found for path in site.rglob("*.html") for found in re.findall(loading, path.read_text())] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", styles)


def test_every_page_is_light_and_has_ids_once(pages: dict[Path, Page]) -> None:
    assert [path.name for path in pages if path.stat().st_size >= LARGEST] == []
    assert [path.name for path, page in pages.items() if len(set(page.ids)) < len(page.ids)] == []


def test_every_published_exhibit_every_claim_and_every_choice_is_there(site: Path, pages: dict[Path, Page]) -> None:
    for name in ENTRIES.published():
        if name == material.CLAIMS:
            continue
        page = pages[site / "papers" / f"{ENTRIES.exhibits[name].system}.html"]
        assert name in page.ids
        for kind in material.DOWNLOADS:
            assert f"../exhibits/{name}.{kind}" in page.addresses
    claims = pages[site / "claims.html"]
    assert [c.id for c in catalogue.claims(ROOT / "config") if f"claim-{c.id}" not in claims.ids] == []
    assert len(catalogue.choices(ROOT / "config")) == sum("choice-" in i for i in pages[site / "choices.html"].ids)


def test_the_verdicts_and_numbers_are_those_of_the_published_tables(site: Path) -> None:
    claims = pd.read_csv(ROOT / "figures/claims.csv")
    lines = re.findall(r'<p class="counts"><b>.*?</p>', _text(site))
    for line, own in zip(lines, (False, True), strict=True):
        of_kind = claims[claims.source.str.endswith(OWN) == own]
        counts = re.findall(
            r'<a class="count" href=".*?">(\d+) <span class="verdict [\w-]+"><b.*?</b> (.*?)</span>', line
        )
        assert {verdict: int(count) for count, verdict in counts} == of_kind.verdict.value_counts().to_dict()
        proxies = of_kind.scale.str.endswith(PROXY)
        on_proxy = f"{'all' if proxies.all() else proxies.sum()} on a proxy"
        assert f"{len(of_kind)} {material.KINDS[own]}, {on_proxy}:" in line
    numbers = pd.read_csv(ROOT / "figures/lto-fig1.csv", dtype=str, keep_default_na=False)
    section = (site / "papers/lto.html").read_text().partition('aria-label="Numbers of lto-fig1"')[2]
    rows = re.findall(r"<tr>(.*?)</tr>", section.partition("</table>")[0])[1:]
    assert [re.findall(r"<td.*?>(.*?)</td>", row) for row in rows] == numbers.map(style.typeset).to_numpy().tolist()


def test_a_verdict_on_a_proxy_says_so_beside_an_exhibit_too(site: Path) -> None:
    proxies = {each.claim.id for each in material.judged(layout.PUBLISHED, Path("config")) if each.proxy}
    for page in (site / "papers").glob("*.html"):
        for verdict, claim in re.findall(
            r'<li>(<span class="verdict.*?): <a href="../claims.html#claim-(.*?)"', page.read_text()
        ):
            assert verdict.endswith(" on a proxy") == (claim in proxies), claim


def test_every_optimizer_is_in_the_reference(site: Path) -> None:
    ids = Page(site / "reference/optimizers.html").ids
    names = optrepro.optimizers.__all__
    assert [name for name in names if f"optrepro.optimizers.{name}" not in ids] == []


def test_the_origin_of_results_is_told(site: Path) -> None:
    told = re.search(r'<ul class="provenance">.*?</ul>', _text(site), re.DOTALL)[0]
    for part in ("overnight", "commit", "x86_64", "core hours"):
        assert part in told


def test_equal_results_make_equal_sites(site: Path, project: Path) -> None:
    build.build(layout.PUBLISHED, project / "again")
    files = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert [path for path in files if (site / path).read_bytes() != (project / "again" / path).read_bytes()] == []


def _text(site: Path) -> str:
    return (site / "index.html").read_text()


# --- In a browser ---------------------------------------------------------------------------------------------------

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian's package is chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of the site on a server, where browsers save what they show when it is a file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab of a browser without a network, in which nothing may go wrong."""
    context = browser.new_context(viewport={"width": WIDTHS[-1], "height": 900}, offline=True, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    # What a tab was still loading when it went on to the next page is given up, and no fault.
    page.on("requestfailed", lambda r: faults.append(r.url) if r.failure != "net::ERR_ABORTED" else None)
    yield page
    context.close()
    assert faults == []


class TestInABrowser:
    pytestmark = [pytest.mark.system, *in_a_browser]

    @pytest.mark.parametrize(
        ("scheme", "names", "rules"),
        [
            ("light", ("index", "claims", "papers/vlse", "reference/optimizers", "guides/judge", "search"), {}),
            ("dark", ("index", "papers/vlse", "reference/optimizers"), {"runOnly": ["color-contrast"]}),
        ],
        ids=["light", "dark"],
    )
    def test_no_page_has_a_serious_fault_of_accessibility(
        self, tab: Any, site: Path, scheme: str, names: tuple[str, ...], rules: dict[str, Any]
    ) -> None:
        from axe_playwright_python.sync_playwright import Axe

        tab.emulate_media(color_scheme=scheme)
        faults = []
        for page in names:
            tab.goto((site / f"{page}.html").as_uri())
            found = (
                Axe()
                .run(tab, options={"preload": False, "resultTypes": ["violations"], **rules})
                .response["violations"]
            )
            serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
            faults += [(page, fault["id"], fault["nodes"][0]["html"]) for fault in serious]
        assert faults == []

    @pytest.mark.parametrize("width", WIDTHS)
    def test_no_page_is_wider_than_the_screen(self, tab: Any, site: Path, width: int) -> None:
        tab.set_viewport_size({"width": width, "height": 900})
        for page in ("index", "claims", "choices", "papers/vlse", "reference/config", "guides/judge"):
            tab.goto((site / f"{page}.html").as_uri())
            sideways = tab.evaluate("() => { scrollTo(500, 0); return scrollX; }")
            assert sideways == 0, page

    def test_images_are_loaded_when_they_come_into_view_and_are_there(self, tab: Any, site: Path) -> None:
        loaded: list[str] = []
        tab.on("request", lambda request: loaded.append(request.url))
        tab.goto((site / "papers/pop.html").as_uri())
        images = tab.locator("figure.exhibit img")
        assert sum(url.endswith(".svg") for url in loaded) < images.count()
        images.last.scroll_into_view_if_needed()
        tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=images.last.element_handle())

    def test_a_table_sorts_by_numbers_in_both_directions(self, tab: Any, site: Path) -> None:
        tab.goto((site / "papers/lto.html").as_uri())
        tab.locator('section#lto-fig1 summary:has-text("The numbers")').click()
        table = tab.get_by_role("region", name="Numbers of lto-fig1").locator("table")
        column = table.locator("thead th.n").first
        place = column.evaluate("head => head.cellIndex")
        cells = table.locator(f"tbody td:nth-child({place + 1})")
        for direction in ("ascending", "descending"):
            column.get_by_role("button").click()
            assert column.get_attribute("aria-sort") == direction
            shown = [float(re.match(r"[-+\d.e]+", text)[0]) for text in cells.all_inner_texts() if text != "–"]
            assert len(set(shown)) > 1
            assert shown == sorted(shown, reverse=direction == "descending")

    def test_a_filter_leaves_the_rows_that_have_all_its_words(self, tab: Any, site: Path) -> None:
        tab.goto((site / "choices.html").as_uri())
        tab.get_by_role("searchbox", name="Filter: Choices").fill("gapsgd prior-art")
        rows = [text.lower() for text in tab.locator("tbody tr:visible").all_inner_texts()]
        choices = [f"{c.path} {c.value} {c.standing} {c.why}".lower() for c in catalogue.choices(ROOT / "config")]
        assert len(rows) == sum("gapsgd" in text and "prior-art" in text for text in choices)
        assert tab.locator("output").inner_text() == f"{len(rows)} of {len(choices)} rows"

    @pytest.mark.parametrize(
        ("words", "found", "place"),
        [
            ("gap-sgdm momentum", "gap-sgdm: SGD with momentum", "papers/gap.html#gap-sgdm"),
            (
                "stays ahead batches",
                "Predicted Step Descent stays ahead with batches of 10",
                "claims.html#claim-lto-small-batches",
            ),
            ("self_term", "code.optimizers.gap.GapSGD.self_term", "choices.html#choice-"),
            ("GapAdamW", "optrepro.optimizers.GapAdamW", "reference/optimizers.html#optrepro.optimizers.GapAdamW"),
        ],
    )
    def test_the_search_finds_exhibits_claims_choices_and_classes(
        self, tab: Any, site: Path, words: str, found: str, place: str
    ) -> None:
        tab.goto((site / "index.html").as_uri())
        tab.get_by_role("searchbox", name="Search").or_(tab.locator("input[name=q]")).first.fill(words)
        tab.keyboard.press("Enter")
        link = tab.locator("#search-results a", has_text=found).first
        link.wait_for()
        link.click()
        assert place in tab.url

    def test_curves_are_picked_with_the_keyboard(self, tab: Any, site: Path) -> None:
        tab.goto((site / "papers/gap.html").as_uri())
        curves = tab.locator("section#gap-sgdm details.curves")
        curves.locator("summary").focus()
        tab.keyboard.press("Enter")
        lines = curves.locator(".scatterlayer .trace")
        boxes = curves.get_by_role("checkbox")
        lines.first.wait_for()
        assert lines.count() == boxes.count() > 6
        boxes.first.focus()
        tab.keyboard.press("Space")
        tab.wait_for_function(
            "([all, of]) => of.querySelectorAll('.trace').length === all - 1",
            arg=[boxes.count(), curves.element_handle()],
        )
        curves.get_by_label("Panel").select_option("test accuracy")
        curves.locator(".hoverlayer").wait_for(state="attached")

    def test_a_figure_opens_large_and_closes_with_escape(self, tab: Any, site: Path) -> None:
        tab.goto((site / "papers/lto.html").as_uri())
        link = tab.locator("section#lto-fig1 a.zoom")
        link.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("dialog img").bounding_box()["width"] > link.bounding_box()["width"]
        tab.keyboard.press("Escape")
        tab.locator("dialog").wait_for(state="detached")
        assert link.evaluate("link => document.activeElement === link")

    def test_downloads_are_the_published_files(self, tab: Any, served: str) -> None:
        tab.context.set_offline(False)
        tab.goto(f"{served}/papers/lto.html")
        for kind, label in build.NAMES.items():
            with tab.expect_download() as waiting:
                tab.locator("section#lto-fig1 .downloads a", has_text=label).click()
            assert Path(waiting.value.path()).read_bytes() == (ROOT / f"figures/lto-fig1.{kind}").read_bytes()
