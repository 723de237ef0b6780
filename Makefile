# Each target makes the environment first, if it is missing or older than pyproject.toml. Nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check lint types bench faults hostile kills fuzz clean
FUZZ_SECONDS ?= 1800
.DEFAULT_GOAL := demo

demo: $(VENV)/runtime
	$(BIN)/levit predict --model demo --format table examples

test: $(VENV)/dev
	$(BIN)/python -m pytest -q

check: lint types test

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks.cold_start

# Slow ones, beside the suite: each call to the system fails in turn; 300 damaged pictures; 200 times kill -9; fuzzing.
faults: $(VENV)/dev
	LEVIT_FAULT_STEP=1 $(BIN)/python -m pytest -q tests/faults

hostile: $(VENV)/dev
	$(BIN)/python -m tests.hostile.pictures

kills: $(VENV)/dev
	$(BIN)/python -m tests.hostile.kills

fuzz: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz image .fuzz/image -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096
	$(BIN)/python -m tests.fuzz model .fuzz/model -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

clean:
	rm -rf $(VENV) build dist .fuzz .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/runtime
