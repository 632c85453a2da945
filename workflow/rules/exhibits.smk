rule exhibit:
    """Draw an exhibit from its tables."""
    input:
        tables=tables_of(SCALE),
        facts=facts_of(SCALE),
    output:
        multiext(f"figures/{SCALE}/{{exhibit}}", ".svg", ".png", ".csv", ".md", ".tex", ".json"),
    log:
        f"<logs>/{SCALE}/exhibits/{{exhibit}}.log",
    priority: 3
    localrule: True
    conda:
        "../../environment.yml"
    params:
        source=exhibit_source,
        scale=SCALE,
    shell:
        "optrepro exhibit {wildcards.exhibit} --scale {params.scale} > {log} 2>&1"


# The published exhibits are drawn from the committed tidy results. No rule makes those, so this never starts any runs.
use rule exhibit as published_exhibit with:
    input:
        tables=tables_of(layout.PUBLISHED),
        facts=facts_of(layout.PUBLISHED),
    output:
        multiext("figures/{exhibit}", ".svg", ".png", ".csv", ".md", ".tex", ".json"),
    log:
        f"<logs>/{layout.PUBLISHED}/exhibits/{{exhibit}}.log",
    params:
        source=exhibit_source,
        scale=layout.PUBLISHED,


rule redraw:
    """Draw the published exhibits from the committed results."""
    input:
        exhibits(CATALOGUE.published(), layout.PUBLISHED),


rule figures:
    """Draw every exhibit of the scale."""
    input:
        exhibits(CATALOGUE.exhibits),


# One target for each system and for each exhibit: `snakemake gap`, `snakemake gap-sgdm`.
for _system in CATALOGUE.papers:

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
