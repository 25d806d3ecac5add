"""Ensembles of problem 1, chosen by saved logits, answer as they did when chosen, from the same files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import p1_inference
import p1_tsne
from datasets.images import evaluation_image, read_rgb
from datasets.score import matched_labels
from datasets.tables import read_logits, read_table, write_logits
from engine.base import UserError, run_script
from engine.checkpoint import read_model
from engine.checkpoint_choice import read_models
from engine.manifest import sha256_of
from models.builders import load_trained
from models.predict import predict_images
from report import ensemble
from report.ensemble import greedy
from tests.grader import call, random_image, save, save_classifier

COUNT = 24  # images
MEMBERS = ("a", "b", "c")


def build(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        run_script(lambda: ensemble.main([str(argument) for argument in arguments]))
    return end.value.code


def classify(folder: Path, output: str, *arguments: object) -> int:
    given = (
        "--images",
        folder / "images",
        "--edition",
        "2022",
        "--device",
        "cpu",
        "--output",
        folder / output,
    )
    return call(p1_inference, *given, *arguments)


def labels(path: Path) -> dict[str, str]:
    return {row["filename"]: row["label"] for row in read_table(path, ("filename", "label"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """images/, three models, their logits; truth.csv, which two votes of b and one of c answer best."""
    folder = tmp_path_factory.mktemp("ensemble")
    for number in range(COUNT):
        save(random_image(number), folder / "images" / f"{number}.png")
    for seed, name in enumerate(MEMBERS):
        save_classifier(
            folder / name / "model.pt", seed=seed, count=50, tta="flip" if name == "b" else "none"
        )
        flags = ("--checkpoint", folder / name, "--save-logits", folder / f"{name}.npz")
        assert classify(folder, f"{name}.csv", *flags) == 0
    b, c = (read_logits(folder / f"{name}.npz") for name in "bc")
    truth = (2 * b.logits + c.logits).argmax(axis=1)
    rows = [f"{name},{b.classes[label]}\n" for name, label in zip(b.names, truth)]
    (folder / "truth.csv").write_text("filename,label\n" + "".join(rows))
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def chosen(folder) -> Path:
    """The ensemble.json made of it."""
    paths = [folder / f"{name}.npz" for name in MEMBERS]
    assert build(*paths, "--truth", folder / "truth.csv", "--output", folder / "ensemble.json") == 0
    return folder / "ensemble.json"


# -- logits --------------------------------------------------------------------------------------------------


def test_saved_logits_are_the_networks_own_and_say_of_which_file(made):
    for name in MEMBERS:
        found, model = read_logits(made / f"{name}.npz"), read_model(made / name / "model.pt")
        assert (
            found.names == [f"{number}.png" for number in range(COUNT)] and found.classes == model["classes"]
        )
        assert os.path.samefile(found.checkpoint, made / name / "model.pt") and found.tta == model["tta"]
        assert found.sha256 == sha256_of(made / name / "model.pt")
        images = [
            evaluation_image(read_rgb(made / "images" / image, apply_exif=True), 32) for image in found.names
        ]
        images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        logits = predict_images(load_trained(model), images, model["mean"], model["std"], model["tta"])
        np.testing.assert_allclose(found.logits, logits, atol=1e-4)
        answers = dict(zip(found.names, np.array(found.classes)[found.logits.argmax(axis=1)]))
        assert labels(made / f"{name}.csv") == answers  # the table of the same call


def test_an_image_that_cannot_be_read_has_the_logits_of_a_mean_image(folder):
    (folder / "images" / "3.png").write_text("broken")
    flags = ("--checkpoint", folder / "a", "--save-logits", folder / "logits" / "new.npz")
    assert classify(folder, "out.csv", *flags) == 1
    found = read_logits(folder / "logits" / "new.npz")
    assert (
        len(found.names) == COUNT
        and labels(folder / "out.csv")["3.png"]
        == found.classes[found.logits[found.names.index("3.png")].argmax()]
    )
    assert os.path.samefile(found.checkpoint, folder / "a" / "model.pt")


def test_logits_of_several_checkpoints_or_over_another_file_are_refused_before_anything_is_written(
    folder, capfd
):
    one, two = folder / "a", folder / "b"
    image = folder / "images" / "0.png"
    for flags in (
        ("--checkpoint", one, two, "--save-logits", folder / "new.npz"),
        ("--checkpoint", one, "--save-logits", folder / "out.csv"),
        ("--checkpoint", one, "--save-logits", image),
        ("--checkpoint", one, "--save-logits", folder / "images"),
    ):
        assert classify(folder, "out.csv", *flags) == 2
        assert capfd.readouterr().err.count("error: ") == 1
        assert not (folder / "out.csv").exists() and not (folder / "new.npz").exists()
    assert read_rgb(image, apply_exif=False).shape == (40, 48, 3)


# -- choosing ------------------------------------------------------------------------------------------------


def test_greedy_selection_takes_members_again_and_stops_where_it_was_best():
    # Each member's margin for the true class of five images. Alone the first and the second have three right.
    margins = np.array([[1, 1, 1, -1, -1], [-1.5, 3, 3, 1.5, -1], [-9, -9, -9, -9, 3]])
    logits = np.stack([margins, np.zeros_like(margins)], axis=2)
    truth = np.zeros(5, dtype=int)
    assert greedy(logits[:1], truth) == [1]
    # a + b: -.5 4 4 .5 -2 and 2 a + b: .5 5 5 -.5 -3 have three too, c only spoils: the first round stays.
    assert greedy(logits, truth) == [1, 0, 0]
    margins[1] = [-1.5, 3, 3, 2.5, -1]  # now 2 a + b: .5 5 5 .5 -3 has four
    assert greedy(np.stack([margins, np.zeros_like(margins)], axis=2), truth) == [2, 1, 0]


def test_the_choice_is_written_with_its_scores_and_answers_as_it_did_when_chosen(
    folder, chosen, monkeypatch, capfd
):
    said = json.loads(chosen.read_text())
    votes = {Path(member["checkpoint"]).parent.name: member["votes"] for member in said["members"]}
    assert said["mean_of"] == "logits" and set(votes) <= set(MEMBERS) and votes["b"] > votes["c"]
    assert [member["tta"] for member in said["members"] if "b/" in member["checkpoint"]] == ["flip"]
    assert said["accuracy"] > said["best_member"] and said["images"] == COUNT
    assert set(said["against_the_best_member"]) == {ensemble.GREEDY, ensemble.HALVES, ensemble.MEAN}
    capfd.readouterr()
    for number, flags in enumerate((("--checkpoint", chosen), ())):
        if not flags:
            monkeypatch.setenv("P1_50_CHECKPOINT", str(chosen))
        assert classify(folder, f"{number}.csv", *flags) == 0
        pairs = matched_labels(folder / f"{number}.csv", folder / "truth.csv")
        assert sum(one == two for one, two in pairs) / COUNT == said["accuracy"]
    first = capfd.readouterr().err.splitlines()[0]
    assert (
        first.startswith(f"checkpoint {chosen}, the mean of logits of ") and "resnet18, accuracy 0.5" in first
    )
    assert f"{votes['b']} x {folder / 'b' / 'model.pt'}" in first


def test_where_greedy_selection_is_no_better_the_mean_of_probabilities_is_written(folder, capfd):
    members = [read_logits(folder / f"{name}.npz") for name in MEMBERS]
    truth = sum(ensemble.softmax(member.logits) for member in members).argmax(axis=1)
    rows = [f"{name},{members[0].classes[label]}\n" for name, label in zip(members[0].names, truth)]
    (folder / "truth.csv").write_text("filename,label\n" + "".join(rows[::-1]))  # in any order
    paths = [folder / f"{name}.npz" for name in (*MEMBERS, "a")]  # one twice, which counts once
    assert build(*paths, "--truth", folder / "truth.csv", "--output", folder / "mean.json") == 0
    said = json.loads((folder / "mean.json").read_text())
    assert (said["mean_of"], said["accuracy"]) == ("probabilities", 1)
    assert [member["votes"] for member in said["members"]] == [1, 1, 1]
    told = capfd.readouterr().out
    assert f"{ensemble.MEAN}, against the best member: 1.0000 lies " in told and "(p " in told
    together = [folder / name for name in MEMBERS]
    assert classify(folder, "one.csv", "--checkpoint", folder / "mean.json") == 0
    assert classify(folder, "two.csv", "--checkpoint", *together) == 0
    assert labels(folder / "one.csv") == dict(zip(members[0].names, np.array(members[0].classes)[truth]))
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()  # the vote without a file


def test_a_truth_in_the_images_names_is_read_and_one_member_is_an_ensemble_too(tmp_path):
    save_classifier(tmp_path / "a" / "model.pt", seed=0)
    for number in range(6):
        save(random_image(number), tmp_path / "images" / f"{number % 2}_{number}.png")
    assert (
        classify(tmp_path, "a.csv", "--checkpoint", tmp_path / "a", "--save-logits", tmp_path / "a.npz") == 0
    )
    output = tmp_path / "new" / "ensemble.json"
    assert build(tmp_path / "a.npz", "--truth", tmp_path / "images", "--output", output) == 0
    assert json.loads(output.read_text())["members"][0]["checkpoint"] == "../a/model.pt"
    assert classify(tmp_path, "e.csv", "--checkpoint", output) == 0
    assert (tmp_path / "e.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_a_project_that_moves_keeps_its_logits_and_its_ensemble(folder, chosen, tmp_path):
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert classify(moved, "out.csv", "--checkpoint", moved / "ensemble.json") == 0
    assert build(moved / "a.npz", "--truth", moved / "truth.csv", "--output", moved / "again.json") == 0
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "e.json").symlink_to(moved / "ensemble.json")
    assert classify(moved, "out.csv", "--checkpoint", tmp_path / "links" / "e.json") == 0


# -- what comes from outside ---------------------------------------------------------------------------------


def replaced(**changes):
    return lambda said: {**said, **changes}


def member(**changes):
    return lambda said: {**said, "members": [{**said["members"][0], **changes}, *said["members"][1:]]}


DEEP = "[" * 100_000
BROKEN = {
    "a list": (lambda said: [said], "no ensemble"),
    "nothing": (lambda said: {}, "no ensemble"),
    "another mean": (replaced(mean_of="votes"), "no ensemble"),
    "a mean of no kind": (replaced(mean_of=["logits"]), "no ensemble"),
    "no member": (replaced(members=[]), "no ensemble"),
    "too many": (lambda said: {**said, "members": said["members"][:1] * 101}, "no ensemble"),
    "members of no kind": (replaced(members=["a/model.pt"]), "member 1 is not said"),
    "no votes": (member(votes=0), "member 1 is not said"),
    "votes of no kind": (member(votes=True), "member 1 is not said"),
    "endless votes": (member(votes=10**400), "member 1 is not said"),
    "an unknown pass": (member(tta="d4"), "member 1 is not said"),
    "no path": (member(checkpoint=None), "member 1 is not said"),
    "an absolute path": (member(checkpoint="/etc/passwd"), "member 1 is not said"),
    "a path to nothing": (member(checkpoint="gone/model.pt"), "gone/model.pt is not there"),
    "a device": (member(checkpoint="../" * 40 + "dev/zero"), "is not there"),
    "NUL": (member(checkpoint="a\0.pt"), "is not there"),
    "half a letter": (member(checkpoint="\ud800.pt"), "is not there"),
    "another sum": (member(sha256="0" * 64), "another file than then"),
    "no sum": (member(sha256=None), "another file than then"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_ensemble_that_says_something_else_is_refused_in_one_line(what, folder, chosen, capfd):
    change, said = BROKEN[what]
    chosen.write_text(json.dumps(change(json.loads(chosen.read_text()))))
    assert classify(folder, "out.csv", "--checkpoint", chosen) == 2
    told = capfd.readouterr().err
    assert (
        said in told and told.count("\n") == 1 and str(chosen) in told and not (folder / "out.csv").exists()
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", DEEP.encode(), b"9" * 5000, b" " * (1 << 20) + b"{}"]
)
def test_a_file_that_is_no_json_or_too_large_is_refused_in_one_line(content, folder, tmp_path, capfd):
    (tmp_path / "e.json").write_bytes(content)
    assert classify(folder, "out.csv", "--checkpoint", tmp_path / "e.json") == 2
    assert classify(folder, "out.csv", "--checkpoint", tmp_path / "none.json") == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 2 and "Traceback" not in told and not (folder / "out.csv").exists()


def test_members_must_be_of_one_training_set_of_problem_1_and_as_they_were(folder, chosen, p2_model, capfd):
    said = json.loads(chosen.read_text())
    b = folder / "b" / "model.pt"
    path = next(each for each in said["members"] if "b/" in each["checkpoint"])

    def answers_with(model: Path) -> str:
        shutil.copy(model, b)
        path["sha256"] = sha256_of(b)
        chosen.write_text(json.dumps(said))
        assert classify(folder, "out.csv", "--checkpoint", chosen) == 2
        return capfd.readouterr().err.splitlines()[-1]

    assert "a checkpoint for p2, not for p1" in answers_with(p2_model)
    other = save_classifier(folder / "o.pt", 9, classes=[f"c{n}" for n in range(65)], integer_labels=False)
    assert "different classes" in answers_with(other)
    other.write_bytes(b"not what torch saves")
    assert str(b) in answers_with(other)


def test_an_ensemble_answers_alone_and_only_where_problem_1_is_asked(folder, chosen, capfd):
    assert classify(folder, "out.csv", "--checkpoint", chosen, folder / "a") == 2
    with pytest.raises(UserError, match="answers alone, and problem 1 alone"):
        read_models("p2", [str(chosen)])
    given = ("--csv", folder / "truth.csv", "--images", folder / "images", "--output", folder / "tsne")
    assert call(p1_tsne, *given, "--checkpoint", chosen) == 2
    assert "has no features of its own" in capfd.readouterr().err.splitlines()[-1]


def test_logits_that_do_not_belong_together_are_refused_and_nothing_is_written(folder, tmp_path, capfd):
    first = read_logits(folder / "a.npz")
    turned = list(reversed(first.names))
    bad = {
        "other classes": first._replace(classes=first.classes[::-1]),
        "other images": first._replace(names=[f"new_{name}" for name in first.names]),
        "fewer images": first._replace(names=first.names[1:], logits=first.logits[1:]),
        "not finite": first._replace(logits=np.where(np.eye(COUNT, 50) > 0, np.nan, first.logits)),
        "another shape": first._replace(logits=first.logits[:, :3]),
        "twice": first._replace(names=[first.names[0]] * COUNT),
        "another file": first._replace(sha256="0" * 64),
        "no file": first._replace(checkpoint=str(folder / "gone.pt")),
    }
    for name, logits in bad.items():
        write_logits(folder / "bad.npz", logits)
        inputs = (folder / "a.npz", folder / "bad.npz")
        assert build(*inputs, "--truth", folder / "truth.csv", "--output", tmp_path / "e.json") == 2, name
        assert str(folder / "bad.npz") in capfd.readouterr().err.splitlines()[-1], name
    write_logits(folder / "bad.npz", first._replace(names=turned, logits=first.logits[::-1]))
    assert build(*inputs, "--truth", folder / "truth.csv", "--output", folder / "e.json") == 0
    for content in (b"", b"PK\3\4", (folder / "a.npz").read_bytes()[:-50]):
        (folder / "bad.npz").write_bytes(content)
        assert build(*inputs, "--truth", folder / "truth.csv", "--output", tmp_path / "e.json") == 2
    np.savez(folder / "bad.npz", **{**first._asdict(), "names": np.array([print], dtype=object)})
    assert build(*inputs, "--truth", folder / "truth.csv", "--output", tmp_path / "e.json") == 2
    assert capfd.readouterr().err.count("no logits to read") == 4
    assert not (tmp_path / "e.json").exists()


def test_a_truth_that_does_not_fit_the_logits_is_refused(folder, tmp_path, capfd):
    rows = (folder / "truth.csv").read_text().splitlines()
    for changed in (rows[:-1], [*rows, "new.png,3"], [*rows[:-1], rows[-1].split(",")[0] + ","],
                    [*rows[:-1], rows[-1].split(",")[0] + ",77"]):  # fmt: skip
        (tmp_path / "t.csv").write_text("\n".join(changed) + "\n")
        assert build(folder / "a.npz", "--truth", tmp_path / "t.csv", "--output", tmp_path / "e.json") == 2
        assert str(tmp_path / "t.csv") in capfd.readouterr().err and not (tmp_path / "e.json").exists()
    for output in (folder / "e.txt", folder / "truth.csv" / "e.json"):
        assert build(folder / "a.npz", "--truth", folder / "truth.csv", "--output", output) == 2
