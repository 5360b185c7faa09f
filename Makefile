# Commands for users and developers. `make help` lists them.
# Needs python3 (3.11 or newer), make and git; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
SLURM := $(VENV)/.slurm
DEMO := demo
CORES ?= 2
CONDA_EXE ?= conda

SYSTEM_PATH := $(PATH)
# .venv first: snakefmt looks for shfmt, and Snakemake for Python, on PATH.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Empty means that bytecode is kept: without it, each of a thousand processes would compile all.
export PYTHONDONTWRITEBYTECODE :=
# Snakemake keeps a cache of sources; the home folder may be read-only.
PYTEST := XDG_CACHE_HOME="$(CURDIR)/$(VENV)/cache" python -m pytest
# Two workers on two cores: nearly all tests compute, a third worker would only import PyTorch once
# more, and more threads in each of them would wait for one another. tests/conftest.py starts the
# modules of tests/long.txt first.
PYTEST_2 := OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist worksteal
# A test that hangs fails, with its name and where each thread was; the longest take one minute, on
# Slurm six.
NO_HANG := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true
LONG := $(filter tests/unit/%,$(addprefix tests/,$(shell grep -v '^\#' tests/long.txt)))
WORKFLOW := Snakefile workflow/Snakefile workflow/rules

.DEFAULT_GOAL := help
.PHONY: help install demo slurm-plugin slurm-profile check test test-all test-fuzz test-slurm test-geotessera coverage mutations lint docs \
	generate lock audit check-conda clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Make .venv with the pinned packages (other targets do it if needed)

$(INSTALLED): requirements/run.txt requirements/lock.txt requirements/cuda.txt pyproject.toml tools/install.sh tools/torch.sh
	@PATH="$(SYSTEM_PATH)" tools/install.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(INSTALLED) ## Run the workflow on a small synthetic archive
	@tessera-flow demo --out "$(DEMO)"
	@XDG_CACHE_HOME="$(CURDIR)/$(VENV)/cache" tessera-flow run --out "$(DEMO)" --cores $(CORES)
	@echo "These products are from synthetic scenes and untrained weights."

slurm-plugin: $(SLURM) ## Install what submits jobs to Slurm (test targets do it, too)

# Not with the others: Snakemake would import pandas, which the plugin needs, in every run.
$(SLURM): requirements/slurm.txt $(INSTALLED)
	@python -m pip --disable-pip-version-check --quiet install --no-deps --requirement requirements/slurm.txt
	@touch $@

# Snakemake looks for profiles in the working directory first.
slurm-profile: $(SLURM) ## Copy profiles/slurm to ./slurm, for `snakemake --profile slurm`
	@if [ -e slurm ]; then echo "./slurm exists: edit it, or remove it and run again." >&2; exit 1; fi
	@cp -RL profiles/slurm slurm
	@echo "Edit the lines marked EDIT in slurm/config.yaml, then: snakemake --profile slurm -n"

check: lint $(SLURM) ## Check style and types, and run the short unit tests
	@$(PYTEST_2) tests/unit $(LONG:%=--ignore=%)

test: lint $(SLURM) ## Check style, types and the workflow, and run the tests
	@$(PYTEST_2) $(NO_HANG)

test-all: lint $(SLURM) ## Run the slow tests, too
	@$(PYTEST_2) -m "not fuzz and not gpu and not online and not slurm and not geotessera"

test-fuzz: $(INSTALLED) ## Read malformed files, FUZZ_SECONDS for each reader (60)
	@$(PYTEST_2) -m fuzz tests/fuzz

test-slurm: $(SLURM) ## Run the workflow on a real Slurm (Debian; as root)
	@tools/install-slurm.sh || echo "NOT TESTED ON SLURM unless it is installed by other means" >&2
	@$(PYTEST) $(NO_HANG) -m slurm tests/slurm

test-geotessera: $(INSTALLED) ## Ask the published geotessera client (needs Python 3.12)
	@PATH="$(SYSTEM_PATH)" tools/geotessera-client.sh "$(VENV)/geotessera" || \
		echo "NOT TESTED WITH THE GEOTESSERA CLIENT" >&2
	@$(PYTEST) -m geotessera tests/geotessera

lint: $(INSTALLED) ## Check style, types, the workflow and the generated files
	@ruff check
	@ruff format --check
	@mypy
	@snakefmt --check $(WORKFLOW)
	@python tools/generate.py --check

coverage: $(SLURM) ## Report the lines of the package that the fast tests run
	@$(PYTEST_2) --cov --cov-report=term

mutations: $(INSTALLED) ## Change central lines, one at a time: a test must fail for each
	@python tools/mutations.py

docs: $(INSTALLED) ## Build docs/ as a site; fails at a broken link or anchor
	@python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

generate: $(INSTALLED) ## Write the generated files (schema, config.yaml, envs/ ...)
	@python tools/generate.py

lock: ## Resolve pyproject.toml with TORCH_VERSION (now: its present one); then: make generate
	@PATH="$(SYSTEM_PATH)" tools/lock.sh $(PYTHON) $(TORCH_VERSION)

audit: $(INSTALLED) ## Look up known vulnerabilities of the installed packages (needs internet)
	@python -m venv "$(VENV)/audit"
	@"$(VENV)/audit/bin/python" -m pip --quiet install pip-audit==2.10.1
	@python tools/audit.py "$(VENV)/audit/bin/python"

check-conda: ## Solve envs/*.yaml with conda (needs conda-forge; installs nothing)
	@for file in envs/*.yaml; do \
		echo "$$file"; \
		CONDA_OVERRIDE_CUDA=13.0 $(CONDA_EXE) env create --dry-run --file $$file --name check || exit 1; \
	done

clean: ## Remove .venv, the demo and caches (never results or work)
	@test ! -e "$(DEMO)" || test -f "$(DEMO)/simulated.json" || { \
		echo "$(DEMO) is no demo that tessera-flow has written: nothing is removed." >&2; exit 1; }
	@test ! -e "$(VENV)" || test -f "$(VENV)/pyvenv.cfg" || { \
		echo "$(VENV) is no Python environment: nothing is removed." >&2; exit 1; }
	rm -rf "$(VENV)" "$(DEMO)" docs/_build .pytest_cache .ruff_cache .mypy_cache
