# `make bench` sets everything up and prints the first leaderboard; `make speed` measures it beside
# its peers; `make test` sets up and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= 1

.PHONY: bench speed test test-all lint format setup setup-test clean

# torch first and by its exact version, so that a later package cannot pull in another build.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,plot]'
	touch $@

# The last TRL with PPO goes in a folder of its own: benchmarks/speed/trl_ppo.py.
$(VENV)/.ready-speed: $(VENV)/.ready
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[peers,plot]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target $(VENV)/trl-ppo trl==1.12.0
	touch $@

setup: $(VENV)/.ready

setup-test: $(VENV)/.ready-test

bench: setup
	$(BIN)/textgym bench --suite quick --out runs/quick --jobs $(JOBS)

# Beside transformers, TRL and RL4LMs' way; results/speed holds a run.
speed: $(VENV)/.ready-speed
	$(BIN)/python -m textgym.benchmarks.speed --out runs/speed

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
