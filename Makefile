# Two commands, on a machine with nothing but Python 3.11 and make:
#   make demo    photos → training → export → index → search, with a picture to open
#   make test    lint, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test clean

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py --out demo

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

$(INSTALLED): pyproject.toml constraints.txt setup.py $(wildcard runtime/native/*.[ch])
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,train,rtx,experiments,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
