# Everything behind these targets is in .ci/ and in `terminal-supervisor --help`; see README.md.
.DEFAULT_GOAL := help
.PHONY: help serve demo test smoke-vm test-vm soak fuzz bench check setup down clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: ## set everything up and run the server (needs, or as root installs, a Docker Engine)
	@.ci/bootstrap serve && .venv/bin/terminal-supervisor check --write && exec .venv/bin/terminal-supervisor serve

demo:  ## the same page without containers: loopback only, NO ISOLATION
	@.ci/bootstrap demo && exec .venv/bin/terminal-supervisor demo

setup: ## set everything up, run nothing; the engine stays up until `make down`
	@.ci/bootstrap serve && exec .venv/bin/terminal-supervisor setup

test:  ## set everything up and run all tests
	@.ci/bootstrap test && exec .venv/bin/python .ci/test $(PYTEST_ARGS)

smoke-vm: ## boot an emulated Debian 12 with AppArmor, cgroup v2 and userns-remap; a strict start there, a session, a few attacks (eight minutes)
	@.ci/bootstrap test && exec .venv/bin/python .ci/test -m vm -s -o faulthandler_timeout=0 tests/vm/test_machine.py::test_smoke

test-vm: ## the same machine; the smoke, all attacks, AppArmor in depth; tables in .state/vm-results (half an hour)
	@.ci/bootstrap test && exec env TEST_TIME_LIMIT=7200 .venv/bin/python .ci/test -m vm -s -o faulthandler_timeout=0 tests/vm/test_machine.py::test_everything

soak:  ## the tests of faults with 200 kills at random moments instead of 10, and 1,000 sessions on the engine instead of 40 (about an hour)
	@.ci/bootstrap test && exec env SIGKILL_ROUNDS=200 CHURN_ENGINE_SESSIONS=1000 TEST_TIME_LIMIT=7200 .venv/bin/python .ci/test -o faulthandler_timeout=0 tests/faults

fuzz:  ## mutated handshakes and first messages for ten minutes (FUZZ_SECONDS, FUZZ_SEED)
	@.ci/bootstrap test && exec env FUZZ_SECONDS=$${FUZZ_SECONDS:-600} .venv/bin/pytest -s -o faulthandler_timeout=0 tests/gateway/test_fuzz.py

bench: ## measure this server and its peers, for docs/performance.md, into .state/bench/full (22 minutes)
	@.ci/bootstrap test && exec .venv/bin/terminal-supervisor bench full --set-up $(BENCH_ARGS)

check: ## formatter, linter, two type checkers, the arrows between packages, the Dockerfile, shell scripts
	@.ci/bootstrap check && exec .ci/check

down:  ## end the engine of the project's own, if it runs; images stay
	@[ ! -x .venv/bin/terminal-supervisor ] || exec .venv/bin/terminal-supervisor engine down

clean: down ## down, and delete what set-up made here: the own engine's images, .venv, .state, page assets
	@[ ! -x .venv/bin/terminal-supervisor ] || .venv/bin/terminal-supervisor engine delete
	rm -rf .venv .state dist supervisor/gateway/page/node_modules supervisor/gateway/page/vendor
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
