rule data:
    """Download a data set unless it is available, and list its files with their checksums."""
    output:
        "<results>/data/{dataset}.sha256",
    log:
        "<logs>/data/{dataset}.log",
    retries: 2
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "optrepro data fetch {wildcards.dataset} --out {output} > {log} 2>&1"
