"""What the assignment of 2024 asks in its report, in its order: the one home of its questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from report.document import Block, Question

QUESTIONS = (
    Question(
        "1.1",
        "The pre-training",
        5,
        "The implementation details of your SSL method: method, data augmentation, learning-rate schedule, "
        "optimiser, batch size.",
    ),
    Question(
        "1.2",
        "Settings A to E",
        20,
        "The classification accuracy of Office-Home's validation set for each of the five settings, "
        "discussed.",
    ),
    Question(
        "1.3",
        "t-SNE of setting C",
        5,
        "The learned representations of setting C on the train set, the output of the second last layer, "
        "from the first and the last epoch.",
    ),
    Question(
        "2.1",
        "Model A, VGG16-FCN32s",
        3,
        "Draw the network architecture of your VGG16-FCN32s model (model A).",
    ),
    Question(
        "2.2",
        "Model B, the improved one",
        3,
        "Draw the network architecture of the improved model (model B), and explain how it differs from A.",
    ),
    Question("2.3", "Mean IoU of both", 1, "The mIoU of both models on the validation set."),
    Question(
        "2.4",
        "Masks during training",
        3,
        "The predicted masks of 0013, 0062 and 0104 at the early, the middle and the final stage of "
        "training.",
    ),
    Question(
        "2.5",
        "Segment Anything",
        10,
        "Segment three of the validation images with SAM; show the results and describe the method.",
    ),
)


def answered(key: str, blocks: Sequence[Block]) -> Question:
    """The question of that key with what answers it."""
    return replace(next(question for question in QUESTIONS if question.key == key), blocks=tuple(blocks))
