# The commands of the README, and their parts. Each does its own set-up and can be repeated.
SHELL := /bin/bash
PY := .venv/bin/python
CARGO_ENV := CARGO_TARGET_DIR=$${XDG_CACHE_HOME:-$$HOME/.cache}/hopseal/target PYO3_PYTHON=$(CURDIR)/.venv/bin/python
CRATE := broker/dataplane/Cargo.toml
PURE := hopseal/custody/*,hopseal/log/*,hopseal/log/audit/*,hopseal/documents/*,hopseal/backoff.py,hopseal/bundle.py,hopseal/entries.py
PURE := $(PURE),hopseal/errors.py,hopseal/ids.py,hopseal/limits.py,hopseal/mistakes.py,hopseal/selectors.py
PURE := $(PURE),hopseal/settings.py,hopseal/snapshot.py,hopseal/svid.py,hopseal/verify.py,hopseal/yaml_nodes.py

.PHONY: demo test check test-unit test-real coverage bench lint types imports rust wheels generated lock help

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## one task across three attested components, end to end, on this machine
	@python3 scripts/bootstrap.py demo
	@$(PY) -m demo

test: ## everything, on a real SPIRE and real containers
	@python3 scripts/bootstrap.py test
	@$(CARGO_ENV) cargo test --locked --quiet --manifest-path $(CRATE) --workspace
	@$(PY) -m pytest

check: setup-check lint types imports generated rust wheels test-unit ## lint, types, imports, generated code, unit tests

setup-check:
	@python3 scripts/bootstrap.py check

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types:
	$(PY) -m mypy
	$(PY) -m mypy scripts demo

imports:
	.venv/bin/lint-imports

generated:
	$(PY) scripts/generate_wire.py --check

rust:
	cargo fmt --manifest-path $(CRATE) --all --check
	$(CARGO_ENV) cargo clippy --locked --manifest-path $(CRATE) --workspace --all-targets -- -D warnings

wheels: ## build both wheels and try each in an empty environment
	$(PY) scripts/try_wheels.py

test-unit: ## tests without network, root or containers
	$(PY) -m pytest tests/unit tests/property tests/docs

coverage: ## branch coverage of the unit tests; fails unless the pure modules have all of it
	$(PY) -m coverage run -m pytest -q tests/unit tests/property
	$(PY) -m coverage report --skip-covered --show-missing --fail-under=100 --include='$(PURE)'

test-real: ## tests on a real SPIRE and real containers
	@python3 scripts/bootstrap.py test
	$(PY) -m pytest tests/contract tests/process tests/real tests/attacks

bench: ## every benchmark with its peer in the same run
	@python3 scripts/bootstrap.py test
	PYTHONPATH=tests $(PY) -m bench

lock: ## renew requirements/*.txt
	.venv/bin/uv pip compile -q --upgrade --generate-hashes --no-header --universal --python-version 3.11 pyproject.toml --group demo -o requirements/demo.txt
	.venv/bin/uv pip compile -q --upgrade --generate-hashes --no-header --universal --python-version 3.11 pyproject.toml --group dev -c requirements/demo.txt -o requirements/dev.txt

bench-%: ## one benchmark with its peer
	@python3 scripts/bootstrap.py test
	PYTHONPATH=tests $(PY) -m bench $*
