# Every target makes what it needs, on an empty machine with Python ≥ 3.11.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= demo,dev,log,notebooks,text,published,surface,film
# processes of the fast tests, about 2 GB each
JOBS ?= 2
# a wide prompt-free log: pip's progress bars fill CI's
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install demo test test-slow browser slurm lint bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: .venv/installed  ## make .venv with bm and all it needs (about 2 minutes, 6 GB)

.venv/installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bm needs Python 3.11 or newer; \
	$(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing bm and its packages into .venv: about 2 minutes, 6 GB"
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet -e '.[$(EXTRAS)]'
	@touch $@

demo: install  ## decode speech from simulated MEG: data, training, evaluation (≤ 10 minutes on 2 cores)
	$(BIN)/python -m scripts.demo

test: install lint  ## fast tests (≤ 12 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -m "not slow and not alone"
	$(BIN)/pytest -m "alone and not slow"

test-slow: install  ## slow tests: the demo from the command line, pages in a browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -m slow --durations=25

browser:  ## Chromium for the tests of HTML pages (Debian, as root; without it they are skipped)
	@bash scripts/install_browser.sh

slurm:  ## SLURM's packages, for the tests of sweeps (Debian, as root; without them they are skipped)
	@bash scripts/slurm_local.sh install --allow-root

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## speed of the hot paths beside the obvious way
	$(BIN)/python -m bm.bench
	$(BIN)/python -m bm.bench evaluation --size full --json outputs/bench_full.json

clean:  ## remove what make made (outputs, cache and data stay)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
