# Short names for scripts/, which do the work and bring what is missing.
.DEFAULT_GOAL := help
.PHONY: help check test test-all corpus test-docker chaos fuzz bench demo lock clean

PY := .venv/bin/python

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check:  ## lint, format, types, floors (no tests)
	@scripts/test --check-only

test:  ## everything, as CI does
	@scripts/test

test-all:  ## everything, the slow tests too, all of the sandbox's on both engines
	@scripts/test --slow

corpus:  ## the abuse corpus on both engines, with a count for each number
	@scripts/test --corpus

test-docker:  ## only the tests that need a container engine
	@scripts/test --tests-only -m docker

chaos:  ## 200 SIGKILLs at random moments, and what the next start leaves of each; a third of an hour
	@scripts/chaos

fuzz:  ## the property tests with 50,000 examples each; half an hour and more
	@scripts/test --tests-only tests/property --hypothesis-profile=long -o faulthandler_timeout=0

bench:  ## ratios against subprocess and docker, side by side
	@scripts/bootstrap
	@$(PY) benchmarks/sandbox.py; sandbox=$$?; $(PY) benchmarks/coordination.py; ours=$$?; \
	$(PY) benchmarks/models.py; models=$$?; $(PY) benchmarks/run.py && exit $$((sandbox || ours || models))

demo:  ## two agents fix a bug in a real project
	@scripts/demo

lock:  ## resolve pyproject.toml again into requirements.lock (public index only)
	@scripts/lock

clean:  ## remove the virtual environment and caches; images and run logs stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find sandbox massgen tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
