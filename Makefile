# Each target creates the environment first if it is missing or older than pyproject.toml. Nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE_VENV ?= .venv-core
CORE_BIN := $(CORE_VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo bench test test-core test-all export-alone check lint types cold-start gpu faults hostile kills kills-sort kills-archives kills-remote serve-answers serve-stops soak-serve fuzz clean
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
KILLS ?= 200
FUZZ_SECONDS ?= 1800
REQUESTS ?= 20000
PHOTOS ?= examples
.DEFAULT_GOAL := demo

demo: $(VENV)/core
	$(BIN)/levit predict --model demo --format table examples

# The paper's claims, judged on this machine.
bench: $(VENV)/bench
	$(BIN)/levit bench --device cpu

test: $(VENV)/dev
	$(PYTEST) $(PARALLEL)

# What the core install can do, without torch. Tests that need an extra are skipped.
test-core: $(CORE_VENV)/test
	$(CORE_BIN)/python -m pytest -q $(PARALLEL)

# What `make test` leaves out: the tests marked `exhaustive`, the hostile images and some kills.
test-all: $(VENV)/dev
	$(PYTEST) $(PARALLEL) -m exhaustive
	$(BIN)/python -m tests.hostile.images
	$(BIN)/python -m tests.hostile.kills --kills 50

# Exported models in new environments that hold NumPy, Pillow and one runtime.
export-alone: $(VENV)/dev
	$(BIN)/python -m tests.export.alone

check: lint types test

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 src
	$(BIN)/mypy --platform darwin src

# The time of one prediction, from process start to the labels, beside transformers.
cold-start: $(VENV)/dev
	$(BIN)/python -m benchmarks.cold_start

# The tests that need an NVIDIA GPU, then the table for docs/performance.md. It takes less than 9 minutes.
gpu: $(VENV)/dev
	$(PYTEST) -m gpu tests/engines tests/finetune
	$(BIN)/python -m benchmarks.gpu

# Each system call fails in turn.
faults: $(VENV)/dev
	$(PYTEST) $(PARALLEL) -m exhaustive tests/faults

# 300 damaged images.
hostile: $(VENV)/dev
	$(BIN)/python -m tests.hostile.images

kills: $(VENV)/dev
	$(BIN)/python -m tests.hostile.kills --kills $(KILLS)

# levit sort and its --undo, killed at random moments.
kills-sort: $(VENV)/dev
	$(BIN)/python -m tests.hostile.kills_sort --kills 100

# The same on archives, 50 kills each.
kills-archives: $(VENV)/dev
	$(BIN)/python -m tests.hostile.kills --kills 50 --source tar
	$(BIN)/python -m tests.hostile.kills --kills 50 --source tar.gz
	$(BIN)/python -m tests.hostile.kills --kills 50 --source zip

# The same on objects in an S3 server.
kills-remote: $(VENV)/dev
	$(BIN)/python -m tests.hostile.kills --kills 50 --source s3

# levit serve: 20,000 answers (make serve-answers REQUESTS=100000), 50 stops under load, and half an hour under load.
serve-answers: $(VENV)/dev
	$(BIN)/python -m tests.serve.load answers --requests $(REQUESTS)

serve-stops: $(VENV)/dev
	$(BIN)/python -m tests.serve.load stops --stops 50

soak-serve: $(VENV)/dev
	$(BIN)/python -m benchmarks.serve soak $(PHOTOS)

fuzz: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz image .fuzz/image -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096
	$(BIN)/python -m tests.fuzz model .fuzz/model -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

clean:
	rm -rf $(VENV) $(CORE_VENV) build dist .fuzz .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(CORE_BIN)/python:
	$(PYTHON) -m venv $(CORE_VENV)

$(VENV)/core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[torch,plot]'
	touch $@ $(VENV)/core

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/core $(VENV)/bench

$(CORE_VENV)/test: pyproject.toml | $(CORE_BIN)/python
	$(CORE_BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
