"Claims from end to end on the smallest run: what is measured once is kept, and a verdict comes from its rule."
import json, shutil

import pytest
from typer.testing import CliRunner

from cai_repro import claims, pipeline
from cai_repro.core import CaiError

def test_three_claims_on_a_mini_run(mini_run, tmp_path):
    shutil.copytree(mini_run, tmp_path/"seed3"/"run"); said = []
    rows = claims.run_claims("C5,C12,C23", 1, 3, tmp_path, quick=True, recipe="mini", say=said.append)
    assert [r["id"] for r in rows] == ["C5", "C12", "C23"] and rows[2]["verdict"] == "not testable here" and all(set(r) == {"id", "statement", "rule", "measured", "paper", "seeds", "verdict", "why", "note"} for r in rows)
    measured = json.loads((tmp_path/"seed3"/"revisions.json").read_text())["values"]
    drop = min(a - b for a, b in zip(measured["own"]["harm"], measured["own"]["harm"][1:]))
    effect, = rows[0]["measured"].values()
    assert abs(effect["mean"] - drop) < 1e-4 and rows[0]["verdict"] == ("reproduced" if effect["mean"] >= effect["margin"] else "not reproduced")
    page = (tmp_path/"claims.html").read_text(); assert "Every revision makes" in page and "one seed" in page and "<script" not in page
    kept, before = (tmp_path/"seed3"/"revisions.json").stat().st_mtime_ns, (tmp_path/"claims.json").read_bytes()
    again = claims.run_claims("C5,C12,C23", 1, 3, tmp_path, quick=True, recipe="mini", say=said.append)
    assert again == rows and (tmp_path/"seed3"/"revisions.json").stat().st_mtime_ns == kept and (tmp_path/"claims.json").read_bytes() == before
    assert said.count("seed 3: revisions") == 1 and not any(s.endswith(" s") for s in said), said          # the run was kept too

def test_the_command_refuses_early(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *a, **k: pytest.fail("a run was begun"))
    r = CliRunner().invoke(pipeline.app, ["claims", "--only", "C5,C99", "--out", str(tmp_path/"c")])
    assert r.exit_code == 1 and "C99" in r.output and "C1 to C25" in r.output and "Traceback" not in r.output and not (tmp_path/"c").exists(), r.output

def test_claims_that_need_other_sizes_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.Lab, "get", lambda self, name, seed: pytest.fail("measured"))
    row, = claims.run_claims("C1", 1, 0, tmp_path, quick=True)
    assert row["verdict"] == "not measured" and "--quick" in row["why"]
