"""Collect what is handed in: the course's wrappers, download script, code, checkpoints and report; no data.

    python3 -m report.submission                    # submission/2024
    EDITION=2023 python3 -m report.submission       # another year, its names, its wrappers fixed to it

The report is the hw1_<studentID>.pdf of --report or of the repository's own folder. Paths that you give
are those of the folder you are in; without them it is the repository's report/out and submission/YEAR.

What is missing for a complete submission (weights, the report) is named on stderr. Made again, the folder is
replaced, unless something lies in it that would be lost.

Exit status: 0 collected; 2 nothing collected, the reason is one line on stderr.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Sequence

from datasets.editions import Edition, Wrapper, edition
from engine import manifest
from engine.base import UserError, run_script
from engine.run_folder import MODEL
from report import OUTPUT

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "p[12]_*.py",
    "mean_iou_evaluate.py",
    "get_checkpoints.sh",
    "requirements.txt",
    "README.md",
    "LICENSE",
)
ROOMS = ("models", "datasets", "engine", "recipes", "report")
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", "out", "answers.md", "*.pdf", ".*")
REPORT = "hw[12]_*.pdf"
# What `make` trains for each problem, with the target that does. Of problem 1's settings the course grades C.
TRAINED = {
    "p1": ("make p1", f"runs/problem1/settings/C-seed0/{MODEL}"),
    "p1_50": ("make p1-50", f"runs/fifty/resnet34/A-seed0/{MODEL}"),
    "p2": ("make p2", f"runs/problem2/model_b/{MODEL}"),
}
LARGEST_IN_GIT = 50 * 10**6  # bytes; the course's limit for a file in git


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m report.submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--edition", help="the course's year (default: that of EDITION, else 2024)")
    add = parser.add_argument
    add("--output", type=Path, help="the folder to make (default: the repository's submission/YEAR)")
    add(
        "--report",
        type=Path,
        default=OUTPUT,
        help="the folder that report.build wrote (default: the repository's report/out)",
    )
    args = parser.parse_args(argv)
    year = edition(args.edition)
    output = args.output or REPOSITORY / "submission" / year.name
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
        try:
            missing = collect(year, temporary, args.report)
            temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            replace(output, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error}); choose another --output") from None
    for line in missing:
        print(f"note: {line}", file=sys.stderr)
    print(
        f"{output}: {', '.join(wrapper.name for wrapper in year.wrappers)} of edition {year.name}, ready to "
        "hand in"
    )
    return 0


def collect(year: Edition, folder: Path, report: Path) -> list[str]:
    """Fill the empty `folder`; the PDF is looked for in the folder `report`.

    Returns what a complete submission would have besides, as lines for the user.
    """
    for pattern in SCRIPTS:
        for path in sorted(REPOSITORY.glob(pattern)):
            shutil.copy2(path, folder)
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=NOT_CODE)
    shutil.copy2(folder / "get_checkpoints.sh", folder / year.download_script)
    for wrapper in year.wrappers:
        path = folder / wrapper.name
        path.write_bytes(wrapper_text(wrapper, year.name).encode())
        path.chmod(0o755)
    return copy_checkpoints(year, folder / "checkpoints") + copy_report(year, folder, report)


def wrapper_text(wrapper: Wrapper, year: str | None) -> str:
    """The shell script; with a `year`, that edition is fixed in it, whatever the caller's EDITION says."""
    fixed = f"EDITION={year} " if year else ""
    return f"""#!/usr/bin/env bash
# {wrapper.about}
if [ "$#" -ne {len(wrapper.usage.split())} ]; then
    echo "usage: bash {wrapper.name} {wrapper.usage}" >&2
    exit 2
fi
{fixed}exec python3 "${{0%{wrapper.name}}}{wrapper.script}" {wrapper.options}
"""


def copy_checkpoints(year: Edition, folder: Path) -> list[str]:
    """The manifest, its model card, and the weights that are small enough; lines about what is missing."""
    folder.mkdir()
    for name in ("manifest.json", "README.md"):
        if (manifest.FOLDER / name).is_file():
            shutil.copy2(manifest.FOLDER / name, folder)
    missing = []
    for entry in manifest.read():
        small, here = entry["bytes"] <= LARGEST_IN_GIT, manifest.is_present(entry)
        if small and here:
            if not manifest.is_intact(entry):
                raise UserError(
                    f"{manifest.entry_path(entry)}: not the published file; bash get_checkpoints.sh mends it"
                )
            shutil.copy2(manifest.entry_path(entry), folder)
        elif not entry["urls"]:
            why = "is not there" if small else "is too large for git"
            missing.append(f"checkpoint {entry['name']} {why} and has no URL: publish it again with --url")
    for wrapper in year.wrappers:
        problem = problem_of(wrapper)
        # The 50 classes take p1's weights where they have none of their own.
        if manifest.default_checkpoint(problem) or manifest.default_checkpoint(problem[:2]):
            continue
        target, model = TRAINED[problem]
        missing.append(
            f"{wrapper.name} will find no checkpoint: train one with {target}, then "
            f"python3 -m engine.publish {model} --name NAME --problem {problem} --default"
        )
    return missing


def problem_of(wrapper: Wrapper) -> str:
    """p1, p1_50 (a folder of images in place of a CSV) or p2."""
    if wrapper.script == "p2_inference.py":
        return "p2"
    return "p1" if "--csv" in wrapper.options else "p1_50"


def copy_report(year: Edition, folder: Path, report: Path) -> list[str]:
    """The report hwN_<studentID>.pdf of the repository or of the folder `report`; a line for the user where
    there is none."""
    found = [path for place in (REPOSITORY, report) for path in sorted(place.glob(REPORT))]
    for path in found:
        shutil.copy2(path, folder)
    if found:
        return []
    homework = year.wrappers[0].name.split("_")[0]
    return [
        f"no report in {report}: make it with make report STUDENT_ID=..., or put {homework}_<studentID>.pdf "
        "beside README.md, and collect again"
    ]


def replace(output: Path, new: Path) -> None:
    """Put `new` in the place of `output`.

    UserError when something lies there that `new` has not: nothing gets lost.
    """
    if output.exists():
        if not output.is_dir():
            raise UserError(f"{output}: is a file; choose another --output")
        lost = [
            path.relative_to(output)
            for path in sorted(output.rglob("*"))
            if "__pycache__" not in path.parts and not (new / path.relative_to(output)).exists()
        ]
        if lost:
            raise UserError(
                f"{output}: {lost[0]} would be lost; move it, or the folder, away and start again"
            )
        old = new.with_name(f"{new.name}.old")
        output.rename(old)
        new.rename(output)
        shutil.rmtree(old)
    else:
        new.rename(output)


if __name__ == "__main__":
    run_script(main)
