"""What is pinned can be installed by every Python that it is for; what a machine cannot have is one line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys

import pytest

from engine import packages
from tests.grader import REPOSITORY

PYTHONS = [(3, minor) for minor in range(9, 15)]


def pins() -> list[tuple[str, str, str, str]]:
    """(name, version, marker's comparison or "", its Python) of every line of both files."""
    text = "".join(
        (REPOSITORY / name).read_text(encoding="utf-8")
        for name in ("requirements.txt", "requirements-dev.txt")
    )
    line = r'^([a-z0-9-]+)==([0-9.]+)(?:; python_version (>=|<) "([0-9.]+)")?'
    return re.findall(line, text, re.MULTILINE)


def is_for(python: tuple[int, int], comparison: str, limit: str) -> bool:
    return not comparison or (python >= packages._numbers(limit)) == (comparison == ">=")


@pytest.mark.parametrize("python", PYTHONS)
def test_no_python_is_given_two_versions_and_few_are_given_none(python):
    names = [name for name, _, *marker in pins() if is_for(python, *marker)]
    assert len(names) == len(set(names))
    left_out = {name for name, *_ in pins()} - set(names)
    assert left_out <= ({"pylopdf-fonts-zh-tw", "playwright"} if python == (3, 9) else set())


def test_what_is_installed_here_is_for_every_python_that_gets_it():
    checked = 0
    for name, version, *marker in pins():
        if not is_for(sys.version_info[:2], *marker):
            continue
        try:
            found = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # what make test-notebook and make test-installs alone use
        if found["Version"].partition("+")[0] != version:
            continue
        least = re.search(r">=\s*([0-9.]+)", found.get("Requires-Python", ""))
        first = next(python for python in PYTHONS if is_for(python, *marker))
        assert not least or packages._numbers(least[1])[:2] <= first, f"{name}=={version}"
        checked += 1
    assert checked >= 15


def test_the_requirements_of_this_python_are_read_as_pip_reads_them():
    own = {name: f"{name}=={version}" for name, version, *m in pins() if is_for(sys.version_info[:2], *m)}
    assert packages.requirements().items() <= own.items() and len(packages.requirements()) >= 18


@pytest.mark.parametrize(
    ("system", "machine", "version", "python", "said"),
    [
        ("linux", "x86_64", "2.36", (3, 11), ""),
        ("linux", "aarch64", "2.28", (3, 14), ""),
        ("linux", "x86_64", "2.27", (3, 11), "glibc 2.28"),
        ("linux", "x86_64", "", (3, 11), "musl"),
        ("linux", "x86_64", "2.36", (3, 15), "PYTHON=python3.13"),
        ("darwin", "arm64", "14.2", (3, 12), ""),
        ("darwin", "arm64", "13.6", (3, 12), "PYTHON=python3.10"),
        ("darwin", "arm64", "13.6", (3, 10), ""),
        ("darwin", "x86_64", "14.2", (3, 12), "Intel"),
        ("win32", "AMD64", "", (3, 12), "WSL"),
    ],
)
def test_a_machine_without_torch_is_told_in_a_line(monkeypatch, system, machine, version, python, said):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", version) if version else ("", ""))
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), machine))
    assert said in packages.obstacle() and bool(said) == bool(packages.obstacle())


@pytest.mark.parametrize(
    ("capability", "page", "index", "said"),
    [
        (None, "torch-{}+cpu-cp{}-", "cpu", "no NVIDIA GPU"),
        (None, "torch-{}%2Bcpu-cp{}-", "cpu", "no NVIDIA GPU"),
        (None, "torch-0.1+cpu-cp{1}-", None, ""),  # the pinned version is not there
        (None, "", None, ""),  # no answer
        (7.0, "torch-{}+cu126-cp{}-", "cu126", "capability 7.0"),
        (6.0, "", None, "download.pytorch.org/whl/cu126"),
        (7.5, "torch-{}+cu126-cp{}-", None, ""),
    ],
)
def test_torch_comes_from_where_it_suits_the_machine(monkeypatch, capsys, capability, page, index, said):
    monkeypatch.delenv("TORCH", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(packages, "nvidia_capability", lambda: capability)
    torch, tag = packages.requirements()["torch"].partition("==")[2], "%d%d" % sys.version_info[:2]
    monkeypatch.setattr(packages, "_page", lambda url: page.format(torch, tag))
    assert packages.pytorch_index() == (index and f"{packages.PYTORCH}/{index}")
    assert said in capsys.readouterr().err


def test_the_oldest_of_several_gpus_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert packages.nvidia_capability() is None or packages.nvidia_capability() > 0
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf '8.6\\n7.0\\n'\n")
    script.chmod(0o755)
    assert packages.nvidia_capability() == 7.0


def test_a_page_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(packages, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(
        packages.urllib.request, "urlopen", lambda *_, **__: packages.threading.Event().wait(5)
    )
    assert packages._page("https://nowhere.invalid") == ""


def test_a_services_torch_is_used_where_it_is_new_enough(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    for version, used in (("2.6.0+cu124", "2.6.0+cu124"), ("2.3.1", None)):
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)  # noqa: B023
        assert packages.services_torch() == used
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    assert packages.services_torch() is None


def test_without_a_network_setup_says_so_in_a_line(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull)
    done = subprocess.run(
        [sys.executable, "-m", "engine.packages", str(tmp_path / "venv")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "is there a network?" in done.stderr
