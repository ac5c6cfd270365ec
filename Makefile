# demo  the four cases side by side       test      the fast tests
# check lint, types, fences               test-all  the slow tier (conformance, real models)
PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Each worker on one core: two of them with two threads each would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-all check docs clean
demo: $(VENV)/.runtime
	$(BIN)/surgeon demo

test: $(VENV)/.tools
	$(PYTEST) -m "not slow and not gpu" $(PYTEST_ARGS)

test-all: $(VENV)/.tools
	$(PYTEST) -m "slow and not gpu" $(PYTEST_ARGS)

check: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

# The pages that are made from the code.
docs: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/conformance.py --write
	$(BIN)/python tests/cli/options_page.py --write
	$(BIN)/python tests/plugin/hooks_page.py --write

clean:
	rm -rf build dist demo-out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Torch first and by itself, so that the build the constraints name is the one that is taken.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "1/3 a virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 torch: the largest download, some minutes"
	@$(INSTALL) torch
	@echo "3/3 surgeon and what it needs"
	@$(INSTALL) -e '.[models,all]'
	@touch $@

$(VENV)/.tools: $(VENV)/.runtime $(wildcard plugins/surgeon-*/pyproject.toml)
	@echo "tools for tests and checks"
	@$(INSTALL) --quiet -e '.[models,all,test,lint]' $(foreach one,$(wildcard plugins/surgeon-*),-e $(one))
	@touch $@
