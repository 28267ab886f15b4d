# make demo: set everything up and run the main job; make test: set up and run the tests;
# make test-fast: the pure parts and a tiny run of each engine;
# make audit: known weaknesses of packages, risky code; make docs: the site, in site/;
# make wheel, make cluster-test and make compose-test: see docs/cluster.md;
# make bench DATA=DIR: every benchmark, one after the other; hours, on a machine with nothing else to do. DIR has MNIST
# in torchvision's layout. With QUICK=1: a look at each. docs/benchmarks.md and docs/results.md have the commands one by
# one.
# Needs Python 3.11 and make; everything else is installed into .venv from constraints.txt. With PYTHON=python3.12 or
# python3.13, which CI does not run, torch is the CUDA build of several gigabytes.

DATA ?= data
PYTHON ?= $(shell command -v python3.11 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo docs test test-fast chaos cluster-test compose-test wheel lint audit bench bench-gpu clean setup

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/sparring demo

# A thread each, and a process more than two cores have: some tests wait for Ray, Redis or a time-out.
test: $(STAMP)
	$(BIN)/python -m compileall -qq -j 0 sparring benchmarks || true
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 3 --dist loadgroup $(ARGS)

# The inner loop: the pure parts, and one tiny run of each engine.
FAST := allocators attacks config data objectives workers engines/test_each_engine.py test_layers.py test_plugins.py \
	$(addsuffix .py,$(addprefix queue/test_,ledger messages parsing signature sizing) \
	$(addprefix models/test_,arrays convolutional first_layer models outputs starting) \
	$(addprefix evaluation/test_,comparisons finite journal memory normalisation outcomes paired significance \
	standing tickets) $(addprefix trainer/test_,optimizers plan schedules steps))
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup \
	  $(addprefix tests/,$(FAST)) $(ARGS)

# The site, in site/: needs no network, and fails for a warning or a link to nothing. REPOSITORY=https://HOST/OWNER/sparring
# lets it link to files of the repository that it does not hold; without, they are downloads.
docs: $(STAMP)
	OMP_WAIT_POLICY=passive REPOSITORY=$(REPOSITORY) $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going \
	  -c website -d build/doctrees . site

# Breaks runs on purpose and audits each: 1,000 seeded schedules in one process each, then real runs with Ray; an hour.
# Then a million hostile messages; minutes.
chaos: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m tests.chaos $(ARGS)
	$(BIN)/python -m tests.chaos.hostile
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m chaos

# As root on Linux: two hosts made of namespaces, a real `ray up`, a run across them, `ray down`; about five minutes.
cluster-test: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,cluster]'
	$(BIN)/python -m pytest -m cluster tests/cluster $(ARGS)

# With a Docker Engine (DOCKER_HOST): the image, and docker-compose.yml with a run whose workers come, go and die.
# TORCH_INDEX, where it is set, says where the image takes torch from.
compose-test: $(STAMP)
	$(BIN)/python -m pytest -m compose tests/compose $(ARGS)

# What `ray up deploy/ray/local.yaml` installs on every host.
wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Seconds. Says `NOT RUN` of what needs a database of advisories where none can be reached; --strict makes that a failure.
audit: $(STAMP)
	$(BIN)/python .ci/audit.py $(ARGS)

BENCHMARKS := transport load kernels steps streams sharing memory timeline elastic peers scaling allocator splits evaluation masked_gradients
ON_MNIST := wallclock headline staleness methods verdict finish throughput time_to_accuracy

# A look at each of them: one short round, and not all rows.
ifdef QUICK
transport_ARGS := --repetitions 40
load_ARGS := --workers 8 --seconds 5
streams_ARGS := --networks mnist-16-32-100:128 --repetitions 3
sharing_ARGS := --network mnist-16-32-100 --batch 16 --steps 20 --workers 1
kernels_ARGS := --networks mnist-16-32-100:128 --repetitions 3
memory_ARGS := --shards 500 --networks digits-cnn:64
steps_ARGS := --shards 8 --rounds 1
timeline_ARGS := --out runs/quick/timeline --seconds 5
elastic_ARGS := --seconds 10
peers_ARGS := --rounds 1 --seconds 5 --cases equal slow
scaling_ARGS := --out runs/quick/scaling --series 80 --workers 1 2 --rounds 1 --seconds 10
evaluation_ARGS := --devices 2 --seconds 10
masked_gradients_ARGS := --seeds 1
allocator_ARGS := --networks mnist-16-32-100 --batches 128 --repetitions 3
wallclock_ARGS := --rounds 1 --steps 200
headline_ARGS := --out runs/quick/headline --rows "synchronous, κ = 8" "synchronous, κ = 4" --rates 0.02 --ramps 0.15 --epochs 1 --seeds 1
staleness_ARGS := --seeds 1 --runs "staleness 0" "staleness 16"
finish_ARGS := --seeds 1 --runs "steep, loop"
splits_ARGS := --settings 2 --out runs/quick/splits.jsonl
throughput_ARGS := --devices 2 --rows "fresh finish, g = 4"
time_to_accuracy_ARGS := --devices 1 2 --seeds 1 --models proportional
verdict_ARGS := --quick --out runs/quick/verdict.jsonl
methods_ARGS := --seeds 1 --methods PGD-AT --autoattack 50
endif

define benchmark
@echo '== python -m benchmarks.$(1) $(2)'
@$(BIN)/python -m benchmarks.$(1) $(2)

endef

bench: $(STAMP)
	@test -d $(DATA)/MNIST || { echo "DATA = $(DATA) has no folder MNIST: name the root of torchvision's MNIST, as make bench DATA=DIR" >&2; exit 2; }
	$(foreach name,$(BENCHMARKS),$(call benchmark,$(name),$($(name)_ARGS)))
	$(foreach name,$(ON_MNIST),$(call benchmark,$(name),--data $(DATA) $($(name)_ARGS)))

# All that docs/benchmarks.md calls not measured, on one GPU in ten minutes. DATA: folder of CIFAR-10.
bench-gpu: $(STAMP)
	$(BIN)/python -m benchmarks.gpu --data $(DATA) --draw

# Compiled by all cores, where pip takes one; what is not Python 3 among the packages' files is passed over.
# torch first and by its exact version: torchvision's own requirement would otherwise take a CUDA build of gigabytes.
$(STAMP): pyproject.toml constraints.txt
ifeq ($(strip $(PYTHON)),)
	@echo "Sparring needs Python 3.11: install it (for example the package python3.11) or run make PYTHON=/path/to/python3.11" >&2
	@exit 2
endif
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib sparring || true
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
