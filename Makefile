# make demo    Constitutional AI from end to end on the pocket model: ten to fifteen minutes on two CPU cores
# make test    everything that is checked: the notebooks, then tests/
# make pocket-model  the shipped base model and helpful-only adapter again, from nothing (43 minutes on two cores with AVX512, measured whole; an older processor took 61)
# make readme  README.md anew from nbs/index.ipynb
# make docs    the site: chapters, reference, commands, into _docs/; ends with a check of every link
# make chapters  every chapter executed, slow cells too, on two cores. CHAPTERS="06 quickstart": only these. TO=folder: not in place
# make canary  the newest releases of everything, without constraints.txt, in an environment of its own, then the tests
# make dev     only the environment, with what development needs
# Each sets up a virtual environment (.venv) and does so only once. `make` alone is `make demo`.
# Yours to set: PYTHON=python3.12 (3.11 or later), VENV=folder, RUN=folder of the demo's run, PIP='options for pip install'
PYTHON ?= python3
VENV   ?= .venv
RUN    ?= runs/demo
PIP    ?=
BIN    := $(VENV)/bin
TORCH  := $(shell grep '^torch==' constraints.txt)
SETUP  := settings.ini setup.py pyproject.toml constraints.txt
QUIET  := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1 MPLBACKEND=agg

.PHONY: demo test readme pocket-model docs chapters canary dev
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	HF_HUB_OFFLINE=1 $(BIN)/cai run --recipe pocket --out "$(RUN)"
	@echo; echo "The report: $(CURDIR)/$(RUN)/report.html (open it in a browser)"

test: $(VENV)/.dev
	$(QUIET) OMP_NUM_THREADS=1 CAI_REPRO_PROGRESS=0 $(BIN)/nbdev_test --n_workers 2 --timing
	$(QUIET) CAI_REPRO_PROGRESS=0 $(BIN)/python -m pytest

pocket-model: $(VENV)/.demo
	HF_HUB_OFFLINE=1 $(BIN)/python -c 'from cai_repro.pocket import make_pocket; make_pocket("data/pocket")'

readme: $(VENV)/.dev
	$(BIN)/python tools/readme.py

docs: $(VENV)/.docs
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python tools/docs.py

chapters: $(VENV)/.dev
	$(BIN)/python tools/chapters.py $(CHAPTERS) $(if $(TO),--to "$(TO)")

canary:
	$(PYTHON) tools/canary.py --pip='$(PIP)'

dev: $(VENV)/.dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv "$(VENV)"

# Without a CUDA driver, torch is asked for by its exact name first, so that a CPU build that pip knows of
# (a wheel folder or an index in pip's own configuration, or in PIP_FIND_LINKS) is taken. PIP='--index-url ...' passes options on.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@command -v nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet $(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(SETUP) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet $(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(SETUP) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet $(PIP) -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(SETUP) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet $(PIP) -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.demo
