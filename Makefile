# `make` checks everything that is checked before a change lands.
PYTHON ?= python
.DEFAULT_GOAL := all
.PHONY: all help fmt fmt-check lint types test docs completions demo

all: fmt-check lint types test  ## all checks

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

fmt:  ## format the code
	$(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix .
fmt-check:  ## is it formatted?
	$(PYTHON) -m ruff format --check .
lint:  ## ruff
	$(PYTHON) -m ruff check .
types:  ## mypy, strict
	$(PYTHON) -m mypy
test:  ## the whole suite
	$(PYTHON) -m pytest -n auto
docs:  ## build the site of docs/ into build/site: pip install '.[docs]'
	$(PYTHON) -m zensical build --strict --clean
completions:  ## write the completion scripts, the manual and docs/reference anew
	$(PYTHON) -m vitcli.cli.completion completions
	$(PYTHON) -m vitcli.cli.manual completions/man
	$(PYTHON) -m vitcli.cli.reference docs/reference
demo:  ## train the demo model and draw the examples anew
	$(PYTHON) -m vitcli.demo.train --out vitcli/demo --examples examples
