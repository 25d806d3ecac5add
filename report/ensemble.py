"""An ensemble of problem 1's classifiers, chosen by what each of them answered for the validation images.

    python3 p1_inference.py --images val_50 --output a.csv --edition 2022 --checkpoint runs/a/A-seed0 \\
        --save-logits a.npz
    python3 -m report.ensemble a.npz b.npz c.npz --truth val_50 --output ensemble.json
    P1_50_CHECKPOINT=ensemble.json EDITION=2022 bash hw1_1.sh val_50 predictions.csv

Two ways are tried. Greedy selection with replacement (Caruana et al., 2004, "Ensemble Selection from
Libraries of Models"; report003's ensemble): each of 50 rounds adds the member with which the mean of the raw
logits is right most often, and the best round's choice stays. The mean of all members' probabilities, for
which nothing is chosen. The better one is written, of equal ones the latter; both are tested against the best
member, in pairs of answers for the same images. A choice flatters itself on the images that it was made on,
so greedy selection is also scored where it chose on one half of the images and answered for the other.

Exit status: 0 written; 2 nothing is, one line on stderr says why.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Sequence

import numpy as np

from datasets.score import read_truth
from datasets.tables import Logits, read_logits
from engine.base import UserError, cannot_write, check_writable, refuse_replacing, run_script, write_json
from engine.checkpoint_choice import MOST_MEMBERS
from engine.manifest import sha256_of
from report import parser_of
from report.paired_tests import SEED, PairedTest, compare_accuracy, in_words

ROUNDS = 50
GREEDY, MEAN, HALVES = "greedy selection, logits", "all, probabilities", "greedy selection, by halves"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("ensemble", __doc__)
    add = parser.add_argument
    about = "what p1_inference.py --save-logits wrote, one a member"
    add("logits", metavar="FILE.npz", nargs="+", help=about)
    add("--truth", required=True, help="the true labels: a CSV, or a folder of 7_123.png")
    add("--output", required=True, help="the ensemble.json to write; it names its members relative to itself")
    args = parser.parse_args(argv)
    if not args.output.endswith(".json") or len(args.logits) > MOST_MEMBERS:
        raise UserError(f"give --output a name that ends in .json, and {MOST_MEMBERS} members at most")
    check_writable(os.path.dirname(os.path.abspath(args.output)), args.output)
    paths = list(dict.fromkeys(args.logits))
    refuse_replacing(args.output, [*paths, args.truth])
    members = [read_logits(path) for path in paths]
    check_members(paths, members)
    truth = truths_of(args.truth, members[0])

    # (members, images, classes), the images in the order of the first
    logits = np.stack([in_order(member, members[0].names) for member in members])
    votes = greedy(logits, truth)
    answers = {path: each.argmax(axis=1) for path, each in zip(paths, logits)}
    best = max(answers.values(), key=lambda found: (found == truth).sum())
    answers[GREEDY] = answered(logits, votes)
    answers[HALVES] = by_halves(logits, truth)
    answers[MEAN] = softmax(logits).sum(axis=0).argmax(axis=1)
    tests = {name: paired(found, best, truth) for name, found in answers.items()}

    way = MEAN if tests[MEAN].first >= tests[GREEDY].first else GREEDY
    votes = [1] * len(members) if way == MEAN else votes
    write_ensemble(args.output, way, members, votes, tests)
    print(table_of(tests, dict(zip(paths, votes)), way))
    for name in (GREEDY, HALVES, MEAN):
        print(f"{name}, against the best member: {in_words(tests[name])}")
    print(f"written: {args.output}")
    return 0


# -- what comes in -------------------------------------------------------------------------------------------


def check_members(paths: Sequence[str], members: Sequence[Logits]) -> None:
    """UserError unless all know the first one's classes, saw its images, and are of files still there."""
    for path, member in zip(paths, members):
        if member.classes != members[0].classes:
            raise UserError(f"{path}: knows other classes than {paths[0]}; give those of one training set")
        if sorted(member.names) != sorted(members[0].names):
            raise UserError(f"{path}: is of other images than {paths[0]}; classify the same ones")
        file = member.checkpoint
        if not os.path.isfile(file) or sha256_of(file) != member.sha256:
            raise UserError(f"{path}: is of another {file} than lies there; save its logits again")


def truths_of(path: str, member: Logits) -> np.ndarray:
    """(N) the true class of each of the member's images; UserError unless the truth is of these images."""
    labels = {row["filename"]: row["label"] for row in read_truth(path)}
    alone = sorted(set(labels) ^ set(member.names))
    if alone or not all(labels.values()):
        unknown = alone or [name for name, label in labels.items() if not label]
        reason = f"{len(unknown)} images lack a true label or logits, {unknown[0]} first"
        raise UserError(f"{path}: {reason}; give the labels of the very images that were classified")
    strange = sorted(set(labels.values()) - set(member.classes))
    if strange:
        raise UserError(f"{path}: the members know no class {strange[0]!r:.50}; give their training's labels")
    number = {name: index for index, name in enumerate(member.classes)}
    return np.array([number[labels[name]] for name in member.names])


def in_order(member: Logits, names: Sequence[str]) -> np.ndarray:
    """(N, C) float64 logits of the images in this order."""
    place = {name: index for index, name in enumerate(member.names)}
    return member.logits[[place[name] for name in names]].astype(np.float64)


# -- choosing ------------------------------------------------------------------------------------------------


def greedy(logits: np.ndarray, truth: np.ndarray) -> list[int]:
    """How often each member of (M, N, C) logits votes; of equal choices the first given, and the earliest."""
    chosen: list[int] = []
    total, best, most_right = np.zeros(logits.shape[1:]), 0, -1
    for _ in range(ROUNDS):
        rights = [((total + each).argmax(axis=1) == truth).sum() for each in logits]
        member = int(np.argmax(rights))
        chosen.append(member)
        total += logits[member]
        if rights[member] > most_right:
            best, most_right = len(chosen), rights[member]
    return np.bincount(chosen[:best], minlength=len(logits)).tolist()


def answered(logits: np.ndarray, votes: Sequence[int]) -> np.ndarray:
    """(N) the class with the highest mean logit."""
    return np.tensordot(np.array(votes, dtype=float), logits, axes=1).argmax(axis=1)


def by_halves(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N) what greedy selection answers for each half of the images, drawn at random, chosen on the other."""
    half = np.random.default_rng(SEED).permutation(len(truth)) % 2
    found = np.empty_like(truth)
    for side in (0, 1):
        votes = greedy(logits[:, half != side], truth[half != side])
        found[half == side] = answered(logits[:, half == side], votes)
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def paired(found: np.ndarray, other: np.ndarray, truth: np.ndarray) -> PairedTest:
    """Of two answers for the same images."""
    names = range(len(truth))
    one, two = (list(zip(names, truth.tolist(), side.tolist())) for side in (found, other))
    return compare_accuracy([one], [two])


# -- what goes out -------------------------------------------------------------------------------------------


def write_ensemble(
    path: str, way: str, members: Sequence[Logits], votes: Sequence[int], tests: dict[str, PairedTest]
) -> None:
    """What p1_inference.py --checkpoint reads, and what was reached; `tests` begin with the members'."""
    folder = os.path.dirname(os.path.realpath(path))
    reached = [test.first for test in list(tests.values())[: len(members)]]
    listed = [
        {
            "checkpoint": Path(os.path.relpath(member.checkpoint, folder)).as_posix(),
            "sha256": member.sha256,
            "votes": times,
            "tta": member.tta,
            "accuracy": accuracy,
        }
        for member, times, accuracy in zip(members, votes, reached)
        if times
    ]
    said = {
        "mean_of": "probabilities" if way == MEAN else "logits",
        "members": listed,
        "accuracy": tests[way].first,
        "images": tests[way].count,
        "best_member": max(reached),
        "against_the_best_member": {
            name: {"accuracy": tests[name].first, "p": tests[name].p} for name in (GREEDY, HALVES, MEAN)
        },
    }
    try:
        os.makedirs(folder, exist_ok=True)
        write_json(path, said)
    except OSError as error:
        raise cannot_write(path, error) from None


def table_of(tests: dict[str, PairedTest], votes: dict[str, int], way: str) -> str:
    """A line for each member and each way: votes in the written ensemble, accuracy."""
    width = max(map(len, tests))
    lines = [f"{'':{width}}  votes  accuracy"]
    for name, each in tests.items():
        times = votes.get(name, "written" if name == way else "")
        lines.append(f"{name:{width}}  {times:>7}  {each.first:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
