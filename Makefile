# Everything a newcomer and CI run. Each target does its own set-up; the virtual environment is .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=

.PHONY: run test test-crashes test-staging test-gpu lint bench bench-rates bench-tuning bench-halts benchmark soak drill clean

run: $(INSTALLED)  ## start the embedded cluster, run a campaign on it, leave a report in runs/
	$(BIN)/backburn run $(ARGS)

test: $(INSTALLED)  ## all tests but those that start the embedded cluster again and again
	@# Two at a time what only computes, then one at a time what measures. Exit 5: ARGS has chosen none of them.
	@$(BIN)/pytest -m "not staging and not crashes and not alone" -n 2 --dist worksteal $(ARGS); two=$$?; \
	$(BIN)/pytest -m "alone and not staging and not crashes" $(ARGS); one=$$?; \
	for code in $$two $$one; do [ $$code -eq 0 ] || [ $$code -eq 5 ] || exit $$code; done; \
	[ $$two$$one != 55 ] || exit 5

test-staging: $(INSTALLED)  ## every switch weak and hardened on the real embedded cluster; crashes in the middle of each fault
	$(BIN)/pytest -m staging -o timeout=3600 -s -v $(ARGS)

test-crashes: $(INSTALLED)  ## every kind of fault, disturbed at every entry of the journal in every way, on simulated clusters
	$(BIN)/pytest -m "crashes or not crashes" -n 2 tests/test_crash_points.py $(ARGS)

test-gpu: $(INSTALLED)  ## faults of a real GPU, with what they do to it printed, and learning on it; skipped where there is none
	$(BIN)/pytest -m gpu -o timeout=600 -s -v $(ARGS)

lint: $(INSTALLED)  ## style, types, who may import whom, and known holes of what is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@found=$$($(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --timeout 10 --progress-spinner off 2>&1); code=$$?; \
	case "$$found" in \
	*requests.exceptions.* | *ServiceError*) echo "pip-audit: its index cannot be reached, nothing was audited" ;; \
	*) echo "$$found" | grep -v "could not be audited"; \
	   echo "pip-audit: $$(echo "$$found" | grep -c "could not be audited") of $$(grep -c == constraints.txt) packages could not be audited"; \
	   exit $$code ;; \
	esac

bench: $(INSTALLED)  ## what an experiment costs on the embedded cluster; writes runs/bench.json
	$(BIN)/python -m agent.bench $(ARGS)

bench-rates: $(INSTALLED)  ## how fast simulated campaigns are, and learning on them; ARGS="--device cuda" on a GPU
	$(BIN)/python -m agent.bench.rates $(ARGS)

bench-tuning: $(INSTALLED)  ## settings of Thompson and UCB, as shipped and 31 drawn, on clusters set aside
	$(BIN)/python -m agent.bench.tuning $(ARGS)

bench-halts: $(INSTALLED)  ## from a pulled lever until the fault is seen to be gone, on the embedded cluster; writes runs/halts.json
	$(BIN)/python -m agent.bench.halts $(ARGS)

benchmark: $(INSTALLED)  ## which policy finds more in the same minutes, on the embedded cluster
	$(BIN)/backburn benchmark $(ARGS)

soak: $(INSTALLED)  ## 10,000 experiments on simulated clusters: leaks, orphans, growth; ARGS="--cluster local" an hour on the real one
	$(BIN)/python -m agent.bench.soak $(ARGS)

drill: $(INSTALLED)  ## two hours of the service on the embedded cluster: schedule, alert, lever, SIGKILL; each answered as it should be?
	$(BIN)/python -m agent.bench.drill $(ARGS)

clean:  ## everything that the targets above have made, but for state/: journal, ledger and lever outlive it
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@started=$$(date +%s); \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Backburn needs Python 3.11 or newer; set PYTHON=")' && \
	$(PYTHON) -m venv .venv && \
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch && \
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[staging,dev]' && \
	echo "installed in $$(( $$(date +%s) - started )) s" && touch $@
