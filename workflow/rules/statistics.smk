# One job computes the tables that share their studies and their code, so that most processes start once for several.
# Tables and figures have priority over runs, so that the first figures are there soon.
for _names in CATALOGUE.jobs():

    rule:
        name:
            f"statistics_{_names[0]}"
        input:
            tidy=[f"<results>/{{scale}}/tidy/{study}.parquet" for study in CATALOGUE.tables[_names[0]].studies],
            facts=[f"<results>/{{scale}}/tidy/{study}.json" for study in CATALOGUE.tables[_names[0]].studies],
            further=further_results(CATALOGUE.tables[_names[0]].further),
            files=CATALOGUE.tables[_names[0]].files,
        output:
            [f"<results>/{{scale}}/tables/{name}.parquet" for name in _names],
        log:
            f"<logs>/{{scale}}/statistics/{_names[0]}.log",
        priority: 2
        localrule: True
        conda:
            "../../environment.yml"
        params:
            source=provenance.source_hash(*catalogue.source_modules(CATALOGUE.tables[_names[0]], Path("config"))),
            arguments=[CATALOGUE.tables[name].arguments for name in _names],
            names=" ".join(_names),
        shell:
            "optrepro table {params.names} --scale {wildcards.scale} > {log} 2>&1"
