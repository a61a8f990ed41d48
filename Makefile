# make demo   run the main job on real input with the embedded queue; needs no server; make demo ARGS=--stay leaves its pages up
# make test   install what the tests need, then check everything; what CI runs
# make chaos  minutes of kills, cut connections and full disks, and nothing may be lost: make chaos ARGS='--seed 7'
# make soak   hours of the same, a million requests; may be interrupted, and goes on where it was
# make proof  minutes of damage at rest, on the wire and under way, and no response may be untrue: make proof ARGS='--seed 7'
# make bench  half an hour of measurements beside the alternatives, in memory; writes docs/benchmarks.md
# make check  lint, types and the import contract only
# make site   build the documentation as a site, in site/
# make lock   compile requirements/*.txt anew from pyproject.toml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test pytest chaos soak proof bench check format site lock test-tools clean

demo: $(VENV)/.runtime
	$(BIN)/python demo/demo.py $(ARGS)

test: $(VENV)/.dev test-tools
	$(MAKE) --no-print-directory --jobs 2 check pytest  # mypy uses one core only

pytest:
	$(BIN)/pytest -n 4 --dist worksteal

chaos: $(VENV)/.dev test-tools
	$(BIN)/python -m chaos $(ARGS)

soak: $(VENV)/.dev test-tools
	$(BIN)/python -m chaos.soak $(ARGS)

proof: $(VENV)/.dev
	$(BIN)/python -m proof $(ARGS)

bench: $(VENV)/.bench test-tools
	$(BIN)/python -m benchmarks $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test-tools: $(VENV)/.dev
	scripts/install-test-tools

site: $(VENV)/.dev
	$(BIN)/zensical build --strict

lock: $(VENV)/.dev
	scripts/compile-requirements

clean:
	rm -rf $(VENV) build dist site log run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	scripts/make-venv "$(PYTHON)" $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/runtime.txt
	$(PIP) install --no-deps --editable .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(PIP) install --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	$(PIP) install --require-hashes -r requirements/bench.txt
	touch $@
