# One readable command per target. ARGS passes settings on: make train ARGS="train.epochs=3 data.limit=100"
# They reach the shell as typed, so quote blanks, # and $ for the shell only: ARGS="train.out_dir='outputs/run #2'"
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
ifneq ($(origin ARGS),file)
override ARGS := $(value ARGS)
endif
SOURCE ?= competition,magick
# The run folders that compare sets side by side, as typed too: RUNS="outputs/a outputs/b"
RUNS ?=
ifneq ($(origin RUNS),file)
override RUNS := $(value RUNS)
endif
# Several processes, for train and infer: GPUS per machine. On several machines (NNODES) start the same command on each,
# with its own NODE_RANK (0, 1, …) and the address of machine 0. RESTARTS: restarts allowed after a process dies.
GPUS   ?= 1
NNODES ?= 1
NODE_RANK   ?= 0
MASTER_ADDR ?=
MASTER_PORT ?= 29500
RESTARTS    ?= 0
# For the docker targets: docker or podman, and the image's name. DOCKER_ARGS adds arguments to `docker run`.
DOCKER ?= docker
IMAGE  ?= dense-matting

PY   := $(VENV)/bin/python
PROCESSES = --gpus $(GPUS) --restarts $(RESTARTS) --nnodes $(NNODES) --node-rank $(NODE_RANK) \
            --master-addr "$(MASTER_ADDR)" --master-port $(MASTER_PORT)
PHOTOGRAPHS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-folds pretrain data weights train folds infer score submit report compare \
        tune soup ablate precision bench test lint clean kernel-build kernel-test kernel-push crash soak fuzz \
        docker-build docker-data docker-weights docker-train docker-infer docker-submit docker-demo docker-test

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## the virtual environment; every target makes it if needed

# The pinned packages have wheels for these versions.
PYTHONS := 3.11 3.12 3.13 3.14

$(VENV)/.ready: requirements.txt
	@found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') || found="not found"; \
	case " $(PYTHONS) " in *" $$found "*) ;; *) echo "error: $(PYTHON): Python $$found; the packages need one of" \
	    "$(PYTHONS); run: make PYTHON=python3.12 setup" >&2; exit 2;; esac
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -r requirements.txt
	@echo "compiling pymatting, once (about a minute)" && $(PY) -c "import pymatting"
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PY) -m pip install -q -r requirements-dev.txt
	@touch $@

demo: setup  ## data, training, inference, score and pictures in one go, without a network
	$(PY) scripts/get_data.py --config configs/demo.yaml $(ARGS)
	$(PY) src/train.py --config configs/demo.yaml $(ARGS)
	$(PY) src/infer.py --config configs/demo.yaml $(ARGS)
	$(PY) src/submit.py validate --config configs/demo.yaml $(ARGS)
	$(PY) src/submit.py score --config configs/demo.yaml $(ARGS)
	$(PY) scripts/report.py --config configs/demo.yaml $(ARGS)
	$(PY) scripts/gallery.py --config configs/demo.yaml $(ARGS) --out outputs/demo/photographs.png

demo-folds: setup  ## three folds, their mean and its tuning, each scored on a test set; 16 minutes on 2 slow cores
	$(PY) scripts/get_data.py --config configs/folds.yaml $(ARGS)
	$(PY) scripts/folds.py --config configs/folds.yaml $(ARGS)
	$(PY) scripts/tune.py --config configs/folds.yaml infer.weights=outputs/folds $(ARGS)
	for way in infer.weights=outputs/folds/fold_0/best.pth infer.weights=outputs/folds/fold_1/best.pth \
	    infer.weights=outputs/folds/fold_2/best.pth infer.weights=outputs/folds \
	    "infer.weights=outputs/folds infer.postprocess=tuned"; do \
	    $(PY) src/infer.py --config configs/folds.yaml $$way $(ARGS) && \
	    $(PY) src/submit.py score --config configs/folds.yaml $(ARGS) || exit; done

pretrain: data/pretrain/splits/train.csv weights  ## trains the embedded weights again; PHOTOGRAPHS=a.csv,b.csv: scores on these too
	trained=; for seed in 1 2 3; do run=outputs/pretrain/seed_$$seed; trained=$$trained,$$run/best.pth; \
	    $(PY) src/train.py --config configs/pretrain.yaml seed=$$seed train.out_dir=$$run $(ARGS) || exit; done; \
	$(PY) scripts/soup.py --all --config configs/pretrain.yaml --out outputs/pretrain/soup.pth $(ARGS) \
	    "infer.weights=[$${trained#,}]"
	$(PY) scripts/embed.py --config configs/pretrain.yaml train.out_dir=outputs/pretrain/seed_1 $(ARGS) \
	    infer.weights=outputs/pretrain/soup.pth --photographs "$(PHOTOGRAPHS)"

data/pretrain/splits/train.csv: | setup
	$(PY) scripts/get_pictures.py --out data/pretrain/pictures
	$(PY) scripts/get_data.py --config configs/pretrain.yaml $(ARGS)

data: setup  ## pairs and test images into data/; SOURCE=competition,magick (default) | rgba | csv | synthetic (no network)
	$(PY) scripts/get_data.py data.source="$(SOURCE)" $(ARGS)

weights: setup  ## the official U²-Net weights, verified, into weights/
	$(PY) scripts/get_weights.py $(ARGS)

train: setup  ## trains into outputs/<run>/, or resumes an interrupted run; GPUS=n: see docs/scaling.md
	$(PY) scripts/launch.py train $(PROCESSES) $(ARGS)

folds: setup  ## trains data.folds networks, each on all folds but one -> out-of-fold predictions oof.csv and their MSE
	$(PY) scripts/folds.py $(ARGS)

infer: setup  ## best checkpoint -> validated submission.csv (and PNG mattes, cut-outs)
	$(PY) scripts/launch.py infer $(PROCESSES) $(ARGS)
	$(PY) src/submit.py validate $(ARGS)

score: setup  ## MSE of submission.csv, if the true alphas are known
	$(PY) src/submit.py score $(ARGS)

submit: setup  ## uploads submission.csv, waits for its public score, records it in outputs/submissions.csv
	$(PY) src/submit.py upload $(ARGS)

kernel-build: setup  ## the Kaggle kernel: a script or notebook in build/kernel/, weights and settings in build/dataset/
	$(PY) scripts/kernel.py build $(ARGS)

kernel-test: kernel-build  ## runs the kernel here as Kaggle would: offline, in its own folders, without this repository
	$(PY) scripts/kernel.py test $(ARGS)

kernel-push: kernel-test  ## uploads both, waits for the run on Kaggle, fetches and validates its submission.csv
	$(PY) scripts/kernel.py push $(ARGS)

report: setup  ## outputs/<run>/report.html: the run on one self-contained page
	$(PY) scripts/report.py $(ARGS)

compare: setup  ## runs side by side on one page, outputs/compare.html, and as a table: RUNS="outputs/a outputs/b"
	$(PY) scripts/compare.py $(RUNS) $(ARGS)

tune: setup  ## finds sizes, shares and post-processing that lower the MSE, if any; infer.postprocess=tuned applies them
	$(PY) scripts/tune.py $(ARGS)

soup: setup  ## one network from several: the mean of checkpoints' weights; ARGS="infer.weights=[a.pth,b.pth]"
	$(PY) scripts/soup.py $(ARGS)

ablate: setup  ## what each augmentation, loss term and option is worth: ARGS="--budget 300 --seeds 3"
	$(PY) scripts/ablate.py $(ARGS)

precision: setup  ## what each backend and number format costs in MSE and time; makes infer.precision=int8 possible
	$(PY) scripts/precision.py $(ARGS)

bench: setup  ## every part against the same work as it is commonly written; ARGS="--doc docs/benchmarks.md" keeps it
	$(PY) scripts/bench.py $(ARGS)

test: $(VENV)/.ready-dev  ## the whole test suite, on all cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal $(ARGS)

crash: $(VENV)/.ready-dev  ## kills data, training, inference and kernel build at random moments: ARGS="--tries 100"
	OMP_NUM_THREADS=1 $(PY) tests/stress/crash.py $(ARGS)

soak: setup  ## trains and infers over and over, measures memory and open files: ARGS="--minutes 60"
	$(PY) tests/stress/soak.py $(ARGS)

fuzz: $(VENV)/.ready-dev  ## coverage-guided fuzzing of the file readers, 10 minutes each (Linux, x86-64)
	$(PY) -m pip install -q -r tests/stress/fuzz/requirements.txt
	for target in submission pairs config weights; do $(PY) tests/stress/fuzz/fuzz.py $$target -max_total_time=600 || exit 1; done

lint: $(VENV)/.ready-dev  ## ruff
	$(VENV)/bin/ruff check .

docker-build:  ## the CUDA image; BASE_IMAGE and TORCH_INDEX: see docker/Dockerfile
	$(DOCKER) build -f docker/Dockerfile -t $(IMAGE) --build-arg REVISION="$$(git describe --always --dirty --exclude='*')" \
	    $(foreach name,BASE_IMAGE TORCH_INDEX,$(if $($(name)),--build-arg $(name)=$($(name)))) .

# The same targets inside the image, with this folder's config.yaml, data, weights and outputs, and its GPUs if any.
IN_IMAGE = @DOCKER="$(DOCKER)" IMAGE="$(IMAGE)" docker/run.sh $(@:docker-%=%) \
           $(foreach name,SOURCE ARGS GPUS NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS,\
           $(if $(filter file,$(origin $(name))),,$(name)='$(subst ','\'',$($(name)))'))

docker-data:  ## in the image: data
docker-weights:  ## in the image: weights
docker-train:  ## in the image: train
docker-infer:  ## in the image: infer
docker-submit:  ## in the image: submit
docker-demo:  ## in the image: demo
docker-test:  ## in the image: test
docker-data docker-weights docker-train docker-infer docker-submit docker-demo docker-test:
	$(IN_IMAGE)

clean:  ## removes build products; never data/, weights/ or outputs/
	$(PYTHON) scripts/clean.py
	$(if $(wildcard $(VENV)/.ready),rm -rf $(VENV))
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find src scripts tests -name __pycache__ -type d -exec rm -rf {} +
