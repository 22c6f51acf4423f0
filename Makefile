# `make start` shows a seeded database in the browser, `make test` runs what CI runs. Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Trust what the machine trusts, a company's own certificates among them, where it keeps such a list.
export UV_SYSTEM_CERTS := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs),1,)

.PHONY: start stop test format docs clean bench-queries studio-assets
.DELETE_ON_ERROR:

# With nobody at the terminal, as in CI, it ends before the studio, which would wait for Ctrl-C.
start: $(VENV)/installed
	@$(BIN)/tatame-db up
	@if [ -t 0 ]; then exec $(BIN)/tatame-db studio; fi

stop: $(VENV)/installed
	@$(BIN)/tatame-db stop

test: $(VENV)/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n auto $(TESTS)

format: $(VENV)/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

# Needs Node. The results depend on the machine, so they are written into the README by hand.
bench-queries: $(VENV)/installed
	cd benchmarks/queries && npm ci --no-audit --no-fund
	$(BIN)/python benchmarks/queries/run.py

# Needs Node. What the browser gets is committed, so that nobody else does.
studio-assets:
	cd studio && npm ci --no-audit --no-fund && npm run --silent build

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache

# uv reads the lock file; where the machine has none, the environment gets one of its own.
$(VENV)/installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V). Nothing was installed." >&2; \
		     echo "hint: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@PATH="$$PATH:$(CURDIR)/$(BIN)" VIRTUAL_ENV="$(abspath $(VENV))" uv sync --active --locked --quiet --no-progress
	@touch $@
