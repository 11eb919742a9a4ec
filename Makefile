# One line per thing a person does here. All of it runs in .venv, which `make setup` creates.

# python3.11 is what CI and constraints.txt use; any newer one works too.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
    if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
    then echo $$name; break; fi; done)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
QUESTION ?= Who are you?
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help setup run serve test test-clients test-browser test-slow test-gpu check format bench bench-full evaluation wheel clean

help:
	@echo 'make setup      create .venv with everything pinned, and build the C++ library'
	@echo 'make run        ask the model that comes with the package a question'
	@echo 'make serve      serve that model on http://127.0.0.1:8000'
	@echo 'make test       the unit tests; test-slow and test-gpu run the others'
	@echo 'make test-clients  the real clients of Mistral, OpenAI and others against a server, in .venv-clients'
	@echo 'make test-browser  the playground in a real browser, Chromium, which is installed where it is missing'
	@echo 'make check      format, lint, types, layers, doctests, spelling'
	@echo 'make format     format and fix what can be fixed'
	@echo 'make bench      measure speed and memory on a tiny model, two minutes'
	@echo 'make bench-full the committed numbers: half an hour, 22 GB of memory'
	@echo 'make evaluation EVAL_DATA=FOLDER  measure nano for docs/evaluation.md; a quarter of an hour'
	@echo 'make wheel      build dist/mixtral-*.whl'
	@echo 'make clean      remove what was built; .venv stays'

setup: $(INSTALLED)

# Again only when the packages, the build or the C++ sources change.
$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/mixtral/kernels/cpu/csrc/*)
	@test -n "$(PYTHON)" || { echo 'No Python >= 3.11 with venv was found: install one' \
	    '(Debian: apt install python3 python3-venv) or name it: make setup PYTHON=...' >&2; exit 1; }
	@test -x $(BIN)/pip || { echo 'Creating .venv with $(PYTHON)'; $(PYTHON) -m venv .venv; }
	@echo 'Installing into .venv; the first time this takes a few minutes'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,train,embed,rag,qdrant,agent]'
	@touch $@

run: setup
	$(BIN)/mixtral generate --model nano --temperature 0 "$(QUESTION)"
	@echo 'Go on with: $(BIN)/mixtral chat --model nano'

serve: setup
	$(BIN)/mixtral serve --model nano

# A process per core, each with one thread: twice as fast as one process with all threads.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile -m 'not gpu and not slow and not network and not browser'

# Their versions clash, so each has an environment of its own; made once, from the package index.
test-clients: setup
	$(BIN)/python tests/clients/run.py

test-browser: setup
	$(BIN)/python tests/browser/install.py
	$(BIN)/pytest -m browser tests/browser

test-slow: setup
	$(BIN)/pytest -m 'slow and not gpu and not network'

test-gpu: setup
	$(BIN)/pytest -m 'gpu and not network'

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --doctest-modules src
	$(BIN)/codespell

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	$(BIN)/python benchmarks/run.py --quick

bench-full: setup
	$(BIN)/python benchmarks/run.py

evaluation: setup
	$(BIN)/python benchmarks/evaluation.py --data $(EVAL_DATA)

wheel: setup
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks recipes -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
