# make sample   the whole pipeline on generated reviews and a Hub on this machine, into sample/
# make test     all tests
# make test-images   builds both images and runs them; CONTAINER=docker|podman, IMAGE_BUILD_ARGS="--build-arg ..."
# make check    format, lint and types
# make lock     constraints.txt anew from requirements.txt, for the images

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

sample: $(VENV)/installed
	$(RUN) data_loader.py --source sample --output-dir sample/data
	$(RUN) train.py --recipe sample --data-dir sample/data --output_dir sample/model --results-dir sample/results
	$(RUN) evaluate_model.py --model sample/model --data-dir sample/data --results-dir sample/results
	$(RUN) plot_results.py --results-dir sample/results
	rm -rf sample/hub
	$(RUN) tools/loopback_hub.py --root sample/hub --user you --token-file sample/hub/token \
	  --url-file sample/hub/url & hub=$$!; trap "kill $$hub" EXIT; \
	while kill -0 $$hub && [ ! -s sample/hub/url ]; do sleep 0.2; done; $(MAKE) --no-print-directory sample-hub

# the part of the sample that needs a Hub: here the tests' own, on this machine
sample-hub: export HF_ENDPOINT = $(shell cat sample/hub/url)
sample-hub: export HF_TOKEN_FILE = sample/hub/token
sample-hub: export HF_HOME = sample/hub/home
sample-hub: export NO_PROXY = 127.0.0.1
sample-hub:
	$(RUN) push_to_hub.py --repo you/goodreads-genres --model sample/model --data-dir sample/data --results-dir sample/results
	$(RUN) evaluate_model.py --model you/goodreads-genres --data-dir sample/data --results-dir sample/results
	$(RUN) plot_results.py --results-dir sample/results

test: $(VENV)/installed
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal

test-images: $(VENV)/installed
	$(RUN) -m pytest tests/images

check: $(VENV)/installed
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

# without the CPU build's +cpu, so that it fits CUDA builds too, and without the packages that those bring
lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet -r requirements.txt
	{ echo "# made by: make lock. Every package of requirements.txt and what it needs in turn, for pip's --constraint"; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip | sed 's/+.*//' | grep -viE '^(nvidia|cuda|triton)'; } > constraints.txt
	rm -r .venv-lock

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@

.PHONY: sample sample-hub test test-images check lock
