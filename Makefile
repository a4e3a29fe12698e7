# Everything is installed into .venv and nowhere else; deleting that folder undoes the set-up.

READY := .venv/ready
# The first that runs and is new enough; a version manager can list names that do not run.
PYTHON ?= $(or $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; print("$(python)" * (sys.version_info >= (3, 11)))' 2>/dev/null))),python3)
NO_PYTHON := Python 3.11 or newer is missing: install one, or name yours as in make lab PYTHON=/path/to/python3
ROOT_USER = $(if $(filter 0,$(shell id -u)),--allow-root)

# In Python, as `df` and `sort -V` differ from system to system; it must parse under any Python, to say that one is too old.
define CHECKS
import importlib.util, shutil, sys
disk = 6 if sys.platform.startswith("linux") else 2  # on Linux torch brings CUDA along
free = shutil.disk_usage(".").free / 1e9
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is missing, found only %d.%d: install one, or name yours as in"
             " `make lab PYTHON=/path/to/python3`." % sys.version_info[:2])
if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    sys.exit("Python's venv module is missing: install it (Debian, Ubuntu: apt install python%d.%d-venv), then call"
             " make again." % sys.version_info[:2])
if free < disk:
    sys.exit("Disk space is missing: the set-up takes about %d GB here and %.1f GB are free. Make room, then call make"
             " again." % (disk, free))
endef
export CHECKS

# JupyterLab asks on its first start whether it may fetch news; the answer goes into .venv, not into the user's settings.
QUIET_LAB := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}

# Three files of tests at a time, each on half of the cores: one of them often waits, for a browser or another process.
THREE := -n 3 --dist loadfile --no-loadscope-reorder
HALF = $(shell .venv/bin/python -c 'import os; print(max(1, os.cpu_count() // 2))')

.PHONY: help lab app test lint format latency unit run exercises weights measurements results bench book lines clean unbroken always

help:  ## show this list
	@sed -n 's/^\([a-z]*\): .*## /make \1|/p' Makefile | awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'

lab: $(READY)  ## set up on the first call, then open JupyterLab on your own copies of the notebooks
	@mkdir -p notebooks/mine
	@for theirs in notebooks/[0-9]*.ipynb; do \
		mine="notebooks/mine/$${theirs#notebooks/}"; \
		if [ ! -e "$$mine" ]; then cp "$$theirs" "$$mine"; \
		elif [ "$$theirs" -nt "$$mine" ] && ! cmp -s "$$theirs" "$$mine"; then \
			echo "There is a newer $$theirs. Yours stays as it is; to get the new one, rename $$mine and call make lab again."; \
		fi; \
	done
	.venv/bin/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" --LabApp.extension_manager=readonly \
		--LabApp.default_url=/lab/tree/notebooks/mine/01_train_vgg.ipynb $(ROOT_USER) $(LAB_FLAGS)

app: $(READY)  ## set up on the first call, then open the epsilon slider alone, with no code, for a lecture
	.venv/bin/python -m voila notebooks/app/slider.ipynb --Voila.ip=127.0.0.1 $(APP_FLAGS)

test: $(READY)  ## set up on the first call, then run the tests and every notebook
	OMP_NUM_THREADS=$(HALF) OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest $(THREE) $(ARGS)

lint: $(READY)  ## ruff and mypy over the sources and the notebooks
	.venv/bin/python -m ruff check . && .venv/bin/python -m ruff format --check . && .venv/bin/python -m mypy

format: $(READY)  ## bring sources and notebooks into their form
	.venv/bin/python -m ruff check --fix . && .venv/bin/python -m ruff format .

latency: $(READY)  ## measure the slider, key press to picture, in a real Chromium: some minutes, alone
	.venv/bin/python tests/tools/slider_latency.py

unit: $(READY)  ## the quick tests alone, under two minutes
	OMP_NUM_THREADS=$(HALF) OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest $(THREE) -p no:nbval -o addopts="--strict-markers" \
		-m "not integration" tests $(ARGS)

weights: $(READY)  ## train the published networks anew and show each beside the published one; ARGS=--write replaces them
	.venv/bin/python tests/tools/weights.py $(ARGS)

run: $(READY)  ## execute the notebooks in place: all, or make run NOTEBOOKS=notebooks/03_visualize.ipynb
	.venv/bin/python tests/tools/run_notebooks.py $(NOTEBOOKS)

exercises: $(READY)  ## write the exercises into the notebooks, and their solutions, from notebooks/solutions/source
	.venv/bin/python tests/tools/exercises.py $(ARGS)

measurements: $(READY)  ## make anew what takes too long for a notebook (hours), beside the published values; ARGS=--write
	.venv/bin/python tests/tools/measurements.py $(ARGS)

results: $(READY)  ## measure robust accuracy on whole test sets, going on where it stopped (hours); ARGS=--help
	.venv/bin/python tests/tools/results.py $(ARGS)

bench: $(READY)  ## measure the package beside what one might use in place of it (an hour, alone); ARGS=--help
	.venv/bin/python tests/benchmarks/bench.py $(ARGS)

book: $(READY)  ## build the executed notebooks into a website, book/_build/html, that needs no network
	.venv/bin/python book/build.py

lines: $(READY)  ## count the package's lines of code, room by room; ARGS=--files
	.venv/bin/python tests/tools/count_lines.py $(ARGS)

clean:  ## remove .venv, the website and the tools' caches; your notebooks stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis book/_build book/lab/node_modules tests/screenshots

# A linked interpreter outlives its target: without this, every command would only say "not found".
unbroken:
	@[ ! -L .venv/bin/python ] || .venv/bin/python -c '' 2>/dev/null || \
		{ echo "The Python that made .venv is gone: call make clean, then make again."; exit 1; }

# The installed package points at this folder: one that was moved is set up again.
ifneq ($(CURDIR),$(shell cat $(READY) 2>/dev/null))
$(READY): always
endif

$(READY): pyproject.toml constraints.txt tests/without-deps.txt | unbroken
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		command -v "$(PYTHON)" >/dev/null || { echo "$(NO_PYTHON)"; exit 1; }; \
		"$(PYTHON)" -c "$$CHECKS" && "$(PYTHON)" -m venv --clear .venv || exit 1; \
	fi
	@echo "Setting up .venv: up to 6 GB and some minutes, once. The last step, unpacking, says nothing for a minute or two."
	@echo "If it is broken off, the same command goes on."
	.venv/bin/python -m pip install -c constraints.txt -e ".[test]"
	.venv/bin/python -m pip install --no-deps -r tests/without-deps.txt
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '$(QUIET_LAB)' > .venv/share/jupyter/lab/settings/overrides.json
	@echo "$(CURDIR)" > $@
