# `make run` runs the pipeline, `make test` its tests; each target sets up .venv first when requirements changed.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run test test-long benchmark

run: .venv/run.installed
	@python ugrr_pipeline.py evaluate

test: .venv/test.installed
	@ruff check .
	@python -m pytest

test-long: .venv/test.installed
	@python -m pytest -m long

# TEXT: a folder with dpo_en_demo.json and alpaca_en_demo.json, whose text fills the prompts and responses.
TEXT ?= ../shared/real
benchmark: .venv/test.installed
	@python tests/benchmarks/benchmark.py --text $(TEXT)

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
