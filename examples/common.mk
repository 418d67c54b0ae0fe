# What examples share: `make run` serves the page on PORT, until Ctrl-C or SIGTERM. MODULE is what it runs.
ROOT := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))..)
MAKEFLAGS += --no-print-directory
export PORT ?= 8000
export LOG_LEVEL ?= warning
export CHANNELS_CONFIG := $(CURDIR)/channels.yaml

.PHONY: run
run:
	@$(MAKE) --silent -C $(ROOT) setup
	@cd $(ROOT) && exec .venv/bin/python -m examples.start $(MODULE)
