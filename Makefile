# One door: people, hooks and CI run the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test slow check pythons axe format bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.core  ## imagine the bundled example sounds (installs the light core, no torch)
	@$(BIN)/soundsight translate src/soundsight/assets/examples -o demo-out --anyway --sheet --overwrite
	@echo "Look at the contact sheet: $(CURDIR)/demo-out/sheet.png"

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# One worker a core: a second thread of a small network would only be in the way of the other worker.
WORKERS := -n auto --dist loadfile

test: $(VENV)/.dev  ## install what the tests need and run all but the slow ones
	$(PYTEST) $(WORKERS) -m "not slow"

slow: $(VENV)/.dev  ## the slow tests: browser, fuzzing, kill points, real trainings, many processes
	$(PYTEST) $(WORKERS) -m "slow and not browser"
	$(PYTEST) -m "slow and browser"  # alone: a browser, a server and a microphone run in real time

check: $(VENV)/.dev  ## format, lint, types, import law
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pythons: $(VENV)/.dev  ## try the wheel without torch on each Python here, with old and new dependencies
	$(BIN)/nox

axe: .axe/axe.min.js  ## fetch the accessibility checker of the browser tests (needs npm)

.axe/axe.min.js:
	@mkdir -p .axe
	@cd .axe && npm pack --silent axe-core@4.14.1 >/dev/null && tar -xzf axe-core-4.14.1.tgz --strip-components=1 package/axe.min.js
	@rm -f .axe/axe-core-4.14.1.tgz

format: $(VENV)/.dev  ## put the code in the house's shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## measure speed and memory, side by side
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/mel.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/reader.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/errors.py --server

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "soundsight needs Python 3.11 or newer: run  make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python has no venv here: run  apt install python3-venv  and try again" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	@echo "installing the light core into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.core
	@echo "installing what development needs into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:  ## remove what was built, and the virtual environment
	rm -rf $(VENV) .nox demo-out build dist .pytest_cache .mypy_cache .ruff_cache
