# make demo                       train, predict, score and picture both problems on made-up data: minutes on a CPU
# make demo DATA=hw1_data         the same on the course's data
# make p1 DATA=hw1_data           problem 1 whole: pre-training, settings A to E, their table, t-SNE; goes on if stopped
# make test                       style, then every test; needs no data
# make test-real DATA=hw1_data    what only the course's data can show
# make submission [EDITION=2023]  what is handed in, under the course's names, in submission/
# make clean                      remove what the demo made
#
# The first of them makes .venv and installs into it. PYTHON=python3.11 chooses another Python than python3.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

# The wrappers say python3, as the course wants it: let that be the one with torch.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DATA EDITION

.PHONY: help demo p1 test test-real submission clean setup

help:
	@sed -n '/^[^#]/q; /^$$/q; s/^# \{0,1\}//p' Makefile

# -- set-up ------------------------------------------------------------------------------------------------------------

setup: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt
	@command -v "$(PYTHON)" >/dev/null \
	|| { echo "error: there is no $(PYTHON); install Python 3.9 or newer, or name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
	|| { echo "error: $$("$(PYTHON)" --version 2>&1) is too old, this needs 3.9 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "error: $(PYTHON) comes without venv or pip; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@echo "== Setting up $(VENV): some minutes and up to 6 GB, once"
	@"$(PYTHON)" -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# -- problem 1 ---------------------------------------------------------------------------------------------------------

# Everything lies below P1_OUT, and the same command goes on after a stop. On a laptop, smaller and shorter:
#
#   make p1 DATA=hw1_data P1_FLAGS="--image-size 64" SSL_FLAGS="--epochs 20" SL_FLAGS="--epochs 20" \
#       FINETUNE_FLAGS="--epochs 20 --seeds 0"
P1_OUT ?= runs/problem1
P1_FLAGS ?=
SSL_FLAGS ?=
SL_FLAGS ?= --epochs 100
FINETUNE_FLAGS ?= --seeds 0 1 2
# Of every script, such as --device cpu or --cache DIR:
MACHINE_FLAGS ?=

# For settings B and D: the course's file; without it one is trained on mini/train_labels.csv, where that is there.
SL_BACKBONE ?= $(or $(wildcard $(DATA)/p1_data/pretrain_model_SL.pt),$(P1_OUT)/sl/pretrain_model_SL.pt)

# A run that was stopped must not feed the next one.
is_done = grep -qs " done: " "$(P1_OUT)/$(1)/log.txt" || { echo "$(P1_OUT)/$(1) was stopped; the same command goes on"; exit 2; }

# With exit status 1 some inputs could not be used, and all else is there: it goes on.
p1: $(INSTALLED)
	@test -d "$$DATA/p1_data/office" && test -d "$$DATA/p1_data/mini/train" || { \
		echo "error: there is no p1_data/office or no p1_data/mini/train in '$$DATA'; say where the course's data are: make p1 DATA=hw1_data" >&2; \
		exit 2; }
	@echo "== Problem 1, step 1 of 4: BYOL without labels, for settings C and E"
	@python3 p1_ssl_pretrain.py --images "$$DATA/p1_data/mini/train" --probe-csv "$$DATA/p1_data/office/train.csv" \
		--output "$(P1_OUT)/ssl" $(P1_FLAGS) $(SSL_FLAGS) $(MACHINE_FLAGS) || [ $$? -eq 1 ]
	@$(call is_done,ssl)
	@echo "== Problem 1, step 2 of 4: a backbone trained with labels, for settings B and D"
	@if [ "$(SL_BACKBONE)" != "$(P1_OUT)/sl/pretrain_model_SL.pt" ]; then echo "$(SL_BACKBONE)"; exit; fi; \
	python3 p1_finetune.py --train-images "$$DATA/p1_data/mini/train" --train-csv "$$DATA/p1_data/mini/train_labels.csv" \
		--output "$(P1_OUT)/sl" $(P1_FLAGS) $(SL_FLAGS) $(MACHINE_FLAGS) || [ $$? -eq 1 ] || exit; \
	$(call is_done,sl/A-seed0); \
	python3 -m engine.export "$(P1_OUT)/sl/A-seed0/model.pt" "$(SL_BACKBONE)"
	@echo "== Problem 1, step 3 of 4: settings A to E"
	@python3 p1_finetune.py --data "$$DATA/p1_data/office" --settings ABCDE --sl-backbone "$(SL_BACKBONE)" \
		--ssl-backbone "$(P1_OUT)/ssl/backbone.pt" --output "$(P1_OUT)/settings" \
		$(P1_FLAGS) $(FINETUNE_FLAGS) $(MACHINE_FLAGS) || [ $$? -eq 1 ]
	@$(call is_done,settings/C-seed0)
	@echo "== Problem 1, step 4 of 4: t-SNE of setting C"
	@python3 p1_tsne.py --run "$(P1_OUT)/settings/C-seed0" --data "$$DATA/p1_data/office" --output "$(P1_OUT)/tsne" \
		$(MACHINE_FLAGS) || [ $$? -eq 1 ]
	@echo "settings A to E: $(P1_OUT)/settings/table.md; t-SNE: $(P1_OUT)/tsne/tsne.png"

# -- demo --------------------------------------------------------------------------------------------------------------

# Few epochs of small images: enough to see that all of it works, far from enough for a good score.
ifeq ($(DATA),)
demo: OUT = demo/sample
demo: PRETRAINING = --epochs 2
demo: EPOCHS_1 = 6
demo: EPOCHS_2 = 35
demo: export DATA = demo/sample/hw1_data
else
demo: OUT = demo/real
demo: PRETRAINING = --budget-minutes 2
demo: EPOCHS_1 = 2
demo: EPOCHS_2 = 3
endif

demo: $(INSTALLED)
ifeq ($(DATA),)
	@echo "== 1 of 7: made-up data"
	@rm -rf $(OUT)
	@python3 -m datasets.sample $(OUT)
else
	@echo "== 1 of 7: the data in $$DATA"
	@test -d "$$DATA/p1_data/office" && test -d "$$DATA/p2_data/train" \
	|| { echo "error: $$DATA is no hw1_data: it lacks p1_data/office or p2_data/train" >&2; exit 2; }
	@rm -rf $(OUT)
endif
	@echo "== 2 of 7: problem 1 with a ResNet18"
	@$(MAKE) --no-print-directory p1 P1_OUT="$(OUT)/runs/p1" P1_FLAGS="--model resnet18 --image-size 64" \
		SL_BACKBONE="$(OUT)/runs/p1/sl/pretrain_model_SL.pt" \
		SSL_FLAGS="--batch-size 64 $(PRETRAINING)" SL_FLAGS="$(PRETRAINING)" FINETUNE_FLAGS="--epochs $(EPOCHS_1)" \
		MACHINE_FLAGS="--device cpu --cache $(OUT)/cache"
	@echo "== 3 of 7: training problem 2, the light network from random weights"
	@python3 p2_train.py --data "$$DATA/p2_data" --model lite_fpn --weights none --scale 0.25 \
		--epochs $(EPOCHS_2) --device cpu --cache $(OUT)/cache --output $(OUT)/runs/p2 || [ $$? -eq 1 ]
	@echo "== 4 of 7: hw1_1.sh"
	@P1_CHECKPOINT=$(OUT)/runs/p1/settings/C-seed0/model.pt bash hw1_1.sh \
		"$$DATA/p1_data/office/val.csv" "$$DATA/p1_data/office/val" $(OUT)/predictions.csv || [ $$? -eq 1 ]
	@echo "== 5 of 7: hw1_2.sh"
	@P2_CHECKPOINT=$(OUT)/runs/p2/model.pt bash hw1_2.sh "$$DATA/p2_data/validation" $(OUT)/masks || [ $$? -eq 1 ]
	@echo "== 6 of 7: the scores"
	@python3 -m datasets.score $(OUT)/predictions.csv "$$DATA/p1_data/office/val.csv" >$(OUT)/score_p1.txt
	@python3 mean_iou_evaluate.py -g "$$DATA/p2_data/validation" -p $(OUT)/masks >$(OUT)/score_p2.txt
	@tail -n 1 $(OUT)/score_p1.txt
	@cat $(OUT)/score_p2.txt
	@echo "== 7 of 7: the contact sheet"
	@python3 -m report.contact_sheet --data "$$DATA" --labels $(OUT)/predictions.csv --masks $(OUT)/masks \
		--output $(OUT)/contact_sheet.png || [ $$? -eq 1 ]
	@test -f $(OUT)/contact_sheet.png
	@echo
	@echo "Done. Everything lies in $(OUT):"
	@echo "  contact_sheet.png             images, truths and predictions of both problems"
	@echo "  score_p1.txt, score_p2.txt    the scores, class by class"
	@echo "  predictions.csv, masks/       what hw1_1.sh and hw1_2.sh wrote"
	@echo "  runs/p1/settings/table.md     settings A to E; curves and confusion matrices beside it"
	@echo "  runs/p1/tsne/tsne.png         features of setting C after its first and its last epoch"
	@echo "  runs/p1, runs/p2              the runs: model.pt, metrics.jsonl, curves for tensorboard --logdir $(OUT)/runs"

# -- tests -------------------------------------------------------------------------------------------------------------

test: $(INSTALLED)
	@python3 -m ruff check .
	@python3 -m ruff format --check .
	@python3 -m pytest

test-real: $(INSTALLED)
	@test -d "$$DATA" || { echo "error: say where the course's data are: make test-real DATA=hw1_data" >&2; exit 2; }
	@python3 -m pytest tests/real

# -- handing in --------------------------------------------------------------------------------------------------------

submission:
	@"$(PYTHON)" -m report.submission

clean:
	rm -rf demo
