# Two commands do all set-up: `make quickstart` and `make test`. Both can be run again at any time.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' \
	2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: quickstart test lint clean help
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   install, then run the main job on the embedded benchmark: two arms, a report"
	@echo "make test         install, then lint, types, import contracts and all tests"

.venv/.report .venv/.dev: .venv/.%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found. Install one, or say make PYTHON=/path/to/python."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing vlm4vla and its $* dependencies into .venv (a few minutes the first time)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

# System libraries: through apt when root, else a sentence. The report's browser tests need Chromium.
.PHONY: system-render system-browser
system-render:
	@sh tools/system.sh libosmesa6
system-browser:
	@sh tools/system.sh libosmesa6 chromium

quickstart: .venv/.report system-render
	$(BIN)/vlm4vla study run studies/quickstart.yaml --out $(RUN)

test: .venv/.dev system-browser lint
	$(BIN)/vlm4vla bench install metaworld
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs
