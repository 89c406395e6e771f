# One command each on a fresh machine with Python 3.11 or later: the environment is made on the way.
PYTHON ?= python3
BIN := .venv/bin
# A file of tests or a notebook at a time on each processor, one thread each: more would only wait for each other.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

.PHONY: run learn test test-machines test-site notebooks bench bench-peers site handout slides clean
.DELETE_ON_ERROR:

run: .venv/installed   ## the three acts on the complete data, in about a minute
	$(BIN)/python -m contlearn

learn: .venv/installed   ## Jupyter Lab, open on the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: .venv/installed   ## style, types, unit tests, and every notebook against its stored outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest $(PARALLEL)

test-machines: .venv/installed   ## the unit tests and some notebooks again, with the arithmetic of other processors
	$(BIN)/python tests/machines.py

notebooks: .venv/installed   ## run every notebook anew and store its outputs
	$(BIN)/python notebooks/execute.py

bench: .venv/installed   ## the measurements behind the claims about speed
	$(BIN)/python benchmarks/benchmark.py

site: .venv/site   ## the book, as a web site in build/site, from the notebooks' stored outputs
	$(BIN)/python site/book.py

test-site: site   ## the book and JupyterLab in a real browser: Chromium or Chrome, found on the path or named by CHROMIUM
	BROWSER_TESTS=required $(BIN)/pytest tests/test_site.py tests/browser

bench-peers: .venv-peers/installed   ## the same of five other libraries, in an environment of its own
	.venv-peers/bin/python benchmarks/peers.py

handout: .venv/installed   ## the notebooks for a class, in handout/: without solutions and outputs
	$(BIN)/python notebooks/handout.py

slides: .venv/installed   ## the lecture, in slides.html, from the notebooks' own figures
	$(BIN)/python docs/slides.py

clean:
	rm -rf .venv .venv-peers build

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

# KaTeX comes out of a package that ships its files; of the package nothing is imported, so it needs none of its dependencies.
.venv/site: .venv/installed requirements-site.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-site.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --upgrade --target .venv/katex djangocms-katex==1.0.2
	touch $@
