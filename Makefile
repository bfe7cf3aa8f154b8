# Every target makes what it needs: the first one run builds .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TIME ?= 60

.PHONY: help demo bench test test-kernel lint types fuzz lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# The lock is complete, so nothing is resolved: pip, asked to, goes for a newer release of what a dependency names
# with an extra (coverage[toml]) and then finds no hash for it.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

$(VENV)/.locked: requirements.lock
	@echo "== making $(VENV) with $$($(PYTHON) --version), from requirements.lock"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes -r requirements.lock
	@touch $@

$(STAMP): $(VENV)/.locked pyproject.toml
	@$(INSTALL) --no-build-isolation -e .
	@$(BIN)/python -m pip check --disable-pip-version-check >$(VENV)/.checked || { cat $(VENV)/.checked; exit 1; }
	@touch $@
	@echo "== $(VENV) is ready"

demo: $(STAMP)  ## the agent at work on a simulated kernel: no root, no kernel support needed
	@echo "== ktls-agent demo: the agent's own code against a simulated kernel, on loopback"
	@$(BIN)/ktls-agent demo

test: $(STAMP)  ## unit, property and live-peer tests, with branch coverage
	@echo "== tests, with the branch coverage of sansio, io_trio and cli"
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

bench: $(STAMP)  ## the engine's speed beside Python's ssl (ARGS="--quick", "--instructions", "--gnutls")
	@$(BIN)/python -W ignore -m tests.bench $(ARGS)

test-kernel: $(STAMP)  ## NFS and NVMe/TCP over TLS on real kernels (needs root; set up once, then cached)
	@echo "== tests on real kernels (the first run builds the guests, about three minutes)"
	@$(BIN)/python -m pytest -m kernel tests/kernel $(ARGS)

lint: $(STAMP)  ## ruff: style, import rules, the purity of sansio/
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict and pyright
	@echo "== types"
	@$(BIN)/mypy
	@$(BIN)/pyright

$(VENV)/.fuzz: $(STAMP) requirements-fuzz.lock
	@echo "== adding atheris, from requirements-fuzz.lock"
	@$(INSTALL) --require-hashes -r requirements-fuzz.lock
	@touch $@

fuzz: $(VENV)/.fuzz  ## run every fuzz target for TIME seconds in all (TIME=60)
	@echo "== fuzzing for $(TIME) s (Python 3.11 to 3.13: atheris has no wheel for later ones yet)"
	@$(BIN)/python -m fuzz run $(TIME) $(TARGET)

LOCK := uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'

lock:  ## resolve the dependencies again (needs uv)
	$(LOCK) --group dev -o requirements.lock pyproject.toml
	echo 'atheris==3.0.0; python_version < "3.12"' >.fuzz.in
	echo 'atheris>=3.1; python_version >= "3.12" and python_version < "3.14"' >>.fuzz.in
	$(LOCK) -o requirements-fuzz.lock .fuzz.in
	rm .fuzz.in

clean:  ## remove what the targets made
	rm -rf $(VENV) build *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
