# `make demo` and `make test` are all that a newcomer needs; both set up .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint wheel clean

demo: .venv/installed  ## post-train a small model with trees and show what it learnt
	$(BIN)/treepo train

test: .venv/installed  ## run all tests
	$(BIN)/python -m pytest

lint: .venv/installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

wheel: .venv/installed  ## build the wheel into dist/ and import it from outside the repository
	rm -rf dist && $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet --no-deps --target dist/installed dist/*.whl
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -m treepo --version
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -c "import treepo; print(treepo.__file__)"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## remove the virtual environment and everything built
	rm -rf .venv dist build *.egg-info
