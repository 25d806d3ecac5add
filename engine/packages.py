"""Which packages a script needs, and how they are installed: what is missing is one line, not a traceback.

    python3 -m engine.packages .venv        # what `make setup` does once it has found a Python

It imports nothing but the standard library, as does what it imports.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Callable, Sequence

from engine.base import UserError, run_script, say, speak_safely

INFERENCE = ("numpy", "PIL", "torch", "torchvision")
REPOSITORY = Path(__file__).resolve().parent.parent

# -- what a script lacks -------------------------------------------------------------------------------------


def begin(parse_arguments: Callable[[], argparse.Namespace], *more: str) -> argparse.Namespace:
    """What a script does before it imports torch, which takes two seconds: --help and mistakes don't wait."""
    speak_safely()
    args = parse_arguments()
    require_packages(*more)
    return args


def require_packages(*more: str) -> None:
    """Import what inference needs; leave with a line and status 2 where it, or one of `more`, is missing."""
    try:
        for package in INFERENCE:
            importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        leave_without(f"a package ({error})", is_training=bool(more))
    missing = [package for package in more if importlib.util.find_spec(package) is None]
    if missing:
        leave_without(" and ".join(missing), is_training=True)


def leave_without(lacking: str, is_training: bool = True) -> None:
    """Say in one line what to do where a package is lacking, and leave with status 2."""
    is_pip_enough = not is_training and not _is_left_to_the_system()
    has_own = (REPOSITORY / ".venv" / "bin" / "activate").is_file()
    runs_own = Path(sys.prefix).resolve() == (REPOSITORY / ".venv").resolve()  # to activate it brings no more
    if runs_own or (is_pip_enough and not has_own):
        advice = f"install what is needed: {install_command()}"
    else:
        advice = f"use the project's own environment: {activate_command()}"
    say(f"error: {sys.executable} lacks {lacking}; {advice}")
    sys.exit(UserError.exit_status)


def activate_command() -> str:
    """What gives a shell the environment of `make setup`; without make where it is there already."""
    activate = REPOSITORY / ".venv" / "bin" / "activate"
    command = f"source '{activate}'"
    return command if activate.is_file() else f"make -C '{REPOSITORY}' setup && {command}"


def install_command() -> str:
    if sys.version_info < (3, 9):  # requirements.txt knows no versions for them
        return "python3 -m pip install torch torchvision numpy pillow"
    return f"python3 -m pip install -r '{REPOSITORY / 'requirements.txt'}'"


def _is_left_to_the_system() -> bool:
    """Whether pip refuses to install into this Python, as on Debian 12 and Ubuntu 24.04."""
    is_environment = sys.prefix != sys.base_prefix
    return not is_environment and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file()


# -- what a machine can have ---------------------------------------------------------------------------------

PYTORCH = "https://download.pytorch.org/whl"
SECONDS_TO_ANSWER = 5
LEAST_CAPABILITY = 7.5  # of PyPI's torch, which is built with CUDA 13; older GPUs have a build with CUDA 12.6
SERVICES = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")  # variables that notebook services set


def obstacle() -> str:
    """Why there is no torch for this Python or this machine, and what to do; "" where there is one."""
    machine, glibc = platform.machine().lower(), platform.libc_ver()
    if sys.version_info >= (3, 15):
        return "there is no torch for this Python yet; name an older one: make PYTHON=python3.13"
    if sys.platform == "win32":
        return "on Windows this needs WSL: torch's wheels for Windows lack CUDA, for Windows on Arm none are"
    if sys.platform == "darwin" and machine != "arm64":
        return "there is no torch for Intel's Macs any more; notebooks/colab_kaggle.ipynb needs no machine"
    if sys.platform == "darwin" and sys.version_info >= (3, 11) and _numbers(platform.mac_ver()[0]) < (14,):
        return "torch wants macOS 14 from Python 3.11 on; name an older Python: make PYTHON=python3.10"
    if sys.platform == "linux" and (glibc[0] != "glibc" or _numbers(glibc[1]) < (2, 28)):
        said = " ".join(glibc).strip() or "another C library (musl?)"
        return f"torch wants glibc 2.28 (Debian 10, Ubuntu 20.04), here is {said}; take a newer system"
    return ""


def requirements() -> dict[str, str]:
    """What requirements.txt asks for in this Python, by name: numpy → numpy==2.4.6."""
    found = {}
    for line in (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines():
        asked, _, marker = line.partition("#")[0].strip().partition(";")
        limit = re.search(r'python_version (>=|<) "([0-9.]+)"', marker)
        is_young = not limit or sys.version_info >= _numbers(limit[2])
        if asked and is_young == (not limit or limit[1] == ">="):
            found[asked.partition("==")[0]] = asked
    return found


def pytorch_index() -> str | None:
    """PyTorch's own index, where its build suits this machine better than PyPI's with CUDA 13: for CPUs on a
    Linux without an NVIDIA GPU, with CUDA 12.6 for old GPUs. Else None, which is PyPI."""
    if sys.platform != "linux" or os.environ.get("TORCH") == "cuda":
        return None
    capability = nvidia_capability()
    if capability is None:
        build, reason = "cpu", "no NVIDIA GPU here: PyTorch's builds for CPUs (TORCH=cuda: those with CUDA)"
    elif capability < LEAST_CAPABILITY:
        build, reason = "cu126", f"a GPU of compute capability {capability}: PyTorch's builds with CUDA 12.6"
    else:
        return None
    index, wanted = f"{PYTORCH}/{build}", requirements()
    torch = f"{wanted['torch'].replace('==', '-')}+{build}-cp{sys.version_info[0]}{sys.version_info[1]}-"
    if torch in _page(f"{index}/torch/").replace("%2B", "+"):
        say(reason)
        return index
    if build == "cu126":
        pair = f"{wanted['torch']} {wanted['torchvision']}"
        say(f"warning: PyPI's torch does not run on {reason}: python3 -m pip install {pair} -i {index}")
    return None


def nvidia_capability() -> float | None:
    """The least compute capability of the NVIDIA GPUs here; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return min(map(float, re.findall(r"^\d+\.\d+$", asked.stdout, re.MULTILINE)), default=None)


def _page(url: str) -> str:
    """The text of a page; "" when it does not come in SECONDS_TO_ANSWER, whatever the reason."""
    pages = [""]

    def get() -> None:
        with suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER) as answer:
            pages.append(answer.read(1 << 24).decode("utf-8", "replace"))

    thread = threading.Thread(target=get, daemon=True)  # a name server may keep silent for longer
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return pages[-1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# -- make setup ----------------------------------------------------------------------------------------------


def services_torch() -> str | None:
    """The version of the torch that a notebook service brings, where it is new enough for us."""
    if not any(name in os.environ for name in SERVICES):
        return None
    try:
        importlib.metadata.version("torchvision")
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if _numbers(version) >= (2, 4) else None


def set_up(folder: Path) -> None:
    """An environment in `folder` with what requirements.txt lists. UserError where it cannot be had."""
    if obstacle():
        raise UserError(obstacle())
    wanted, torch = requirements(), services_torch()
    python, venv = folder / "bin" / "python", [sys.executable, "-m", "venv", str(folder)]
    if torch is not None:
        say(f"torch {torch} of this notebook service is used")
        wanted = {name: line for name, line in wanted.items() if name not in (*INFERENCE, "pillow")}
        # Their Pythons may lack ensurepip; their own pip is there to be used.
        venv += ["--without-pip", "--system-site-packages"]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _run(venv, f"{folder}: no environment can be made there")
    with tempfile.TemporaryDirectory() as scrap:  # pip would try each package for minutes
        first = [*pip, "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10", "--dest", scrap]
        asked = subprocess.run([*first, wanted["tqdm"]], capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        advice = "HTTPS_PROXY names a proxy, PIP_INDEX_URL a mirror; then give the same command"
        raise UserError(f"pip gets no packages ({reason}); is there a network? {advice}")
    index = None if torch else pytorch_index()
    extra = ["--extra-index-url", index] if index else []
    _run([*pip, "install", *extra, *wanted.values()], "pip could not install what is needed (see above)")


def _run(command: Sequence[str], failure: str) -> None:
    if subprocess.run(command).returncode:
        raise UserError(f"{failure}; then give the same command again")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m engine.packages",
        description="Make an environment with what requirements.txt lists; make setup does it.",
    )
    parser.add_argument("folder", type=Path, help="of the environment: .venv")
    set_up(parser.parse_args(argv).folder)
    return 0


if __name__ == "__main__":
    run_script(main)
