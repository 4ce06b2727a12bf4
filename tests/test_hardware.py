"Recipes as files and the commands about them: plan, doctor, run --dry-run. No network, no card, no model of real size."
import json, os, subprocess, sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest, yaml
from typer.testing import CliRunner

from cai_repro import hardware, pipeline
from cai_repro.core import CaiError
from cai_repro.pipeline import Recipe, find_recipe, prepare, recipes

FIELD = ("t4-1.5b", "t4-3b", "rtx-24gb-7b", "a100-8b")
def cli(*args): return CliRunner().invoke(pipeline.app, [str(a) for a in args])

@pytest.mark.parametrize("name", FIELD)
def test_field_recipes(name, tmp_path, monkeypatch):
    "Each plans, passes its dry run on the card it is meant for, and without a card is refused before anything is fetched or made"
    r = find_recipe(name); card = r.hub["card"]
    plan = cli("plan", name, "--card", card); assert plan.exit_code == 0 and r.base in plan.output and "it fits" in plan.output and "ppo" in plan.output and "operations a token" in plan.output, plan.output
    dry = cli("run", "--recipe", name, "--dry-run", "--card", card, "--out", tmp_path/"run")
    assert r.base in dry.output and "licence apache-2.0" in dry.output, dry.output
    assert dry.exit_code == ("✗" in dry.output) and not [l for l in dry.output.splitlines() if l.startswith("✗") and "free" not in l], dry.output
    monkeypatch.setattr(hardware, "_card_here", lambda: None)
    real = cli("run", "--recipe", name, "--out", tmp_path/"run")
    assert real.exit_code == 1 and "can not run here" in real.output and "needs a CUDA card" in real.output and "cai plan" in real.output and "Traceback" not in real.output
    assert not (tmp_path/"run").exists()

def test_dry_run_fails_on_a_card_too_small(tmp_path):
    r = cli("run", "--recipe", "a100-8b", "--dry-run", "--card", "T4", "--out", tmp_path/"run"); assert r.exit_code == 1 and "✗ T4" in r.output

def test_dry_run_of_pocket_leaves_nothing(tmp_path):
    r = cli("run", "--dry-run", "--card", "cpu", "--out", tmp_path/"run"); assert r.exit_code == 0 and "constitution pocket" in r.output and not (tmp_path/"run").exists(), r.output
    r = cli("run", "--dry-run", "--constitution", "no-such", "--out", tmp_path/"run"); assert r.exit_code == 1 and "no-such" in r.output

def test_a_recipe_of_ones_own_runs(tmp_path):
    "The mini recipe written to a file is the same run, up to its name"
    file = tmp_path/"mine.yaml"; mini = recipes()["mini"]
    file.write_text(yaml.safe_dump({k: v for k, v in asdict(replace(mini, name="mine")).items() if k != "hub"}))
    assert find_recipe(str(file)) == replace(mini, name="mine")
    this = prepare(str(file), tmp_path/"run"); that = prepare(mini, tmp_path/"other")
    assert [pipeline.stage_fingerprint(this, s) for s in pipeline.STAGES] == [pipeline.stage_fingerprint(that, s) for s in pipeline.STAGES]
    r = cli("run", "--recipe", file, "--dry-run", "--card", "cpu"); assert r.exit_code == 0 and "recipe mine" in r.output, r.output

@pytest.mark.parametrize("text, says", [("name: x\nsft: {lr: 2e-4}", ":2: 'lr' is a text"), ("name: x\nsft: {leraning_rate: 1.0}", ":2: "), ("name: x\nppo: {steps: -1}", "below zero"), ("name: [", "YAML"), ("", "empty")])
def test_mistakes_in_a_file_are_named(tmp_path, text, says):
    file = tmp_path/"bad.yaml"; file.write_text(text)
    for command in (("run", "--recipe", file), ("run", "--recipe", file, "--dry-run"), ("plan", file)):
        r = cli(*command); assert r.exit_code == 1 and says in r.output and "bad.yaml" in r.output and "->" in r.output and "Traceback" not in r.output, r.output

def test_settings_of_shipped_recipes_are_as_they_were():
    "The field that field recipes have besides changes no fingerprint of a pocket run"
    assert all("hub" not in s.uses for s in pipeline.STAGES) and all(not r.hub for r in recipes().values())

def test_doctor():
    r = cli("doctor"); assert r.exit_code == 0 and "bitsandbytes" in r.output and "cai run --recipe pocket" in r.output, r.output

def test_doctor_says_what_is_missing(monkeypatch):
    bad = hardware.Check(False, "torch is not installed", "pip install torch")
    monkeypatch.setattr(hardware, "machine_checks", lambda: ([bad], hardware.this_cpu()))
    r = cli("doctor"); assert r.exit_code == 1 and "✗ torch" in r.output and "-> pip install torch" in r.output

def test_plan_opens_no_connection(tmp_path):
    "plan and dry run with every socket refused"
    code = ("import socket, sys\ndef no(*a, **k): raise OSError('no network')\nsocket.socket.connect = socket.create_connection = no\n"
            "from cai_repro.pipeline import app\nsys.argv = ['cai', *sys.argv[1:]]\napp()")
    for args in (["plan", "t4-1.5b"], ["run", "--recipe", "t4-1.5b", "--dry-run", "--out", str(tmp_path/"run")]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=Path(pipeline.__file__).parent.parent)
        assert "Qwen/Qwen2.5-1.5B" in done.stdout and "no network" not in done.stdout + done.stderr, done.stdout + done.stderr
