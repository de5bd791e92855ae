# `make` lists the targets. Those that need Python packages build .venv first
# and bring it up to date when requirements.txt has changed.

PYTHON ?= python3
SUPPORTED := 3.11 3.12 3.13
VERSION := $(shell "$(PYTHON)" -c \
  'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
UNSUPPORTED = Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is \
  $(or $(VERSION),missing). Try: make PYTHON=python3.12

# Programs run as `python -m`, which works in a checkout that has been moved or
# has a space in its path; the scripts in .venv/bin would not.
VENV_PYTHON := .venv/bin/python
# The stamp names the Python version, so that another PYTHON builds anew.
STAMP := .venv/.installed-$(VERSION)

DEMO := configs/fashion_mnist.py
DEMO_WORKDIR := runs/demo
FASHION_MNIST := /usr/share/datasets/fashion-mnist
APT_INSTALL := env DEBIAN_FRONTEND=noninteractive \
  apt-get install -qq -y --no-install-recommends

.PHONY: help demo test fashion-mnist clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' \
	  Makefile

demo: $(STAMP) fashion-mnist  ## Train on Fashion-MNIST, then evaluate.
	$(VENV_PYTHON) main.py --config=$(DEMO) --workdir=$(DEMO_WORKDIR)
	$(VENV_PYTHON) main.py --config=$(DEMO) --workdir=$(DEMO_WORKDIR) \
	  --mode=evaluate

test: $(STAMP)  ## Lint, check formatting and types, run the tests.
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m pyrefly check
	$(VENV_PYTHON) -m pytest --numprocesses=auto --maxprocesses=4 \
	  --dist=loadfile --no-loadscope-reorder

# Debian packages the four files; elsewhere the program finds its own way to
# them, so that nothing here is an error.
fashion-mnist:  ## Install Fashion-MNIST with apt, where that is possible.
	@if [ -d $(FASHION_MNIST) ] || ! command -v apt-get >/dev/null; then \
	  exit 0; \
	elif [ "$$(id -u)" = 0 ]; then sudo=; \
	elif sudo -n true 2>/dev/null; then sudo='sudo -n'; \
	else exit 0; fi; \
	echo 'Installing the Debian package dataset-fashion-mnist.'; \
	install() { $$sudo $(APT_INSTALL) dataset-fashion-mnist; }; \
	{ install || { $$sudo timeout 120 apt-get update -qq && install; }; } \
	  </dev/null >/dev/null 2>&1 \
	  || echo 'apt-get could not install it; going on without.'

clean:  ## Remove .venv, caches and the demo's run; other runs stay.
	rm -rf .venv .pytest_cache .ruff_cache $(DEMO_WORKDIR)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv of this Python version that has pip is kept and brought up to date,
# whatever else was installed into it; any other is replaced.
$(STAMP): requirements.txt
	$(if $(filter $(VERSION),$(SUPPORTED)),,$(error $(UNSUPPORTED)))
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments. On Debian or Ubuntu:' \
	    'apt-get install python3-venv' >&2; \
	  exit 2; }
	@echo 'Installing requirements.txt into .venv: a few minutes.'
	@test -x .venv/bin/pip$(VERSION) || "$(PYTHON)" -m venv --clear .venv
	@PIP_USER=0 $(VENV_PYTHON) -m pip install -qq \
	  --disable-pip-version-check -r requirements.txt
	@touch $@
