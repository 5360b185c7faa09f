# Everything a developer or a first-time user runs. `make help` lists it.
# Needs python3 (3.11 or newer), make and git; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
DEMO := demo
CORES ?= 2
CONDA_EXE ?= conda

SYSTEM_PATH := $(PATH)
# .venv first: snakefmt looks for shfmt, and Snakemake for Python, on PATH.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Snakemake keeps a cache of sources; a home that cannot be written to must not matter.
SNAKEMAKE := XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache snakemake
PYTEST := XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache python -m pytest
WORKFLOW := Snakefile workflow/Snakefile workflow/rules

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-slurm coverage mutations lint docs generate lock check-conda clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Make .venv with the pinned packages (demo and test do it themselves)

$(INSTALLED): requirements/lock.txt pyproject.toml tools/install.sh tools/torch.sh
	@PATH="$(SYSTEM_PATH)" tools/install.sh $(PYTHON) $(VENV)
	@touch $@

demo: $(INSTALLED) ## Run the whole workflow on a small simulated landscape
	@tessera-flow demo --out $(DEMO)
	@$(SNAKEMAKE) --configfile $(DEMO)/config.yaml --cores $(CORES)
	@echo "Products (from simulated scenes and untrained weights):"
	@find $(DEMO)/results -mindepth 3 -maxdepth 3 -not -name '.*' | sort | sed 's/^/  /'
	@echo "Open the report first: $$(echo $(DEMO)/results/*/*/report.html)"

test: lint ## Check style, types and the workflow, and run the tests
	@$(PYTEST) -n 2 --dist worksteal

test-all: lint ## The same with the slow tests
	@$(PYTEST) -n 2 --dist worksteal -m "not gpu and not online and not slurm"

test-slurm: $(INSTALLED) ## Run the workflow on a real Slurm (Debian packages; as root)
	@tools/install-slurm.sh || echo "NOT TESTED ON SLURM unless it is installed by other means" >&2
	@$(PYTEST) -m slurm tests/slurm

lint: $(INSTALLED) ## Check style, types, the workflow and the generated files
	@ruff check
	@ruff format --check
	@mypy
	@snakefmt --check $(WORKFLOW)
	@python tools/generate.py --check

coverage: $(INSTALLED) ## Which lines of the package the fast tests run, in jobs' processes, too
	@$(PYTEST) -n 2 --dist worksteal --cov --cov-report=term

mutations: $(INSTALLED) ## Change central lines, one at a time: a test has to fail for each
	@python tools/mutations.py

docs: $(INSTALLED) ## Build docs/ as a site; fails at a link or an anchor that leads nowhere
	@python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

generate: $(INSTALLED) ## Write every generated file (schema, config.yaml, envs/, container/ ...)
	@python tools/generate.py

lock: ## Resolve the pins of pyproject.toml anew (then: make generate)
	@PATH="$(SYSTEM_PATH)" tools/lock.sh $(PYTHON)

check-conda: ## Solve envs/*.yaml with conda (needs conda-forge; installs nothing)
	@for file in envs/*.yaml; do \
		echo "$$file"; \
		CONDA_OVERRIDE_CUDA=13.0 $(CONDA_EXE) env create --dry-run --file $$file --name check || exit 1; \
	done

clean: ## Remove .venv, the demo and caches (never results or work)
	rm -rf $(VENV) $(DEMO) docs/_build .pytest_cache .ruff_cache .mypy_cache
