# The whole project from a clean clone: make demo. Every target makes its own environment first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
SERVE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install test-fast test test-all check demo bench docs

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1 \t/p' Makefile

install: $(INSTALLED)  ## .venv with every extra and .venv/bin/textus; a second call does nothing

# torch goes first and alone: the pin decides which build every other package is resolved against.
# kenlm, a test oracle, is built from C++ source: a machine without a compiler goes without it.
TEST_TOOLS := pytest pytest-xdist pytest-timeout pytest-socket hypothesis httpx openai selenium transformers sentencepiece \
  hmmlearn scikit-learn sacrebleu nltk seqeval torchmetrics peft ruff mypy
PIP := $(BIN)/python -m pip install -q -c constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	@if command -v c++ >/dev/null || command -v g++ >/dev/null; then $(PIP) -e '.[dev]'; else \
	  echo "no C++ compiler: training takes the eager step and one test oracle (kenlm) is left out; install g++ for both"; \
	  $(PIP) -e '.[all]' $(TEST_TOOLS); fi
	@touch $@

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

FAST := language layers size errors docs config hardware optim rotary parts heads metrics tokenizer generation engine corpus \
  corpus_text corpus_tables sources records labels exports negation report results tables presets loader pairs guard inputs

test-fast: install  ## the inner loop: the tests of the core, under three minutes on two cores
	$(PYTEST) -m 'not slow' $(FAST:%=tests/test_%.py)

test: install  ## the suite without its slow tests, no network needed
	$(PYTEST) -m 'not slow'

test-all: install  ## the whole suite, as CI runs it
	$(PYTEST)

check: install  ## format, lint, types, layers, size, language, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_size.py tests/test_language.py tests/test_docs.py

demo: install  ## the whole pipeline on text this machine has, then a page to talk to it (SERVE=0: no page)
	$(BIN)/textus demo --out demo --force $(if $(filter 0,$(SERVE)),--no-serve)

bench: install  ## the speed table, under ten minutes on two quiet cores
	@for each in start_up train_speed matmul_share ngram table; do $(BIN)/python -m benchmarks.$$each || exit 1; done

docs: install  ## write the generated pages below docs/
	$(BIN)/python -m textus.cli.reference docs
	$(BIN)/python tests/promises.py docs/dev/promises.md
