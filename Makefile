# Two commands do everything on a fresh machine: `make train` and `make test`.
# Three test files at a time on any machine: the ones that begin first mostly wait for processes.
# To use a debugger: make test ARGS="-n 0 --pdb tests/unit/replay_server/test_table.py"
# ARGS goes to the program: make train ARGS="cartpole-pixels --inline"

VENV := .venv
BIN := $(VENV)/bin
# The first Python of a supported version; PYTHON=/path/to/python overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
# Python compiles what is imported when it is: a minute less than to compile all that there is.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train quick test check lint docs lock release-check setup clean

train: $(VENV)/.installed
	$(BIN)/raydqn train $(ARGS)

# Unit tests and simulations: no process of Ray's.
quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/unit tests/simulation $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Every check that continuous integration runs, tests included.
check: lint docs test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, in build/docs; a warning fails.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env docs build/docs

# Writes deploy/clusters/*.lock, by which nodes install: after a change of constraints.txt.
lock: $(VENV)/.installed-dev
	$(PIP_INSTALL) --constraint constraints.txt uv
	$(BIN)/python .ci/lock

# Builds wheel and sdist in dist/ and tries each in a fresh environment (RELEASING.md).
release-check: $(VENV)/.installed-dev
	.ci/release-check

setup: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11, 3.12 or 3.13 (or PYTHON=/path/to/it)"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "make: cannot create $(VENV); on Debian and Ubuntu: apt install python3-venv"; exit 2; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing raydqn and its dependencies into $(VENV): this takes minutes the first time"
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[atari,box2d,fast,minatar]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing raydqn and its tools into $(VENV): this takes minutes the first time"
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
