"The benchmarks teach and run, as small as can be; nothing is timed here, and TRL 1.12.0 is not needed"
import json, os, subprocess, sys

import pytest

def bench(root, script, *args):
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    r = subprocess.run([sys.executable, root/"benchmarks"/script, *map(str, args)], capture_output=True, text=True, env=env, cwd=root)
    assert r.returncode == 0, r.stderr
    return r.stdout

@pytest.mark.parametrize("script", ["ppo.py", "preference.py"])
def test_help(root, script):
    out = bench(root, script, "--help"); assert "--shape" in out and "--json" in out and "python benchmarks/" in out and "ours" in out

@pytest.mark.parametrize("quantize", ["auto", "nf4"])
def test_ppo(root, tmp_path, quantize):
    out = bench(root, "ppo.py", "--quantize", quantize, "--names", "ours", "--rollouts", 4, "--prompt", 16, "--new", 4, "--microbatch", 2, "--rounds", 1, "--json", tmp_path/"x.json")
    r, = json.loads((tmp_path/"x.json").read_text()).values()
    assert r["tokens"] == 4*(16 + 4) and set(r["seconds"]) == {"rollout", "score", "update"} and min(r["seconds"].values()) > 0
    assert "floor" in out and "tokens a second" in out
    if r["peak_allocated_bytes"] is None: assert "for want of a card" in out and "reached" not in out
    # adapters of policy, value, reference and preference model on one base; Adam for two of them, in float32
    counted = r["counted_bytes"]; assert 0 < counted["gradients"] < counted["adam"] < counted["weights"] < 2*r["floor"]["bytes"]

@pytest.mark.parametrize("quantize", ["auto", "nf4"])
def test_preference(root, tmp_path, quantize):
    bench(root, "preference.py", "--names", "ours", "--quantize", quantize, "--turns", 1, "--steps", 2, "--batch", 2, "--tokens", 24, "--json", tmp_path/"x.json")
    r = json.loads((tmp_path/"x.json").read_text())["ours"]; assert r["steps_per_second"] == r["turns"][0] > 0 and r["counted_bytes"]["adam"] > 0

def test_steps_are_recorded_on_a_card_alone(root, tmp_path):
    bench(root, "ppo.py", "--keep-heap", "--names", "ours", "--rollouts", 2, "--prompt", 16, "--new", 40, "--microbatch", 2, "--rounds", 1, "--json", tmp_path/"x.json")
    r = json.loads((tmp_path/"x.json").read_text())["ours"]
    assert r["steps_recorded"] is r["card"]

@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="--starts is for a machine without a card")
def test_starts_are_counted_and_played_steps_count_as_one(root, tmp_path):
    said = {}
    for graphs in (["--no-graphs"], []):
        bench(root, "ppo.py", "--starts", *graphs, "--names", "ours", "--rollouts", 2, "--prompt", 16, "--new", 40, "--microbatch", 2, "--rounds", 1, "--json", tmp_path/"x.json")
        said[not graphs] = json.loads((tmp_path/"x.json").read_text())["ours"]
    plain, played = said[False]["starts"], said[True]["starts"]
    assert said[True]["steps_recorded"] and said[True]["tokens"] == said[False]["tokens"] == 2*(16 + 40)
    assert played["rollout"] < plain["rollout"]/2 and min(plain.values()) > 100
    assert (played["score"], played["update"]) == (plain["score"], plain["update"])

@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="--starts is for a machine without a card")
def test_starts_of_a_preference_model(root, tmp_path):
    bench(root, "preference.py", "--starts", "--turns", 1, "--steps", 1, "--batch", 2, "--tokens", 24, "--json", tmp_path/"x.json")
    r = json.loads((tmp_path/"x.json").read_text()); assert r["ours"]["starts"] > 100 and r["ours"]["starts"] < 1.05*r["trl_reward"]["starts"]
