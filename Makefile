# make         set up .venv from the lock and run the main job at laptop scale
# make test    lint and tests
# make site    the site of the published results, in results/published/site
# make system  tests that take minutes: the workflow from nothing, under faults and on a SLURM, compiled steps, a browser
# make faults  100 kills of a running workflow, each followed by the same command
VENV ?= .venv
PYTHON ?= python3
SCALE ?= laptop
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: all test system faults lint redraw site benchmarks clean

all: $(VENV)/.ready
	@if [ -t 1 ]; then live='--logger rich'; fi; snakemake --cores all --configfile config/$(SCALE).yaml $$live

test: $(VENV)/.ready-dev lint
	pytest -m "not system" -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	@echo "branch coverage of src: $$(coverage report --format=total) %"

# Three at a time, because much of the time they wait.
system: $(VENV)/.ready-dev
	pytest -m system -n 3 --dist loadfile --no-loadscope-reorder

faults: $(VENV)/.ready-dev
	OPTREPRO_KILLS=100 pytest tests/faults/test_kills.py

lint: $(VENV)/.ready-dev
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint --configfile config/smoke.yaml

redraw: $(VENV)/.ready
	snakemake redraw --cores all --forceall
	optrepro readme

site: $(VENV)/.ready
	snakemake site --cores all

benchmarks: $(VENV)/.ready
	$(PIP_INSTALL) --editable '.[workflow,benchmarks]'
	python benchmarks/run.py

# The lock is a constraints file: pip takes a package's pin where it needs the package at all.
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "python's venv module is needed: apt install python3-venv" >&2; exit 1; }

$(VENV)/.ready: $(VENV)/bin/python constraints.txt pyproject.toml
	$(PIP_INSTALL) --editable '.[workflow]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP_INSTALL) --editable '.[workflow,dev]'
	touch $@

clean:
	rm -rf $(VENV) state logs .snakemake
