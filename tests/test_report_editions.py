"""Each year's report answers that year's questions, in its order, from the runs that its targets leave."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from datasets.editions import EDITIONS
from report import blocks, build, tile_figures
from report.collect import fifty_runs, find
from report.document import problems_of
from report.fifty import a_and_b
from report.tile_figures import write_stages
from tests import report_runs

# The titles of each year's questions, as CONTRACT.md has them in its section 7.
SELF_SUPERVISED = "The pre-training; Settings A to E; t-SNE of setting C"
BOTH = "Model A, VGG16-FCN32s; Model B, the improved one; Mean IoU of both; Masks during training"
CLASSIFIERS = (
    "The networks; Accuracy of A and B; Model A in detail; Model B; PCA of model A; t-SNE of model A"
)
ASKED = {
    "2020": [
        "The network; Accuracy; t-SNE",
        "VGG16-FCN32s; Masks of VGG16-FCN32s; The improved network; Masks of the improved network; "
        "Mean IoU of both",
    ],
    "2021": [
        "The network; Accuracy; t-SNE",
        "VGG16-FCN32s; The improved network; Mean IoU; Masks during training",
    ],
    "2022": [CLASSIFIERS, BOTH],
    "2023": [CLASSIFIERS, SELF_SUPERVISED, BOTH],
    "2024": [SELF_SUPERVISED, f"{BOTH}; Segment Anything"],
}


@pytest.mark.parametrize("year", ASKED)
def test_a_year_asks_its_own_questions_in_its_order(year):
    problems = problems_of(EDITIONS[year])
    assert ["; ".join(question.title for question in problem.questions) for problem in problems] == ASKED[
        year
    ]
    keys = [question.key for problem in problems for question in problem.questions]
    assert keys == [
        f"{number}.{place}"
        for number, problem in enumerate(problems, start=1)
        for place in range(1, len(problem.questions) + 1)
    ]
    asks = " ".join(question.asks for problem in problems for question in problem.questions)
    tiles = EDITIONS[year].report_images
    assert f"{tiles[0]}, {tiles[1]} and {tiles[2]}" in asks and "{" not in asks
    points = sum(question.points for problem in problems for question in problem.questions)
    assert points == (50 if year == "2024" else 0)  # of other years they are not known


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    report_runs.fifty(folder / "fifty")
    report_runs.problem_1(folder / "p1", seeds=1)
    report_runs.problem_2(folder / "p2")
    report_runs.sam(folder / "sam")
    shutil.copytree(folder / "p2" / "data" / "validation", folder / "p2" / "data" / "train")
    return folder


@pytest.fixture
def quick_figures(monkeypatch, runs):
    """Figures are put together and not painted, which takes most of a report's time."""

    def copy(figure, path):
        for suffix in ("png", "pdf"):
            shutil.copyfile(runs / "p1" / "tsne" / f"tsne.{suffix}", f"{path}.{suffix}")

    for module in (blocks, tile_figures):
        monkeypatch.setattr(module, "save_figure", copy)


def built(runs: Path, out: Path, year: str, *more: str) -> str:
    words = ["--p2", str(runs / "p2"), "--student-id", "r1", "--name", "x", "--output", str(out)]
    words += ["--p1", str(runs / "p1"), str(runs / "fifty"), "--sam", str(runs / "sam"), "--edition", year]
    assert build.main([*words, "--answers", str(out / "answers.md"), *more]) == 0  # no gap
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("year", ASKED)
def test_each_years_report_has_no_gap_and_its_own_name(runs, quick_figures, tmp_path, year):
    page = built(runs, tmp_path, year)
    titles = [title for problem in ASKED[year] for title in problem.split("; ")]
    assert re.findall(r"<h3[^>]*>[0-9.]+ ([^<]*)</h3>", page) == titles
    homework = "hw2" if year == "2020" else "hw1"
    assert [path.name for path in tmp_path.glob("*.pdf")] == [f"{homework}_r1.pdf"]
    assert f"homework {homework[2:]}</h1>" in page
    said = {
        "prints networks": "(_conv_stem): Conv2d(3, 32" in page and "Conv2d(512, 4096" in page,
        "draws networks": "what each gives (channels x height x width)" in page,
        "shows 50 classes": "82 of 100 images" in page and "efficientnet_lite0" in page,
        "PCA": "PCA of the penultimate layer" in page,
        "settings": "Settings" in page and "ettings A to E" in page,
        "SAM": "vit_b" in page,
    }
    expected = {
        "prints networks": year < "2022",
        "draws networks": year >= "2022",
        "shows 50 classes": year <= "2023",
        "PCA": year in ("2022", "2023"),
        "settings": year >= "2023",
        "SAM": year == "2024",
    }
    assert said == expected
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert ("features_tsne" in drawn, "tsne" in drawn) == (year <= "2023", year >= "2023")
    pictures = re.findall('src="data:image/png;base64,', page)
    shown = {path for path in drawn if not path.startswith("confusion_")} | {"confusion_C"} & drawn
    assert len(pictures) == len(shown)  # none of them twice, none lost to another of its name
    for always in (
        "Shares of the classes in the true masks",
        "The networks trained here",
        "IoU of each class",
    ):
        assert always in page, always


def test_of_50_classes_the_features_of_the_right_run_are_shown_with_ten_classes_each(
    runs, quick_figures, tmp_path
):
    page = built(runs, tmp_path, "2022")
    # Model A is the one from random weights: its features are asked for.
    assert "a mark an image, by its class (3 epochs of A-seed0)" in page
    assert "the classes 00 to 09, all others in grey" in page and "the classes 10 to 19" in page
    assert "Most scattered classes in the last panel: 30." in page
    assert "Classes that overlap most in it: 13 and 18." in page
    assert (tmp_path / "figures" / "tsne_classes_00-09.pdf").is_file()
    assert "B against A at their best epochs: 0.8000 lies 0.2000 above 0.6000" in page
    built(runs, tmp_path, "2024")  # and what another year drew is gone
    assert not (tmp_path / "figures" / "tsne_classes_00-09.pdf").exists()


def test_model_a_began_at_random_and_b_is_the_best_of_the_others(runs):
    found = find([runs / "fifty", runs / "p1"])
    fifty = fifty_runs(found)
    assert [run.folder.parent.name for run in fifty] == ["efficientnet_lite0", "resnet18"]  # none of Office
    a, b = a_and_b(fifty)
    assert (a.arguments["model"], b.arguments["model"]) == ("resnet18", "efficientnet_lite0")
    a, b = a_and_b([run for run in fifty if run is not b])
    assert a is None and b.arguments["model"] == "resnet18"


def test_the_best_epoch_is_a_stage_of_its_own_or_marked(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_figures, "save_figure", lambda figure, path: None)
    run, tiles = tmp_path / "run", runs / "p2" / "data" / "validation"
    shutil.copytree(runs / "p2" / "model_b", run)
    assert write_stages(run, tiles) == ["epoch 1", "epoch 2", "epoch 3 (best)"]
    (run / "metrics.jsonl").write_text(
        '{"step": 10, "epoch": 1, "mean_iou": 0.1}\n{"step": 20, "epoch": 2, "mean_iou": 0.7}\n'
        '{"step": 30, "epoch": 3, "mean_iou": 0.5}\n'
    )
    (run / "snapshots" / "epoch_0002").rename(run / "snapshots" / "best")
    assert write_stages(run, tiles) == ["epoch 1", "epoch 2 (best)", "epoch 3"]
    shutil.rmtree(run / "snapshots" / "best")  # a run of before
    assert write_stages(run, tiles) == ["epoch 1", "epoch 3"]
