# make demo   the main job on real images, offline after installation
# make test   lint, types, layers, tests
# make coverage   the tests once more, with the lines and branches that they reach
# make faults   kills, damages, full disks and broken inputs by the thousand
# make docs   the site in site/, checked strictly
# make package  wheels and source distributions in dist/, checked
# All make their own .venv from a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint types layers check coverage faults docs package clean

demo: $(VENV)/.demo
	$(BIN)/petiole demo --resume

# The type checker has one process and the tests two: side by side they leave no core idle.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory lint layers
	$(MAKE) --no-print-directory --jobs 2 types check

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/codespell src tests benchmarks examples docs *.md

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

check: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered

faults: $(VENV)/.dev
	PETIOLE_FAULTS=1 OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/faults tests/hostile/test_inputs.py

docs: $(VENV)/.docs
	NO_COLOR=1 $(BIN)/mkdocs build --strict --site-dir site

package: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m build --outdir dist packaging/weights
	$(BIN)/twine check --strict dist/*

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch torchvision
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist site packaging/weights/build packaging/weights/src/*.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
