rule runs:
    """Run one batch: rows of the run table, each an optimizer on a problem."""
    input:
        data=data_listing,
        earlier=needs,
        weights=weights,
    output:
        metrics="<results>/{scale}/runs/{study}/{batch}/metrics.parquet",
        sidecar="<results>/{scale}/runs/{study}/{batch}/run.json",
    log:
        "<logs>/{scale}/runs/{study}/{batch}.log",
    benchmark:
        "<logs>/{scale}/runs/{study}/{batch}.tsv"
    wildcard_constraints:
        scale=SCALE,
        study="|".join(sorted(set(SETTINGS.studies) - set(LEARNING))) or NEVER,
    conda:
        "../../environment.yml"
    threads: threads_of
    resources:
        gpu=asks_for_gpu,
        mem_mb=memory_of,
        slice_minutes=0,
        slurm_extra=slurm_options_of,
    params:
        settings=settings_of,
        source=source_of,
        earlier=lambda wildcards, input: " ".join(f"--earlier {path}" for path in input.earlier),
        weights=lambda wildcards, input: f"--weights {input.weights[0]}" if input.weights else "",
    shell:
        "optrepro run {wildcards.study} {wildcards.batch} --threads {threads}"
        " --minutes {resources.slice_minutes} {params.earlier} {params.weights} --out {output.metrics} > {log} 2>&1"


# Training of weights has priority, because other runs wait for them.
use rule runs as meta_training with:
    output:
        metrics="<results>/{scale}/runs/{study}/{batch}/metrics.parquet",
        sidecar="<results>/{scale}/runs/{study}/{batch}/run.json",
        policy="<results>/{scale}/runs/{study}/{batch}/policy.safetensors",
    wildcard_constraints:
        scale=SCALE,
        study="|".join(LEARNING) or NEVER,
    priority: 1


rule collect:
    """Collect a study's runs into one tidy table and write its facts beside it."""
    input:
        metrics=lambda wildcards: [layout.metrics(SCALE, wildcards.study, b) for b in BATCHES[wildcards.study]],
    output:
        tidy="<results>/{scale}/tidy/{study}.parquet",
        facts="<results>/{scale}/tidy/{study}.json",
        sidecar="<results>/{scale}/tidy/{study}.sidecar.json",
    log:
        "<logs>/{scale}/collect/{study}.log",
    wildcard_constraints:
        scale=SCALE,
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: fingerprint(study_of(wildcards).model_dump(mode="json", by_alias=True)),
        source=provenance.source_hash("optrepro.experiments.collect"),
    shell:
        "optrepro collect {wildcards.study} {input.metrics} {output.tidy} > {log} 2>&1"
