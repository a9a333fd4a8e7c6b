# Everything happens in .venv; nothing global is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo docs test test-aws lint bench chaos pool pool-down clean
.DELETE_ON_ERROR:

$(STAMP): setup.cfg pyproject.toml
	@echo "Installing into $(VENV), a minute or a few, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli,local,test]'
	touch $@

demo: $(STAMP)  ## the black diamond through the GAHP on an embedded AWS
	$(BIN)/condor_awsbatch demo

test: lint  ## lint, then every test
	$(BIN)/python -m pytest -n auto

test-aws: $(STAMP)  ## what is leant on in AWS: against the embedded AWS, or a real account named by AWSBATCH_TEST_PREFIX
	$(BIN)/python -m pytest tests/contract

docs: $(STAMP)  ## what is made from the code: docs/messages.md, man/, completion/
	$(BIN)/python -m tools.messages
	$(BIN)/python -m tools.manual
	$(BIN)/python -m tools.completion

lint: $(STAMP)
	$(BIN)/ruff check gahp tests bench examples tools
	$(BIN)/mypy

bench: $(STAMP)  ## ours beside its peers: a table, plots, bench/results/latest.json; printed, never asserted
	$(BIN)/python -m bench.main
	$(BIN)/python -m bench.main --readme
	$(BIN)/python -m bench.bulk

chaos: $(STAMP)  ## thousands of jobs, faults and kills, packed and each by itself; counts jobs wanted, made, run and left over
	$(BIN)/python tests/chaos/run.py --jobs 2000 --kills 500 --seed 1
	$(BIN)/python tests/chaos/run.py --jobs 2000 --kills 500 --seed 1 --pack-size 1

pool: $(STAMP)  ## a real HTCondor of each version, up and running, to try things out with
	$(BIN)/python tests/condor/pool.py up

pool-down: $(STAMP)  ## end both and remove all of them
	$(BIN)/python tests/condor/pool.py remove

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
