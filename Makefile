VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test oldest check lint clean

demo: $(VENV)/.installed
	$(BIN)/graphprune demo

test: $(VENV)/.installed-dev # a process a core, each with one thread
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

# The families on the oldest transformers that pyproject.toml allows, laid over the same environment.
oldest: $(VENV)/.installed-oldest
	PYTHONPATH=$(VENV)/oldest $(BIN)/python -m pytest -q tests/contracts/test_families.py

check: lint test oldest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-oldest: $(VENV)/.installed-dev oldest.txt
	rm -rf $(VENV)/oldest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/oldest -r oldest.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
