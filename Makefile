# `make run` runs the pipeline, `make test` its tests; both set up .venv first when requirements changed.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run test

run: .venv/run.installed
	@python ugrr_pipeline.py evaluate

test: .venv/test.installed
	@ruff check .
	@python -m pytest

.venv/bin/python:
	@$(PYTHON) -m venv .venv

.venv/run.installed: requirements.txt | .venv/bin/python
	@echo "installing what the pipeline needs into .venv ..."
	@python -m pip install --quiet -r requirements.txt
	@touch $@

.venv/test.installed: requirements.txt requirements-test.txt | .venv/bin/python
	@echo "installing what the tests need into .venv ..."
	@python -m pip install --quiet -r requirements-test.txt
	@touch $@ .venv/run.installed
