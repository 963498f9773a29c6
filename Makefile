# make sample   the whole pipeline on generated reviews, into sample/
# make test     all tests
# make check    format, lint and types

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

sample: $(VENV)/installed
	$(RUN) data_loader.py --source sample --output-dir sample/data
	$(RUN) train.py --recipe sample --data-dir sample/data --output_dir sample/model --results-dir sample/results
	$(RUN) evaluate_model.py --model sample/model --data-dir sample/data --results-dir sample/results
	$(RUN) plot_results.py --results-dir sample/results

test: $(VENV)/installed
	$(RUN) -m pytest

check: $(VENV)/installed
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@

.PHONY: sample test check
