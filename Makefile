# The words that the README names. Every one works from a clean checkout: `setup` is made once and again when its inputs change.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= demo
SET ?=
SEED ?= 0
# 300 pages with snippets, trafilatura's evaluation set: gold.json and pages/
GOLD ?= ../shared/data/extraction
READY := $(VENV)/.ready

.PHONY: run test soak check bench up down status setup clean

run: setup            ## the whole demo pipeline, from raw pages to an evaluated model
	$(BIN)/gristmill run pipeline --config $(CONFIG) $(foreach one,$(SET),--set '$(one)')

test: setup           ## units, properties and one served flow; under 8 minutes
	$(BIN)/python -m pytest -m "not soak" -q -n 2 --dist loadfile

soak: setup           ## the slow proofs; SLICE=1 runs a seeded slice of them
	$(BIN)/python -m pytest -m soak -q --durations=0 $(if $(SLICE),--soak-slice=$(SEED),-n 2 --dist loadfile)

check: setup          ## style, types, floors and doors, clean dependencies without known holes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check
	$(BIN)/python tests/audit.py

bench: setup          ## speed against peers, each in an environment of its own
	$(BIN)/python -m benchmarks.minhash
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.validation
	$(BIN)/python -m benchmarks.crawl
	$(BIN)/python -m benchmarks.signals
	$(BIN)/python -m benchmarks.redecide
	$(BIN)/python -m benchmarks.int8
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.dedup --documents 1000000 --peers datatrove
	$(BIN)/python -m benchmarks.dedup
	$(BIN)/python -m benchmarks.dedup --agreement
	test ! -d $(GOLD) || $(BIN)/python -m benchmarks.extraction $(GOLD) --curve

up down status: setup ## servers and workers
	$(BIN)/gristmill $@

setup: $(READY)       ## the environment, the language model, the compiled kernels

$(READY): pyproject.toml constraints.txt
	@echo "making $(VENV): about 5 minutes with a warm package cache"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,s3,postgres,openlineage,auth,slurm,kubernetes,qlora,dev]'
	$(BIN)/gristmill setup
	touch $@

clean:                ## stop the servers, remove the environment; data, runs and databases below .gristmill stay
	-test -x $(BIN)/gristmill && $(BIN)/gristmill down
	rm -rf $(VENV) .resources
