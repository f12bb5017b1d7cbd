# One command sets everything up: each target makes .venv and installs what is missing first.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FRAMEWORKS := $(VENV)/.frameworks
DOCS := $(VENV)/.docs

.PHONY: help run reproduce-table evidence bench test test-all test-versions chaos lint docs clean

help:            ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY)    ## train plain training and all seven variants on digits, end in a table
	@$(BIN)/opt-run experiment=digits

# SCALE=paper or small; without it, paper where there is a GPU. Narrowed or changed by
# SEEDS=0,1 MODELS=cnn6 METHODS=standard,gs DATASET=cifar10 (or a folder of images) ARGS="...".
# A folder with the name of a dataset, as .../cifar100, has its name and its recipe.
SCALE ?= $(shell $(BIN)/python -c 'import torch; print("paper" if torch.cuda.is_available() else "small")')
EXPERIMENT = reproduce_table$(if $(filter small,$(SCALE)),_small)
GRID = $(if $(SEEDS),seed=$(SEEDS)) $(if $(MODELS),model=$(MODELS)) \
  $(if $(METHODS),method=$(METHODS)) $(if $(DATASET),$(if $(wildcard $(DATASET)/.),\
  dataset=$(if $(wildcard conf/dataset/$(notdir $(abspath $(DATASET))).yaml),$(notdir \
  $(abspath $(DATASET))),image_folder) dataset.root=$(abspath $(DATASET)),dataset=$(DATASET))) $(ARGS)

reproduce-table: $(READY)  ## the paper's table: methods x networks x seeds, with a report
	$(eval SCALE := $(SCALE))@case "$(SCALE)" in small|paper) ;; *) \
	  echo "make reproduce-table: SCALE must be small or paper, got '$(SCALE)'" >&2; exit 2;; esac
	@echo "reproduce-table: SCALE=$(SCALE) (SCALE=small and SCALE=paper choose)"
	@$(BIN)/opt-run experiment=$(EXPERIMENT) $(GRID); status=$$?; \
	test $$status -gt 1 || $(BIN)/opt-report outputs/$(EXPERIMENT) \
	  --title "OPT: methods compared, $(SCALE) scale" \
	  || status=$$?; exit $$status

# TRIALS of the search for each method, BUDGET in epochs; DATASET, MODELS, METHODS, SEEDS, ARGS as above.
EVIDENCE = $(GRID) $(if $(TRIALS),hydra.sweeper.trials=$(TRIALS)) $(if $(BUDGET),budget.epochs=$(BUDGET))
evidence: $(READY)  ## tune every method alike on validation images, then compare them, with a report
	@$(BIN)/opt-run experiment=evidence $(EVIDENCE); status=$$?; \
	test $$status -gt 1 || $(BIN)/opt-report outputs/evidence --title "OPT: methods tuned alike" \
	  || status=$$?; exit $$status

# PARTS="steps growth", all by default; ARGS="--quick" and the like, see ARGS=--help.
bench: $(READY)  ## measure every method and the alternatives, write outputs/bench/
	@$(BIN)/python -m benchmarks $(PARTS) $(ARGS)

# A worker a core, each with its share of the threads (tests/conftest.py). One test alone starts
# faster without workers: .venv/bin/pytest tests/test_opt.py
test: $(FRAMEWORKS)  ## run the tests, but for the slow ones
	@$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

test-all: $(FRAMEWORKS)  ## run all tests: also real clusters, several processes and kills by the dozen
	@$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

# An environment each below ENVIRONMENTS, some GB, removed after its tests. docs/reliability.md has results.
VERSIONS ?= 3.11-lowest-direct 3.12-highest 3.13-highest 3.14-highest
ENVIRONMENTS ?= .venv-versions
test-versions: $(READY)  ## the quick tests with the oldest packages allowed, and on newer Pythons
	@status=0; for version in $(VERSIONS); do \
	  env=$(ENVIRONMENTS)/$$version; python=$${version%%-*}; resolution=$${version#*-}; \
	  echo "$$version:"; $(BIN)/uv venv --quiet --clear --python $$python $$env && \
	  $(BIN)/uv pip install --quiet --python $$env --resolution $$resolution --editable '.[dev]' && \
	  $$env/bin/pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow" || status=1; \
	  rm -rf $$env; done; exit $$status

chaos: $(READY)  ## kills between all file operations, and hundreds in sweeps, with damaged files
	@OPT_CHAOS_KILLS=$(or $(KILLS),100) $(BIN)/pytest tests/run/test_kills.py tests/cli/test_chaos.py

lint: $(READY)   ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(DOCS)    ## build the pages as a site in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict

clean:           ## remove the environment, the site and caches, not outputs/
	@rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The libraries that people train in, and TensorBoard. Their tests are skipped where these cannot be
# installed.
$(FRAMEWORKS): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,frameworks,tensorboard]' \
	  || echo "transformers, accelerate, timm, PyG or TensorBoard cannot be installed: their tests are skipped" >&2
	@touch $@

$(DOCS): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@touch $@

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"opt-runner needs Python 3.11 or newer, found {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV): PyTorch and the other packages of pyproject.toml, some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
