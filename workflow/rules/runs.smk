# One job runs, in one process that forks, what the store lacks of the studies that the same tables read, and collects
# their tidy results and facts; so most processes start once for several. On a cluster each batch is a job of its own, and
# what is left to do here, where the workflow runs, is to collect.
for _studies in together(SETTINGS.studies):

    rule:
        name:
            f"study_{_studies[0]}"
        input:
            data=data_listing(_studies),
            trained=trained_elsewhere(_studies),
            batches=batches_of(_studies) if CLUSTER else [],
        output:
            [
                f"<results>/{SCALE}/tidy/{study}{suffix}"
                for study in _studies
                for suffix in (".parquet", ".json", ".sidecar.json")
            ],
        log:
            f"<logs>/{SCALE}/studies/{_studies[0]}.log",
        priority: priority_of_studies(_studies)
        localrule: True
        conda:
            "../../environment.yml"
        threads: threads_of_studies(_studies)
        resources:
            gpu=0 if CLUSTER else asks_for_gpu(_studies),
        params:
            settings=settings_of_studies(_studies),
            source=source_of_studies(_studies),
            names=" ".join(_studies),
        shell:
            "optrepro work {params.names} --workers {threads} > {log} 2>&1"


# On a cluster only.
rule batch:
    """Run one batch: rows of the run table, each an optimizer on a problem."""
    input:
        data=lambda wildcards: data_listing([wildcards.study]),
        needed=needed,
    output:
        metrics="<results>/{scale}/runs/{study}/{batch}/metrics.parquet",
        sidecar="<results>/{scale}/runs/{study}/{batch}/run.json",
    log:
        "<logs>/{scale}/runs/{study}/{batch}.log",
    benchmark:
        "<logs>/{scale}/runs/{study}/{batch}.tsv"
    wildcard_constraints:
        scale=SCALE,
    conda:
        "../../environment.yml"
    threads: threads_of_batch
    resources:
        gpu=lambda wildcards: asks_for_gpu([wildcards.study]),
        mem_mb=memory_of,
        slice_minutes=0,
        slurm_extra=slurm_options_of,
    params:
        settings=settings_of_batch,
        source=source_of_batch,
    shell:
        "optrepro run {wildcards.study} {wildcards.batch} --minutes {resources.slice_minutes} > {log} 2>&1"
