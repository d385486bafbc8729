# One environment in .venv, made from the hash lock; every target is idempotent.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test test-all check format lock wheel clean
.DEFAULT_GOAL := help

help:            ## what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

$(READY): docker/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v=sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"medssl needs Python 3.11 or newer, this is {v}: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docker/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY)  ## the environment in .venv

demo: $(READY)   ## the whole path on the embedded phantom cohort, ends with a report
	$(BIN)/medssl demo --out demo

test: $(READY)   ## the default tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY) ## every test, the slow ones too
	$(BIN)/python -m pytest

check: $(READY)  ## format, lint and type-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:            ## pin every dependency, for every platform and Python, with hashes
	uv pip compile pyproject.toml --extra app --extra dev --universal --generate-hashes --no-emit-index-url \
	  --no-annotate --python-version 3.11 --custom-compile-command "make lock" -o docker/requirements.lock

wheel: $(READY)  ## dist/*.whl, which carries apps/ and configs/
	$(BIN)/python -m build --wheel --no-isolation

clean:           ## remove what was made, the environment too
	rm -rf $(VENV) build dist demo .pytest_cache .ruff_cache .mypy_cache
