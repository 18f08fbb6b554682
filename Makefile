# Every target runs in .venv, which is made once and again when pyproject.toml changes.
#   make reproduce-table1 BUDGET=long SEEDS="0 1 2" LIMIT=200 JOBS=2 SCALE=pocket   (without SEEDS those that the table names)
PYTHON ?= python3
SEEDS ?=
JOBS ?= auto
BUDGET ?= short
SCALE ?= pocket
LIMIT ?=
BACKBONE ?= qwen2-0.5b
DATA ?=
LOGDIR ?= runs/tensorboard

RUN := .venv/bin/python
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install doctor lint test lower-bounds reproduce reproduce-table1 forgetting sweep pocket-family surrogate tensorboard benchmark

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv and install everything (once)

# A torch and a torchvision (timm needs it) that fit each other, and that everything was measured with.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
	@touch $@

doctor: $(STAMP) ## what this machine has and what is missing (SCALE=pocket|paper)
	$(RUN) -m craft_lightning doctor --scale $(SCALE)

lint: $(STAMP) ## ruff (lint, format) and mypy on the three packages
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: $(STAMP) ## the whole test set on all cores (at most 8), with coverage of the three packages
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --cov --cov-report=term

lower-bounds: $(STAMP) ## the oldest packages that pyproject.toml allows, in a folder of their own (downloads them)
	CRAFT_LOWER_BOUNDS=1 $(RUN) -m pytest tests/test_lower_bounds.py

reproduce: $(STAMP) ## every table and figure of the paper, and its claims (flags as below)
	$(RUN) -m craft_lightning table run all --budget $(BUDGET) --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS) $(if $(LIMIT),--limit $(LIMIT))

reproduce-table1: $(STAMP) ## Table 1 (BUDGET=short|long SEEDS="0 1 2" LIMIT=items JOBS=n SCALE=pocket|paper)
	$(RUN) -m craft_lightning table run table1 --budget $(BUDGET) --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS) $(if $(LIMIT),--limit $(LIMIT))

forgetting: $(STAMP) ## what adaptation forgets: studio pictures, the nine other sets (BUDGET=short|long SEEDS="0 1 2" JOBS=n)
	$(RUN) -m craft_lightning table run forgetting --budget $(BUDGET) $(if $(SEEDS),--seeds $(SEEDS)) --jobs $(JOBS) $(if $(LIMIT),--limit $(LIMIT))

sweep: $(STAMP) ## the learning rate of every method, on validation items (BUDGET=short|long JOBS=n)
	$(RUN) -m craft_lightning table run sweep --budget $(BUDGET) --jobs $(JOBS) $(if $(LIMIT),--limit $(LIMIT))

pocket-family: $(STAMP) ## train the shipped pocket models from nothing (hours, resumable)
	$(RUN) -m craft_lightning surrogate --config experiments/surrogates/pocket.yaml

surrogate: $(STAMP) ## a Qwen model on VILA-U's codebook, GPUs needed (BACKBONE=qwen2-0.5b DATA=data/surrogates)
	$(RUN) -m craft_lightning surrogate --config experiments/surrogates/$(BACKBONE).yaml $(if $(DATA),--data $(DATA))

tensorboard: $(STAMP) ## compare runs in the browser; filter by table1/eurosat (LOGDIR=runs/mine for one folder)
	$(RUN) -m craft_lightning board
	$(RUN) -m tensorboard.main --logdir $(LOGDIR)

benchmark: $(STAMP) ## speed and memory beside peers and bounds, into docs/performance.md (ten minutes, nothing else running)
	$(RUN) benchmarks/all.py
