# Everything that is done to this repository. `make` lists it; every target sets up what it needs first.

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint format bench oracle docker28 fixtures witnesses readme schema install-check directions clean system root

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
N ?= 500

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: root system $(READY) ## Break a throw-away host, diagnose it, mend it (root)
	@$(VENV)/bin/nettrace demo

test: system $(READY) ## Run all tests; as root also those that make throw-away hosts
	@sh tests/run.sh $(PY) $(ARGS)

test-fast: $(READY) ## Run the tests that need no root
	@$(PY) -m pytest -m "not live" $(ARGS)

lint: $(READY) ## Check style, format and types
	@$(PY) -m ruff check nettrace probes tests
	@$(PY) -m ruff format --check nettrace probes tests
	@$(PY) -m mypy

format: $(READY) ## Format the source
	@$(PY) -m ruff check --fix --select I nettrace probes tests
	@$(PY) -m ruff format nettrace probes tests

bench: root system $(READY) ## Measure whole runs beside their yardsticks (root)
	@$(PY) tests/bench/bench.py $(ARGS)

oracle: root system $(READY) ## Let the kernel judge the model: N=500 random rulesets (root)
	@$(PY) -m tests.oracle --cases $(N) $(ARGS)

directions: root system $(READY) ## Ask in every direction on every kind of bridge network, against ping and nc (root)
	@$(PY) -m tests.live.directions --all $(ARGS)

docker28: $(READY) ## Unpack Docker 28 into the user's cache, installing nothing
	@$(PY) -m nettrace.lab.fetch docker-28

fixtures: root system $(READY) ## Record every case in fixtures/ again (root)
	@$(PY) -m nettrace.lab.record $(ARGS)

witnesses: root system $(READY) ## Write docs/witnesses.md: which witness names which fault (root)
	@$(PY) -m nettrace.lab.witnesses -o docs/witnesses.md

readme: $(READY) ## Write the README's table of faults again, from the rules
	@$(PY) -m tests.readme

schema: $(READY) ## Generate the JSON Schemas in nettrace/data again
	@$(PY) -m tests.schema

install-check: $(READY) ## Build a wheel, install it in a fresh environment, and run it
	@sh tests/install-check.sh "$(PY)"

clean: ## Remove the environment, caches and builds; labs stay (nettrace lab down --all)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find nettrace probes tests -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@sh tests/setup-system.sh all

root:
	@[ "$$(id -u)" -eq 0 ] || { echo "this makes network namespaces, so it needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

# The environment: made once, made again when its Python is gone, and brought up to date when pyproject.toml changed.
$(READY): pyproject.toml tests/setup-system.sh
	@python=$$(sh tests/setup-system.sh python) && \
	{ $(PY) -c 'import pip' 2>/dev/null || { echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV); }; }
	@echo "installing nettrace and its tools into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --editable '.[test,lint]'
	@# As pip compiles what it installs for good; Python does it on the way, unless PYTHONDONTWRITEBYTECODE forbids.
	@$(PY) -m compileall -q nettrace probes
	@touch $@
