rule report:
    """Collect every exhibit, the claims and the fidelity ledger in one page."""
    input:
        sidecars=[f"{layout.exhibit(SCALE, name)}.json" for name in CATALOGUE.exhibits],
        ledger=catalogue.files(Path("config"), "fidelity.yaml"),
    output:
        f"<results>/{SCALE}/report.html",
    log:
        f"<logs>/{SCALE}/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        source=provenance.source_hash("optrepro.exhibits.report"),
    shell:
        "optrepro report {input.sidecars} --out {output} > {log} 2>&1"
