# One command each on a fresh machine with Python 3.11 or later: the environment is made on the way.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run learn test test-machines notebooks bench bench-peers handout slides clean
.DELETE_ON_ERROR:

run: .venv/installed   ## the three acts on the complete data, in about a minute
	$(BIN)/python -m contlearn

learn: .venv/installed   ## Jupyter Lab, open on the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: .venv/installed   ## style, types, unit tests, and every notebook against its stored outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

test-machines: .venv/installed   ## the unit tests and some notebooks again, with the arithmetic of other processors
	$(BIN)/python tests/machines.py

notebooks: .venv/installed   ## run every notebook anew and store its outputs
	$(BIN)/python notebooks/execute.py

bench: .venv/installed   ## the measurements behind the claims about speed
	$(BIN)/python benchmarks/benchmark.py

bench-peers: .venv-peers/installed   ## the same of five other libraries, in an environment of its own
	.venv-peers/bin/python benchmarks/peers.py

handout: .venv/installed   ## the notebooks for a class, in handout/: without solutions and outputs
	$(BIN)/python notebooks/handout.py

slides: .venv/installed   ## the lecture, in slides.html, from the notebooks' own figures
	$(BIN)/python docs/slides.py

clean:
	rm -rf .venv .venv-peers

.venv/installed: requirements.txt pyproject.toml
	@echo "Installing into .venv, once: PyTorch, Jupyter and the tools of the tests, 2 GB or more, in a minute or two."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

.venv-peers/installed: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check -r benchmarks/peers-requirements.txt
	.venv-peers/bin/python -m pip install --disable-pip-version-check --no-deps avalanche-lib==0.6.0
	touch $@
