# make demo   footage → Parquet → training → one long video → runs/demo/report.html      (FOOTAGE=dir: your own videos)
# make test   the default tests            make test-all   also slow, ray, gpu and browser tests
# make check  lint, format, types, layers  make fmt        format and fix
# make weights  train successors of what ships in demo/weights (hours on two cores)

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all check fmt weights
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/python -m pipelines.demo $(if $(FOOTAGE),--footage "$(FOOTAGE)")

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: test
	$(BIN)/python -m pytest -q -m "slow or ray or gpu or browser"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

weights: $(READY)
	$(BIN)/python -m demo.train_weights

# rapidocr pulls a second OpenCV that needs libGL, over the headless one: only the headless one may stay.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=python3.11 (or newer)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
	  "$$($(BIN)/python -c 'from importlib.metadata import version as v; print("opencv-python-headless==" + v("opencv-python-headless"))')"
	touch $@
