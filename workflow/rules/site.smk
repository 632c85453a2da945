# What the pages are written from besides results: their templates, and the files of which they take in sections.
PAGES = [
    *(path.as_posix() for path in sorted(Path("docs").rglob("*")) if path.is_file()),
    *("README.md", "CONTRIBUTING.md", "config/README.md", "data/README.md", "profiles/README.md", "results/README.md"),
    "src/optrepro/optimizers/weights/README.md",
    *catalogue.files(Path("config"), "fidelity.yaml"),
    *catalogue.files(Path("config"), "findings.yaml"),
]


rule pages:
    """Build the site of the scale: every exhibit, the claims, the choices, guides and references."""
    input:
        sidecars=[f"{layout.exhibit(SCALE, name)}.json" for name in CATALOGUE.exhibits],
        curves=curves_of(SCALE),
        pages=PAGES,
    output:
        f"<results>/{SCALE}/site/index.html",
    log:
        f"<logs>/{SCALE}/site.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        source=provenance.source_hash("optrepro.site.build"),
        scale=SCALE,
    shell:
        "optrepro site --scale {params.scale} > {log} 2>&1"


# The published figures are shown as they are committed. As an input they would be drawn again wherever a time stamp or a
# line of code is newer than they are.
use rule pages as site with:
    input:
        curves=curves_of(layout.PUBLISHED),
        pages=PAGES,
    output:
        f"<results>/{layout.PUBLISHED}/site/index.html",
    log:
        f"<logs>/{layout.PUBLISHED}/site.log",
    params:
        source=provenance.source_hash("optrepro.site.build"),
        scale=layout.PUBLISHED,
        figures=lambda wildcards: fingerprint(published_sidecars()),
