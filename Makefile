# Targets for people. `make` prints them.
.DEFAULT_GOAL := help
SHELL := /bin/sh

FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
PY = $(VENV)/bin/python
# two processes, one thread each: with more, they wait for each other
PYTEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 \
	TF_NUM_INTEROP_THREADS=1 AE_KERAS_CACHE=require $(PY) -m pytest -q -n 2 --dist loadfile --nbval-lax \
	--nbval-current-env --nbval-cell-timeout=120
export PYTHONUTF8 = 1

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

run: install  ## execute every notebook from the saved models, and write the pages in build/site
	$(PY) tools/notebooks.py site

test: install lint  ## run the unit tests, and every notebook as a test
	$(PYTEST) tests notebooks

nbval: install  ## run only the notebooks as tests, from the saved models
	$(PYTEST) notebooks

lab: install  ## open the notebooks in JupyterLab
	$(PY) -m jupyter lab notebooks

notebooks: install  ## renew the outputs stored in the notebooks (needs MNIST) [NB=01_simple]
	$(PY) tools/notebooks.py refresh $(NB)

retrain: install  ## train the saved models again [NB=01_simple]
	$(PY) tools/notebooks.py retrain $(NB)

seeds: install  ## measure the tables over five seeds; goes on where it stopped [NB=01_simple]
	$(PY) tools/notebooks.py seeds $(NB)

lint: install  ## check the style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

links: install  ## set the repository's address everywhere [REPO=owner/name]
	$(PY) tools/notebooks.py links $(REPO)

clean:  ## remove what the other targets made, except saved models
	rm -rf build .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found (TensorFlow runs on these)." \
		"Install one from python.org, or name it: make PYTHON=/path/to/python3.12 run"; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13;" \
		"TensorFlow runs on these. Name one: make PYTHON=/path/to/python3.12 run"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

.PHONY: help run test nbval lab notebooks retrain seeds lint links clean install
