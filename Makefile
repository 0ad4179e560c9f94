# One list of commands for people, editors and CI. `make help` shows it.
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(wildcard protos/e2rank/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-bench demo serve test test-fast test-all lint format protos lock \
	bench-quality bench-scale bench-cache bench-overhead bench-load bench-latency bench-insertrank bench-peers clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup:  ## Make the pinned environments (server and Triton); resumes when interrupted
	@$(PYTHON) deploy/setup.py dev cpu triton

setup-dev:  ## Make the part that needs no inference stack
	@$(PYTHON) deploy/setup.py dev

setup-bench:  ## Also what benchmarks and their tests need
	@$(PYTHON) deploy/setup.py dev cpu triton bench

demo: setup  ## Start everything, rerank a small collection, show what happened, stop everything
	@$(BIN)/python -m benchmarks.demo

serve: setup  ## Start the server and keep it running; Ctrl-C drains it
	@$(BIN)/python -m e2rank_server

test: setup-bench lint  ## All tests but the slow ones, on the real vLLM and Triton
	$(BIN)/python -m pytest -m "not slow"

test-fast: setup-dev  ## The tests on fakes: seconds, no inference stack
	$(BIN)/python -m pytest -m "not e2e and not slow"

test-all: setup-bench lint  ## All tests
	$(BIN)/python -m pytest

lint: setup-dev  ## Formatting, lint, types, layers, contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python protos/generate.py --check

format: setup-dev  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: setup-dev  ## Make the generated code anew
	$(BIN)/python protos/generate.py

bench-quality: setup-bench  ## Rerank BEIR-format folders: make bench-quality DATA="folder ..."
	@$(BIN)/python -m benchmarks.quality $(DATA) $(ARGS)

bench-scale: setup-bench  ## One gateway against clients, candidates, message sizes and cancellations
	@$(BIN)/python -m benchmarks.scale

bench-cache: setup-bench  ## Measure the embedding cache; with DATA=folder also what rounding does to a ranking
	@$(BIN)/python -m benchmarks.cache $(DATA)

bench-overhead: setup-bench  ## What the server adds to its model passes, and the gateway to an echo
	@$(BIN)/python -m benchmarks.overhead

bench-load: setup-bench  ## Load by Locust, at fixed numbers of clients and at fixed rates: ARGS="..."
	@$(BIN)/python -m benchmarks.load $(ARGS)

bench-latency: setup-bench  ## The paper's latency experiment: one rerank beside an LLM's
	@$(BIN)/python -m benchmarks.latency $(ARGS)

bench-insertrank: setup-bench  ## First-stage scores in the prompt, for DATA="folder ..."
	@$(BIN)/python -m benchmarks.insertrank $(DATA) $(ARGS)

bench-peers: setup-bench  ## Beside vLLM's HTTP server, infinity-emb, sentence-transformers
	@$(PYTHON) deploy/setup.py peers
	@$(BIN)/python -m benchmarks.peers $(ARGS)

lock:  ## Resolve requirements/*.txt anew (needs uv)
	@requirements/lock.sh

clean:  ## Remove the environments and everything that was prepared
	rm -rf .venv .venv-triton .venv-peers data dist
