# The commands of the project; each makes its own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint smoke results miniature bench
demo: .venv/ready
	$(BIN)/mudi selftrain jobs/configs/miniature.yaml
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"
test-all: .venv/ready
	$(BIN)/python -m pytest -v -n 2 --dist loadfile --no-loadscope-reorder
lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
smoke: .venv/ready
	$(BIN)/mudi benchmark jobs/configs/benchmark_smoke.yaml
results: .venv/ready
	$(BIN)/mudi benchmark jobs/configs/benchmark_miniature.yaml && $(BIN)/mudi report runs/benchmark_miniature --export docs/results
	$(BIN)/mudi benchmark jobs/configs/benchmark_composition.yaml && $(BIN)/mudi report runs/benchmark_composition --export docs/results
miniature: .venv/ready
	$(BIN)/mudi miniature train --work runs/miniature-training && $(BIN)/mudi miniature check
bench: .venv/ready
	$(BIN)/python -m bench.ray_against_in_process && $(BIN)/python -m bench.sampler_options

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
