# Everything happens in .venv, which is made when first needed and brought up to date when pyproject.toml changes.
#   make train ARGS="--help"        what the trainer can do
#   make train EXTRAS=cuda12        with CuPy, for a GPU (or cuda13, as the driver asks)
#   make test PYTHON=python3.13     with this Python, if .venv is not there yet

PYTHON ?= python3
EXTRAS ?=
ARGS ?=

BIN := .venv/bin
COMMA := ,
RUNTIME := .venv/.runtime$(EXTRAS:%=-%)
CHAPTERS := .venv/.chapters$(EXTRAS:%=-%)
BOOK := .venv/.book$(EXTRAS:%=-%)
DEV := .venv/.dev$(EXTRAS:%=-%)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -e

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train chapters book notebooks gpu test lint types clean

help:  ## show this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

train: $(RUNTIME)  ## train a small DAT: `minidat train` with the options in ARGS
	$(BIN)/minidat train $(ARGS)

chapters: $(CHAPTERS)  ## work through the chapters: `minidat chapters` with the options in ARGS
	$(BIN)/minidat chapters $(ARGS)

book: $(BOOK)  ## make the chapters a site that needs no Python: build/book/index.html
	$(BIN)/python chapters/book.py

notebooks: $(CHAPTERS)  ## make the notebooks from chapters/src: chapters/build.py with the options in ARGS
	$(BIN)/python chapters/build.py $(ARGS)

gpu:  ## does it work on this GPU, and how fast: benchmarks/gpu.py with the options in ARGS, with nothing installed
	$(PYTHON) benchmarks/gpu.py $(ARGS)

test: $(DEV)  ## run the tests on all cores: pytest with the options in ARGS
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(DEV)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)  ## check type hints
	$(BIN)/ty check

clean:  ## remove .venv and caches; data and runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define make_venv
@command -v "$(PYTHON)" >/dev/null || { \
	echo "minidat needs Python 3.11 or newer, but there is no '$(PYTHON)'; try: make PYTHON=/path/to/python3" >&2; exit 1; }
@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "minidat needs Python 3.11 or newer, but \
	$(PYTHON) is %d.%d; try: make PYTHON=python3.12" % tuple(sys.version_info[:2]))'
@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv .venv
@echo "installing into .venv (once; a minute or so)"
endef

$(RUNTIME): pyproject.toml
	$(make_venv)
	$(INSTALL) '.[compiled$(EXTRAS:%=$(COMMA)%)]' || { echo "without numba, which cannot be installed here" >&2; \
		$(INSTALL) '.$(EXTRAS:%=[%])'; }
	@touch $@

$(CHAPTERS): pyproject.toml
	$(make_venv)
	$(INSTALL) '.[chapters$(EXTRAS:%=$(COMMA)%)]'
	@touch $@

$(BOOK): pyproject.toml
	$(make_venv)
	$(INSTALL) '.[book$(EXTRAS:%=$(COMMA)%)]'
	@touch $@

$(DEV): pyproject.toml
	$(make_venv)
	$(INSTALL) '.[dev$(EXTRAS:%=$(COMMA)%)]'
	@touch $@
