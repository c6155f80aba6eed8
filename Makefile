# `make bench` sets everything up and prints the first leaderboard; `make test` sets up and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1

.PHONY: bench test test-all lint format setup setup-test clean

# torch first and by its exact version, so that a later package cannot pull in another build.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,plot]'
	touch $@

setup: $(VENV)/.ready

setup-test: $(VENV)/.ready-test

bench: setup
	$(BIN)/textgym bench --suite quick --out runs/quick --jobs $(JOBS)

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(JOBS)

test-all: lint
	$(BIN)/python -m pytest -n $(JOBS) -m ''

format: setup-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs
