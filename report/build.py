"""The report that is handed in, from run folders: report.html and hw1_<student id>.pdf, and every figure.

    python3 -m report.build --p1 runs/problem1 --p2 runs/problem2 --student-id r12345678 --name "王小明"

--p1 and --p2 name run folders, or folders with run folders and results somewhere below them: pre-training,
settings A to E, t-SNE; both networks of problem 2 and the masks of hw1_2.sh; --sam the output of p2_sam.py.
Model A is the best run of a VGG16-FCN32s, model B the best of any other network; of the 50 classes (--edition
2021, say) A is the best run from random weights, B the best from pretrained ones, or else the best of all.
What has no run yet is named, with the command that fills it. Figures are in OUTPUT/figures, as PNG and PDF.

Your own words stand in report/answers.md, a heading a question; it is made once and never written again. The
same runs and words give the same bytes: the date is that of the newest run.

Paths that you give are those of the folder you are in. Without --output and --answers the report goes to
report/out of the repository, where report.submission looks for it, and your words stand beside it.

Exit status: 0 complete; 1 written, with the gaps named on stderr; 2 nothing written, the reason is one line
on stderr.
"""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Sequence

from datasets.editions import edition
from datasets.images import natural_key
from engine.base import plain_errors, run_script, say
from engine.lock import sole_writer
from engine.run_folder import is_number
from report import ANSWERS, OUTPUT, parser_of
from report.collect import Found, fifty_runs, find, runs_of_settings, settings_folder
from report.document import Gap, Report, problems_of
from report.text import one_line, read_answers

OURS = re.compile(
    r"(pretraining|settings_curves|confusion_[A-E]|(features_)?(tsne|pca)(_\d+)?(_classes_\d+-\d+)?"
    r"|model_[ab]|ious|classifier(_[ab])?|accuracy|learning_curves|land_confusion|worst_tiles|stages_[ab]"
    r"|sam(_\d+)?)"
    r"\.(png|pdf)"
)
LATEST = 4e9  # seconds since 1970: the year 2096; a run that says later is wrong


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of("build", __doc__)
    add = parser.add_argument
    add("--p1", nargs="*", default=[], metavar="RUNS", help="folders of problem 1's runs and results")
    add("--p2", nargs="*", default=[], metavar="RUNS", help="folders of problem 2's runs and results")
    add("--edition", help="the course's year, whose questions are answered (default: EDITION's, else 2024)")
    add("--sam", type=Path, metavar="DIR", help="the --output of p2_sam.py")
    add("--student-id", required=True, help="such as r12345678; the PDF is named after it")
    add("--name", required=True, help="of the student")
    add("--output", type=Path, default=OUTPUT, help="where to write (default: the repository's report/out)")
    add(
        "--answers",
        type=Path,
        default=ANSWERS,
        help="your words (default: the repository's report/answers.md)",
    )
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[A-Za-z0-9]{1,20}", args.student_id):
        parser.error("--student-id wants letters and digits alone, such as r12345678")
    if not (args.p1 or args.p2 or args.sam):
        parser.error("give --p1, --p2 or --sam: the folders of your runs")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)

    from report.page import write_page, write_pdf  # matplotlib, for which --help does not wait

    with sole_writer(args.output), sole_writer(args.output / "figures"):
        report, remarks = draw_report(args)
        page, pdf = write_page(report, args.output), write_pdf(report, args.output)
    gaps = [*remarks, *gaps_of(report)]
    for gap in gaps:
        say(f"gap: {gap}")
    print(f"{page}\n{pdf}\nyour own words: {args.answers}")
    return 1 if gaps else 0


def draw_report(args: argparse.Namespace) -> tuple[Report, list[str]]:
    """Everything that page and PDF say, its figures drawn into OUTPUT/figures; and remarks on the runs."""
    from report.fifty import fifty_answers
    from report.problem1 import problem_1
    from report.problem2 import problem_2

    year, figures = edition(args.edition), args.output / "figures"
    problems = problems_of(year)
    asked = [question for problem in problems for question in problem.questions]
    with plain_errors(figures):
        figures.mkdir(parents=True, exist_ok=True)
        # What is wrong with the words ends it before anything is touched.
        words = read_answers(args.answers, asked)
        for path in figures.iterdir():
            if OURS.fullmatch(path.name):  # an earlier report's, and this one may not draw it
                path.unlink(missing_ok=True)
    found = find([*args.p1, *args.p2])
    answer = {**fifty_answers(found, figures), **problem_1(found, figures)}
    answer.update(problem_2(found, args.sam, figures))
    for question in asked:
        question.blocks = answer[question.name]()
    title = f"Deep Learning for Computer Vision, homework {year.homework[2:]}"
    name, sources = one_line(args.name, 60), sources_of(found, args.sam)
    report = Report(title, args.student_id, name, date_of(found), problems, words, sources, year.homework)
    return report, found.remarks


def date_of(found: Found) -> str:
    """The day on which the newest of the runs ended, in UTC; "" where there is none."""
    runs = [*found.pretraining, *found.segmentation]
    runs += [run for folder in found.settings for run in runs_of_settings(folder)]
    times = [run.metrics[-1].get("time") for run in runs if run.metrics]
    times = [time for time in times if is_number(time) and 0 < time < LATEST]
    return datetime.fromtimestamp(max(times), timezone.utc).date().isoformat() if times else ""


def sources_of(found: Found, sam: Path | None) -> tuple[str, ...]:
    """The folders that the report was made of."""
    settings = settings_folder(found.settings)
    folders = [run.folder for run in (*found.pretraining, *found.segmentation, *fifty_runs(found))]
    folders += [*found.tsne, *found.pca, *found.masks[:1], *(folder for folder in (settings, sam) if folder)]
    return tuple(sorted({one_line(folder, 200) for folder in folders}, key=natural_key))


def gaps_of(report: Report) -> list[str]:
    """A line for each gap: its question, what is missing, and the command that fills it."""
    lines = []
    for question in report.questions:
        for gap in (block for block in question.blocks if isinstance(block, Gap)):
            advice = f" To fill it: {gap.command}" if gap.command else ""
            lines.append(f"{question.key} {question.title}: {gap.text}{advice}")
    return lines


if __name__ == "__main__":
    run_script(main)
