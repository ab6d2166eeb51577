# Everything here runs in .venv, which the first target that needs it creates.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# Python 3.10 to 3.13 with venv and pip; a command may stand in the PATH and still not run.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CANDIDATES := python3.12 python3.11 python3.13 python3.10 python3 python
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	if $$python -c "$(SUPPORTED)" >/dev/null 2>&1; then echo $$python; break; fi; done)

# The numbers of the docs and most tests are of the oldest TensorFlow that is supported.
NEWEST_VENV := .venv-newest
NEWEST_PYTHON := $(NEWEST_VENV)/bin/python
NEWEST_INSTALLED := $(NEWEST_VENV)/.installed

# The TPU compiler needs another build of TensorFlow in the same place: an environment of its own.
TPU_VENV := .venv-tpu
TPU_PYTHON := $(TPU_VENV)/bin/python
TPU_INSTALLED := $(TPU_VENV)/.installed
TPU_PACKAGES := tensorflow-tpu==2.20.0 libtpu==0.0.24 jax==0.8.0 jaxlib==0.8.0 keras==3.15.1 \
	mesh-tensorflow==0.1.21 gin-config absl-py numpy packaging importlib_resources matplotlib \
	sentencepiece tensorflow-datasets pytest pytest-xdist

# TensorFlow's remarks on start-up would hide ours.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help venv venv-newest venv-tpu quickstart quickstart-vlmoe lint test test-newest test-tpu test-browser tpu-table tpu-programs bench doctor clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
	while IFS='|' read -r name text; do printf 'make %-16s %s\n' "$$name" "$$text"; done

venv: $(INSTALLED) ## the environment (PYTHON=python3.11 chooses the Python)

# Makes an environment with the Python that was found. The pip that comes with Python 3.10 searches
# for versions that fit for half an hour.
define MAKE_VENV
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		echo "error: no Python 3.10 to 3.13 with venv and pip was found." >&2; \
		echo "Install one, or name one: make venv PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	if ! "$$python" -c "$(SUPPORTED)"; then \
		echo "error: $$python is no Python 3.10 to 3.13 with venv and pip." >&2; exit 1; fi; \
	$(1)/bin/python -c "$(SUPPORTED)" 2>/dev/null || "$$python" -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --upgrade pip
endef

$(INSTALLED): setup.cfg setup.py pyproject.toml
	$(call MAKE_VENV,$(VENV))
	PYTHONWARNINGS=ignore::UserWarning $(VENV_PYTHON) -m pip install --quiet --editable ".[test,bench]" \
		"tensorflow==2.20.*"
	@touch $@

venv-newest: $(NEWEST_INSTALLED) ## an environment of the newest TensorFlow that is supported

$(NEWEST_INSTALLED): setup.cfg setup.py pyproject.toml
	$(call MAKE_VENV,$(NEWEST_VENV))
	PYTHONWARNINGS=ignore::UserWarning $(NEWEST_PYTHON) -m pip install --quiet --editable ".[test]" \
		"tensorflow==2.21.*"
	@touch $@

venv-tpu: $(TPU_INSTALLED) ## the environment of the TPU compiler; it needs no TPU

$(TPU_INSTALLED): setup.cfg setup.py pyproject.toml Makefile
	$(call MAKE_VENV,$(TPU_VENV))
	$(TPU_PYTHON) -m pip install --quiet $(TPU_PACKAGES)
	@# These two would bring the package `tensorflow`, which overwrites tensorflow-tpu.
	$(TPU_PYTHON) -m pip install --quiet --no-deps "tensorflow-text==2.20.*"
	PYTHONWARNINGS=ignore::UserWarning $(TPU_PYTHON) -m pip install --quiet --no-deps --editable .
	@touch $@

# A scene that is not in the training data: a small cyan cross.
DRAW_A_SCENE := import tensorflow as tf; from limoe_tf.data import shapes; tf.io.write_file( \
	'runs/quickstart/scene.png', tf.io.encode_png(shapes.render('test', 4).image))

quickstart: $(INSTALLED) ## train, evaluate and export a small model in some minutes
	$(VENV_PYTHON) -m tpu_jobs.train --gin_file=gin/runs/quickstart.gin --workdir=runs/quickstart
	$(VENV_PYTHON) -m tpu_jobs.export --workdir=runs/quickstart --output=runs/quickstart/saved_model \
		--overwrite
	$(VENV_PYTHON) -c "$(DRAW_A_SCENE)"
	$(VENV_PYTHON) -m tpu_jobs.classify --model=runs/quickstart/saved_model runs/quickstart/scene.png \
		--classes="a cyan cross, a blue star, a red circle"

quickstart-vlmoe: $(INSTALLED) ## pretrain a small VL-MoE and see it fill gaps, in a quarter of an hour
	$(VENV_PYTHON) -m tpu_jobs.train --gin_file=gin/runs/vlmoe_quickstart.gin \
		--workdir=runs/vlmoe_quickstart
	$(VENV_PYTHON) -m tpu_jobs.fill_gaps --workdir=runs/vlmoe_quickstart

# TensorFlow keeps memory of every model that was made: each part has workers of its own. Blocks that
# a hundred threads free stay in arenas of their own: few arenas keep workers small.
PYTEST := MALLOC_ARENA_MAX=2 $(VENV_PYTHON) -m pytest --numprocesses 2 --dist loadfile
TESTS_OF_RUNS := $(addprefix tests/,benchmarks downstream export tpu_jobs train)
test: $(INSTALLED) ## run the tests
	$(PYTEST) $(addprefix --ignore=,$(TESTS_OF_RUNS)) tests
	$(PYTEST) $(TESTS_OF_RUNS)

NEWEST_TESTS := $(addprefix tests/,test_installing.py test_xla.py test_custom_gradient.py \
	mesh/test_compat.py moe/test_sparse.py export/test_saved_model.py tpu_jobs/test_doctor.py)

test-newest: $(NEWEST_INSTALLED) ## run a part of them with the newest TensorFlow that is supported
	$(NEWEST_PYTHON) -m pytest --numprocesses 2 --dist loadfile $(NEWEST_TESTS)

lint: $(INSTALLED) ## check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test-browser: $(INSTALLED) ## click through a page of analyze in a real browser; needs Chromium
	@$(VENV_PYTHON) -m tests.browser.webdriver
	$(VENV_PYTHON) -m pytest tests/browser

test-tpu: $(INSTALLED) $(TPU_INSTALLED) ## run the train step of a TPU slice on virtual replicas; compile it
	$(VENV_PYTHON) -m tests.tpu.reference build/reference
	$(TPU_PYTHON) -m pytest --numprocesses 2 --dist loadgroup tests/tpu

tpu-table: $(TPU_INSTALLED) ## compile every size for a slice: HBM, exchanges, time; hours
	$(TPU_PYTHON) -m benchmarks.tpu_table

tpu-programs: $(TPU_INSTALLED) ## compile the sparse and the dense step: operations, bytes by part; half an hour
	$(TPU_PYTHON) -m benchmarks.tpu_programs

bench: $(INSTALLED) ## measure layers, train step, fit, inference and input pipeline; an hour
	$(VENV_PYTHON) -m benchmarks

doctor: $(INSTALLED) ## say what is installed and what is wrong with it
	$(VENV_PYTHON) -m tpu_jobs.doctor

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(NEWEST_VENV) $(TPU_VENV) build dist *.egg-info .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
