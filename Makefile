# One readable command per target. ARGS passes settings on: make train ARGS="train.epochs=3 data.limit=100"
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
SOURCE ?= competition,magick

PY   := $(VENV)/bin/python
# The demo trains from nothing in about two minutes on two CPU cores: on pictures of 128 px, the lengths of the dense
# alpha scaled with them. It predicts at 128 px too; its mattes are returned at the test images' 1024 px.
DEMO := data.source=synthetic data.root=data/demo data.synthetic.train=400 data.synthetic.val=24 data.synthetic.test=8 \
        data.synthetic.size=128 train.out_dir=outputs/demo $(ARGS)
DEMO_TRAIN := $(DEMO) data.size=128 augment.crop=112 augment.scale=[0.88,1] augment.xray_p=1 \
        augment.xray.low_sigma=1.25 augment.xray.background_sigma=8 model.weights=null train.lr=3.0e-3 \
        train.batch_size=8 train.epochs=4 train.resume=never

.DEFAULT_GOAL := help
.PHONY: help setup demo data weights train infer score submit kernel-build kernel-test kernel-push report tune ablate test lint clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## the virtual environment; every target sees to it by itself

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -r requirements.txt
	@echo "compiling pymatting, once (about a minute)" && $(PY) -c "import pymatting"
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PY) -m pip install -q -r requirements-dev.txt
	@touch $@

demo: setup  ## data, training, inference, score and picture in one go, with no network
	$(PY) scripts/get_data.py $(DEMO)
	$(PY) src/train.py $(DEMO_TRAIN)
	$(PY) src/infer.py $(DEMO)
	$(PY) src/submit.py validate $(DEMO)
	$(PY) src/submit.py score $(DEMO)
	$(PY) src/report.py $(DEMO)

data: setup  ## pairs and test images into data/; SOURCE=competition,magick (default) | csv | synthetic (no network)
	$(PY) scripts/get_data.py data.source=$(SOURCE) $(ARGS)

weights: setup  ## the official U²-Net weights, verified, into weights/
	$(PY) scripts/get_weights.py $(ARGS)

train: setup  ## trains into outputs/<run>/, goes on where it was interrupted
	$(PY) src/train.py $(ARGS)

infer: setup  ## best checkpoint -> validated submission.csv (and PNG mattes, cut-outs)
	$(PY) src/infer.py $(ARGS)
	$(PY) src/submit.py validate $(ARGS)

score: setup  ## MSE of submission.csv where the true alphas are known
	$(PY) src/submit.py score $(ARGS)

submit: setup  ## uploads submission.csv, waits for its public score, records it in outputs/submissions.csv
	$(PY) src/submit.py upload $(ARGS)

kernel-build: setup  ## the Kaggle kernel: one script in build/kernel/, weights and settings in build/dataset/
	$(PY) scripts/kernel.py build $(ARGS)

kernel-test: kernel-build  ## runs it here as Kaggle would: offline, in a tree of its own, without this repository
	$(PY) scripts/kernel.py test $(ARGS)

kernel-push: kernel-test  ## uploads both, follows the run on Kaggle to its end, fetches and validates its submission.csv
	$(PY) scripts/kernel.py push $(ARGS)

report: setup  ## outputs/<run>/report.html: the run on one self-contained page
	$(PY) src/report.py $(ARGS)

tune: setup  ## post-processing that lowers the run's MSE, if any; infer.postprocess=tuned then applies it
	$(PY) scripts/tune.py $(ARGS)

ablate: setup  ## what each augmentation, loss term and option brings: ARGS="--budget 300 --seeds 3"
	$(PY) scripts/ablate.py $(ARGS)

test: $(VENV)/.ready-dev  ## the whole test suite, on all cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto $(ARGS)

lint: $(VENV)/.ready-dev  ## ruff
	$(VENV)/bin/ruff check .

clean:  ## removes build products; never data/, weights/ or outputs/
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
	find src scripts tests -name __pycache__ -type d -exec rm -rf {} +
