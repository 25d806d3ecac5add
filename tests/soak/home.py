"""A folder with one of everything that a command of ours reads: data, weights, runs, results."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests import report_runs
from tests.entries import an_entry
from tests.soak import children, commands, trainings

# Of what lies in a home. `out` is what they write, and is not there before.
INFER_1 = (
    "p1_inference --csv office/val.csv --images office/val --output out.csv --device cpu --checkpoint p1.pt"
)
INFER_2 = "p2_inference --images tiles/validation --output out --device cpu --checkpoint p2.pt"
PUBLISHED = "p2_inference --images tiles/validation --output out --device cpu"
SCORE_1 = "datasets.score predictions.csv office/val.csv"
SCORE_2 = "mean_iou_evaluate -g tiles/validation -p masks"
EXPORT = "engine.export p1.pt out.pt"
FETCH = "engine.download"
COMPARE = "report.compare results runs"
REPORT = "report.build --student-id r12345678 --name x --output out --answers answers.md"
REPORT_1 = f"{REPORT} --p1 results/p1"
REPORT_2 = f"{REPORT} --p2 results/p2"
REPORT_SAM = f"{REPORT} --sam results/sam"
RESUME = f"p2_train {trainings.FLAGS['p2_train']}"
TRAIN_1 = f"p1_finetune {trainings.FLAGS['p1_finetune']} --dry-run"
TRAIN_2 = f"p2_train {trainings.FLAGS['p2_train'].replace('--output run', '--output new')} --dry-run"
TABLE = f"p1_finetune {trainings.FLAGS['p1_finetune'].replace('--output run', '--output runs')}"


def command(line: str):
    """For a child: what the line says."""
    return commands.command(*line.split())


def make(folder: Path) -> Path:
    """The home below `folder`, made once: run/ is a training of problem 2 stopped in its second epoch."""
    home = folder / "home"
    if home.exists():
        return home
    home.mkdir()
    trainings.draw_data(home)
    _ends_with(0, TABLE, home)
    for _ in range(3):
        _ends_with(0, f"{RESUME} --max-minutes 0", home)
    unbroken = shutil.copytree(home, folder / "unbroken", symlinks=True)
    _ends_with(0, RESUME, unbroken)
    shutil.copy(home / "runs" / "A-seed0" / "model.pt", home / "p1.pt")
    shutil.copy(unbroken / "run" / "model.pt", home / "p2.pt")
    _ends_with(0, INFER_1.replace("out.csv", "predictions.csv"), home)
    _ends_with(0, INFER_2.replace("--output out", "--output masks"), home)
    _publish(home)
    report_runs.problem_1(home / "results" / "p1", seeds=1, settings="AC")
    report_runs.problem_2(home / "results" / "p2")
    report_runs.sam(home / "results" / "sam")
    _ends_with(1, REPORT, home, "--p1", "results/p1")  # makes answers.md
    shutil.rmtree(home / "out")
    return home


def _publish(home: Path) -> None:
    (home / "checkpoints").mkdir()
    shutil.copy(home / "p2.pt", home / "checkpoints" / "net.pt")
    content = (home / "p2.pt").read_bytes()
    entry = an_entry(name="net", default=True, network="tiny_segmenter", bytes=len(content))
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (home / "checkpoints" / "manifest.json").write_text(json.dumps({"checkpoints": [entry]}))


def _ends_with(status: int, line: str, folder: Path, *more: str) -> None:
    ended = children.run(commands.command(*line.split(), *more), folder)
    assert ended.status == status, f"{line}: status {ended.status}, {ended.said[-300:]}"


def contents(folder: Path) -> dict[Path, bytes]:
    """All regular files below a home, but logs, locks and caches: what a refused command must not change."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    kept = {path.relative_to(folder): path for path in files if path.stat().st_size < 50 << 20}
    return {
        name: path.read_bytes()
        for name, path in kept.items()
        if name.name not in ("log.txt", ".lock") and "cache" not in name.parts
    }
