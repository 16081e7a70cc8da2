# Everything goes through .venv, which is made when it is missing. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup system demo test test-fast test-slow faults soak check tree notebook audit bench gpu-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rts-search needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "installing the pinned dependencies into $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(TORCH) -e '.[dev]'
	@touch $@

DEBS := chromium chromium-driver prometheus iproute2 iptables openssh-server rsync

system:  ## Debian's packages for the tests of dashboards and clusters, which are skipped without
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(DEBS) > /dev/null

demo: $(READY)  ## a real RTS sweep on scikit-learn's digits, in about two minutes
	@$(BIN)/rts-search sweep --preset demo $(ARGS)

test: $(READY)  ## all tests, the fast ones first
	@$(PYTEST) -n 2 -m "not slow and not docs"
	@$(PYTEST) -n 2 --dist loadfile -m "slow and not very_slow"

test-slow: $(READY)  ## the long tests: 20 kills, power cuts, 2,000 mutants, budgets, memory
	@$(PYTEST) -s -m "very_slow and not faults"

faults: $(READY)  ## sweeps on a cluster in network namespaces, while faults are injected (root)
	@$(PYTEST) -s -v -m "faults and not soak"

soak: $(READY)  ## 1,000 short trials with a random fault every few seconds (root)
	@$(PYTEST) -s -m soak

test-fast: $(READY)  ## the unit tests, within a minute
	@$(PYTEST) -n 2 -m "not slow and not docs"

check: $(READY)  ## ruff, strict types, import rules, the commands in the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST) -m docs

notebook: $(READY)  ## execute docs/notebook.ipynb anew, and store what it shows
	@$(BIN)/python docs/execute.py

audit: $(READY)  ## known vulnerabilities in the pinned dependencies, where the advisories can be reached
	@$(BIN)/python .ci/audit.py

tree: $(READY)  ## write the file tree in docs/design.md anew, from the modules' docstrings
	@$(BIN)/python docs/tree.py

bench: $(READY)  ## the benchmarks behind BENCHMARKS.md
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

gpu-check: $(READY)  ## a trial's speed on a CUDA GPU: families, precision, syncs, sharing, streaming
	@$(BIN)/python benchmarks/trial_speed.py --table --rounds 5

clean:  ## undo: the environment, caches and build files (sweeps stay)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
