# One environment in .venv, made from the hash lock; every target is idempotent.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test test-fast test-all check format docs lock wheel image screenshot views clean
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

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations=15
test: $(READY)   ## the default tests (about 6 minutes on 2 cores)
	$(PYTEST) -m "not slow"

test-fast: $(READY) ## no training, processes or simulations (about a minute on 2 cores), for the inner loop
	$(PYTEST) -m "not slow and not long"

test-all: $(READY) ## every test, the slow ones too
	$(PYTEST)

check: $(READY)  ## format, lint and type-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## rewrite to the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)   ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f medssl/docs/mkdocs.yml

PIN := uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 \
	  --custom-compile-command "make lock"
lock:            ## pin every dependency, for every platform and Python, with hashes
	$(PIN) --extra app --extra dev -o docker/requirements.lock
	$(PIN) --extra app --extra cluster --extra text --extra build -c docker/requirements.lock -o docker/image.lock

wheel: $(READY)  ## dist/*.whl, which carries apps/ and configs/
	$(BIN)/python -m build --wheel --no-isolation

IMAGE   ?= medssl
BUILDER ?= docker podman buildah
image:           ## the container image, by docker, podman or buildah: the first that works; BASE=... for another base
	@for builder in $(BUILDER); do \
	  if $$builder info >/dev/null 2>&1; then \
	    exec $$builder build $(if $(BASE),--build-arg BASE=$(BASE)) -f docker/Dockerfile -t $(IMAGE) $(FLAGS) .; fi; done; \
	echo "make image: none of these works here: $(BUILDER); install one of them, and start its service if it has one" >&2; exit 2

screenshot: demo ## the picture of the dashboard in the README; needs Debian's chromium
	$(BIN)/python -m tests.apps.screenshot $(CURDIR)/demo/study $(CURDIR)/demo/cache apps/screenshot.png

views: $(READY)  ## the picture of the views in the README, on phantoms
	$(BIN)/python -m tests.views.picture apps/views.png

clean:           ## remove what was made, the environment too
	rm -rf $(VENV) build dist site demo .pytest_cache .ruff_cache .mypy_cache
