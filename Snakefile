include: "workflow/Snakefile"


# A default target inside an included file is forgotten, so it is named here again.
rule default:
    default_target: True
    input:
        rules.all.input,
