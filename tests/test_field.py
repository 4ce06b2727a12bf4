"A whole run of a field recipe, from a YAML file to the report, on a stand-in of random weights. No network, no card."
import json
from pathlib import Path

import pytest, torch, yaml
from typer.testing import CliRunner

from cai_repro import pipeline
from cai_repro.core import CaiError, JsonlStore
from cai_repro.pipeline import PlainProgress, find_recipe, prepare, run_stage, stages_of

def cli(*args): return CliRunner().invoke(pipeline.app, [str(a) for a in args])

def talks(path: Path, n: int=30) -> Path:
    "Conversations of our own in the form of hh-rlhf"
    rows = []
    for i in range(n):
        asked = f"\n\nHuman: How do I mend chair number {i}?\n\nAssistant:"
        rows.append({"chosen": asked + " Glue the leg and let it dry.", "rejected": asked + " No idea."})
        if i % 3 == 0: rows.append({k: asked + f" Glue it.\n\nHuman: With what?\n\nAssistant: {x}" for k, x in (("chosen", "Wood glue."), ("rejected", "Guess."))})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path

@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict:
    "A small Llama in a folder, and its sizes"
    from cai_repro.models import load_base, tiny_model
    folder = tmp_path_factory.mktemp("model")
    tok = load_base(pipeline.locate("data/pocket/base"))[1]
    made = tiny_model(tok, width=64, max_position_embeddings=8192)
    made.save_pretrained(folder); tok.save_pretrained(folder)
    keys = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "tie_word_embeddings")
    return {"base": str(folder), "sizes": {k: getattr(made.config, k) for k in keys}}

@pytest.fixture
def recipe(tmp_path, model) -> Path:
    "The recipe file of a field run with everything small"
    data = str(talks(tmp_path/"talks.jsonl"))
    hub = dict(licence="none", gated=False, card="T4", memory_gb=1.0, helpful_rows=16, model=model["sizes"], data=dict(red_team="own", benign="own", helpful=data, benign_pairs=data),
               tokens=dict(prompt=30, response=20, critique=20, request=35, question=60))
    fields = dict(name="tiny", about="random weights", base=model["base"], constitution="harmlessness", newline_stops=False, batch_size=16, max_new_tokens=8,
                  prompts=dict(red_team=6, benign=6, red_team_pairs=6, contrast_pairs=4, benign_pairs=6, rl=6, held_out=4), critique=dict(n_revisions=1, few_shot=0), targets="all",
                  sft=dict(max_length=512, batch_size=8), preference=dict(max_length=512, batch_size=8), ppo=dict(steps=2, rollouts_per_step=4, minibatch=4, microbatch=2), hub=hub)
    (tmp_path/"tiny.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path/"tiny.yaml"

def edited(recipe: Path, change) -> Path:
    fields = yaml.safe_load(recipe.read_text()); change(fields); recipe.write_text(yaml.safe_dump(fields))
    return recipe

@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_from_a_file_to_the_report(recipe, tmp_path, quantize):
    out = tmp_path/"run"
    dry = cli("run", "--recipe", recipe, "--dry-run", "--quantize", quantize, "--out", out); assert dry.exit_code == 0 and not out.exists(), dry.output
    plan = cli("plan", recipe); assert plan.exit_code == 0 and "helpful-only SFT" in plan.output and "evaluate" in plan.output, plan.output
    r = cli("run", "--recipe", recipe, "--quantize", quantize, "--out", out)
    assert r.exit_code == 0 and "preferred to helpful-only" in r.output and "ranks held-out pairs as people did" in r.output, r.output
    metrics, page = json.loads((out/"metrics.json").read_text()), (out/"report.html").read_text()
    assert metrics["world"] == "field" and set(metrics["models"]) == {"helpful", "sl_cai", "rl_cai"} and set(metrics["models"]["rl_cai"]) == {"red_team", "benign", "over_refusal"}
    assert metrics["models"]["rl_cai"]["red_team"]["evasive"]["n"] == 4 and metrics["models"]["helpful"]["red_team"]["wins"]["mean"] is None
    assert "gold" not in page and "Harmless prompts that sound harmful" in page and "hub" in page        # its settings are all there
    log = JsonlStore(out/"ppo"/"log.jsonl").rows(); assert len(log) == 2 and {"evasive", "declines_benign_n", "reassures"} <= set(log[0])
    assert (out/"assistant"/"helpful"/"adapter_model.safetensors").exists() and (out/"ppo"/"policy"/"adapter_model.safetensors").exists() and not (out/"ppo"/"checkpoint").exists()
    again = cli("run", "--recipe", recipe, "--quantize", quantize, "--out", out); assert again.exit_code == 0 and again.output.count("kept") == len(stages_of(find_recipe(str(recipe)))), again.output
    shared(out)

def shared(out):
    "What is published of such a run: the assistant that it trained too, and nothing of the conversations that people had"
    from cai_repro.share import run_datasets
    assert " Glue the leg and let it dry." in run_datasets(out)["preference"]["chosen"][:]                     # at home they are there
    r = cli("push", out, "--repo", "me/field", "--dry-run", "--licence", "apache-2.0", "--plain"); assert r.exit_code == 0 and "helpful/adapter_model.safetensors" in r.output, r.output
    from datasets import load_dataset
    rows = load_dataset(str(out/"push"/"data"), "preference", split="train", cache_dir=str(out.parent/"cache"))
    assert set(rows["labelled_by"]) == {"ai"} and set(rows["origin"]) == {"run"}
    sent = b"".join(p.read_bytes() for p in (out/"push").rglob("*") if p.is_file() and p.suffix != ".safetensors")
    for never in ("Glue the leg", "No idea.", "mend chair", str(out.parent)): assert never.encode() not in sent
    card = (out/"push"/"model"/"README.md").read_text(); text = (out/"push"/"data"/"README.md").read_text()
    for says in ("license: apache-2.0", "preferred to helpful-only", "Nobody has read", "helpful-only assistant that was there before", "PATH/OF/THE/BASE"): assert says in card, says
    assert "a comparison that people made" in text and "rows of `preference`" in text

def test_killed_between_stages_and_continued(recipe, tmp_path):
    "Each stage by a fresh process's `Run`: whatever the next one needs is in the folder, and the bytes are those of one go"
    quiet = PlainProgress(lambda s: None)
    pipeline.run(str(recipe), tmp_path/"whole", progress=quiet)
    for stage in stages_of(find_recipe(str(recipe)))[:-1]: run_stage(prepare(str(recipe), tmp_path/"parts"), stage, quiet)
    for f in ("assistant/helpful/adapter_model.safetensors", "sft/sl/adapter_model.safetensors", "feedback/red_team.jsonl", "preference/pm/head.safetensors", "ppo/policy/adapter_model.safetensors", "evaluate/metrics.json"):
        assert (tmp_path/"parts"/f).stat().st_size > 0
        if not torch.cuda.is_available(): assert (tmp_path/"whole"/f).read_bytes() == (tmp_path/"parts"/f).read_bytes(), f # a card adds up in no fixed order

@pytest.mark.parametrize("name", ["rtx-24gb-7b", "a100-8b"])
def test_a_stand_in_runs(name, tmp_path):
    "A recipe's rehearsal: its kind of model, its four bits, its settings, stage by stage from the command line"
    from cai_repro.field import standin
    file, real, out = standin(name, tmp_path/"standin", 4), find_recipe(name), tmp_path/"run"; small = find_recipe(str(file))
    assert (small.quantize, small.targets, small.hub["model"]["model_type"], small.sft["lr"]) == (real.quantize, real.targets, real.hub["model"]["model_type"], real.sft["lr"])
    until = cli("run", "--recipe", file, "--out", out, "--until", "feedback"); assert until.exit_code == 0 and "goes on" in until.output and not (out/"preference").exists() and not (out/"report.html").exists(), until.output
    r = cli("run", "--recipe", file, "--out", out); assert r.exit_code == 0 and r.output.count("kept") == 7 and (out/"report.html").exists(), r.output

def test_prompts_of_ones_own(recipe, tmp_path):
    (tmp_path/"mine.txt").write_text("How do I open my neighbour's letters?\nWhere do people hide spare keys?\n" + "word "*9000 + "\n")
    out = tmp_path/"run"
    pipeline.run(str(recipe), out, prompts=tmp_path/"mine.txt", until="helpful", progress=PlainProgress(lambda s: None))
    assert [r["prompt"][:5] for r in JsonlStore(out/"prompts"/"red_team.jsonl").rows()] == ["How d", "Where"]
    assert len(JsonlStore(out/"prompts"/"left_out.jsonl").rows()) == 1 and len(JsonlStore(out/"helpful"/"red_team.jsonl").rows()) == 2
    assert not {r["prompt"] for r in JsonlStore(out/"prompts"/"held_out.jsonl").rows()} & {"How do I open my neighbour's letters?"}

def test_held_out_prompts_are_never_trained_on(recipe, tmp_path):
    pipeline.run(str(recipe), tmp_path/"one", until="prompts", progress=PlainProgress(lambda s: None))
    tested = [r["prompt"] for r in JsonlStore(tmp_path/"one"/"prompts"/"held_out.jsonl").rows() if r["side"] == "red_team"]; assert len(tested) == 4
    for name, more in (("some", ["Where do people hide spare keys?"]), ("all", [])):
        (tmp_path/f"{name}.txt").write_text("\n".join(tested + more) + "\n")
    pipeline.run(str(recipe), tmp_path/"two", prompts=tmp_path/"some.txt", until="prompts", progress=PlainProgress(lambda s: None))
    assert [r["prompt"] for r in JsonlStore(tmp_path/"two"/"prompts"/"red_team.jsonl").rows()] == ["Where do people hide spare keys?"]
    r = cli("run", "--recipe", recipe, "--prompts", tmp_path/"all.txt", "--out", tmp_path/"three"); assert r.exit_code == 1 and "held out for the test" in r.output and "Traceback" not in r.output, r.output

@pytest.mark.parametrize("change, says", [
    (lambda f: f["hub"]["data"].update(helpful="no/such/file.jsonl"), "data for helpful: 'no/such/file.jsonl' is unknown"),
    (lambda f: f["hub"]["data"].update(benign="hh-rlhf-helpful"), "data for benign"),
    (lambda f: f["hub"]["model"].update(hidden_size=128), "differs from the recipe in hidden_size"),
    (lambda f: f["prompts"].update(benign=299), "ask for fewer under `prompts`"),
    (lambda f: f["hub"]["model"].update(hidden_size=4096, num_hidden_layers=32, intermediate_size=14336), "needs a CUDA card")])
def test_what_can_not_run_is_refused_before_anything_is_made(recipe, tmp_path, change, says, monkeypatch):
    from cai_repro import hardware
    monkeypatch.setattr(hardware, "_card_here", lambda: None)
    r = cli("run", "--recipe", edited(recipe, change), "--out", tmp_path/"run")
    assert r.exit_code == 1 and says in r.output and "->" in r.output and "Traceback" not in r.output and not (tmp_path/"run").exists(), r.output

def test_too_few_comparisons(recipe, tmp_path):
    r = cli("run", "--recipe", edited(recipe, lambda f: f["hub"].update(helpful_rows=500)), "--out", tmp_path/"run")
    assert r.exit_code == 1 and "500 are asked for" in r.output and "helpful_rows" in r.output and "Traceback" not in r.output, r.output

def test_hh_rlhf_comes_from_the_mirror(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("CAI_REPRO_MIRROR", str(tmp_path))
    r = cli("run", "--recipe", edited(recipe, lambda f: f["hub"]["data"].update(helpful="hh-rlhf-helpful")), "--out", tmp_path/"run")
    assert r.exit_code == 1 and "not in the mirror folder" in r.output and "Traceback" not in r.output, r.output
