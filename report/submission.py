"""Collect what is handed in: the course's wrappers, download script, code, checkpoints and report; no data.

    python3 -m report.submission                    # submission/2024
    EDITION=2023 python3 -m report.submission       # another year, its names, its wrappers fixed to it

The report is the hw1_<studentID>.pdf of --report or of the repository's own folder. Paths that you give
are those of the folder you are in; without them it is the repository's report/out and submission/YEAR.

What is missing or wrong (weights, the classes that they know, the report, your words in it) is named on
stderr. Made again, the folder is replaced, unless something lies in it that would be lost.

Exit status: 0 ready to hand in; 1 collected, and what is missing is named; 2 nothing collected, the reason is
one line on stderr.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Sequence

from datasets.editions import Edition, Wrapper, edition
from engine import manifest
from engine.base import UserError, plain_errors, read_regular, run_script, say, write_json
from engine.checkpoint import KINDS, read_model
from engine.checkpoint_choice import refuse_other_classes
from engine.packages import install_command
from engine.run_folder import MODEL
from report import ANSWERS, OUTPUT, parser_of

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = (
    *("p[12]_*.py", "mean_iou_evaluate.py", "get_checkpoints.sh"),
    *("requirements.txt", "README.md", "LICENSE"),
)
ROOMS = ("models", "datasets", "engine", "recipes", "report")
# Of the report: what is made, the student's words, and the pictures and results of ours alone.
NOT_CODE = shutil.ignore_patterns(
    "__pycache__", "*.pyc", "out", "answers.md", "*.pdf", ".*", "pictures", "results", "RESULTS.md"
)
PLACEHOLDER = "r00000000"  # the Makefile's, until STUDENT_ID says another
# What `make` trains for each problem, with the target that does. Of problem 1's settings the course grades C.
TRAINED = {
    "p1": ("make p1", f"runs/problem1/settings/C-seed0/{MODEL}"),
    "p1_50": ("make p1-50", f"runs/fifty/resnet34/A-seed0/{MODEL}"),
    "p2": ("make p2", f"runs/problem2/model_b/{MODEL}"),
}
CLASSES = {"p1": 65, "p1_50": 50, "p2": 7}  # that each problem's model knows
LARGEST_IN_GIT = 50 * 10**6  # bytes; the course's limit for a file in git


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("submission", __doc__)
    add = parser.add_argument
    add("--edition", help="the course's year (default: that of EDITION, else 2024)")
    add("--output", type=Path, help="the folder to make (default: the repository's submission/YEAR)")
    default = "(default: the repository's report/%s)"
    add("--report", type=Path, default=OUTPUT, help=f"the folder that report.build wrote {default % 'out'}")
    add("--answers", type=Path, default=ANSWERS, help=f"your words in that report {default % 'answers.md'}")
    args = parser.parse_args(argv)
    year = edition(args.edition)
    output = args.output or REPOSITORY / "submission" / year.name
    with plain_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
        try:
            missing = collect(year, temporary, args.report, args.answers)
            with suppress(OSError):  # a share without modes
                temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            replace(output, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for line in missing:
        say(f"missing: {line}")
    state = "collected, but not complete" if missing else "ready to hand in"
    print(f"{output}: {', '.join(wrapper.name for wrapper in year.wrappers)} of edition {year.name}, {state}")
    return 1 if missing else 0


def collect(year: Edition, folder: Path, report: Path, answers: Path) -> list[str]:
    """Fill the empty `folder`; returns lines on what a complete submission would have besides."""
    for pattern in SCRIPTS:
        for path in sorted(REPOSITORY.glob(pattern)):
            copy_text(path, folder / path.name)
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=NOT_CODE, copy_function=copy_text)
    copy_text(folder / "get_checkpoints.sh", folder / year.download_script)
    for wrapper in year.wrappers:
        path = folder / wrapper.name
        path.write_bytes(wrapper_text(wrapper, year.name).encode())
        with suppress(OSError):  # bash needs no mode
            path.chmod(0o755)
    return copy_checkpoints(year, folder / "checkpoints") + copy_report(year, folder, report, answers)


def copy_text(source: str | Path, target: str | Path) -> None:
    """With LF at the end of lines, of which git makes CR LF on some machines: bash stumbles over them."""
    data = Path(source).read_bytes()
    is_text = b"\0" not in data
    Path(target).write_bytes(data.replace(b"\r\n", b"\n") if is_text else data)
    shutil.copystat(source, target)


def wrapper_text(wrapper: Wrapper, year: str) -> str:
    """The shell script with its edition fixed in it, whatever the caller's EDITION says."""
    return f"""#!/usr/bin/env bash
# {wrapper.about}
if [ "$#" -ne {len(wrapper.usage.split())} ]; then
    echo "usage: bash {wrapper.name} {wrapper.usage}" >&2
    exit 2
fi
EDITION={year} exec python3 "${{0%{wrapper.name}}}{wrapper.script}" {wrapper.options}
"""


def copy_checkpoints(year: Edition, folder: Path) -> list[str]:
    """The manifest of those in use, their model card, and small weights; lines about what is missing."""
    folder.mkdir()
    if (manifest.FOLDER / "README.md").is_file():
        copy_text(manifest.FOLDER / "README.md", folder / "README.md")
    missing, used = [], []
    for wrapper in year.wrappers:
        problem = problem_of(wrapper)
        # As inference does: the 50 classes take p1's weights where they have none of their own.
        entry = manifest.default_checkpoint(problem) or manifest.default_checkpoint(problem[:2])
        if entry is None:
            missing.append(f"{wrapper.name} will find no checkpoint: {how_to_train(problem)}")
            continue
        if entry not in used:
            used.append(entry)
            missing += copy_weights(entry, folder)
        missing += wrong_classes(wrapper, entry)
    entries = [entry for entry in manifest.read() if entry in used or entry["problem"] == "sam"]
    write_json(folder / "manifest.json", {"checkpoints": entries})
    return missing


def copy_weights(entry: dict[str, Any], folder: Path) -> list[str]:
    """The entry's file, where git takes it; a line where it is neither here nor to be fetched."""
    path, is_small = manifest.entry_path(entry), entry["bytes"] <= LARGEST_IN_GIT
    if path.is_file() and not manifest.is_intact(entry):
        raise UserError(f"{path}: not the published file; bash get_checkpoints.sh mends it")
    if is_small and path.is_file():
        shutil.copy2(path, folder)
    elif not entry["urls"]:
        why = "is not there" if is_small else "is too large for git"
        return [f"checkpoint {entry['name']} {why} and has no URL: publish it again with --url"]
    return []


def wrong_classes(wrapper: Wrapper, entry: dict[str, Any]) -> list[str]:
    """A line unless the entry's file is here and knows as many classes as the wrapper is asked for."""
    problem, path, name = problem_of(wrapper), manifest.entry_path(entry), entry["name"]
    if not path.is_file():
        unknown = f"{name}, with which {wrapper.name} answers, is not here, so its classes are not known"
        return [f"{unknown}: bash get_checkpoints.sh, then collect again"]
    try:
        model = read_model(path)
        count = len(model["classes"])
        if model["problem"] == KINDS[problem] and count == CLASSES[problem]:
            refuse_other_classes(problem, path, model["classes"])
            return []
    except UserError as error:
        return [f"{wrapper.name} cannot answer with {name}: {error}"]
    except ImportError:
        return [f"the classes of {name} are not known without torch: {install_command()}"]
    wrong = f"which knows {count} classes, not the {CLASSES[problem]} asked for"
    return [f"{wrapper.name} would answer with {name}, {wrong}: {how_to_train(problem)}"]


def how_to_train(problem: str) -> str:
    target, model = TRAINED[problem]
    publish = f"python3 -m engine.publish {model} --name NAME --problem {problem} --default"
    return f"train one with {target}, then {publish}"


def problem_of(wrapper: Wrapper) -> str:
    """p1, p1_50 (a folder of images in place of a CSV) or p2."""
    if wrapper.script == "p2_inference.py":
        return "p2"
    return "p1" if "--csv" in wrapper.options else "p1_50"


def copy_report(year: Edition, folder: Path, report: Path, answers: Path) -> list[str]:
    """The only hwN_<studentID>.pdf of the repository or of the folder `report`; lines on what is wrong."""
    homework = year.homework
    found = [path for place in (REPOSITORY, report) for path in sorted(place.glob(f"{homework}_*.pdf"))]
    if not found:
        put = f"put {homework}_<studentID>.pdf beside README.md"
        return [
            f"no report in {report}: make it with make report STUDENT_ID=..., or {put}, and collect again"
        ]
    if len({(path.name, path.read_bytes()) for path in found}) > 1:
        return [f"more than one report ({', '.join(map(str, found))}): keep the one that is yours"]
    shutil.copy2(found[0], folder)
    missing = []
    if found[0].stem == f"{homework}_{PLACEHOLDER}":
        missing.append(f"{found[0]}: {PLACEHOLDER} is no student: make report STUDENT_ID=r12345678")
    if found[0].parent != REPOSITORY:  # another may hold words from anywhere
        missing += empty_answers(answers)
    return missing


def empty_answers(path: Path) -> list[str]:
    """A line when a question of the report has no words of the student's."""
    try:
        text = read_regular(path).decode("utf-8-sig", errors="replace")
    except OSError:
        return [f"{path}: your answers cannot be read; make report makes the file, fill it in"]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)  # what we ask stands in comments
    # "## 1.1 ..." and below it up to the next question
    parts = re.split(r"^#{1,2}[ \t]+(\d+(?:\.\d+)+)\b.*$", text, flags=re.MULTILINE)
    questions = list(zip(parts[1::2], parts[2::2]))
    empty = [number for number, words in questions if not words.strip()]
    if not questions:
        return [f"{path}: holds no answer; write yours under the questions' headings, then make report"]
    if empty:
        return [f"{path}: no words of yours under {', '.join(empty)}; write them, then make report"]
    return []


def replace(output: Path, new: Path) -> None:
    """Put `new` in the place of `output`; UserError when something lies there that `new` has not."""
    if not output.exists():
        new.rename(output)
        return
    if not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    for path in sorted(output.rglob("*")):
        own = path.relative_to(output)
        if "__pycache__" not in path.parts and not (new / own).exists():
            raise UserError(f"{output}: {own} would be lost; move it, or the folder, away and start again")
    old = new.with_name(f"{new.name}.old")
    output.rename(old)
    new.rename(output)
    shutil.rmtree(old)


if __name__ == "__main__":
    run_script(main)
