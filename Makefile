# make train and make test set everything up by themselves.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
ARGS ?=

.PHONY: install train test test-slow test-gpu test-minimum lint bench clean
.DEFAULT_GOAL := test

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

train: install
	$(BIN)/python scripts/train.py cov=full priors=niw trainer.devices=2 $(ARGS)

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: install
	$(BIN)/python -m pytest -q -n 2 -m slow $(ARGS)

# The tests that run on a GPU; they are skipped where there is none.
test-gpu: install
	$(BIN)/python -m pytest -q -m "gpu and not slow" $(ARGS)

# The oldest versions that pyproject.toml declares, in an environment of their own.
test-minimum:
	$(PYTHON) -m venv $(VENV)-minimum
	$(VENV)-minimum/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-minimum.txt -e '.[test]'
	$(VENV)-minimum/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# All subjects, or some: make bench ARGS="iteration memory --quick".
bench: install
	$(BIN)/python scripts/benchmark.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-minimum build dist *.egg-info .pytest_cache .ruff_cache
