# Everything happens in .venv, made once with the first Python of at least 3.11 that is found.
# Another one:  make demo PYTHON=/path/to/python3.12
# PyTorch comes without CUDA where there is no GPU and pip's index has that build; to choose:  make demo TORCH=default

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
TORCH := auto
BUILD := $(BIN)/python scripts/torch_build.py $(TORCH)

.PHONY: demo extras test test-integrations fast check docs bench clean

demo: .venv/.installed  ## run the demo and say where its report is
	$(BIN)/unveil demo

extras: .venv/.installed-extras  ## add LPIPS, a classifier and torchvision to what `make demo` installed

test: check  ## the whole suite, a process a core
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8

test-integrations: .venv-integrations/.installed  ## what runs inside Flower, NVFlare and Opacus, in an environment of its own
	OMP_NUM_THREADS=1 .venv-integrations/bin/pytest tests/integrations tests/privacy

fast: .venv/.installed-dev  ## the tests that are not marked slow: less than a minute on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal -m "not slow" --jaxtyping-packages=

check: .venv/.installed-dev  ## style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/.installed-dev  ## the documentation as a site, in build/site; a warning is an error
	$(BIN)/properdocs build --strict

bench: .venv/.installed-dev  ## measure the figures of the README again
	$(BIN)/python -m benchmarks run published

clean:  ## remove the environment and what tools left behind; results are kept
	rm -rf .venv .venv-integrations build dist .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing unveil and what it needs into .venv, once. PyTorch is large: this can take some minutes."
	build=$$($(BUILD) torch) && $(PIP) -e . $$build
	@touch $@

.venv/.installed-extras: pyproject.toml | $(BIN)/python
	build=$$($(BUILD) torch torchvision) && $(PIP) -e '.[perceptual,semantic]' $$build
	@touch $@ .venv/.installed

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing unveil and its tools into .venv, once. PyTorch is large: this can take some minutes."
	build=$$($(BUILD) torch torchvision) && $(PIP) -e '.[dev]' $$build
	@touch $@ .venv/.installed .venv/.installed-extras

.venv-integrations/.installed: pyproject.toml | .venv-integrations/bin/python
	@echo "Installing unveil, Flower, NVFlare and Opacus into .venv-integrations, once. This can take some minutes."
	.venv-integrations/bin/python -m pip install --disable-pip-version-check -e '.[integrations]'
	@touch $@

$(BIN)/python .venv-integrations/bin/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    $$python -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }; \
	    exit 0; \
	  fi; \
	done; \
	echo "unveil needs Python 3.11 or newer, found $$(python3 --version 2>&1); install one, or name it: make demo PYTHON=/path/to/python3.12" >&2; \
	exit 1
