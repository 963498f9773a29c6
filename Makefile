PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SAMPLE = --data-dir sample/data --results-dir sample/results

help: ## print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

sample: $(VENV)/installed ## the whole pipeline on generated reviews and a Hub on this machine, into sample/
	$(RUN) data_loader.py --source sample --output-dir sample/data
	$(RUN) train.py --recipe sample $(SAMPLE) --output_dir sample/model
	$(RUN) evaluate_model.py --model sample/model $(SAMPLE) --force
	$(RUN) plot_results.py --results-dir sample/results
	rm -rf sample/hub
	$(RUN) tools/loopback_hub.py --user you --token-file sample/hub/token \
	  --url-file sample/hub/url & hub=$$!; trap "kill $$hub" EXIT; \
	while kill -0 $$hub && [ ! -s sample/hub/url ]; do sleep 0.2; done; $(MAKE) --no-print-directory sample-hub

# the part of the sample that needs a Hub
sample-hub: export HF_ENDPOINT = $(shell cat sample/hub/url)
sample-hub: export HF_TOKEN_PATH = sample/hub/token
sample-hub: export HF_HOME = sample/hub/home
sample-hub: export HF_HUB_DISABLE_XET = 1
sample-hub: export NO_PROXY = 127.0.0.1
sample-hub:
	$(RUN) push_to_hub.py --repo you/goodreads-genres --model sample/model $(SAMPLE)
	$(RUN) evaluate_model.py --model you/goodreads-genres $(SAMPLE) --force
	$(RUN) plot_results.py --results-dir sample/results

# the README's figures of real reviews: eight genres, 90 training and 30 test reviews each
REAL = --data-dir real/data --results-dir real/results
real: $(VENV)/installed ## train and evaluate the stand-in that GOODREADS_REAL names, into real/; 7 minutes on a CPU
	$(RUN) data_loader.py --source "$(GOODREADS_REAL)/goodreads" --head 120 --per-genre 120 --train-per-genre 90 \
	  --output-dir real/data
	$(RUN) train.py --model_name_or_path "$(GOODREADS_REAL)/models/distil-mini" $(REAL) --output_dir real/model \
	  --learning_rate 1e-4 --num_train_epochs 4 --max_length 256
	$(RUN) evaluate_model.py --model real/model $(REAL) --force
	$(RUN) evaluate_model.py --model tfidf $(REAL) --force
	$(RUN) plot_results.py --results-dir real/results --compare tfidf,local

readme: ## put the results of `make sample` and `make real` into the README
	$(RUN) tools/update_readme.py --sample sample/results --real real/results

test: $(VENV)/installed-dev ## all tests but those of the images
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal

test-images: $(VENV)/installed-dev ## build both images and run them; CONTAINER=docker|podman, IMAGE_BUILD_ARGS=...
	$(RUN) -m pytest tests/images

container-log: $(VENV)/installed-dev ## the same images, to write their output into docs/containers.md
	UPDATE_DOCS=1 $(RUN) -m pytest tests/images -k documentation

check: $(VENV)/installed-dev ## format, lint and types
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

# A CPU build's +cpu goes, so that the file fits CUDA builds too, and the packages that only those bring.
lock: ## write constraints.txt from requirements.txt, with Python 3.11
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet -r requirements.txt
	{ echo "# made by: make lock. Every package of requirements.txt and what it needs in turn, for pip's --constraint"; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip | sed 's/+.*//' | grep -viE '^(nvidia|cuda|triton)'; } > constraints.txt
	rm -r .venv-lock

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	touch $@

.PHONY: help sample sample-hub real readme test test-images container-log check lock
