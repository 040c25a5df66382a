# Two commands do nearly everything: `make report` and `make test`. `make help` lists the rest.

PROFILE ?= quick
RUN ?= $(PROFILE)
PYTHON ?= python3
BIN ?= .venv/bin
SNAKEMAKE = $(BIN)/python -m snakemake --cores all --nolock --rerun-incomplete --rerun-triggers mtime input params \
	--quiet host rules progress reason --config profile='$(PROFILE)' run='$(RUN)'
# a file of tests stays in one process, and those that run chains of notebooks start first
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest \
	--numprocesses 2 --dist loadfile --no-loadscope-reorder

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /: /' | awk -F': ' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo "PROFILE (quick, smoke, wbta, train, mp20_cpu, mp20, mine, paper, dismai_quick, dismai) chooses params/PROFILE/; RUN (default: PROFILE) names outputs/RUN/."

report: .venv/ready ## run what is left of the notebooks with PROFILE and gather outputs/RUN/index.html
	@$(SNAKEMAKE)
	@printf '\nThe report: %s\n' "$$PWD/outputs/$(RUN)/index.html"

study: .venv/ready ## after the report, notebooks 10 to 13: what its models must be told, and what each part is worth
	@$(SNAKEMAKE) -- study
	@printf '\nThe report, with the study: %s\n' "$$PWD/outputs/$(RUN)/index.html"

train: .venv/ready ## train the networks of Tables 1 and 2 at the size that ships (four to six hours on two cores)
	@$(MAKE) report PROFILE=train

test: .venv/ready ## all tests, among them the whole chains with params/smoke, score_smoke and dismai_smoke
	@$(PYTEST)

quicktest: .venv/ready ## the tests that take no more than a second or two each: a first answer
	@$(PYTEST) -m "not slow"

faults: .venv/ready ## put faults into a copy of the code one at a time: does a test catch each?
	@$(BIN)/python -m benchmarks.faults

lint: .venv/ready ## check rules and format with ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: .venv/ready ## measure speed against plain readings of the same; then make publish RUN=benchmarks
	@$(BIN)/python -m benchmarks

lab: .venv/ready ## the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

setup: .venv/ready ## the pinned environment in .venv, and nothing else

clean: ## remove every run but the published ones
	[ ! -d outputs ] || find outputs -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} +
	rm -rf .snakemake .pytest_cache .ruff_cache

publish: .venv/ready ## copy RUN's small files and scores to outputs/published/, and renew the README's results
	@$(BIN)/python -m lib.report publish '$(RUN)'

verify: .venv/ready ## compare RUN, cell by cell, with what is published under that name
	@$(BIN)/python -m lib.verify '$(RUN)'

embedded: .venv/ready ## build the embedded set again (hours; needs a C++ compiler)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[embedded]'
	$(BIN)/python -m lib.build_embedded relax
	$(BIN)/python -m lib.build_embedded assemble

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		"Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is %d.%d; choose one: make PYTHON=python3.12 ..." % v[:2])'
	@echo "Installing the versions of constraints.txt into .venv: a download of about 0.8 GB,"
	@echo "or 3 GB where pip finds PyTorch's CUDA build (its default on Linux). Nothing else is fetched later."
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --constraint constraints.txt --editable '.[test]'
	@mkdir -p .venv/etc/jupyter/labconfig # else JupyterLab asks to be built for an extension that comes with Dash
	@echo '{"buildAvailable": false, "buildCheck": false}' > .venv/etc/jupyter/labconfig/page_config.json
	@touch $@

.PHONY: help report study train test quicktest faults lint bench lab setup clean publish verify embedded
