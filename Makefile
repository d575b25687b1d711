# Two commands do everything on a fresh machine with Python >= 3.11 and make: `make run` and `make test`.
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# uv does not read pip.conf: hand over the index and the certificates that pip is configured with.
pip_config = $(shell $(PYTHON) -m pip config get $(1) 2>/dev/null)
UV_ENV = $(if $(UV_DEFAULT_INDEX),,$(if $(or $(PIP_INDEX_URL),$(call pip_config,global.index-url)),UV_DEFAULT_INDEX=$(or $(PIP_INDEX_URL),$(call pip_config,global.index-url)))) \
	$(if $(SSL_CERT_FILE),,$(if $(or $(PIP_CERT),$(call pip_config,global.cert)),SSL_CERT_FILE=$(or $(PIP_CERT),$(call pip_config,global.cert)))) \
	UV_LINK_MODE=copy VIRTUAL_ENV=$(CURDIR)/.venv

.PHONY: help run setup check test test-all pins docs new-extension bench doctor clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run.ok ## install what is missing and start the server with the embedded model (Ctrl-C stops all)
	@exec $(BIN)/allod serve $(ARGS)

setup: .venv/dev.ok ## install all that development needs

check: .venv/dev.ok ## format, lint, types, import rules, docs
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m allod.testing.reference --check

test: .venv/dev.ok ## run the tests (real worker, embedded model; no packet leaves the machine)
	@$(BIN)/pytest -m "not slow" $(ARGS)

test-all: .venv/dev.ok ## run the slow tests, which `make test` leaves out
	@$(BIN)/pytest -m slow $(ARGS)

pins: $(UV) ## renew the pins in requirements/ that need it (UPGRADE=1: all of them)
	@$(UV_ENV) $(UV) pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --custom-compile-command "make pins" --group dev $(if $(UPGRADE),--upgrade) -o requirements/dev.txt
	@$(UV_ENV) $(UV) pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --custom-compile-command "make pins" --group model --group build -c requirements/dev.txt -o requirements/run.txt

docs: .venv/dev.ok ## print the reference pages, openapi.json and surface.txt from the code
	@$(BIN)/python -m allod.testing.reference

new-extension: .venv/dev.ok ## write the files of a new extension inside Allod: NAME=x
	@$(BIN)/python -m allod.testing.new_extension $(NAME)
	@$(MAKE) --no-print-directory docs

bench: .venv/dev.ok ## measure Allod against the bare worker (table and JSON)
	@$(BIN)/python -m bench $(ARGS)

doctor: .venv/run.ok ## say what this machine has and what to do about each problem
	@$(BIN)/allod doctor

clean: ## remove the environment and the caches (not the data folder)
	@rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# `install` leaves what a user added (extensions, by .venv/bin/pip); `sync` makes development what the pins say.
# One environment: dev.txt is a superset of run.txt, so `make run` is content with what `make test` has installed.
.venv/run.ok: requirements/run.txt pyproject.toml $(UV)
	@if [ .venv/dev.ok -nt requirements/dev.txt ] && [ .venv/dev.ok -nt pyproject.toml ]; then touch $@; \
	else $(call install,install -r requirements/run.txt) && touch $@; fi

.venv/dev.ok: requirements/dev.txt pyproject.toml $(UV)
	@$(call install,sync requirements/dev.txt) && touch $@

define install
	test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; $(UV_ENV) $(UV) venv -q --python $(PYTHON) .venv; }; \
	$(UV_ENV) $(UV) pip $(1) -q --require-hashes && \
	$(UV_ENV) $(UV) pip install -q --no-deps --no-build-isolation -e .
endef

.uv/bin/uv:
	@$(PYTHON) -m venv .uv || { rm -rf .uv; echo "This Python has no venv. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@.uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/uv.txt
