"""benchmarks.gpu measures all that it says, here on a CPU in tiny sizes: no typo costs a GPU's minutes."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from benchmarks import gpu
from engine import distributed


def test_everything_is_measured(tmp_path, monkeypatch, capsys):
    def inside_here(bench: gpu.Bench, *words: object) -> dict:
        """What it runs in processes of their own, in this one: torch is here already."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            gpu.main(["--inside", *map(str, words)])
        return json.loads(said.getvalue().splitlines()[-1])

    monkeypatch.setattr(gpu.Bench, "inside", inside_here)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(distributed, "synchronise_batch_norm", distributed.synchronise_batch_norm)
    output = tmp_path / "gpu.json"
    gpu.main(["--minutes", "20", "--tiny", "--device", "cpu", "--output", str(output)])

    results = json.loads(output.read_text())
    assert not [name for name, found in results.items() if "failed" in found], results
    scripts = ("p1_ssl_pretrain.py", "p1_finetune.py", "p2_train.py")
    for script in scripts:
        assert results[f"{script} fp16"]["precision"] == "fp16"
        for side in ("auto", "plain", "fp16"):
            assert results[f"{script} {side}"]["images_per_second"] > 0
    assert results["hw1_1.sh"]["images_per_second"] > 0 and results["hw1_2.sh"]["images_per_second"] > 0
    assert results["masks of CPU and GPU"]["equal_pixels"] == 1
    assert results["killed and resumed"]["resumed"] and results["DDP, one process"]["steps"] > 0
    said = capsys.readouterr().out
    assert said.count("\n| ") >= 2 * len(scripts) + 5 and "fp16: fp16" in said
