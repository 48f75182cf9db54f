# Everything is installed into .venv, from versions pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO ?= data/demo

.PHONY: demo test faults lint types format clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

## demo: index this machine's Python docstrings and search them through both tiers
demo: $(INSTALLED)
	$(BIN)/tiered-index demo --dir $(DEMO)

## test: the fast tests, once more with assertions in the package stripped
test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto -m "not slow"
	$(BIN)/python -O -m pytest -n auto -m "not slow" tests/test_index.py tests/test_errors.py

## faults: the long form of the crash, kill, power-cut and damage tests; some need root and strace
faults: $(INSTALLED)
	$(BIN)/python -m pytest -s -m "slow or not slow" tests/faults tests/test_stateful.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tiered_index -name '*.nb[ic]' -delete
