"""The package's names, its five-line examples, data sets that TRL's own trainers take, and what `cai push` sends and never sends. No network."""
import ast, json, os, re, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_repro import pipeline, share
from cai_repro.core import CaiError, JsonlStore, RunFolder

# ---- the top of the package

def top(root): return ast.parse((root/"cai_repro"/"__init__.py").read_text(encoding="utf-8"))

def test_names_agree(root):
    "What type checkers read, what the lazy table says and `__all__` are one list, and each name is the one its module exports"
    import cai_repro
    block = next(n for n in top(root).body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    typed = {n.name: i.module for i in block.body for n in i.names}
    assert typed == cai_repro._MODULE and sorted(typed) == sorted(cai_repro.__all__) and len(typed) == len(cai_repro.__all__)
    for name, module in typed.items():
        home = __import__(f"cai_repro.{module}", fromlist=[module])
        assert name in home.__all__ and getattr(cai_repro, name) is getattr(home, name)
    assert set(typed) | {"__version__"} <= set(dir(cai_repro)) and not hasattr(cai_repro, "no_such_name")
    with pytest.raises(ImportError, match="no_such_name"): exec("from cai_repro import no_such_name")
    from cai_repro import constitution                                    # modules are found beside the names
    assert constitution.load_constitution is cai_repro.load_constitution

def test_import_costs_nothing(root):
    "Well below a second, and none of the libraries; the first use of a name imports its module only"
    code = ("import sys, time; t = time.perf_counter(); import cai_repro; t = time.perf_counter() - t\n"
            "heavy = lambda: sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'typer', 'fastcore', 'yaml'} & set(sys.modules))\n"
            "print(t, heavy()); cai_repro.load_constitution('pocket'); print(heavy())")
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root).stdout.splitlines() for _ in range(3)]
    assert min(float(s[0].split()[0]) for s in said) < .3 and said[0][0].endswith("[]") and "torch" not in said[0][1], said

def test_examples(root, mirror, monkeypatch, capsys):
    "The chapter's examples, one after the other, the one on the authors' file too; each is about five lines"
    monkeypatch.setenv("CAI_REPRO_MIRROR", str(mirror)); monkeypatch.chdir(root/"nbs")
    cells = ["".join(c["source"]) for c in json.loads((root/"nbs"/"18_share.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    shown = [c for c in cells if re.search(r"^# example: ", c, re.M)]; ready = next(c for c in cells if "model, helpful = " in c)
    assert len(shown) == 7 and all(len([l for l in c.splitlines() if not l.startswith("#")]) <= 5 for c in shown)
    got = {}
    for c in [ready.replace("24)", "8)"), *shown]: exec(c, got)
    assert len(got["constitution"].sl) == 16 and [len(c.responses) for c in got["chains"]] == [5]*8 and all(0 < r["p_a"] < 1 for r in got["labels"])
    assert got["log"][-1]["rows"] == len(got["labels"]) and got["last"].shape == got["first"].shape == (8,) and got["result"]["accuracy"]["n"] == 20

# ---- data sets

@pytest.fixture(scope="module")
def sets(whole): return {c: share.run_datasets(whole[0], conversational=c) for c in (False, True)}

@pytest.fixture(scope="module")
def tiny(recipe):
    "Model and tokenizer of the tiny run, the latter with a chat template"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tok = AutoTokenizer.from_pretrained(recipe.base)
    tok.chat_template = r"{% for m in messages %}{{ '\n\nHuman: ' if m.role == 'user' else '\n\nAssistant: ' }}{{ m.content }}{% endfor %}{{ '\n\nAssistant:' if add_generation_prompt }}"
    return lambda: AutoModelForCausalLM.from_pretrained(recipe.base), tok

@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("name, trainer", [("sft", "SFT"), ("messages", "SFT"), ("preference", "DPO"), ("preference", "Reward")])
def test_trl_takes_them_as_they_are(name, trainer, conversational, sets, tiny, tmp_path):
    "TRL's own preparation of the data, and a step of training on it; what it reads is what our stages read"
    import trl
    from datasets import disable_progress_bars
    disable_progress_bars()
    if name == "messages" and not conversational: pytest.skip("whole conversations exist as messages only")
    data, (model, tok) = sets[conversational][name], tiny
    args = getattr(trl, f"{trainer}Config")(output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, max_length=None)
    network = model()
    if trainer == "Reward":
        from transformers import AutoModelForSequenceClassification
        network = AutoModelForSequenceClassification.from_pretrained(network.config._name_or_path, num_labels=1); network.config.pad_token_id = tok.pad_token_id
    made = getattr(trl, f"{trainer}Trainer")(model=network, args=args, train_dataset=data, processing_class=tok)
    made.train()
    rows = made.train_dataset; assert len(rows) == len(data)
    plain = sets[False]["sft" if name == "messages" else name]
    text = lambda ids: tok.decode(ids, clean_up_tokenization_spaces=False).replace(tok.eos_token, "")
    for row, want in zip(rows, plain):
        if trainer == "SFT": assert text(row["input_ids"]) == want["prompt"] + want["completion"]
        elif trainer == "Reward": assert [text(row[f"{k}_ids"]) for k in ("chosen", "rejected")] == [want["prompt"] + want[k] for k in ("chosen", "rejected")]
        else: assert text(row["prompt_ids"]) == want["prompt"] and [text(row[f"{k}_ids"]) for k in ("chosen", "rejected")] == [want["chosen"], want["rejected"]]

def test_prompts_only(sets, whole):
    from trl.data_utils import is_conversational
    chat, plain = sets[True]["prompts"], sets[False]["prompts"]
    assert is_conversational(chat[0]) and not is_conversational(plain[0]) and len(chat) == len(plain) == len(JsonlStore(whole[0]/"prompts"/"red_team.jsonl").rows() + JsonlStore(whole[0]/"prompts"/"benign.jsonl").rows())
    assert plain[0]["prompt"] == f"\n\nHuman: {chat[0]['prompt'][0]['content']}\n\nAssistant:"
    held = {r["prompt"] for r in JsonlStore(whole[0]/"prompts"/"held_out.jsonl").rows()}
    assert not held & {r["prompt"][0]["content"] for r in chat}

def test_preferences_keep_their_labels(sets, whole):
    "Winner, probability and provenance; ties and pairs without a label have none"
    labelled = [r for f in ("red_team", "benign") for r in JsonlStore(whole[0]/"feedback"/f"{f}.jsonl").rows()]
    sure = [r for r in labelled if r["p_a"] not in (None, .5)]
    assert len(sets[True]["preference"]) == len(sure) and "margin" not in sets[True]["preference"].column_names and "label" not in sets[True]["preference"].column_names
    for got, was in zip(sets[True]["preference"], sure):
        a, b = (was[k].strip() for k in ("ab" if was["p_a"] > .5 else "ba"))
        assert (got["chosen"][0], got["rejected"][0]) == ({"role": "assistant", "content": a}, {"role": "assistant", "content": b})
        assert got["p_chosen"] == max(was["p_a"], 1 - was["p_a"]) and got["id"] == was["id"] and (got["labelled_by"] == "ai") == ("principle_ids" in was)

def test_ties_and_rows_left_out(tmp_path, recipe):
    "Rows without a winner, and in a field run people's comparisons, by the functions themselves"
    run = pipeline.Run(replace(recipe, hub={"licence": "mit"}), 0, None, RunFolder(tmp_path))
    pair = {"prompt": "p", "a": "x", "b": "y", "side": "red_team"}
    for f, rows in {"red_team": [{**pair, "id": "1", "p_a": .5}, {**pair, "id": "2", "p_a": None}, {**pair, "id": "outside-3#2", "p_a": .2}], "benign": [{**pair, "id": "4", "p_a": 1.}]}.items():
        (tmp_path/"feedback").mkdir(exist_ok=True); JsonlStore(tmp_path/"feedback"/f"{f}.jsonl").append(rows)
    rows = share.preference_rows(run, True)
    assert [(r["id"], r["origin"], r["labelled_by"], r["chosen"][0]["content"]) for r in rows] == [("outside-3#2", "file", "ai", "y"), ("4", "people", "people", "x")]

def test_all_rounds_where_the_recipe_learns_from_all(whole, recipe):
    run, *_ = share.finished_run(whole[0])
    one, all_ = (share.sft_rows(pipeline.Run(replace(recipe, targets=t), 0, None, run.folder)) for t in ("final", "all"))
    from cai_repro.critique import Chain
    from cai_repro.sft import sl_rows
    for t, rows in (("final", one), ("all", all_)):
        want = sl_rows([Chain.from_row(r) for r in JsonlStore(whole[0]/"critique"/"chains.jsonl").rows()], JsonlStore(whole[0]/"helpful"/"benign.jsonl").rows(), targets=t)
        assert [{k: r[k] for k in ("prompt", "completion")} for r in rows] == want
    assert {r.get("round") for r in all_} == {1, 2, 3, 4, None} and {r.get("round") for r in one} == {4, None}

# ---- push, up to the network

def cli(*args): return CliRunner().invoke(pipeline.app, [str(a) for a in args])

def refused(*args, says):
    r = cli("push", *args)
    assert r.exit_code == 1 and "Traceback" not in r.output and re.search("^error: ", r.output, re.M) and "->" in r.output, r.output
    for s in [says] if isinstance(says, str) else says: assert s in r.output, r.output

@pytest.fixture
def mine(whole, tmp_path):
    "A copy of the finished run, with what must never be sent lying about in it"
    out = tmp_path/"run"; shutil.copytree(whole[0], out)
    for f in ("ppo/checkpoint/step-000001/optimizer.pt", "ppo/policy/optimizer.pt", "ppo/policy/training_args.bin", "ppo/runs/events.out.tfevents.1.host", "sft/sl/trainer_state.json", "prompts/official.jsonl", ".env"):
        (out/f).parent.mkdir(parents=True, exist_ok=True); (out/f).write_text("SECRET")
    return out

WANTED = {"model": {f"{d}{f}" for d in ("", "sl/", "pm/", "value/") for f in ("adapter_config.json", "adapter_model.safetensors")} | {"pm/head.safetensors", "value/head.safetensors", "README.md", "run.json"},
          "data": {f"{s}/train-HASH.parquet" for s in ("sft", "messages", "preference", "prompts")} | {"README.md", "run.json"}}

def names(folder): return {re.sub(r"train-[0-9a-f]{8}\.", "train-HASH.", p.relative_to(folder).as_posix()) for p in Path(folder).rglob("*") if p.is_file()}

def test_dry_run_writes_all_that_would_go_and_nothing_else(mine, recipe, monkeypatch):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *a, **k: pytest.fail("a dry run asked the Hub"))
    r = cli("push", mine, "--repo", "me/tiny", "--dry-run"); assert r.exit_code == 0, r.output
    for part, files in WANTED.items():
        assert names(mine/"push"/part) == files
        for f in files: assert f.replace("HASH.parquet", "") in r.output
    sent = b"".join(p.read_bytes() for part in WANTED for p in (mine/"push"/part).rglob("*") if p.is_file())
    for never in (b"SECRET", str(mine).encode(), str(Path(recipe.base).parent).encode(), str(Path.home()).encode()): assert never not in sent
    assert "nothing was sent" in r.output and {p.name for p in (mine/"push").iterdir()} == {"model", "data", "push.json"}
    share.finished_run(mine)                                                # the run itself is what it was

def test_the_folder_loads_with_the_stock_libraries(mine, recipe, sets, tmp_path):
    from datasets import load_dataset
    from huggingface_hub import DatasetCard, ModelCard
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    parts = share.write_push(mine, "me/tiny")
    for role, folder in pipeline.ADAPTERS.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(recipe.base), str(parts["model"]), **({} if role == "policy" else {"subfolder": role}))
        have, want = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}, load_file(mine/folder/"adapter_model.safetensors")
        assert have.keys() == want.keys() and all((have[k] == want[k]).all() for k in want), role
    for name, d in sets[True].items(): assert load_dataset(str(parts["dataset"]), name, split="train", cache_dir=str(tmp_path/"cache"))[:] == d[:]
    assert load_dataset(str(parts["dataset"]), split="train", cache_dir=str(tmp_path/"cache")).column_names == sets[True]["preference"].column_names
    card, data = ModelCard.load(parts["model"]/"README.md"), DatasetCard.load(parts["dataset"]/"README.md")
    assert card.data.library_name == "peft" and card.data.license == "other" and card.data.datasets == ["me/tiny"] and card.data.base_model is None
    assert {c["config_name"] for c in data.data.configs} == set(sets[True]) and data.data.size_categories == "n<1K"
    for text in (card.text, data.text):
        for s in ("test, sha256", "Remove any theft.", "seed 0", "Intended use and limits", "torch", "## Licence"): assert s in text, s
    for s in ("RL-CAI", "harm score", "95 % interval", "subfolder"): assert s in card.text
    shared = json.loads((parts["model"]/"run.json").read_text())
    assert shared["settings"]["base"] == "base" and shared["command"] is None and shared["metrics"]["models"] and shared["settings"]["constitution"] == "test.yaml"

def test_the_same_bytes_again_and_only_what_is_asked_for(mine, tmp_path):
    one, two = (share.write_push(mine, "me/tiny", out=tmp_path/k) for k in "ab")
    assert {k: [p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()] for k, f in one.items()} == {k: [p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()] for k, f in two.items()}
    assert set(share.write_push(mine, "me/tiny", what=["adapters"], out=tmp_path/"a")) == {"model"} and not (tmp_path/"a"/"data").exists()
    r = cli("push", mine, "--repo", "me/tiny", "--dry-run", "--what", "data", "--plain", "--licence", "CC-BY-4.0", "--out", tmp_path/"a"); assert r.exit_code == 0
    text = (tmp_path/"a"/"data"/"README.md").read_text(); assert "license: cc-by-4.0" in text and "paper's plain dialogues" in text and not (tmp_path/"a"/"model").exists()

HOSTILE = ["---\nlicense: mit\n---\n# Free", "```\n<script>alert(1)</script>\n```", "{{ 7*7 }} {% for x in y %}", "\x1b[31mred\u202e | a | b", "![x](http://x.org) <img src=x onerror=y>", "What now?"]

def test_text_of_strangers_stays_text(recipe, tmp_path):
    "A run on hostile prompts of one's own, under a hostile constitution: the cards keep their shape, and the rows go along only when asked for"
    from datasets import load_dataset
    from huggingface_hub import DatasetCard, ModelCard
    bad = tmp_path/"bad.yaml"; bad.write_text(Path(recipe.constitution).read_text().replace("name: test", 'name: "a | b <script> ---"').replace("Remove any theft.", "Remove ``` <b>theft</b> | ![x](y) {{ 1 }}"))
    file = tmp_path/"mine.jsonl"; file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in HOSTILE))
    out = tmp_path/"run"; pipeline.run(replace(recipe, name="x`y", constitution=str(bad)), out, prompts=file, progress=pipeline.PlainProgress(lambda s: None))
    parts = share.write_push(out, "me/tiny")
    from_file = lambda p: sum(o == "file" for n in ("sft", "preference", "prompts") for o in load_dataset(str(p), n, split="train", cache_dir=str(tmp_path/"cache"))["origin"])
    assert from_file(parts["dataset"]) == 0 and "came from a file of the user's" in DatasetCard.load(parts["dataset"]/"README.md").text
    parts = share.write_push(out, "me/tiny", with_prompts=True, out=tmp_path/"with"); assert from_file(parts["dataset"]) > 0
    for kind, cls in (("model", ModelCard), ("dataset", DatasetCard)):
        card = cls.load(parts[kind]/"README.md"); lines = card.text.split("\n")
        assert card.data.license == "other" and not [l for l in lines if l.startswith(("---", "# Free"))] and "{{ 1 }}" in card.text       # no head, no heading, no template of theirs
        fences = [l for l in lines if l.startswith("```")]; assert set(fences[0::2]) <= {"```json", "```python"} and set(fences[1::2]) == {"```"}
        outside = re.sub(r"^```.*?^```$", "", card.text, flags=re.S | re.M); assert not re.search(r"(?<!\\)<\w", outside) and not re.search(r"(?<!\\)!\[", outside)
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", card.text)
        rows = [l for l in lines if l.startswith("| sl-")]; assert rows and all(len(re.findall(r"(?<!\\)\|", l)) == 4 for l in rows)
    assert any('"content": "---\\nlicense: mit' in l for l in lines)                                          # there it is, as one line of JSON

def test_constitutions_that_are_gone_or_not_ours(whole, tmp_path):
    "Only the file that the run read is listed; the authors' principles are named, not repeated"
    _, info, _ = share.finished_run(whole[0]); says = lambda **kw: share.constitution_part({**info, **kw})
    file = tmp_path/"c.yaml"; file.write_text(Path(info["settings"]["constitution"]).read_text() + "# changed\n")
    assert "Remove any theft" in says()
    for other in (file, tmp_path/"gone.yaml"): assert "cannot be listed" in says(settings={**info["settings"], "constitution": str(other)})
    assert "fetch_official" in says(constitution="official") and "Remove any" not in says(constitution="official")

@pytest.mark.parametrize("args, says", [(("--repo", "tiny"), "USER/NAME"), (("--repo", "me/ti ny"), "Repo id"), (("--repo", "a/b/c"), "USER/NAME"), (("--repo", "me/x--y"), "USER/NAME"), (("--repo", "me/tiny", "--what", "logs"), "adapters,data"), (("--repo", "me/tiny", "--what", ","), "adapters,data")])
def test_what_cannot_be_meant(mine, args, says): refused(mine, "--dry-run", *args, says=says); assert not (mine/"push").exists()

def test_no_run_half_a_run_a_damaged_run(mine, tmp_path):
    for folder in (tmp_path, tmp_path/"none"): refused(folder, "--repo", "me/tiny", "--dry-run", says="no run in this folder")
    manifest = json.loads((mine/"manifest.json").read_text()); keep = dict(manifest["stages"])
    for at, stage in enumerate(keep):
        if stage not in ("prompts", "sft", "ppo", "report"): continue
        manifest["stages"] = dict(list(keep.items())[:at]); (mine/"manifest.json").write_text(json.dumps(manifest))
        refused(mine, "--repo", "me/tiny", "--dry-run", says=[f"stage '{stage}' of this run is not finished", "again"])
    manifest["stages"] = keep; (mine/"manifest.json").write_text(json.dumps(manifest))
    (mine/"sft"/"sl"/"adapter_model.safetensors").write_bytes(b"x"); refused(mine, "--repo", "me/tiny", "--dry-run", says="changed or damaged")
    assert not (mine/"push").exists()

def test_settings_changed_half_way(mine, recipe):
    "A run whose PPO was made again, and whose evaluation was not, would be shared under numbers of another model"
    pipeline.run(replace(recipe, ppo={**recipe.ppo, "kl_coef": .5}), mine, until="ppo", progress=pipeline.PlainProgress(lambda s: None))
    refused(mine, "--repo", "me/tiny", "--dry-run", says="is not finished")

def test_somebody_elses_folder_is_left_alone(mine, tmp_path):
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"thesis.txt").write_text("precious")
    refused(mine, "--repo", "me/tiny", "--dry-run", "--out", tmp_path/"mine", says="holds something else"); assert (tmp_path/"mine"/"thesis.txt").read_text() == "precious"

# ---- push, with a Hub that takes notes

class FakeHub:
    "Stands for `huggingface_hub.HfApi`; `trouble` maps a method to what it raises"
    def __init__(self, files=(), private=False, trouble=None, **kw): self.calls, self.files, self.private, self.trouble = [], list(files), private, trouble or {}
    def _do(self, name, *args, **kw):
        self.calls.append((name, args, kw))
        if name in self.trouble: raise self.trouble[name]
    def whoami(self): self._do("whoami"); return {"name": "me", "orgs": [{"name": "lab"}]}
    def create_repo(self, repo, **kw): self._do("create_repo", repo, **kw); return f"https://hub/{kw['repo_type']}/{repo}"
    def repo_info(self, repo, **kw): self._do("repo_info", repo, **kw); return type("Info", (), {"private": self.private})
    def list_repo_files(self, repo, **kw): self._do("list_repo_files", repo, **kw); return self.files
    def upload_folder(self, **kw):
        self._do("upload_folder", **kw); self.sent = getattr(self, "sent", {}) | {kw["repo_type"]: names(kw["folder_path"])}
    def named(self, name): return [c[2] for c in self.calls if c[0] == name]

@pytest.fixture
def hub(monkeypatch):
    "Put a FakeHub in the place of HfApi and return it"
    import huggingface_hub
    def put(**kw): made = FakeHub(**kw); monkeypatch.setattr(huggingface_hub, "HfApi", lambda *a, **k: made); return made
    return put

def test_push_sends_two_folders(mine, hub):
    api = hub(); r = cli("push", mine, "--repo", "me/tiny"); assert r.exit_code == 0, r.output
    assert [c[0] for c in api.calls].count("whoami") == 1 and [(k["repo_type"], k["private"], k["exist_ok"]) for k in api.named("create_repo")] == [("model", None, True), ("dataset", None, True)]
    up = api.named("upload_folder"); assert [(k["repo_id"], k["repo_type"], k["folder_path"]) for k in up] == [("me/tiny", "model", str(mine/"push"/"model")), ("me/tiny", "dataset", str(mine/"push"/"data"))]
    assert api.sent == {"model": WANTED["model"], "dataset": WANTED["data"]} and "value/*" in up[0]["delete_patterns"] and "uploaded: https://hub/model/me/tiny" in r.output
    last = max(i for i, c in enumerate(api.calls) if c[0] == "list_repo_files"); assert last < min(i for i, c in enumerate(api.calls) if c[0] == "upload_folder")     # all is checked before anything is sent
    assert cli("push", mine, "--repo", "lab/tiny", "--what", "data").exit_code == 0

def test_private(mine, hub):
    api = hub(private=True); assert cli("push", mine, "--repo", "me/tiny", "--private").exit_code == 0 and all(k["private"] for k in api.named("create_repo"))
    api = hub(private=False); refused(mine, "--repo", "me/tiny", "--private", says="there already, and public"); assert not api.named("upload_folder")

def test_other_peoples_repositories(mine, hub):
    api = hub(files=["model.safetensors"]); refused(mine, "--repo", "me/tiny", says="holds something else"); assert not api.named("upload_folder")
    hub(files=["README.md", "run.json", "sl/adapter_config.json"]); assert cli("push", mine, "--repo", "me/tiny").exit_code == 0     # a run pushed before
    api = hub(); refused(mine, "--repo", "them/tiny", says=["logged in as me", "lab"]); assert not api.named("create_repo")

def http(code):
    from huggingface_hub.errors import HfHubHTTPError
    class Answer: status_code, headers, request, text = code, {}, None, ""
    try: return HfHubHTTPError(f"{code} something", response=Answer())
    except TypeError: return HfHubHTTPError(f"{code} something")

def test_trouble_in_words(mine, hub, monkeypatch):
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
    for error, says in ((LocalTokenNotFoundError("no token"), ["not logged in", "hf auth login"]), (OfflineModeIsEnabled("offline"), ["HF_HUB_OFFLINE"]), (ConnectionError("down"), ["cannot be reached"]), (http(401), ["does not take your token"]), (http(500), ["the Hub says no (500)"])):
        hub(trouble={"whoami": error}); refused(mine, "--repo", "me/tiny", says=says); assert not (mine/"push").exists()
    api = hub(trouble={"create_repo": http(403)}); refused(mine, "--repo", "me/tiny", says=["does not take your token", "(403)"]); assert not api.named("upload_folder")
    api = hub(trouble={"upload_folder": ConnectionError("cut off")}); refused(mine, "--repo", "me/tiny", says=["cannot be reached", "again"])
    with pytest.raises(CaiError): share.push_run(mine, "me/tiny", say=lambda s: None)

def test_without_an_account(mine, monkeypatch, tmp_path):
    "The real client, which has no token and may not use the network"
    monkeypatch.delenv("HF_TOKEN", raising=False); monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path/"token")); monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_google_colab", lambda: None, raising=False)
    refused(mine, "--repo", "me/tiny", says=["not logged in", "hf auth login", "--dry-run"])
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x"*34); refused(mine, "--repo", "me/tiny", says="HF_HUB_OFFLINE")

def test_help_teaches():
    said = " ".join(cli("push", "--help").output.split())
    for word in ("--dry-run", "--private", "--what", "hf auth login", "Never sent", "cai push runs/pocket-seed0 --repo me/cai-pocket --dry-run"): assert word in said
    assert "push" in cli("--help").output
