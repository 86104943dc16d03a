# make reproduce   the main job: the paper's claims measured on real data and on its theory's network, ends with a page
# make reproduce-full  the long version: more widths, seeds and data
# make test        all fast tests
# make test-cuda   the tests that need a GPU
# make ui          MLflow's page on 127.0.0.1
# make server      a team's tracking server, with PostgreSQL, in containers; see docs/mlflow.md
# make lint        style and types
# make bench       the asv benchmarks of this commit
# make bench-compare BASE=…   of another commit too, and both side by side; for a verdict: ggn gate
# make bench-publish   asv's pages of all results so far: .asv/html/index.html
# make peers       Gram and step beside other libraries, about an hour; OPTIONS=--quick for a look
# make docs        the documents as a site: site/index.html
# make env         only the environment; every target makes it when needed
# make lock        write requirements.lock anew from pyproject.toml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PORT ?= 5000
PEERS := .venv-peers
JAX := .venv-jax
DOCS := .venv-docs

.DEFAULT_GOAL := help
.PHONY: help env reproduce reproduce-full test test-slow test-cuda test-postgres ui server lint bench bench-compare bench-publish peers docs lock clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

env: $(INSTALLED)

# --no-build-isolation: setuptools comes from the lock file like everything else.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: env
	$(BIN)/ggn claims run

reproduce-full: env
	$(BIN)/ggn claims run --full

test: env
	$(BIN)/python -m pytest -m "not slow" --durations=20 -n 2 --dist loadfile

test-slow: env
	$(BIN)/python -m pytest -m slow

test-cuda: env
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
		|| { echo "error: no CUDA device: torch.cuda.is_available() is false"; exit 2; }
	$(BIN)/python -m pytest -m cuda

test-postgres: env
	.ci/postgres $(BIN)/python -m pytest -m postgres

ui: env
	$(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

server:
	docker compose --file mlflow/compose.yaml up --build --detach --wait

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/asv check -E existing:$(CURDIR)/$(BIN)/python

# Each commit is built in an environment of asv's own; uncommitted changes are not measured.
bench: env
	$(BIN)/python -m suites.run_asv run --show-stderr $(OPTIONS) 'HEAD^!'

bench-compare: env
	@git rev-parse --verify --quiet '$(BASE)^{commit}' > /dev/null \
		|| { echo "error: unknown commit '$(BASE)'; for example: make bench-compare BASE=HEAD~1"; exit 2; }
	git rev-parse '$(BASE)^{commit}' HEAD \
		| $(BIN)/python -m suites.run_asv run --show-stderr --interleave-rounds $(OPTIONS) HASHFILE:-
	$(BIN)/python -m suites.run_asv compare --split --factor 1.05 '$(BASE)' HEAD

bench-publish: env
	$(BIN)/python -m suites.run_asv publish
	$(BIN)/python -m harness.gate.commit_page .asv/html

peers: $(PEERS)/.installed $(JAX)/.installed
	$(PEERS)/bin/python -m suites.peers --jax $(JAX)/bin/python $(OPTIONS)

# Sees the packages of .venv through a .pth file, torch among them. --no-deps: some peers would bring another torch.
$(PEERS)/.installed: $(INSTALLED) suites/peers/requirements.txt
	$(BIN)/python -m venv --clear $(PEERS)
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$packages" > "$$($(PEERS)/bin/python -c "$$packages")/venv.pth"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r suites/peers/requirements.txt
	@touch $@

$(JAX)/.installed: $(INSTALLED) suites/peers/requirements-jax.txt
	$(BIN)/python -m venv --clear $(JAX)
	$(JAX)/bin/python -m pip install --quiet --disable-pip-version-check -r suites/peers/requirements-jax.txt
	@touch $@

# --strict: a warning, such as of a link that leads nowhere, fails; under --quiet it would be dropped instead. Nothing of
# the project is installed or imported.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --config-file docs/mkdocs/mkdocs.yml
	@echo "site/index.html; serve it: python3 -m http.server --bind 127.0.0.1 -d site"

$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# A throw-away environment, so that only what pyproject.toml asks for gets in. torch is pinned first: an open range
# would fetch a CUDA build of several GB on Linux; its local version (+cpu) is not part of the lock.
lock:
	rm -rf .lock-env && $(PYTHON) -m venv .lock-env
	.lock-env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 mlflow==3.17.2 "setuptools>=77" ".[dev,images,team]"
	{ echo "# Exact versions of everything, written by 'make lock' (Python 3.11, Linux). Every make target installs from here."; \
	  .lock-env/bin/python -m pip freeze --all --exclude pip --exclude gram-gauss-newton | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf .lock-env build *.egg-info

clean:
	rm -rf $(VENV) $(PEERS) $(JAX) $(DOCS) site .lock-env build *.egg-info
