# One command sets everything up: each target makes .venv and installs what is missing first.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help run bench test lint clean

help:            ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY)    ## train plain training and all seven variants on digits, end in a table
	$(BIN)/opt-run experiment=digits

bench: $(READY)  ## measure every method and the alternatives, write outputs/bench/
	$(BIN)/opt-bench

test: $(READY)   ## run the tests
	$(BIN)/pytest

lint: $(READY)   ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:           ## remove the environment and caches, not outputs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"opt-runner needs Python 3.11 to 3.13, found {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
