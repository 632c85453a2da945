rule study:
    """Run what the store lacks of a study, in one process that forks, and collect its tidy results and its facts.

    On a cluster each batch is a job of its own, and what is left to do here, where the workflow runs, is to collect.
    """
    input:
        data=data_listing,
        trained=trained_elsewhere,
        batches=batches_of if CLUSTER else [],
    output:
        tidy="<results>/{scale}/tidy/{study}.parquet",
        facts="<results>/{scale}/tidy/{study}.json",
        sidecar="<results>/{scale}/tidy/{study}.sidecar.json",
    log:
        "<logs>/{scale}/studies/{study}.log",
    wildcard_constraints:
        scale=SCALE,
        study="|".join(sorted(set(SETTINGS.studies) - set(LEARNING))) or NEVER,
    localrule: True
    conda:
        "../../environment.yml"
    threads: threads_of_study
    resources:
        gpu=0 if CLUSTER else asks_for_gpu,
    params:
        settings=settings_of_study,
        source=source_of_study,
    shell:
        "optrepro work {wildcards.study} --workers {threads} > {log} 2>&1"


# Studies that train weights have priority, because others wait for them.
use rule study as training with:
    wildcard_constraints:
        scale=SCALE,
        study="|".join(LEARNING) or NEVER,
    priority: 1


# On a cluster only.
rule batch:
    """Run one batch: rows of the run table, each an optimizer on a problem."""
    input:
        data=data_listing,
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
        gpu=asks_for_gpu,
        mem_mb=memory_of,
        slice_minutes=0,
        slurm_extra=slurm_options_of,
    params:
        settings=settings_of_batch,
        source=source_of_batch,
        threads=threads_of_torch,
    shell:
        "optrepro run {wildcards.study} {wildcards.batch} --threads {params.threads}"
        " --minutes {resources.slice_minutes} > {log} 2>&1"
