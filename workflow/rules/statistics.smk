rule statistics:
    """Compute a table of the analysis from tidy results."""
    input:
        tidy=lambda wildcards: [layout.tidy(wildcards.scale, s) for s in CATALOGUE.tables[wildcards.table].studies],
        facts=lambda wildcards: [
            layout.tidy(wildcards.scale, s).with_suffix(".json") for s in CATALOGUE.tables[wildcards.table].studies
        ],
        files=lambda wildcards: CATALOGUE.tables[wildcards.table].files,
    output:
        "<results>/{scale}/tables/{table}.parquet",
    log:
        "<logs>/{scale}/statistics/{table}.log",
    conda:
        "../../environment.yml"
    params:
        source=lambda wildcards: provenance.source_hash(
            *catalogue.source_modules(CATALOGUE.tables[wildcards.table], Path("config"))
        ),
    shell:
        "optrepro table {wildcards.table} {input.tidy} --out {output} > {log} 2>&1"
