# make demo                       train, predict, score and picture both problems on made-up data: minutes on a CPU
# make demo DATA=hw1_data         the same on the course's data; EDITION=2021: that year's problems and report
# make check DATA=hw1_data        before hours go into it: data, weights, disk, and how long each step takes
# make all DATA=hw1_data HOURS=9  both problems, Segment Anything and report in so many hours of training; SESSION=8.5 ends
#                                 a call in time, and the same command resumes
# make laptop DATA=hw1_data       the same on a CPU in an evening: a ResNet18, small images
# make p1 DATA=hw1_data           problem 1 whole: pre-training, settings A to E, their table, t-SNE; resumes if stopped
# make p2 DATA=hw1_data           problem 2 whole: both networks, masks, score, pictures; resumes if stopped
# make sam DATA=hw1_data          Segment Anything on the report's three tiles
# make report STUDENT_ID=r12345678 NAME="王小明"    hw1_r12345678.pdf and report.html from those runs, in report/out/;
#                                 EDITION=2021: that year's questions, from make p1-50 and make p2
# make p1-50 DATA=hw1_data_2022   problem 1 of the editions with 50 classes: three networks, their vote, t-SNE
# make test                       style, then every test; needs no data
# make test-real DATA=hw1_data    what only the course's data can show
# make test-networks              every network of problem 2: train, stop, resume, hw1_2.sh; a quarter of an hour
# make test-memory                thousands of tiles in the memory of few; minutes
# make test-grader-stack          the answers under the course's packages of 2024 are those under ours; 6 GB, once
# make test-installs              whether every Python on every system can have what is pinned; needs the network
# make test-notebook              notebooks/colab_kaggle.ipynb from its first to its last cell, with a demo
# make soak MINUTES=30            kills, broken and hostile files without end: cases and failures; 0: all there are
# make publish                    setting C and model B become what hw1_1.sh and hw1_2.sh answer with
# make submission [EDITION=2023]  what is handed in, under the course's names, in submission/
# make published-p2 DATA=hw1_data the trainings behind the published weights of problem 2; some four hours of a core
# make pictures                   the README's pictures, from the runs of a demo
# make clean                      remove what the demo made
#
# The first of them makes .venv and installs into it. PYTHON=python3.11 chooses another Python than python3: one from
# 3.9 to 3.14, on Linux with glibc 2.28, an Apple silicon Mac (macOS 14 from Python 3.11 on), or WSL.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed
INSTALLED_FOR_TESTS := $(VENV)/installed-for-tests

# The wrappers say python3, as the course wants it: let that be the one with torch.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DATA EDITION
# It hides our modules from python3 -m.
unexport PYTHONSAFEPATH
# What is missing is said before anything is installed.
.NOTPARALLEL:

# wildcard takes a space for the end of a path.
nothing :=
space := $(nothing) $(nothing)
is_there = $(wildcard $(subst $(space),\ ,$(1)))

# What the year's edition has: 50 classes until 2023, Office-Home from 2023 on, Segment Anything from 2024 on.
HAS_50 = $(filter 2020 2021 2022 2023,$(EDITION))
HAS_OFFICE = $(filter-out 2020 2021 2022,$(or $(EDITION),2024))
HAS_SAM = $(filter-out 2023,$(HAS_OFFICE))

# $(call need,hw1_data,FOLDERS)
need = for folder in $(2); do test -d "$$DATA/$$folder" || { \
	echo "error: $${DATA:-(no DATA)} is no $(1): it lacks $$folder; say where the course's data are: make $(or $(firstword $(MAKECMDGOALS)),help) DATA=$(1)" >&2; \
	exit 2; }; done

.PHONY: help setup demo check all laptop p1 p1-50 p2 sam report test test-real test-networks test-installs test-notebook test-memory \
	test-grader-stack soak publish submission published-p2 pictures clean p1-data p2-data p1-50-data demo-data p2-starts

help:
	@sed -n '/^[^#]/q; /^$$/q; s/^# \{0,1\}//p' Makefile

p1-data:
	@$(call need,hw1_data,p1_data/office p1_data/mini/train)

p2-data:
	@$(call need,hw1_data,p2_data/train p2_data/validation)

p1-50-data:
	@$(call need,hw1_data_2022,p1_data/train_50 p1_data/val_50)

# -- set-up ------------------------------------------------------------------------------------------------------------

setup: $(INSTALLED)

$(INSTALLED): requirements.txt
	@command -v "$(PYTHON)" >/dev/null \
	|| { echo "error: there is no $(PYTHON); install Python 3.9 or newer, or name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
	|| { echo "error: $$("$(PYTHON)" --version 2>&1) is too old, this needs 3.9 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import venv, os; {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & {*os.environ} or __import__("ensurepip")' 2>/dev/null \
	|| { echo "error: $(PYTHON) comes without venv or pip; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@echo "== Setting up $(VENV): some minutes, once; 6 GB, without an NVIDIA GPU mostly 2 GB"
	@"$(PYTHON)" -m engine.packages "$(VENV)"
	@touch $@

$(INSTALLED_FOR_TESTS): requirements-dev.txt $(INSTALLED)
	@python3 -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	@touch $@

# -- problem 1 ---------------------------------------------------------------------------------------------------------

# Everything lies below P1_OUT, and the same command resumes after a stop. On a laptop, smaller and shorter:
#
#   make p1 DATA=hw1_data P1_FLAGS="--image-size 64" SSL_FLAGS="--epochs 20" SL_FLAGS="--epochs 20" \
#       FINETUNE_FLAGS="--epochs 20 --seeds 0"
RUNS ?= runs
P1_OUT ?= $(RUNS)/problem1
P1_FLAGS ?=
SSL_FLAGS ?=
SL_FLAGS ?= --epochs 100
FINETUNE_FLAGS ?= --seeds 0 1 2
# Of every training and of t-SNE, such as --device cpu or --cache DIR:
MACHINE_FLAGS ?=

# For settings B and D: the course's file; without it one is trained on mini/train_labels.csv, or both are left out.
COURSE_BACKBONE = $(DATA)/p1_data/pretrain_model_SL.pt
OWN_BACKBONE = $(P1_OUT)/sl/pretrain_model_SL.pt
SL_BACKBONE ?= $(if $(call is_there,$(COURSE_BACKBONE)),$(COURSE_BACKBONE),$(OWN_BACKBONE))
MINI_LABELS = $(DATA)/p1_data/mini/train_labels.csv
SETTINGS ?= $(if $(call is_there,$(SL_BACKBONE))$(call is_there,$(MINI_LABELS)),ABCDE,ACE)
needs_labels = $(if $(subst $(OWN_BACKBONE),,$(SL_BACKBONE)),,$(findstring B,$(SETTINGS))$(findstring D,$(SETTINGS)))

# What trains. The *_TIME are engine/plan.py's, for `make all`.
TRAIN_SSL = p1_ssl_pretrain.py --images "$$DATA/p1_data/mini/train" --probe-csv "$$DATA/p1_data/office/train.csv" \
	--output "$(P1_OUT)/ssl" $(P1_FLAGS) $(SSL_FLAGS) $(SSL_TIME) $(MACHINE_FLAGS)
TRAIN_SL = p1_finetune.py --train-images "$$DATA/p1_data/mini/train" --train-csv "$$DATA/p1_data/mini/train_labels.csv" \
	--output "$(P1_OUT)/sl" $(P1_FLAGS) $(SL_FLAGS) $(SL_TIME) $(MACHINE_FLAGS)
TRAIN_SETTINGS = p1_finetune.py --data "$$DATA/p1_data/office" --output "$(P1_OUT)/settings" \
	$(P1_FLAGS) $(FINETUNE_FLAGS) $(SETTINGS_TIME) $(MACHINE_FLAGS)

# What is left of a SESSION, whose end (in seconds) engine/plan.py sets.
left = $${SESSION_END:+--max-minutes $$(( SESSION_END > $$(date +%s) ? (SESSION_END - $$(date +%s)) / 60 : 0 ))}
# A run that was stopped must not feed the next one.
is_done = python3 -m engine.run_folder "$(1)" || { echo "the same command resumes it"; exit 2; }

# With exit status 1 some inputs could not be used, and all else is there: it continues.
p1: p1-data $(INSTALLED)
	@echo "== Problem 1, step 1 of 4: BYOL without labels, for settings C and E"
	@python3 $(TRAIN_SSL) $(left) || [ $$? -eq 1 ]
	@$(call is_done,$(P1_OUT)/ssl)
	@echo "== Problem 1, step 2 of 4: a backbone trained with labels, for settings B and D"
	@if [ -z "$(needs_labels)" ]; then echo "left out: settings $(SETTINGS), backbone $(SL_BACKBONE)"; exit; fi; \
	python3 $(TRAIN_SL) $(left) || [ $$? -eq 1 ] || exit; \
	$(call is_done,$(P1_OUT)/sl/A-seed0); \
	python3 -m engine.export "$(P1_OUT)/sl/A-seed0/model.pt" "$(SL_BACKBONE)"
	@echo "== Problem 1, step 3 of 4: settings A to E"
	@python3 $(TRAIN_SETTINGS) --settings $(SETTINGS) --sl-backbone "$(SL_BACKBONE)" \
		--ssl-backbone "$(P1_OUT)/ssl/backbone.pt" $(left) || [ $$? -eq 1 ]
	@for run in "$(P1_OUT)"/settings/[A-E]-seed*; do $(call is_done,$$run); done
	@echo "== Problem 1, step 4 of 4: t-SNE of setting C"
	@python3 p1_tsne.py --run "$(P1_OUT)/settings/C-seed0" --data "$$DATA/p1_data/office" --output "$(P1_OUT)/tsne" \
		$(MACHINE_FLAGS) || [ $$? -eq 1 ]
	@echo "settings A to E: $(P1_OUT)/settings/table.md; t-SNE: $(P1_OUT)/tsne/tsne.png"

# The editions of 2020 to 2023: 50 classes of small images, with their labels in their names. Shorter, such as
# FIFTY_FLAGS="--budget-minutes 10"; other networks: FIFTY_MODELS="resnet34 densenet169 vgg19_bn_b".
FIFTY_OUT ?= $(RUNS)/fifty
FIFTY_MODELS ?= resnet34 vgg16_bn vgg16
FIFTY_FLAGS ?=

p1-50: p1-50-data $(INSTALLED)
	@for model in $(FIFTY_MODELS); do \
		echo "== 50 classes, step 1 of 3: $$model"; \
		python3 p1_finetune.py --train-images "$$DATA/p1_data/train_50" --val-images "$$DATA/p1_data/val_50" --edition $(or $(EDITION),2022) \
			--model $$model --output "$(FIFTY_OUT)/$$model" $(FIFTY_FLAGS) $(MACHINE_FLAGS) || [ $$? -eq 1 ] || exit; \
		$(call is_done,$(FIFTY_OUT)/$$model/A-seed0); \
	done
	@echo "== 50 classes, step 2 of 3: their vote"
	@python3 p1_inference.py --images "$$DATA/p1_data/val_50" --edition $(or $(EDITION),2022) --output "$(FIFTY_OUT)/predictions.csv" \
		--checkpoint $(foreach model,$(FIFTY_MODELS),"$(FIFTY_OUT)/$(model)/A-seed0/model.pt") || [ $$? -eq 1 ]
	@python3 -m datasets.score "$(FIFTY_OUT)/predictions.csv" "$$DATA/p1_data/val_50" >"$(FIFTY_OUT)/score.txt"
	@tail -n 1 "$(FIFTY_OUT)/score.txt"
	@for model in $(FIFTY_MODELS); do for method in tsne pca; do \
		echo "== 50 classes, step 3 of 3: the validation images as $$model sees them, by $$method"; \
		python3 p1_tsne.py --run "$(FIFTY_OUT)/$$model/A-seed0" --images "$$DATA/p1_data/val_50" --snapshots 3 \
			--method $$method --output "$(FIFTY_OUT)/$$method/$$model" $(MACHINE_FLAGS) || [ $$? -eq 1 ] || exit; \
	done; done
	@echo "the vote: $(FIFTY_OUT)/predictions.csv, score.txt; features: $(FIFTY_OUT)/tsne/, pca/"

# -- problem 2 ---------------------------------------------------------------------------------------------------------

# Model B is the light network from ImageNet's weights; a GPU has time for
# P2_FLAGS="--model deeplabv3_resnet101 --weights coco". Model A is what the report wants beside it, a VGG16-FCN32s: hours
# without a GPU, and P2_A_FLAGS= leaves it out. P2_A_WEIGHTS=FILE is where it starts without torchvision's weights.
P2_OUT ?= $(RUNS)/problem2
P2_FLAGS ?= --weights imagenet
P2_A_FLAGS ?= --model fcn32s --weights imagenet
P2_A_WEIGHTS ?=

TRAIN_A = p2_train.py --data "$$DATA/p2_data" --output "$(P2_OUT)/model_a" $(P2_A_FLAGS) $(P2_A_TIME) $(MACHINE_FLAGS)
TRAIN_B = p2_train.py --data "$$DATA/p2_data" --output "$(P2_OUT)/model_b" $(P2_FLAGS) $(P2_TIME) $(MACHINE_FLAGS)

# Where a network starts is asked before the first step: $(call ask_start,RUN,FLAGS,FILE). What cannot be had is said.
ask_start = test -f "$(1)/config.json" && test -f "$(1).start" || { \
	start="$$(python3 -m models.weights $(2) $(if $(3),--instead "$(3)"))" || exit; \
	mkdir -p "$(P2_OUT)" && echo "$$start" >"$(1).start"; }
# A script with the answer: $(call from_start,RUN,SCRIPT AND FLAGS)
from_start = start="$$(cat "$(1).start")"; python3 $(2) $${start:+--weights "$$start"}

p2-starts: p2-data $(INSTALLED)
	@if [ -n "$(strip $(P2_A_FLAGS))" ]; then $(call ask_start,$(P2_OUT)/model_a,$(P2_A_FLAGS),$(P2_A_WEIGHTS)); fi
	@$(call ask_start,$(P2_OUT)/model_b,$(P2_FLAGS))

p2: p2-starts
	@echo "== Problem 2, step 1 of 4: model A"
	@if [ -z "$(strip $(P2_A_FLAGS))" ]; then echo "left out: P2_A_FLAGS is empty"; exit; fi; \
	$(call from_start,$(P2_OUT)/model_a,$(TRAIN_A)) $(left) || [ $$? -eq 1 ] || exit; \
	$(call is_done,$(P2_OUT)/model_a)
	@echo "== Problem 2, step 2 of 4: model B"
	@$(call from_start,$(P2_OUT)/model_b,$(TRAIN_B)) $(left) || [ $$? -eq 1 ]
	@$(call is_done,$(P2_OUT)/model_b)
	@echo "== Problem 2, step 3 of 4: hw1_2.sh with model B"
	@P2_CHECKPOINT="$(P2_OUT)/model_b/model.pt" bash hw1_2.sh "$$DATA/p2_data/validation" "$(P2_OUT)/masks" || [ $$? -eq 1 ]
	@echo "== Problem 2, step 4 of 4: its score"
	@python3 mean_iou_evaluate.py -g "$$DATA/p2_data/validation" -p "$(P2_OUT)/masks" >"$(P2_OUT)/score.txt"
	@cat "$(P2_OUT)/score.txt"
	@echo "masks: $(P2_OUT)/masks; stages of the training: $(P2_OUT)/model_b/stages.png"

SAM_OUT ?= $(RUNS)/sam
SAM_TILES ?= 0013 0062 0104
SAM_FLAGS ?=

sam: p2-data $(INSTALLED)
	@python3 p2_sam.py --images $(foreach tile,$(SAM_TILES),"$$DATA/p2_data/validation/$(tile)_sat.jpg") --output "$(SAM_OUT)" \
		$(if $(call is_there,$(P2_OUT)/model_b/model.pt),--vote "$(P2_OUT)/model_b/model.pt") $(SAM_FLAGS) || [ $$? -eq 1 ]

# -- all of it in some hours ---------------------------------------------------------------------------------------------

# engine/plan.py measures the machine, divides HOURS into $(RUNS)/plan.json, and calls the targets above with their shares.
HOURS ?=
SESSION ?=

define TRAININGS
pre-training: python3 $(TRAIN_SSL)
$(if $(needs_labels),labels: python3 $(TRAIN_SL))
settings: python3 $(TRAIN_SETTINGS) --settings A --seeds 0
$(if $(strip $(P2_A_FLAGS)),model A: $(call from_start,$(P2_OUT)/model_a,$(TRAIN_A)))
model B: $(call from_start,$(P2_OUT)/model_b,$(TRAIN_B))
endef
export TRAININGS

check: p1-data p2-starts
	@python3 -m engine.plan check "$(RUNS)" $(if $(HOURS),--hours "$(HOURS)") || [ $$? -eq 1 ]

all: p1-data p2-starts
	@python3 -m engine.plan all "$(RUNS)" $(if $(HOURS),--hours "$(HOURS)") $(if $(SESSION),--session "$(SESSION)")

# A CPU's evening. The course's backbone is a ResNet50's.
laptop:
	@$(MAKE) --no-print-directory all HOURS="$(or $(HOURS),4)" P1_FLAGS="--model resnet18 --image-size 64" \
		SL_BACKBONE="$(OWN_BACKBONE)" \
		SSL_FLAGS="--batch-size 64" P2_A_FLAGS="--model fcn32s_vgg16bn --weights imagenet --scale 0.25"

# -- the report --------------------------------------------------------------------------------------------------------

# Of what the targets above left, and of p2_sam.py's output where there is one; report/answers.md holds your own words.
STUDENT_ID ?= r00000000
NAME ?= (your name)
REPORT_OUT ?= report/out
REPORT_FLAGS ?=
export NAME

# With exit status 1 something is missing; the report says what, and how to get it.
report: $(INSTALLED)
	@python3 -m report.build --p1 $(if $(HAS_50),"$(FIFTY_OUT)") $(if $(HAS_OFFICE),"$(P1_OUT)") --p2 "$(P2_OUT)" $(if $(call is_there,$(SAM_OUT)),--sam "$(SAM_OUT)") \
		--student-id "$(STUDENT_ID)" --name "$$NAME" --output "$(REPORT_OUT)" $(REPORT_FLAGS) || [ $$? -eq 1 ]

# -- demo --------------------------------------------------------------------------------------------------------------

# Few epochs of small images: enough to see that all of it works, far from enough for a good score.
ifeq ($(DATA),)
demo: OUT = demo/sample$(EDITION:%=-%)
demo: PRETRAINING = --epochs 2
demo: EPOCHS_1 = 6
demo: EPOCHS_2 = 35
demo: EPOCHS_A = 20
demo: export DATA = $(OUT)/hw1_data
else
demo: OUT = demo/real$(EDITION:%=-%)
demo: PRETRAINING = --budget-minutes 2
demo: EPOCHS_1 = 2
demo: EPOCHS_2 = 3
demo: EPOCHS_A = 1
endif

demo-data:
ifneq ($(DATA),)
	@$(call need,hw1_data,$(if $(HAS_50),p1_data/train_50) $(if $(HAS_OFFICE),p1_data/office) p2_data/train)
endif

demo: demo-data $(INSTALLED)
ifeq ($(DATA),)
	@echo "== Made-up data"
	@rm -rf $(OUT)
	@python3 -m datasets.sample $(OUT)
else
	@echo "== The data in $$DATA"
	@rm -rf $(OUT)
endif
ifneq ($(HAS_50),)
	@echo "== Problem 1 with a ResNet18 and a VGG16"
	@$(MAKE) --no-print-directory p1-50 FIFTY_OUT="$(OUT)/runs/fifty" FIFTY_MODELS="resnet18 vgg16" \
		FIFTY_FLAGS="--epochs $(EPOCHS_1)" MACHINE_FLAGS="--device cpu --cache $(OUT)/cache"
endif
ifneq ($(HAS_OFFICE),)
	@echo "== Office-Home with a ResNet18"
	@$(MAKE) --no-print-directory p1 P1_OUT="$(OUT)/runs/p1" P1_FLAGS="--model resnet18 --image-size 64" \
		SL_BACKBONE="$(OUT)/runs/p1/sl/pretrain_model_SL.pt" \
		SSL_FLAGS="--batch-size 64 $(PRETRAINING)" SL_FLAGS="$(PRETRAINING)" FINETUNE_FLAGS="--epochs $(EPOCHS_1)" \
		MACHINE_FLAGS="--device cpu --cache $(OUT)/cache"
endif
	@echo "== Land cover with a VGG16-FCN32s and the light network, from random weights"
	@$(MAKE) --no-print-directory p2 P2_OUT="$(OUT)/runs/p2" P2_FLAGS="--scale 0.25 --epochs $(EPOCHS_2)" \
		P2_A_FLAGS="--model fcn32s_vgg16bn --scale 0.125 --epochs $(EPOCHS_A)" \
		MACHINE_FLAGS="--device cpu --cache $(OUT)/cache"
ifneq ($(HAS_OFFICE),)
	@echo "== The wrapper of Office-Home, in 2023 called hw1_2.sh"
	@EDITION= P1_CHECKPOINT=$(OUT)/runs/p1/settings/C-seed0/model.pt bash hw1_1.sh \
		"$$DATA/p1_data/office/val.csv" "$$DATA/p1_data/office/val" $(OUT)/predictions.csv || [ $$? -eq 1 ]
	@echo "== Its score"
	@python3 -m datasets.score $(OUT)/predictions.csv "$$DATA/p1_data/office/val.csv" >$(OUT)/score_p1.txt
	@tail -n 1 $(OUT)/score_p1.txt
	@echo "== The contact sheet"
	@python3 -m report.contact_sheet --data "$$DATA" --labels $(OUT)/predictions.csv --masks $(OUT)/runs/p2/masks \
		--output $(OUT)/contact_sheet.png || [ $$? -eq 1 ]
	@test -f $(OUT)/contact_sheet.png
endif
ifneq ($(HAS_SAM),)
	@echo "== Segment Anything, with random weights (the real ones, 41 MB: bash get_checkpoints.sh vit_t)"
	@set -- "$$DATA"/p2_data/validation/*_sat.jpg; \
	python3 -m benchmarks.bench_sam --random "$$1" "$(OUT)/random_sam.pth" || exit; \
	python3 p2_sam.py --images "$$1" "$$2" "$$3" --checkpoint "$(OUT)/random_sam.pth" \
		--output "$(OUT)/runs/sam" --points-per-side 8 --box-nms-thresh 1 --device cpu \
		--vote "$(OUT)/runs/p2/model_b/model.pt" || [ $$? -eq 1 ]
endif
	@echo "== The report"
	@$(MAKE) --no-print-directory report P1_OUT="$(OUT)/runs/p1" FIFTY_OUT="$(OUT)/runs/fifty" \
		P2_OUT="$(OUT)/runs/p2" SAM_OUT="$(OUT)/runs/sam" REPORT_OUT="$(OUT)/report" \
		REPORT_FLAGS="--answers $(OUT)/report/answers.md"
	@echo
	@echo "Done. Everything lies in $(OUT):"
	@echo "  report/report.html            the report, also as a PDF beside it"
ifneq ($(HAS_50),)
	@echo "  runs/fifty/predictions.csv    what two networks say of 50 classes; score.txt: how often they are right"
	@echo "  runs/fifty/tsne/, pca/        features after the first, the middle and the last epoch"
endif
ifneq ($(HAS_OFFICE),)
	@echo "  contact_sheet.png             images, truths and predictions of both problems"
	@echo "  predictions.csv               what hw1_1.sh wrote; score_p1.txt: its score, class by class"
	@echo "  runs/p1/settings/table.md     settings A to E; curves and confusion matrices beside it"
	@echo "  runs/p1/tsne/tsne.png         features of setting C after its first and its last epoch"
endif
	@echo "  runs/p2/masks/, score.txt     what hw1_2.sh wrote, and its score"
	@echo "  runs/p2/model_b/stages.png    tiles at the first, middle, last and best stage of the training"
ifneq ($(HAS_SAM),)
	@echo "  runs/sam/sheet.png            what a Segment Anything without training makes of three tiles"
endif
	@echo "  runs/                         the runs: model.pt, metrics.jsonl, curves for tensorboard --logdir $(OUT)/runs"

# -- tests -------------------------------------------------------------------------------------------------------------

# pytest-xdist takes two files at a time, each whole: what a file's tests share is made once.
test: $(INSTALLED_FOR_TESTS)
	@python3 -m ruff check .
	@python3 -m ruff format --check .
	@python3 -m pytest -n 2 --dist loadfile

test-real: p1-data p2-data $(INSTALLED_FOR_TESTS)
	@python3 -m pytest tests/real

test-networks: $(INSTALLED_FOR_TESTS)
	@python3 -m pytest tests/networks

test-memory: $(INSTALLED_FOR_TESTS)
	@python3 -m pytest tests/memory

# The course's versions; its Python is 3.8, but any that torch 2.4.0 has wheels for will do.
GRADER := .venv-grader
GRADER_PYTHONS = $(foreach version,8 9 10 11 12,$(shell command -v python3.$(version)))
GRADER_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.8*/bin/python) $(GRADER_PYTHONS) python3.8)

test-grader-stack: $(INSTALLED_FOR_TESTS) $(GRADER)/installed
	@python3 -m pytest -s tests/grader_stack

$(GRADER)/installed:
	@"$(GRADER_PYTHON)" -c 'import ensurepip, venv' \
	|| { echo "error: $(GRADER_PYTHON) does not run; name a Python from 3.8 to 3.12: make test-grader-stack GRADER_PYTHON=python3.11" >&2; exit 2; }
	@echo "== Setting up $(GRADER): some minutes and 6 GB, once"
	@"$(GRADER_PYTHON)" -m venv $(GRADER)
	@$(GRADER)/bin/python -m pip install --disable-pip-version-check torch==2.4.0 torchvision==0.19.0 'numpy<2' pillow
	@touch $@

# By resolution alone: nothing is installed.
test-installs: $(INSTALLED_FOR_TESTS)
	@for python in 3.9 3.10 3.11 3.12 3.13 3.14; do \
	for system in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do \
		MACOSX_DEPLOYMENT_TARGET=14.0 python3 -m uv pip compile --quiet --python-version $$python --python-platform $$system \
			--only-binary :all: --no-header requirements.txt requirements-dev.txt -o /dev/null \
		&& echo "Python $$python, $$system: all there" || exit 2; \
	done; done

# nbclient runs it, by the ipykernel that is installed beside it.
test-notebook: $(INSTALLED_FOR_TESTS)
	@rm -rf demo/notebook && python3 -m datasets.sample demo/notebook
	@DATA="$(CURDIR)/demo/notebook/hw1_data" HOURS=1 RUNS="$(CURDIR)/demo/notebook/runs" REPORT="$(CURDIR)/demo/notebook/demo/report" \
		TARGET="demo OUT=demo/notebook/demo" \
		jupyter execute --timeout=3600 notebooks/colab_kaggle.ipynb

MINUTES ?= 30

soak: $(INSTALLED_FOR_TESTS)
	@OMP_NUM_THREADS=1 python3 -m tests.soak --minutes "$(MINUTES)"

# -- handing in --------------------------------------------------------------------------------------------------------

# Under these names in checkpoints/, they are what the wrappers answer with; setting C is what the course grades.
publish: $(INSTALLED)
	@python3 -m engine.publish "$(P1_OUT)/settings/C-seed0/model.pt" --name mine_c --problem p1 --default --fp16
	@python3 -m engine.publish "$(P2_OUT)/model_b/model.pt" --name mine_b --problem p2 --default --fp16

submission:
	@"$(PYTHON)" -m report.submission --report "$(REPORT_OUT)"

# What p2_lite_fpn.pt was trained by: each training starts from the one before; some four hours of one CPU core.
PUBLISHED = $(RUNS)/published_p2
LARGER = --alpha 1 1 2 1 1 1 --eval-every 100
stage = python3 p2_train.py --data "$$DATA/p2_data" --output "$(PUBLISHED)/$(1)" $(MACHINE_FLAGS) --weights

published-p2: p2-data $(INSTALLED)
	@$(call stage,1) imagenet --epochs 10 --eval-every 2 || [ $$? -eq 1 ]
	@$(call stage,2) "$(PUBLISHED)/1/model.pt" $(LARGER) --crop-size 352 --min-crop 0.8 --lr 1e-3 --backbone-lr 2e-4 --budget-minutes 28 \
		|| [ $$? -eq 1 ]
	@$(call stage,3) "$(PUBLISHED)/2/model.pt" $(LARGER) --scale 0.875 --crop-size 384 --min-crop 0.7 --lr 1e-3 --backbone-lr 2.5e-4 --epochs 5 \
		|| [ $$? -eq 1 ]
	@echo "publish it: python3 -m engine.publish $(PUBLISHED)/3/model.pt --name p2_lite_fpn --problem p2 --default --fp16 --tta d4 --score ..."

# -- the README's pictures ------------------------------------------------------------------------------------------------

pictures: $(INSTALLED)
	@test -f demo/sample/runs/p1/tsne/tsne.png || $(MAKE) --no-print-directory demo DATA=
	@python3 -m report.pictures demo/sample

clean:
	rm -rf demo
