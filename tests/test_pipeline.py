"""The whole command on a base of random weights: what it leaves, and what it does when killed, misled or out of disk.

Nothing here needs the shipped model; the numbers of these runs mean nothing, their files do.
"""
import errno, json, os, re, signal, subprocess, sys, textwrap, time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_repro import pipeline
from cai_repro.core import CaiError, JsonlStore, RunFolder
from cai_repro.pipeline import STAGES, PlainProgress, prepare, run, run_stage
from conftest import SIZES

E = {"mean", "low", "high", "n"}

def files(out, but=("manifest.json", "metrics.json", "run.json", "report.html")):
    "All that a run left, less what names its folder or its seconds"
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name not in but}

def cli(*args): return CliRunner().invoke(pipeline.app, [str(a) for a in args])

def refused(*args, says=()):
    "The command fails with a clear message and no traceback"
    r = cli(*args)
    assert r.exit_code == 1 and "Traceback" not in r.output and r.output.startswith("error: ") and "->" in r.output, r.output
    for s in says: assert s in r.output, r.output
    return r

def test_what_a_run_leaves(whole):
    out, metrics = whole
    assert json.loads((out/"metrics.json").read_text()) == metrics
    assert set(metrics["models"]) == {"helpful", "sl_cai", "rl_cai"}
    for m in metrics["models"].values():
        assert list(m["red_team"]) == ["harmlessness", "harm_score", "compliance", "evasiveness", "fluency"] and list(m["benign"]) == ["helpfulness", "refusal", "fluency"]
        for e in [*m["red_team"].values(), *m["benign"].values()]: assert set(e) == E
    assert set(metrics["feedback"]) == {"accuracy", "covered", "uncovered"} and len(metrics["revisions"]) == 5
    assert list(metrics["stages"]) == [s.name for s in STAGES] and all(set(s) == {"seconds", "rows"} for s in metrics["stages"].values())
    assert {p.name for p in (out/"figures").iterdir()} == {"frontier.png", "revisions.png", "ppo.png"}
    for rows in (JsonlStore(p).rows() for p in out.rglob("*.jsonl")): assert rows

def test_report(whole):
    page = (whole[0]/"report.html").read_text()
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page and page.count("data:image/png;base64,") == 6
    assert "from cai_repro.pipeline import Recipe, run" in page and "seed=0)" in page and "red_team_pairs" in page and "transformers" in page

def test_adapters_and_rows_load_with_the_stock_libraries(whole, recipe):
    from datasets import load_dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    for role, folder in pipeline.ADAPTERS.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(recipe.base), whole[0]/folder)
        assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n), role
    for f in ("critique/chains", "feedback/red_team", "feedback/benign", "ppo/log"):
        assert len(load_dataset("json", data_files=str(whole[0]/f"{f}.jsonl"), split="train", cache_dir=str(whole[0].parent/"cache"))) > 0

def test_policy_starts_from_sl_and_the_base_stays(whole, recipe):
    from safetensors.torch import load_file
    weights = {r: load_file(whole[0]/f/"adapter_model.safetensors") for r, f in pipeline.ADAPTERS.items()}
    def moved(a, b): return sum(float((weights[a][k] - weights[b][k]).abs().sum()) for k in weights[a])
    def size(a): return sum(float(v.abs().sum()) for v in weights[a].values())
    assert 0 < moved("policy", "sl") < .5*size("sl") and 0 < moved("value", "pm") < .5*size("pm")

def test_base_is_bit_identical_after_a_run(recipe, tmp_path):
    from cai_repro.models import Roles, load_base
    this = prepare(recipe, tmp_path/"run")
    for stage in STAGES[:-2]: run_stage(this, stage, pipeline.PlainProgress(lambda s: None))
    assert this.roles.base_sha256() == Roles(*load_base(recipe.base)).base_sha256()

def test_again_computes_nothing(whole, recipe, monkeypatch):
    out, metrics = whole
    before = files(out, but=())
    monkeypatch.setattr("cai_repro.models.load_base", lambda *a, **k: pytest.fail("a finished run loaded a model"))
    assert run(recipe, out) == metrics and files(out, but=()) == before

class Stop(Exception): pass

@pytest.mark.parametrize("name", ["helpful", "critique", "sft", "pairs", "feedback", "preference", "ppo", "evaluate"])
def test_stopped_in_any_stage_ends_with_the_same_bytes(whole, recipe, tmp_path, monkeypatch, name):
    "A run whose stage NAME breaks off after its first sign of progress; finished stages come from `whole`"
    import shutil
    out = tmp_path/"run"; shutil.copytree(whole[0], out)
    last = [s.name for s in STAGES].index(name)
    manifest = json.loads((out/"manifest.json").read_text())
    for s in STAGES[last:]:
        manifest["stages"].pop(s.name); manifest.get("begun", {}).pop(s.name, None)
        for f in s.files: (shutil.rmtree if (out/f).is_dir() else os.remove)(out/f)
    (out/"manifest.json").write_text(json.dumps(manifest))
    class Breaks(pipeline.PlainProgress):
        def start(self, stage):
            def tick(done, total):
                if stage.name == name and done: raise Stop
            return tick
    with pytest.raises(Stop): run(recipe, out, progress=Breaks(lambda s: None))
    assert json.loads((out/"manifest.json").read_text())["stages"].keys() == {s.name for s in STAGES[:last]}
    run(recipe, out, until=name)
    made = files(out)
    want = {k: v for k, v in files(whole[0]).items() if k in made}
    assert any(k.startswith(f"{name}/") for k in made) and made == want

def test_killed_process_continues(whole, recipe, tmp_path):
    "kill -9 in the middle of the critiques, then the same call again"
    out, code = tmp_path/"run", tmp_path/"go.py"
    code.write_text(textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(pipeline.__file__).parent.parent)!r})
        from cai_repro.pipeline import Recipe, run
        run(Recipe(**{recipe.__dict__!r}), {str(out)!r}, until="critique")"""))
    def go(): return subprocess.Popen([sys.executable, code], stdout=subprocess.DEVNULL, env={**os.environ, "CAI_REPRO_PROGRESS": "0"})
    first, chains = go(), out/"critique"/"chains.jsonl"
    while first.poll() is None and not (chains.exists() and chains.read_bytes().count(b"\n") >= 4): time.sleep(.005)
    first.send_signal(signal.SIGKILL); first.wait()
    kept = chains.read_bytes()
    assert "critique" not in json.loads((out/"manifest.json").read_text())["stages"] or first.returncode == 0
    assert go().wait() == 0
    assert chains.read_bytes() == (whole[0]/"critique"/"chains.jsonl").read_bytes() and chains.read_bytes().startswith(kept[:kept.rfind(b"\n") + 1])

def test_killed_in_ppo_continues_there(whole, recipe, tmp_path):
    "kill -9 in the PPO stage, once a step is on disk; what is there is not computed again, and the bytes are those of an unbroken run"
    import shutil
    longer = replace(recipe, ppo={**recipe.ppo, "steps": 6}); outs = [tmp_path/"unbroken", tmp_path/"killed"]
    for out in outs: shutil.copytree(whole[0], out)
    run(longer, outs[0], until="ppo")
    code, out = tmp_path/"go.py", outs[1]
    code.write_text(textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(pipeline.__file__).parent.parent)!r})
        from cai_repro.pipeline import Recipe, run
        run(Recipe(**{longer.__dict__!r}), {str(out)!r}, until="ppo")"""))
    state = out/"ppo"/"checkpoint"
    def reached(): return max([int(p.name[5:]) for p in state.glob("step-*")], default=-1)
    first = subprocess.Popen([sys.executable, code], stdout=subprocess.DEVNULL, env={**os.environ, "CAI_REPRO_PROGRESS": "0"})
    while first.poll() is None and reached() < 2: time.sleep(.005)
    first.send_signal(signal.SIGKILL); first.wait(); at = reached()
    assert first.returncode != 0 and at >= 2 and "ppo" not in json.loads((out/"manifest.json").read_text())["stages"]
    seen = []
    class Watch(pipeline.PlainProgress):
        def start(self, stage): return lambda done, total: seen.append(done)
    run(longer, out, until="ppo", progress=Watch(lambda s: None))
    assert seen == list(range(at, 7)) and files(out) == files(outs[0]) and not state.exists()

def test_board_of_ppo(whole, recipe, tmp_path, monkeypatch):
    "With --tensorboard each step's numbers also go to a writer; the run's bytes stay the same. Without TensorBoard it is refused before anything is made"
    import shutil
    from cai_repro import ppo
    rows, folders = [], []
    class Board:
        def add_scalar(self, name, value, step): rows.append((name, step))
        def flush(self): pass
        def close(self): pass
    monkeypatch.setattr(pipeline, "find_spec", lambda name: None)
    with pytest.raises(CaiError, match="TensorBoard is not installed"): run(recipe, tmp_path/"none", tensorboard=tmp_path/"board")
    assert not (tmp_path/"none").exists()
    monkeypatch.setattr(pipeline, "find_spec", lambda name: True); monkeypatch.setattr(ppo, "tensorboard_writer", lambda folder, step=0: folders.append(folder) or Board())
    out = tmp_path/"run"; shutil.copytree(whole[0], out); shutil.rmtree(out/"ppo")
    run(recipe, out, until="ppo", tensorboard=tmp_path/"board")
    assert folders == [tmp_path/"board"] and ("ppo/kl", 1) in rows and all((out/f).read_bytes() == (whole[0]/f).read_bytes() for f in ("ppo/log.jsonl", "ppo/policy/adapter_model.safetensors"))

def test_damaged_ppo_checkpoint(whole, recipe, tmp_path, monkeypatch):
    "It is named and kept; deleting it, as the message says, begins the stage anew"
    import shutil
    from cai_repro import ppo
    out = tmp_path/"run"; shutil.copytree(whole[0], out); (out/"ppo"/"log.jsonl").unlink()
    def stop(*a, **kw): raise Stop
    with monkeypatch.context() as m, pytest.raises(Stop): m.setattr(ppo, "check_sound", stop); run(recipe, out)
    file, = (out/"ppo"/"checkpoint").glob("step-*/policy/adapter_model.safetensors"); good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CaiError, match="step-000000: this checkpoint is damaged"): run(recipe, out)
    shutil.rmtree(file.parent.parent); run(recipe, out, until="ppo")
    assert {k: v for k, v in files(out).items() if k.startswith("ppo/")} == {k: v for k, v in files(whole[0]).items() if k.startswith("ppo/")}

def test_half_a_line_is_dropped_and_damage_is_named(whole, recipe, tmp_path):
    import shutil
    out = tmp_path/"run"; shutil.copytree(whole[0], out)
    file = out/"feedback"/"red_team.jsonl"; good = file.read_bytes()
    file.write_bytes(good.replace(b'"p_a"', b'"p_b"', 1))
    with pytest.raises(CaiError, match="red_team.jsonl") as e: run(recipe, out)
    assert "delete" in str(e.value)
    file.unlink(); run(recipe, out)                      # what it says to do
    assert file.read_bytes() == good and files(out) == files(whole[0])

def test_one_setting_redoes_only_what_follows(whole, recipe, tmp_path):
    import shutil
    out = tmp_path/"run"; shutil.copytree(whole[0], out)
    said = []
    run(replace(recipe, ppo={**recipe.ppo, "kl_coef": .5}), out, progress=pipeline.PlainProgress(said.append))
    kept = [s.name for s, line in zip(STAGES, said) if line.endswith("kept")]
    assert kept == ["prompts", "helpful", "critique", "sft", "pairs", "feedback", "preference"]

def test_outside_prompts(recipe, tmp_path):
    "hh-rlhf rows: their first human turns become the red-team prompts, and the report says what could not be read"
    rows = [{"chosen": f"\n\nHuman: What about <b>thing {i}</b> & co?\n\nAssistant: no <|endoftext|>\n\nHuman: why\n\nAssistant: so", "rejected": f"\n\nHuman: What about <b>thing {i}</b> & co?\n\nAssistant: yes"} for i in range(5)]
    rows.append({"chosen": "\n\nHuman: " + "Why? "*700 + "\n\nAssistant: a", "rejected": "\n\nHuman: " + "Why? "*700 + "\n\nAssistant: b"})   # too long for the model
    file = tmp_path/"hh.jsonl"; file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = run(recipe, tmp_path/"run", prompts=file)
    assert metrics["training_prompts"]["left_out"] == 1 and "Too long for the model, and left out: 1." in (tmp_path/"run"/"report.html").read_text()
    t, page = metrics["training_prompts"], (tmp_path/"run"/"report.html").read_text()
    assert t["outside"] and t["prompts"] == 5 and t["responses"] == 25 and t["unparsed"] > 0
    assert f"could not parse {t['unparsed']} " in page and "hh.jsonl" in page and ", prompts=" in page
    chains = JsonlStore(tmp_path/"run"/"critique"/"chains.jsonl").rows()
    assert {c["prompt"] for c in chains} == {f"What about <b>thing {i}</b> & co?" for i in range(5)}
    with pytest.raises(CaiError, match="another run"): run(recipe, tmp_path/"run")     # the same folder without them

def test_official_rows_become_prompts(mirror, recipe, tmp_path):
    this = prepare(recipe, tmp_path/"run", prompts=mirror/"hh-rlhf"/"harmless-base-test.first1500.jsonl")
    assert len(this.outside) > 1000 and len(pipeline.red_team_prompts(this, 12)) == 12

def test_official_principles_and_examples(mirror, recipe, tmp_path):
    "The authors' files as the constitution of a run, worked examples included"
    short = {"critique": {"chunk": 4, "few_shot": 1}, "feedback": {"chunk": 4, "few_shot": 1}}
    this = prepare(replace(recipe, **short, prompts={**SIZES, "red_team": 4, "red_team_pairs": 4, "contrast_pairs": 2}), tmp_path/"run", constitution=mirror)
    assert this.constitution.name == "official"
    for stage in STAGES[:6]: run_stage(this, stage, pipeline.PlainProgress(lambda s: None))
    used = {s["principle_id"] for c in JsonlStore(tmp_path/"run"/"critique"/"chains.jsonl").rows() for s in c["steps"]}
    assert used and used <= {p.id for p in this.constitution.sl}
    assert {i for r in JsonlStore(tmp_path/"run"/"feedback"/"red_team.jsonl").rows() for i in r["principle_ids"]} <= {p.id for p in this.constitution.rl}

def test_other_models_are_another_run(recipe, tmp_path):
    "The same folder names with other weights in them"
    import shutil
    base = tmp_path/"base"; shutil.copytree(recipe.base, base)
    mine = replace(recipe, base=str(base))
    prepare(mine, tmp_path/"run"); prepare(mine, tmp_path/"run")
    weights = bytearray((base/"model.safetensors").read_bytes()); weights[-1] ^= 1; (base/"model.safetensors").write_bytes(weights)
    with pytest.raises(CaiError, match="another run: models"): prepare(mine, tmp_path/"run")

def test_folder_of_another_run(whole, recipe, tmp_path):
    import shutil
    out = tmp_path/"run"; shutil.copytree(whole[0], out); before = files(out, but=())
    for kw in ({"recipe": replace(recipe, name="other")}, {"recipe": recipe, "seed": 1}):
        with pytest.raises(CaiError, match="another run"): run(**{"out": out, **kw})
    refused("run", "--recipe", "mini", "--out", out, says=["another run"])
    assert files(out, but=()) == before
    run(recipe, out, seed=1, force=True, until="prompts")
    assert files(tmp_path/"run.old-1", but=()) == before            # moved aside, not deleted
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"thesis.txt").write_text("precious")
    with pytest.raises(CaiError, match="no run"): run(recipe, tmp_path/"mine")
    with pytest.raises(CaiError, match="no run"): run(recipe, tmp_path/"mine", force=True)
    assert (tmp_path/"mine"/"thesis.txt").read_text() == "precious"

def test_unknown_recipe(): refused("run", "--recipe", "pokcet", says=["pokcet", "pocket", "mini"])

@pytest.mark.parametrize("text, says", [("", "empty"), ("\n \n", "empty"), ('{"prompt": 3}\n', ":1:"), ('{"prompt": "a"}\n{"prompt": \n', ":2:"), ('{"colour": 1}\n', ":1:"), (b"\xff\xfe\x00bad", "bad.jsonl")])
def test_bad_prompts_are_refused_before_compute(tmp_path, text, says):
    file = tmp_path/"bad.jsonl"; file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("run", "--recipe", "mini", "--prompts", file, "--out", tmp_path/"run", says=["bad.jsonl", says])
    assert not (tmp_path/"run").exists()

def test_prompts_that_cannot_be_read(tmp_path):
    for p in (tmp_path/"none.jsonl", tmp_path): refused("run", "--recipe", "mini", "--prompts", p, "--out", tmp_path/"run", says=[p.name])

PRINCIPLES = "name: x\ndescription: y\nsl:\n  - {id: a, harms: [theft], critique_request: c, revision_request: r}\nrl:\n  - {id: b, harms: [theft], choice: c}\n"
@pytest.mark.parametrize("was, now, says", [("revision_request: r", "", "revision_request"), ("id: b", "id: a", "twice"), ("choice: c", "choice: [1]", "not text"),
                                            ("rl:\n  - {id: b, harms: [theft], choice: c}", "rl: []", "rl"), ("name: x", "name: [", "YAML")])
def test_bad_constitutions_are_refused_before_compute(tmp_path, was, now, says):
    file = tmp_path/"c.yaml"; file.write_text(PRINCIPLES.replace(was, now))
    r = refused("run", "--recipe", "mini", "--constitution", file, "--out", tmp_path/"run", says=[says])
    assert re.search(r"c\.yaml:\d+: ", r.output) and not (tmp_path/"run").exists()

def test_full_disk_loses_nothing_finished(whole, recipe, tmp_path, monkeypatch):
    out, real, calls = tmp_path/"run", os.write, []
    def write(fd, data):
        if b'"principle_id"' in bytes(data): calls.append(1)
        if len(calls) > 1: real(fd, bytes(data)[:20]); raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(CaiError, match="disk is full") as e: run(recipe, out)
    assert "again" in str(e.value)
    monkeypatch.setattr(os, "write", real)
    kept = (out/"critique"/"chains.jsonl").read_bytes()
    assert kept.count(b"\n") == 4                                   # the first chunk, whole
    run(recipe, out, until="critique")
    assert (out/"critique"/"chains.jsonl").read_bytes() == (whole[0]/"critique"/"chains.jsonl").read_bytes()

def test_full_disk_while_an_adapter_is_saved(recipe, tmp_path, monkeypatch):
    from cai_repro.models import Roles
    def save(self, role, folder): raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(Roles, "save", save)
    with pytest.raises(CaiError, match="disk is full, in stage 'sft'"): run(recipe, tmp_path/"run")

def test_too_little_room_is_known_before(recipe, tmp_path, monkeypatch):
    import shutil
    monkeypatch.setattr(shutil, "disk_usage", lambda p: type("U", (), {"free": 3*2**20})())
    with pytest.raises(CaiError, match="only 3 MB free"): run(recipe, tmp_path/"run")
    assert not (tmp_path/"run").exists()

def test_debug_shows_the_error_itself(tmp_path):
    assert isinstance(cli("run", "--recipe", "nope", "--debug").exception, CaiError)
    assert isinstance(cli("--debug", "run", "--recipe", "nope").exception, CaiError)

def test_unexpected_errors_have_no_traceback_either(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "run", lambda *a, **k: 1/0)
    refused("run", "--out", tmp_path/"run", says=["ZeroDivisionError", "--debug"])
    monkeypatch.setattr(pipeline, "run", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
    r = cli("run"); assert r.exit_code == 130 and "goes on" in r.output

def test_help_is_instant_and_light():
    code = "import sys, time; t = time.perf_counter(); from cai_repro.pipeline import app\nsys.argv = ['cai', '--help']\ntry: app()\nexcept SystemExit: pass\nprint(time.perf_counter() - t, [m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'numpy') if m in sys.modules])"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(pipeline.__file__).parent.parent).stdout.splitlines()[-1].split(" ", 1) for _ in range(3)]
    assert said[0][1] == "[]" and min(float(s) for s, _ in said) < .5, said

def test_another_seed_is_another_run(whole, recipe, tmp_path):
    run(recipe, tmp_path/"run", seed=1, until="helpful")
    for f in ("prompts/red_team.jsonl", "helpful/red_team.jsonl"): assert (tmp_path/"run"/f).read_bytes() != (whole[0]/f).read_bytes()

def test_two_processes_share_a_run(recipe, whole, tmp_path):
    "As `accelerate launch` would start them: one folder, the same texts, weights equal up to rounding"
    import pickle, socket, torch
    if torch.cuda.is_available(): pytest.skip("compares processors, and the run to compare with was made on a card")
    from safetensors.torch import load_file
    (tmp_path/"recipe").write_bytes(pickle.dumps(recipe))
    code = "import pickle, sys, torch; torch.set_num_threads(1); from cai_repro.pipeline import run; run(pickle.load(open(sys.argv[1], 'rb')), sys.argv[2])"
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = str(s.getsockname()[1])
    env = os.environ | dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join([str(Path(pipeline.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]), PYTHONWARNINGS="ignore")
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path/"recipe"), str(tmp_path/"run")], env=env | dict(RANK=r, LOCAL_RANK=r), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in "01"]
    said = [j.communicate(timeout=240)[0] for j in jobs]
    assert not any(j.returncode for j in jobs), "\n\n".join(said)[-6000:]
    assert said[0].count(" rows ") == len(STAGES) and " rows " not in said[1]                       # one of them speaks
    one, two = whole[0], tmp_path/"run"
    for f in ("prompts/red_team.jsonl", "helpful/benign.jsonl", "critique/chains.jsonl"): assert (one/f).read_bytes() == (two/f).read_bytes(), f
    a, b = (load_file(d/"sft"/"sl"/"adapter_model.safetensors") for d in (one, two))
    assert a.keys() == b.keys() and max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-2
    assert (two/"report.html").exists() and set(json.loads((two/"manifest.json").read_text())["stages"]) == {s.name for s in STAGES}
    assert not list(two.rglob("*.tmp*"))

@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_the_last_step_by_another_method(method, recipe, whole, tmp_path):
    "The stages before it are kept; policy and log lie where PPO's would, and the rest of the run goes on from them"
    import shutil
    shutil.copytree(whole[0], tmp_path/"run"); said = []
    mine = replace(recipe, rl=method, alternative={"group": 2} if method != "dpo" else {"batch_size": 4})
    metrics = run(mine, tmp_path/"run", progress=pipeline.PlainProgress(said.append))
    assert [s.split("  ")[-1] == "kept" for s in said] == [True]*7 + [False]*3 and f"RL-CAI: {method.upper()}" in said[7], said
    log = JsonlStore(tmp_path/"run"/"ppo"/"log.jsonl").rows(); assert log and {"pm_score", "kl", "gold_harmless"} <= set(log[0]) and not any("second" in k for k in log[0])
    assert {p.name for p in (tmp_path/"run"/"ppo").iterdir()} == {"policy", "log.jsonl"}          # no checkpoint stays
    assert (tmp_path/"run"/"ppo"/"policy"/"adapter_model.safetensors").read_bytes() != (whole[0]/"ppo"/"policy"/"adapter_model.safetensors").read_bytes()
    assert set(metrics["models"]) == {"helpful", "sl_cai", "rl_cai"} and f"rl={method!r}" in json.loads((tmp_path/"run"/"run.json").read_text())["command"]

@pytest.mark.parametrize("method", ["rloo", "dpo"])
def test_killed_in_another_method_continues_there(method, recipe, whole, tmp_path):
    "In the third step; the bytes are those of an unbroken run, and no checkpoint stays"
    import shutil
    mine = replace(recipe, rl=method, alternative={"group": 2, "steps": 4} if method == "rloo" else {"batch_size": 4}); outs, seen = [tmp_path/"unbroken", tmp_path/"killed"], []
    for out in outs: shutil.copytree(whole[0], out)
    run(mine, outs[0], until="ppo")
    class Kill(pipeline.PlainProgress):
        def start(self, stage): return self.tick if stage.name == "ppo" else lambda done, total: None
        def tick(self, done, total):
            if done == 3: raise KeyboardInterrupt
    class Watch(Kill):
        def tick(self, done, total): seen.append(done)
    with pytest.raises(KeyboardInterrupt): run(mine, outs[1], until="ppo", progress=Kill(lambda s: None))
    assert [p.name for p in (outs[1]/"ppo"/"checkpoint").iterdir()] == ["step-000002"]
    run(mine, outs[1], until="ppo", progress=Watch(lambda s: None))
    assert seen[:2] == [2, 3] and files(outs[1]) == files(outs[0])

def test_a_base_in_pieces_is_refused(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(CaiError, match="cai run can not run under DeepSpeed"): run(recipe, tmp_path/"run")
    assert not (tmp_path/"run").exists()

@pytest.mark.parametrize("change, says", [({"rl": "sarsa"}, "use ppo, rloo"), ({"rl": "rloo", "alternative": {"beta": .1}}, "no setting beta"), ({"rl": "grpo", "alternative": {"group": 3}}, "no multiple of group")])
def test_a_method_that_can_not_work_is_refused(change, says, recipe, tmp_path):
    with pytest.raises(CaiError, match=says): run(replace(recipe, **change), tmp_path/"run")
    assert not (tmp_path/"run").exists()

def test_a_folder_in_which_another_program_is_at_work(tmp_path):
    out = tmp_path/"run"; run("mini", out, seed=3, until="prompts", progress=PlainProgress(lambda s: None))
    before = (out/"manifest.json").read_bytes()
    with RunFolder(out).alone(), pytest.raises(CaiError, match="at work in this folder"): run("mini", out, seed=3, until="helpful", progress=PlainProgress(lambda s: None))
    assert (out/"manifest.json").read_bytes() == before
    run("mini", out, seed=3, until="prompts", progress=PlainProgress(lambda s: None))
