# make demo       a small model: bundles, proofs, accuracy, times, a report and a picture, in two minutes (FULL=1: trained from scratch)
# make test       lint, types and the quick tests
# make test-long  whole ways from end to end, which CI runs too
# make test-slow  the tests that take minutes
# make test-pythons     the quick tests on the oldest and the newest Python (what is not installed is skipped with a line)
# make test-random      the quick tests RUNS=10 times, in random order with random seeds
# make test-processors  the numerical tests as on other processors, by switches and emulators (ROWS="avx2 haswell": some)
# make test-arm         the same answers on an emulated ARM machine (ROWS="ov-fp16 install": some; QUICK=1: what CI runs)
# make docs       the documentation site, in site/ (strict: a broken link fails)
# make lint       lint and types alone
# make clean      remove what the above made (make clean-venv: the virtual environment too)
#
# Needs Python 3.11 and make. The virtual environment is made by the first target that wants it and made up to date
# when pyproject.toml or constraints.txt changes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.edgekit-installed

# Two processes of one thread each: the networks under test are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
DOCS := $(VENV)/.edgekit-docs

.PHONY: help demo docs test test-long test-slow test-pythons test-random test-processors test-arm lint clean clean-venv

RUNS ?= 10
ROWS ?=

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 14) else "edgekit needs Python 3.10 to 3.13, found " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,onnx,openvino,int8,report,tensorrt-rtx,ncnn,trust,fleet,search,safetensors,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt pnnx
	touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo demo-out $(if $(FULL),--full)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-long: $(STAMP)
	$(PYTEST) -m "long and not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-pythons:
	.ci/python 3.10
	.ci/python 3.13

test-random: $(STAMP)
	for run in $$(seq $(RUNS)); do \
	  seed=$$($(BIN)/python -c 'import random; print(random.randrange(1, 100000))') && \
	  echo "run $$run of $(RUNS): EDGEKIT_TEST_SEED=$$seed --random-order-seed=$$seed" && \
	  EDGEKIT_TEST_SEED=$$seed $(PYTEST) --random-order-bucket=module --random-order-seed=$$seed || exit 1; \
	done

test-processors: $(STAMP)
	$(BIN)/python -m tests.processors $(ROWS)

test-arm: $(STAMP)
	$(BIN)/python -m tests.arm $(ROWS) $(if $(QUICK),--quick)

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(DOCS)
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf site demo-out build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find edgekit tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: clean
	rm -rf $(VENV)
