rule check:
    """Try every optimizer, network and data set that the config names, before anything runs."""
    output:
        f"<results>/{SCALE}/config.json",
    params:
        settings=runtable.fingerprint(SETTINGS.model_dump(mode="json", by_alias=True)),
    log:
        f"<logs>/{SCALE}/check.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "optrepro check {CONFIG} --out {output} > {log} 2>&1"


rule runs:
    """Carry out a batch of runs: optimizers on problems, one row of the run table each."""
    input:
        checked=ancient(rules.check.output),
        data=data_listing,
        earlier=needs,
    output:
        metrics="<results>/{scale}/runs/{study}/{batch}/metrics.parquet",
        sidecar="<results>/{scale}/runs/{study}/{batch}/run.json",
    wildcard_constraints:
        scale=SCALE,
    params:
        settings=settings_of,
        source=source_of,
        earlier=lambda wildcards, input: " ".join(f"--earlier {path}" for path in input.earlier),
    log:
        "<logs>/{scale}/runs/{study}/{batch}.log",
    benchmark:
        "<logs>/{scale}/runs/{study}/{batch}.tsv"
    threads: 1
    resources:
        gpu=asks_for_gpu,
        slice_minutes=0,
    conda:
        "../../environment.yml"
    shell:
        "optrepro run {wildcards.study} {wildcards.batch} {CONFIG} --threads {threads}"
        " --minutes {resources.slice_minutes} {params.earlier} --out {output.metrics} > {log} 2>&1"


rule collect:
    """Gather a study's runs into one tidy table, with the facts that describe it."""
    input:
        checked=ancient(rules.check.output),
        metrics=lambda wildcards: [layout.metrics(SCALE, wildcards.study, b) for b in BATCHES[wildcards.study]],
    output:
        tidy="<results>/{scale}/tidy/{study}.parquet",
        facts="<results>/{scale}/tidy/{study}.json",
        sidecar="<results>/{scale}/tidy/{study}.sidecar.json",
    wildcard_constraints:
        scale=SCALE,
    params:
        settings=lambda wildcards: runtable.fingerprint(study_of(wildcards).model_dump(mode="json", by_alias=True)),
        source=provenance.source_hash("optrepro.experiments.gather"),
    log:
        "<logs>/{scale}/collect/{study}.log",
    conda:
        "../../environment.yml"
    shell:
        "optrepro collect {wildcards.study} {input.metrics} {output.tidy} {CONFIG} > {log} 2>&1"
