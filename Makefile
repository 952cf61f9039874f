# Fulcrum's two doors: `make demo` and `make test`. Both set up everything they need; see `make help`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

# torch goes first and alone, so that a CPU build which pip can see wins over the newest CUDA build. Compiling to
# bytecode is more than half of pip's work, and pip does it on one core: torch is compiled while the rest is installed,
# and that on all cores. A file that is no valid Python is no matter, for pip neither.
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt torch
	@$(COMPILE) & compiling=$$!; set -x; \
	  $(BIN)/pip install -q --no-compile -c constraints.txt -e '.[all]' || exit; wait $$compiling; $(COMPILE) || true
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/pip install -q 'pip>=25.1'
	$(BIN)/pip install -q --no-compile -c constraints.txt --group dev
	@$(COMPILE) || true
	@touch $@

.PHONY: setup
setup: host $(VENV)/.installed ## Install Fulcrum and what it needs into .venv

# A compiler: the virtual phone's runner is built on this host.
.PHONY: host
host:
	@command -v g++ >/dev/null && $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends g++ python3.11-venv; }

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || [ -n "$$FULCRUM_CHROMIUM" ] \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends chromium; }

# AOSP's own daemon, against which the link is tested: unpacked from Debian's packages into .cache, not installed.
.cache/adbd: tests/device_agent/adbd/fetch.sh
	sh $< $@
	@touch $@

.PHONY: adbd
adbd: .cache/adbd
	@command -v ip >/dev/null || [ -x /sbin/ip ] \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends iproute2; }

# The Java runner's own logic is tested on this host's JVM.
.PHONY: java
java:
	@command -v javac >/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends openjdk-17-jdk-headless; }

.PHONY: demo
demo: ## Set up, then the main job: a search on a virtual phone, a winner, trained and talking (ARGS="--exit --summary out.json")
	@start=$$(date +%s); $(MAKE) --no-print-directory setup && echo "Set-up took $$(( $$(date +%s) - start )) s."
	@$(BIN)/fulcrum demo $(ARGS)

# Three workers on two cores: tests wait a good part of their time, for processes, leases and the disk.
.PHONY: test
test: ## Set up, then all checks and tests
	@start=$$(date +%s); $(MAKE) --no-print-directory host || exit; \
	  $(MAKE) --no-print-directory chromium adbd java & tools=$$!; \
	  $(MAKE) --no-print-directory setup $(VENV)/.developer && wait $$tools && echo "Set-up took $$(( $$(date +%s) - start )) s."
	@$(MAKE) --no-print-directory -j 2 --output-sync=target mypy lint
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: mypy
mypy:
	$(BIN)/mypy

.PHONY: lint
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: bench-search
bench-search: setup $(VENV)/.developer ## Our sampler beside Optuna's random one on a synthetic landscape
	OMP_NUM_THREADS=1 $(BIN)/python tests/search/bench_sampler.py --seeds 4

.PHONY: bench-qat
bench-qat: setup $(VENV)/.developer ## What rounding costs: to nearest, GPTQ, QAT, stochastic rounding, over seeds (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_qat.py $(ARGS)

.PHONY: bench-train
bench-train: setup $(VENV)/.developer ## Tokens/s of a training step beside transformers', 1 and 2 threads (ARGS="--device cuda --compile ...")
	$(BIN)/python tests/trainer/bench_train.py $(ARGS)

.PHONY: bench-distil
bench-distil: setup $(VENV)/.developer ## What a teacher is worth: distillation beside hard labels at equal tokens, over seeds (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_distil.py $(ARGS)

.PHONY: bench-rl
bench-rl: setup $(VENV)/.developer ## What RL does by level, before and after, and a curriculum beside uniform sampling, over seeds
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_rl.py $(ARGS)

.PHONY: bench-levers
bench-levers: setup $(VENV)/.developer ## What each lever after pretraining does, from one base model, over seeds (about 10 minutes; ARGS="--home DIR --only sft,rl")
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_levers.py $(ARGS)

.PHONY: bench-preference
bench-preference: setup $(VENV)/.developer ## What preferences are worth: win rates of each mix of losses on held-out sums, over seeds (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_preference.py $(ARGS)

.PHONY: soak-train
soak-train: setup $(VENV)/.developer ## Trainings killed -9 twenty times each, alone and over 2 ranks: the same weights to the bit
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_kill.py $(ARGS)
.PHONY: bench-context
bench-context: setup $(VENV)/.developer ## Recall and bits/byte by position: YaRN, raised base, plain training; 256 -> 2k -> 8k
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_context.py $(ARGS)

.PHONY: bench-context-real
bench-context-real: setup $(VENV)/.developer ## A step and an evaluation at 4k, 32k and 128k: memory predicted and measured
	$(BIN)/python tests/trainer/bench_context_real.py $(ARGS)

.PHONY: bench-width
bench-width: setup $(VENV)/.developer ## Is the best rate of one width that of another (ARGS="--optimiser muon --standard --seeds 3")
	OMP_NUM_THREADS=1 $(BIN)/python tests/trainer/bench_width.py $(ARGS)

.PHONY: bench-composition
bench-composition: setup $(VENV)/.developer ## A linked Program beside the composed one and the plain whole-model export
	$(BIN)/python tests/search/bench_composition.py

.PHONY: bench-export
bench-export: setup $(VENV)/.developer ## CPU seconds and memory of exporting a candidate: 350M, 700M, 1.2B and a small one (ARGS="--shapes 350M")
	OMP_NUM_THREADS=1 $(BIN)/python tests/search/bench_export.py $(ARGS)

.PHONY: bench-generate
bench-generate: setup $(VENV)/.developer ## Tokens/s of the engine beside transformers.generate, and what its prefix cache saves
	$(BIN)/python tests/trainer/bench_generate.py $(ARGS)

.PHONY: bench-bytes
bench-bytes: setup $(VENV)/.developer ## Every byte of 350M and 1.2B, in the file and at the peak: predicted and measured
	OMP_NUM_THREADS=1 $(BIN)/python tests/search/bench_bytes.py $(ARGS)

.PHONY: bench-link
bench-link: setup adbd $(VENV)/.developer ## Push, pull and shell of our link beside Google's adb, against AOSP's daemon
	$(BIN)/python tests/device_agent/bench_link.py

.PHONY: runner-java
runner-java: setup java ## Compile and dex the Java runner against ExecuTorch's Android classes (npm, Debian; no phone)
	$(BIN)/python tests/device_agent/bench_java_runner.py

.PHONY: runner-arm64
runner-arm64: setup ## Compile the native runner for arm64 against the wheel's headers (no link, no phone)
	@command -v aarch64-linux-gnu-g++ >/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends g++-aarch64-linux-gnu; }
	$(BIN)/python tests/device_agent/bench_arm64_runner.py

.PHONY: bench-device
bench-device: setup $(VENV)/.developer ## Our Programs beside llama.cpp and this host's limits, 1 and 2 threads (ARGS="--shapes demo,350m --json out.json")
	$(BIN)/python tests/search/bench_device.py $(ARGS)

.PHONY: oracle-llama
oracle-llama: setup $(VENV)/.developer ## llama.cpp, built once into .cache, judges the GGUF export: same words, same greedy tokens
	PYTHONPATH=tests/search $(BIN)/python tests/oracles/bench_llama.py

.PHONY: bench-prefix
bench-prefix: setup $(VENV)/.developer ## TTFT with a prefix from a snapshot and without, and the runner's own start and memory
	OMP_NUM_THREADS=1 $(BIN)/python tests/device_agent/bench_prefix.py $(ARGS)

.PHONY: bench-measuring
bench-measuring: setup $(VENV)/.developer ## How far a measurement can be trusted, on simulated phones whose truth is known
	$(BIN)/python tests/device_agent/bench_measuring.py --measurements 400

.PHONY: constraints
constraints: setup $(VENV)/.developer ## Pin what is installed now
	$(BIN)/pip freeze --exclude-editable | grep -vE '^(fulcrum|pip|setuptools)\b' | sed 's/+cpu$$//' > constraints.txt

.PHONY: clean
clean: ## Remove the environment; data in .fulcrum stays
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache
