# With nothing but Python 3.11 and make:
#   make demo    photos → training → export → index → search, with a picture to open
#   make test    lint, types and all tests, one process a core
#   make gpu-report   everything that there is to measure on a GPU, in about twelve minutes; needs one
#   make test-ray   an index on a cluster of three nodes, with Ray, which it installs (500 MB)
#   make test-browser   the page of howl serve in a real browser, which it installs where apt can
#   make quick   the tests that need no export, training, compiler or kill: about a minute on two cores
# A single test: .venv/bin/python -m pytest tests/train/test_losses.py -k margin

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
BROWSER := $(VENV)/browser
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick browser test-browser test-ray gpu-report clean

demo: $(INSTALLED)
	$(BIN)/python tools/demo.py --out demo

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

quick: $(INSTALLED)
	$(PYTEST) -m "not slow"

# Debian's Chromium, or the one at HOWL_BROWSER.
browser: $(BROWSER)

$(BROWSER): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	test -n "$(HOWL_BROWSER)" || command -v chromium || { apt-get update && apt-get install --yes --no-install-recommends chromium; }
	touch $@

test-browser: $(BROWSER)
	$(BIN)/python -m pytest -m browser

test-ray: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m ray

gpu-report:
	$(PYTHON) tools/experiments/gpu_report.py

$(INSTALLED): pyproject.toml constraints.txt setup.py $(wildcard runtime/native/*.[ch])
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,train,rtx,hloc,match,localise,serve,experiments,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
