# Everything installs by itself into .venv; the stamp is renewed when a pin changes.
PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1

.PHONY: debug test chaos check bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or set PYTHON=..." >&2; exit 2; }
	@echo "installing into $(VENV) (once, some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

debug: $(STAMP)
	@$(VENV)/bin/rushes train jobs/sora_debug.yaml

# Three at a time, for two cores: some wait. A file to a process (tests/conftest.py); then those that
# start a Ray cluster, one by one: beside others its head did not live.
test: $(STAMP)
	@$(VENV)/bin/python -m pytest -m 'not chaos' --ignore tests/ray -n 3
	@$(VENV)/bin/python -m pytest -m 'not chaos' tests/ray

# What is killed, stopped or taken away while whole runs go on. -rs: says why one is skipped. First plain
# processes, which wait for most of their time; then clusters, and recoveries, which are timed.
ALONE := tests/chaos/test_hosts.py tests/chaos/test_ray_up.py tests/chaos/test_killed_saving.py
chaos: $(STAMP)
	@$(VENV)/bin/python -m pytest -rs -m chaos tests/chaos tests/launch tests/tracking $(ALONE:%=--ignore %) -n 2
	@$(VENV)/bin/python -m pytest -rs -m chaos $(ALONE) tests/ray

check: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/yamllint --strict jobs cluster .pre-commit-config.yaml
	@$(VENV)/bin/hadolint cluster/image/Dockerfile
	@$(VENV)/bin/codespell

bench: $(STAMP)
	@$(VENV)/bin/python benchmarks/overhead.py

clean:
	rm -rf $(VENV) runs data
