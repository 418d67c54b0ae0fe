# Everything a contributor runs. Needs make and Python >= 3.11; the rest goes into .venv.

PYTHON ?= python3
ARGS ?=
USERS ?= 200
SECONDS ?= 60
SUBSCRIBERS ?= 1000
SEEDS ?= 20
BACKEND ?= postgres
IMAGE ?= abide
IMAGE_BUILD_ARGS ?=
IMAGE_RUN_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# A .venv that is a link is somebody else's, whom clearing it would rob of theirs: it is used as it is.
STAMP := $(if $(shell test -L $(VENV) && echo link),,$(VENV)/.installed)
# What the tests use from npm, where there is an npm.
NODE_MODULES := $(if $(shell command -v npm),tests/npm/node_modules/.package-lock.json)
# What the tests judge and serve the files of deploy/ with.
TOOLS := .tools
SHELL := /bin/sh
LOCK := $(BIN)/uv pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: coverage help setup run test tools lint types bench load chaos image packages lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## set up .venv, which every other target does by itself

run: $(STAMP) ## serve config/channels.yaml on 127.0.0.1:8000
	@exec bin/abide serve

# Six processes for two cores, because a third of what they do is to wait; tests/conftest.py says who runs what. Compiled
# modules are written even where the environment forbids it: hundreds of processes would compile each of them again.
test: $(STAMP) $(NODE_MODULES) tests/__pycache__ ## run the suite; ARGS goes to pytest
	@PYTHONDONTWRITEBYTECODE= exec $(BIN)/python -m pytest -n 6 $(ARGS)

# Apart from `test`, because to trace every line doubles what a test of our own code takes.
coverage: $(STAMP) ## run the suite, and show the lines and branches that it does not walk; ARGS goes to pytest
	@exec $(MAKE) test ARGS="--cov --cov-report=term $(ARGS)"

# Not for `test`, because they are large: without them their tests are skipped.
tools: $(TOOLS)/.installed ## set up what tests judge deploy/ with: helm, kubectl, caddy and others (700 MB)

lint: $(STAMP) ## check style, formatting, the imports between rooms and the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/hadolint Dockerfile

types: $(STAMP) ## check types
	@$(BIN)/mypy app tests benchmarks loadtests examples gunicorn.conf.py

bench: $(STAMP) ## measure the bus beside stock broadcaster's; ARGS goes to the benchmark
	@exec $(BIN)/python -m benchmarks.bus $(ARGS)

load: $(STAMP) ## put load on a server of its own, or on HOST=http://...; USERS, SECONDS; ARGS goes to locust
	@exec $(BIN)/python -m loadtests $(if $(HOST),--host $(HOST)) --users $(USERS) --seconds $(SECONDS) $(ARGS)

chaos: $(STAMP) ## break everything under load, again and again; BACKEND, SUBSCRIBERS, SEEDS; ARGS="--seed 7" plays one again
	@exec $(BIN)/python -m tests.chaos --backend $(BACKEND) --subscribers $(SUBSCRIBERS) --seeds $(SEEDS) $(ARGS)

image: $(STAMP) ## build the container image and try it out (IMAGE, IMAGE_BUILD_ARGS, IMAGE_RUN_ARGS)
	@exec $(BIN)/python -m tests.image --tag=$(IMAGE) --build-args="$(IMAGE_BUILD_ARGS)" --run-args="$(IMAGE_RUN_ARGS)"

packages: $(STAMP) ## build the clients that others install into dist/
	@rm -f dist/abide_client-*.whl dist/abide-client-*.tgz
	@cd clients/python && $(abspath $(BIN))/python -m hatchling build --target wheel --directory $(CURDIR)/dist
	@clients/js/pack $(CURDIR)/dist

lock: $(STAMP) ## resolve pyproject.toml anew into all lock files (UPGRADE=1: newest versions)
	@$(LOCK) --all-extras --output-file requirements.lock $(if $(UPGRADE),--upgrade) >/dev/null
	@$(LOCK) --extra redis --extra kafka --constraint requirements.lock --output-file requirements-run.lock >/dev/null
	@$(subst pyproject.toml,tests/deploy/tools.in,$(LOCK)) --output-file tests/deploy/tools.lock $(if $(UPGRADE),--upgrade) >/dev/null

clean: ## remove .venv and everything generated
	@rm -rf $(VENV) .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		dist loadtests/reports tests/npm/node_modules $(TOOLS)
	@find app tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Built from nothing whenever the lock changes, so that what the lock dropped is gone from .venv too.
# --no-deps: the lock is whole. Were pip to resolve it again, it would stumble over `coverage[toml]`, which
# a package asks for, on the day that a newer coverage than the lock's is out.
# Speaks on stderr: the output of `make run` and `make test` is theirs alone.
$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Abide needs Python 3.11 or newer; $(PYTHON) is not. Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (once) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV) >&2 || { \
		echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
		--require-hashes --requirement requirements.lock >&2
	@touch $@

tests/npm/node_modules/.package-lock.json: tests/npm/package-lock.json
	@echo "Setting up tests/npm/node_modules from its package-lock.json (once) ..." >&2
	@npm --prefix tests/npm ci --silent >&2
	@touch $@

# What has no compiled modules yet is compiled once, on two cores: else each process of `test` would compile all of it.
tests/__pycache__: | $(STAMP)
	@for some in 'tests/[ab]*' 'tests/[c-z]*'; do \
		PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -qq --collect-only -p no:cacheprovider $$some >/dev/null & \
	done; wait

$(TOOLS)/.installed: tests/deploy/tools.lock
	@echo "Setting up $(TOOLS) from tests/deploy/tools.lock (once) ..." >&2
	@$(PYTHON) -m venv --clear $(TOOLS) >&2
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
		--only-binary :all: --require-hashes --requirement tests/deploy/tools.lock >&2
	@touch $@
