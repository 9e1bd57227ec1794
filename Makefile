# make demo   predict a published training run
# make test   every check: formatter, linter, types, import contract, wheel, tests
# make bench  how fast it is
# make docs   run the commands of the documentation again
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test docs figures record format lint types contract wheel tests bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/steptime run examples/korthikanti-175b.toml

test: format lint types contract wheel tests

format: $(VENV)/.developed
	$(BIN)/ruff format --check .

lint: $(VENV)/.developed
	$(BIN)/ruff check .

types: $(VENV)/.developed
	$(BIN)/mypy

contract: $(VENV)/.developed
	$(BIN)/lint-imports

# The wheel, installed outside the checkout, holds every data file.
wheel: $(VENV)/.developed
	$(BIN)/python tests/wheel_holds_all_data.py

tests: $(VENV)/.developed
	$(BIN)/python -m pytest

bench: $(VENV)/.developed
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,max

docs: $(VENV)/.installed
	$(BIN)/python docs/refresh_outputs.py

# The errors on the published runs that ship, after they got better.
record: $(VENV)/.developed
	$(BIN)/python -m tests.record_published_errors

# TABLE=runs.csv draws another table of runs than the one that ships.
figures: $(VENV)/.developed
	$(BIN)/python docs/figures.py $(TABLE)

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
