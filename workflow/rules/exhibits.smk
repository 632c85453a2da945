def tables_of(scale):
    return lambda wildcards: [layout.table(scale, t) for t in CATALOGUE.exhibits[wildcards.exhibit].tables]


def facts_of(scale):
    return lambda wildcards: [
        layout.tidy(scale, study).with_suffix(".json") for study in CATALOGUE.studies_of(wildcards.exhibit)
    ]


def exhibit_source(wildcards):
    entry = CATALOGUE.exhibits[wildcards.exhibit]
    return [provenance.source_hash(entry.module, "optrepro.exhibits.render"), entry.title, entry.caption]


rule exhibit:
    """Draw an exhibit from its tables."""
    input:
        tables=tables_of(SCALE),
        facts=facts_of(SCALE),
    output:
        report(
            f"figures/{SCALE}/{{exhibit}}.svg",
            caption="../report/exhibit.rst",
            category="{exhibit}",
        ),
        multiext(f"figures/{SCALE}/{{exhibit}}", ".png", ".csv", ".md", ".tex", ".json"),
    params:
        source=exhibit_source,
        stem=lambda wildcards: layout.exhibit(SCALE, wildcards.exhibit),
        facts=lambda wildcards, input: " ".join(f"--facts {path}" for path in input.facts),
    log:
        f"<logs>/{SCALE}/exhibits/{{exhibit}}.log",
    conda:
        "../../environment.yml"
    shell:
        "optrepro exhibit {wildcards.exhibit} {input.tables} {params.facts} --out {params.stem} > {log} 2>&1"


# The published gallery: the same drawing from committed tidy results. No rule makes those, so none of it can run anything.
use rule exhibit as published_exhibit with:
    input:
        tables=tables_of(layout.PUBLISHED),
        facts=facts_of(layout.PUBLISHED),
    output:
        multiext("figures/{exhibit}", ".svg", ".png", ".csv", ".md", ".tex", ".json"),
    params:
        source=exhibit_source,
        stem=lambda wildcards: layout.exhibit(layout.PUBLISHED, wildcards.exhibit),
        facts=lambda wildcards, input: " ".join(f"--facts {path}" for path in input.facts),
    log:
        f"<logs>/{layout.PUBLISHED}/exhibits/{{exhibit}}.log",


rule redraw:
    """The published gallery from the committed results."""
    input:
        exhibits(CATALOGUE.exhibits, layout.PUBLISHED),


rule figures:
    """Every exhibit of the scale."""
    input:
        exhibits(CATALOGUE.exhibits),


# One target for each system and for each exhibit: `snakemake gap`, `snakemake gap-sgdm`.
for _system in sorted({entry.system for entry in CATALOGUE.exhibits.values()} - {"all"}):

    rule:
        name:
            _system
        input:
            exhibits(name for name, entry in CATALOGUE.exhibits.items() if entry.system == _system),


for _exhibit in CATALOGUE.exhibits:

    rule:
        name:
            _exhibit
        input:
            exhibits([_exhibit]),
