"""Promises on the repository as a whole: who imports whom, who knows a run's files, how long a file is, what
is pinned, what starts quickly.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from engine import run_folder

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("models", "datasets", "engine", "recipes", "report", "benchmarks")
SCRIPTS = [*sorted(REPOSITORY.glob("p[12]_*.py")), REPOSITORY / "mean_iou_evaluate.py"]
MODULES = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
COMMANDS = [
    path
    for path in MODULES
    if path.parent.name != "benchmarks" and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
]
GROUND = {"engine", "engine.base"}  # every room may import it
MAY_IMPORT = {  # beside the ground floor
    "scripts": {"report", "engine", "datasets", "models", "recipes"},
    "benchmarks": {"report", "engine", "datasets", "models", "recipes", "benchmarks", "mean_iou_evaluate"},
    "report": {"report", "engine", "datasets"},
    "engine": {"engine"},
    "models": {"models"},
    "datasets": {"datasets"},
    "recipes": {"recipes"},
}


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, by full name."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (name.value for name in node.args if isinstance(name, ast.Constant))


def file_of_module(name: str) -> Path | None:
    """The file of one of our modules; None for any other name."""
    path = REPOSITORY.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def inference_path() -> list[Path]:
    """Every file of ours that the scripts a grader runs import, themselves included."""
    found, waiting = (
        set(),
        [REPOSITORY / f"{name}.py" for name in ("p1_inference", "p2_inference", "mean_iou_evaluate")],
    )
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            # "import a.b" runs a/__init__.py too.
            names = [
                ".".join(name.split(".")[: n + 1])
                for name in imported(path)
                for n in range(name.count(".") + 1)
            ]
            waiting += [file for file in map(file_of_module, names) if file]
    return sorted(found)


def our_files() -> list[Path]:
    """Every file that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = (
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
    )
    return [REPOSITORY / name for name in listed if name and (REPOSITORY / name).is_file()]


# -- what starts quickly -------------------------------------------------------------------------------------

HELP = """
import runpy, sys
how, name = sys.argv[1:]
sys.argv = [name, "--help"]
try:
    run = runpy.run_path if how == "script" else runpy.run_module
    run(name, run_name="__main__")
    status = "went on after --help"
except SystemExit as end:
    status = end.code
slow = {"torch", "torchvision", "matplotlib", "sklearn", "tensorboard", "scipy"} & set(sys.modules)
sys.exit(status or (f"imports {slow}" if slow else 0))
"""


@pytest.mark.parametrize(
    ("how", "name"),
    [*(("script", relative(path)) for path in SCRIPTS)]
    + [("module", relative(path)[:-3].replace("/", ".")) for path in COMMANDS],
)
def test_help_comes_before_anything_slow_is_imported(how, name):
    done = subprocess.run(
        [sys.executable, "-c", HELP, how, name], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_the_score_of_masks_needs_numpy_and_pillow_alone():
    code = "import sys; old = set(sys.modules); import mean_iou_evaluate; print(*(set(sys.modules) - old))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = {name.split(".")[0] for name in done.stdout.split()}
    foreign = {name for name in names if (spec := importlib.util.find_spec(name)) and is_installed(spec)}
    assert foreign - {"typing_extensions"} == {"numpy", "PIL"}  # older Pillows import that one
    assert not names & set(ROOMS)


def is_installed(spec) -> bool:
    """Whether a module comes from a package, not from Python itself or from us."""
    return "site-packages" in (spec.origin or "") or "dist-packages" in (spec.origin or "")


# -- who imports whom ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=relative)
def test_imports_go_downwards_only(path):
    room = relative(path).split("/")[0] if path in MODULES else "scripts"
    allowed = MAY_IMPORT[room] if path.name != "mean_iou_evaluate.py" else set()
    ours = {*ROOMS, "tests", *(script.stem for script in SCRIPTS)}
    names = {name for name in imported(path) if name.split(".")[0] in ours}
    if path.name != "mean_iou_evaluate.py":
        names = {name for name in names if name not in GROUND and not name.startswith("engine.base.")}
    assert {name.split(".")[0] for name in names} <= allowed


def test_a_training_script_imports_the_report_no_sooner_than_it_needs_it():
    for name in ("p1_ssl_pretrain", "p1_finetune", "p2_train"):
        at_top = [
            node
            for node in tree_of(REPOSITORY / f"{name}.py").body
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "report"
        ]
        assert not at_top, name


def test_no_module_imports_itself_through_others():
    modules = {path: {file_of_module(name) for name in imported(path)} for path in [*SCRIPTS, *MODULES]}
    done: set[Path | None] = {None}

    def visit(path: Path, way: list[Path]) -> None:
        assert path not in way, " -> ".join(relative(step) for step in [*way[way.index(path) :], path])
        if path not in done:
            for other in modules[path]:
                if other not in done:
                    visit(other, [*way, path])
            done.add(path)

    for path in modules:
        visit(path, [])


def test_the_ground_floor_stands_on_python_alone():
    assert not {name.split(".")[0] for name in imported(REPOSITORY / "engine" / "base.py")} & set(ROOMS)
    code = "import sys; old = set(sys.modules); import engine.base; print(*(set(sys.modules) - old))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = set(done.stdout.split())
    assert {name for name in names if name.split(".")[0] in ROOMS} == {"engine", "engine.base"}
    roots = {name.split(".")[0] for name in names}
    assert not {root for root in roots if (spec := importlib.util.find_spec(root)) and is_installed(spec)}


# -- who knows the files of a run ----------------------------------------------------------------------------

RUN_FILES = {
    value
    for name, value in vars(run_folder).items()
    if name.isupper() and isinstance(value, str) and re.fullmatch(r"\w+\.\w+", value)
}
RUN_STEMS = {
    run_folder.SNAPSHOTS,
    run_folder.TENSORBOARD,
    run_folder.STAGES,
    run_folder.ARCHITECTURE,
}
SAID_TO_USERS = {"help", "metavar", "description", "epilog"}


def is_run_file(text: str, is_path: bool) -> bool:
    """Whether a whole literal (`{}` stands for what an f-string fills in) names a file of a run."""
    parts = text.split("/")
    for part in parts:
        stem, _, kind = part.partition(".")
        is_picture = kind in ("json", "svg", "pdf", "png", "{}")
        if part in RUN_FILES or (stem in RUN_STEMS and is_picture):
            return True
        if part in RUN_STEMS and (is_path or len(parts) > 1):
            return True
    return False


def literals_of_run_files(path: Path) -> Iterator[str]:
    """LINE: LITERAL of every string in code that is a run's file or a path to one.

    A literal with a space in it is a sentence or a command for the user, and so are docstrings and help.
    """
    tree = tree_of(path)
    parent_of = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        parent = parent_of.get(node)
        if isinstance(parent, (ast.Expr, ast.JoinedStr, ast.FormattedValue)):
            continue  # a docstring; a piece of an f-string, which is looked at whole
        if isinstance(parent, ast.keyword) and parent.arg in SAID_TO_USERS:
            continue
        if isinstance(node, ast.JoinedStr):
            pieces = [piece.value if isinstance(piece, ast.Constant) else "{}" for piece in node.values]
            text = "".join(pieces)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        is_path = isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Div)
        if not re.search(r"\s", text) and is_run_file(text, is_path):
            yield f"{node.lineno}: {text}"


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=relative)
def test_the_names_of_a_runs_files_stand_in_one_place(path):
    found = list(literals_of_run_files(path))
    if relative(path) == "models/describe.py":
        # Its own command writes drawings outside runs too, and models import the ground floor alone.
        found = [literal for literal in found if run_folder.ARCHITECTURE not in literal]
    if relative(path) != "engine/run_folder.py":
        assert not found, "take the name from engine/run_folder.py"


def test_the_search_for_a_runs_files_finds_them(tmp_path):
    code = tmp_path / "code.py"
    code.write_text(
        '"""Writes RUN/model.pt."""\n'
        'a = folder / "last.pt"\nb = f"{run}/model.pt"\nc = folder / "snapshots"\n'
        'd = "runs/p2/config.json"\ne = f"architecture.{kind}"\nf = run / f"snapshots/epoch_{epoch}.pt"\n'
        'add("--model", help="RUN/model.pt", metavar="RUN/model.pt")\n'
        'say("give RUN/model.pt")\nsay(f"{path}: give RUN/model.pt")\nkey = {"architecture": 1}\n'
    )
    lines = [int(line.split(":")[0]) for line in literals_of_run_files(code)]
    assert sorted(lines) == [2, 3, 4, 5, 6, 7]


# -- Python 3.8, the course's --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", inference_path(), ids=relative)
def test_inference_is_python_3_8(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path), feature_version=(3, 8))
    definitions = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)
    assert "from __future__ import annotations" in text or not definitions
    for node in ast.walk(without_annotations(tree)):
        problem = younger_than_3_8(node)
        assert not problem, f"{relative(path)}:{node.lineno}: {problem}"


def without_annotations(tree: ast.Module) -> ast.Module:
    """The tree without what `from __future__ import annotations` keeps from being evaluated."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
    return tree


def younger_than_3_8(node: ast.AST) -> str:
    """What in this node Python 3.8 lacks, though it reads the syntax; "" when nothing."""
    builtin = {"list", "dict", "tuple", "set", "frozenset", "type"}
    methods = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "bit_count"}
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in builtin:
        return f"{node.value.id}[...] outside an annotation"
    if isinstance(node, ast.Attribute) and node.attr in methods:
        return f".{node.attr}"
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "zip"
        and node.keywords
    ):
        return "zip(strict=...)"
    sides = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) else []
    if any(isinstance(side, ast.Constant) and side.value is None for side in sides):
        return "X | None outside an annotation"
    if (
        isinstance(node, ast.ImportFrom)
        and node.module == "functools"
        and any(n.name == "cache" for n in node.names)
    ):
        return "functools.cache"
    return ""


def test_inference_imports_what_the_course_has_and_tqdm_only_where_installed():
    for path in inference_path():
        roots = {name.split(".")[0] for name in imported(path)}
        specs = {root: importlib.util.find_spec(root) for root in roots - {"__future__"}}
        foreign = {root for root, spec in specs.items() if spec is None or is_installed(spec)}
        assert foreign <= {"torch", "torchvision", "numpy", "PIL", "tqdm"}, relative(path)
        at_top = [
            name.name for node in tree_of(path).body if isinstance(node, ast.Import) for name in node.names
        ]
        assert "tqdm" not in at_top, relative(path)


# -- sizes ---------------------------------------------------------------------------------------------------


def test_files_can_be_read_in_one_go():
    for path in [path for path in our_files() if path.suffix == ".py"]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400 or relative(path).startswith("tests/"), relative(path)
        assert max(map(len, lines), default=0) <= 110, relative(path)


def test_a_checkout_by_git_for_windows_has_the_line_ends_that_bash_reads(tmp_path):
    command = ["git", "-c", "core.autocrlf=true", "checkout-index", "--all", f"--prefix={tmp_path}/"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    code = [path for path in tmp_path.rglob("*") if path.suffix in (".sh", ".py") or path.name == "Makefile"]
    assert len(code) > 100 and not [path for path in code if b"\r\n" in path.read_bytes()]


def test_the_house_has_few_rooms():
    python = [path for path in our_files() if path.suffix == ".py"]
    assert len([path for path in python if not relative(path).startswith("tests/")]) <= 100


def test_the_readme_is_read_to_its_end():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= 1300


# -- what else is committed ----------------------------------------------------------------------------------


def test_no_file_names_a_place_on_one_machine():
    places = re.compile(rb"\.\./" + rb"shared\b|(?<![\w.}/-])/(?:work|data|root|home)/")
    found = [
        f"{relative(path)}:{number}: {line.decode(errors='replace').strip()}"
        for path in our_files()
        if path.suffix not in (".pt", ".png", ".jpg", ".pdf")
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if places.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_work_is_left_for_later():
    words = (b"TO" + b"DO", b"FIX" + b"ME", b"raise Not" + b"Implemented")
    later = re.compile(rb"\b(" + b"|".join(words) + rb")")
    code = [path for path in our_files() if path.suffix in (".py", ".sh", ".md", ".toml", "")]
    assert not [relative(path) for path in code if later.search(path.read_bytes())]


def requirements() -> list[tuple[str, str, str]]:
    """(name, version, reason) of every line that asks for a package."""
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-r "))
    ]
    marker = r'(?:; python_version [<>]=? "[0-9.]+")?'
    matches = [re.fullmatch(rf"([a-z0-9-]+)==([0-9.]+){marker}\s+# (.+)", line) for line in lines]
    assert all(matches), (
        f"not pinned with a reason: {[line for line, match in zip(lines, matches) if not match]}"
    )
    return [match.groups() for match in matches]


def test_every_requirement_is_pinned_and_says_why():
    assert all(reason for _, _, reason in requirements())


def test_what_is_imported_is_required_and_what_is_required_is_used():
    package_of = {"PIL": "pillow", "sklearn": "scikit-learn", "byol_pytorch": "byol-pytorch"}
    package_of |= {
        "segment_anything": "segment-anything",
        "markdown_it": "markdown-it-py",
        "fontTools": "fonttools",
    }
    python = [path for path in our_files() if path.suffix == ".py"]
    roots = {name.split(".")[0] for path in python for name in imported(path)} - {"__future__"}
    own = {*ROOMS, "tests", *(path.stem for path in python)}
    foreign = {
        root for root in roots - own if (spec := importlib.util.find_spec(root)) is None or is_installed(spec)
    }
    required = {name for name, _, _ in requirements()}
    assert {package_of.get(root, root) for root in foreign} <= required
    text = "".join(
        path.read_text(encoding="utf-8") for path in [*python, REPOSITORY / "Makefile"] if path.is_file()
    )
    assert all(
        re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) or name == "pillow" for name in required
    )
