# Two commands do everything on a machine that has only Python (3.11-3.13) and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest soak lint docs clean

.venv/.runtime: requirements.txt
	@test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	$(BIN)/pip install -q -r requirements-dev.txt
	@touch $@

demo: .venv/.runtime  ## train FEELVOS on embedded synthetic clips, evaluate it, write masks and overlays
	$(BIN)/python -m vos_jax.main --config configs/feelvos.py --workdir runs/demo

test: .venv/.dev  ## lint, then the whole suite
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

test-oldest:  ## the suite with exactly the lower bounds of requirements.txt, in .venv-oldest
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	sed 's/>=/==/' requirements.txt > .venv-oldest/oldest.txt
	.venv-oldest/bin/pip install -q -r .venv-oldest/oldest.txt -r requirements-dev.txt
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

soak: .venv/.dev  ## more than `make test`: 5,000 hostile inputs, 20 kills, programs of paper sizes, all meshes
	VOS_JAX_HOSTILE_INPUTS=5000 $(BIN)/python -m pytest tests/test_hostile_*.py
	VOS_JAX_KILLS=20 $(BIN)/python -m pytest tests/train/test_kills.py
	VOS_JAX_LOWERED=paper $(BIN)/python -m pytest tests/systems/test_lowering.py
	VOS_JAX_MESHES=all $(BIN)/python -m pytest tests/systems/test_meshes.py tests/inference/test_lockstep.py

lint: .venv/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: .venv/.dev  ## docs/api/: the public names, from their docstrings
	PYTHONPATH=. $(BIN)/python docs/build_api.py

clean:
	rm -rf .venv runs/demo
