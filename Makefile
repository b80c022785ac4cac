# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv, once; a second call goes
# straight to work. `make help` lists the rest.
#
# constraints.txt pins the tested versions. Its `torch` is what your package index gives for that version: on PyPI for
# Linux the CUDA build, which uses a GPU and runs without one too. A CPU build from another index satisfies the same pin.

PYTHON ?= python3
VENV ?= .venv
MODALITY ?= print
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
ACCELERATE := $(BIN)/accelerate
# One process, on the GPU where there is one. Said in full, or accelerate warns about each default it picks.
LAUNCH := --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

MODALITIES := print vision text audio points joint stages
ifeq ($(filter $(MODALITY),$(MODALITIES)),)
$(error MODALITY=$(MODALITY) is not one of: $(MODALITIES). Say e.g. `make demo MODALITY=text`)
endif

.PHONY: help install demo lm test test-slow check docs format constraints clean
.DELETE_ON_ERROR:

help:
	@echo "make demo                 pretrain on data that needs no download, then say what was learned"
	@echo "                          (images of printed lines)"
	@echo "make demo MODALITY=text   the same on text; vision: on digits; audio: synthesised speech; points: solids"
	@echo "make demo MODALITY=joint  digits, letters and solids on one trunk; MODALITY=stages: one after the other"
	@echo "make demo ARGS='--field value'   override single fields of the recipe"
	@echo "make install              set up $(VENV), which the other targets do when needed"
	@echo "make lm                   what decoding speech with an n-gram language model needs; compiles KenLM"
	@echo "make test                 the tests; ARGS='-k name' picks some"
	@echo "make test-slow            the tests left out above"
	@echo "make check                formatting, lint and types, as CI does; make format fixes the first two"
	@echo "make docs                 the documentation as a site, in build/site"
	@echo "make constraints          write the versions now in $(VENV) to constraints.txt"
	@echo "make clean                remove $(VENV) and the caches; runs/ stays"

install: $(VENV)/.installed

demo: $(VENV)/.installed $(if $(filter audio,$(MODALITY)),$(VENV)/.installed-speech-demo)
	$(ACCELERATE) launch $(LAUNCH) pretraining/run.py pretraining/recipes/demo_$(MODALITY).yaml $(ARGS)

# pyctcdecode 0.5.0 declares numpy<2 (and hypothesis, for its tests), and works with numpy 2: without its dependencies.
lm: $(VENV)/.installed-lm
	@$(PIP_INSTALL) --no-deps pyctcdecode==0.5.0

# A file stays on one worker, so that its fixtures are made once.
PYTEST := $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

test: $(VENV)/.installed-test
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/.installed-dev .typecheck/data2vec
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# To move to newer versions: upgrade them in .venv by hand, `make test check`, then this. The touch: what was just
# written down need not be installed again.
constraints: $(VENV)/.installed-dev $(VENV)/.installed-speech-demo $(VENV)/.installed-deepspeed $(VENV)/.installed-docs $(VENV)/.installed-export lm
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' > $(VENV)/constraints.txt
	( echo "# The exact versions that were tested. Written by make constraints."; cat $(VENV)/constraints.txt ) > constraints.txt
	@for stamp in $(VENV)/.installed*; do touch $$stamp; done

clean:
	rm -rf $(VENV) .typecheck .pytest_cache .mypy_cache .ruff_cache build dist data2vec.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. A stamp file per extra says that it is installed; it is redone when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes, most of it downloading PyTorch) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Adding what [$*] needs ..."
	@$(PIP_INSTALL) --editable ".[$*]"
	@touch $@

.typecheck/data2vec:
	@mkdir -p .typecheck && ln -s .. $@
