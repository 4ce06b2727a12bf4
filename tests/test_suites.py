"The paper's own evaluations: rendering proved on the official files, scoring on engines whose truth is known, the command on a few rows."
import json, math, random, re, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cai_repro import pipeline, suites
from cai_repro.core import CaiError, JsonlStore, derive_seed
from cai_repro.evaluate import interval
from cai_repro.suites import SUITES, cluster_interval, cot_question, difference, evaluate_suite, leaks, orders, parse_prompt, plan_suite, render, score, suite

SIZES = {"hhh438": (438, 2, 188), "harmful_vs_ethical": (254, 2, 254), "harmfulness_classification": (287, 9, 287)} # rows, options, prompts

@pytest.fixture
def official(mirror, monkeypatch):
    monkeypatch.setenv("CAI_REPRO_MIRROR", str(mirror))
    return mirror

@pytest.mark.parametrize("name", ["PALMS", "LAMDA"])
def test_released_chains_are_rebuilt_from_prompt_and_principle(name, official):
    "What the authors asked in each round of a released chain, from its prompt, its texts and the name of its principle: byte for byte but for spaces at a prompt's end"
    from cai_repro.critique import critique_prompt, revision_prompt
    from cai_repro.data import fetch_official, first_human_turn
    con = suites.official_constitution()
    rows = [json.loads(l) for l in fetch_official(f"samples/{name}_SLMADISON.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        said, asked = row["initial_response"][0]["sample"].strip(), first_human_turn(row["rl_prompt"])
        opened = row["rl_prompt"].removesuffix("\n\nAssistant:").rstrip() + "\n\nAssistant:"
        for step in row["cst"]:
            p, theirs, found = con.by_id(step["cst_key"]), step["cst_value"], step["critique"]["sample"].strip()
            whole = f"{opened} {said}{theirs['prompt'][0]}"
            assert critique_prompt(asked, said, p) == whole
            assert revision_prompt(asked, said, p, found) == f"{whole} {found}{theirs['edit_request']}"
            said = step["revision"]["sample"].strip()

def made_up(n=120, times=3, name="hhh438", k=2):
    "`n` prompts, each in `times` rows with other options"
    row = lambda i, t: {"suite": name, "intro": "\n\nTalk:", "conversation": [{"role": "human", "text": f"Question {i}?"}], "question": "Which is right? Options:", "options": [f"{i} {t} {j}" for j in range(k)]}
    return [{**row(i, t), "id": f"{i}-{t}", "group": str(i), "answer": derive_seed(i, t) % k} for i in range(n) for t in range(times)]

class Knows:
    "Right with probability `p`, which is also what it claims; `by` says what shares its luck; `bias` nats for the first letter"
    def __init__(self, rows, p=.8, by="id", bias=0., boast=1.):
        self.seen, self.p, self.by, self.bias, self.boast, self.calls = {render(r, o): (r, o) for r in rows for o in orders(r, True)}, p, by, bias, boast, 0
    def choose(self, prompts, options, prefix=""): self.calls += 1; return np.array([self.one(*self.seen[t], len(options)) for t in prompts])
    def one(self, row, order, k):
        rng = random.Random(derive_seed(row[self.by]))
        pick = row["answer"] if rng.random() < self.p else (row["answer"] + rng.randrange(1, k)) % k
        return [self.boast*math.log(self.p*(k - 1)/(1 - self.p))*(i == pick) + self.bias*(place == 0) for place, i in enumerate(order)]

wide = lambda e: e["high"] - e["low"]

@pytest.mark.parametrize("name", SUITES)
def test_every_official_prompt_is_rebuilt_byte_for_byte(name, official):
    rows = suite(name)
    raw = [json.loads(l) for l in (official/"ConstitutionalHarmlessnessPaper"/SUITES[name].file).read_bytes().split(b"\n") if l]
    n, k, prompts = SIZES[name]
    assert [render(r).encode() for r in rows] == [x["prompt"].encode() for x in raw]
    assert (len(rows), {len(r["options"]) for r in rows}, len({r["group"] for r in rows})) == (n, {k}, prompts)
    for r, x in zip(rows, raw):
        assert x["corrects"] == [suites.LETTERS[r["answer"]]] and x["prompt"] not in (r["intro"], r["question"], *r["options"])
        changed = {**r, "options": [f"option {i}" for i in range(k)], "conversation": [{**t, "text": "said"} for t in r["conversation"]]}   # nothing of the old text is left over
        assert parse_prompt(render(changed), name) == {key: changed[key] for key in ("suite", "intro", "conversation", "question", "options")}
        assert max(len(t["text"]) for t in r["conversation"]) < 12 or r["conversation"][0]["text"] not in render(changed)

def test_leaked_rows_are_found_by_comparison_and_left_out(official):
    rows, con = suite("hhh438"), suites.official_constitution()
    found = leaks(rows, suites.worked_examples(con, True))
    assert (len(found["equal"]), len(found["shared"])) == (6, 18) and set(found["equal"]) < set(found["shared"])
    for few, cot, left in ((0, False, 438), (5, False, 438), (0, True, 438), (2, True, 420), (6, True, 420)):
        asked, prefix, counts = plan_suite("hhh438", few_shot=few, cot=cot)
        assert len(asked) == left and counts["leaked"] == 438 - left and prefix.count(rows[0]["question"]) == few
        if few and cot: assert not any(o in prefix for r in asked for o in r["options"])
    con.demonstrations["cot_text"].pop()
    assert len(leaks(rows, suites.worked_examples(con, True))["equal"]) == 5

def test_without_the_files_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CAI_REPRO_MIRROR", str(tmp_path))
    r = CliRunner().invoke(pipeline.app, ["eval"])
    assert r.exit_code == 1 and "not in the mirror folder" in r.output and "Traceback" not in r.output

@pytest.mark.parametrize("k, name", [(2, "hhh438"), (2, "harmful_vs_ethical"), (9, "harmfulness_classification")])
@pytest.mark.parametrize("p", [.6, .9])
def test_an_engine_that_knows_p_of_the_answers(k, name, p):
    rows = made_up(400, 1, name, k)
    r = evaluate_suite(Knows(rows, p), name, rows=rows)
    right = sum(score(i) for i in r["items"])/400
    assert r["accuracy"]["mean"] == pytest.approx(right, abs=1e-6) and abs(right - p) < .06 and r["accuracy"]["low"] < p < r["accuracy"]["high"]
    assert r["confidence"] == pytest.approx(p, abs=1e-6) and r["ece"] == pytest.approx(abs(p - right), abs=1e-5)
    assert all(sum(i["p"]) == pytest.approx(1) and len(i["p"]) == k for i in r["items"])
    loud = evaluate_suite(Knows(rows, p, boast=3), name, rows=rows)
    assert loud["accuracy"]["mean"] == r["accuracy"]["mean"] and loud["ece"] > r["ece"] + .05

def test_both_orders_even_out_a_liking_for_a_place():
    rows = made_up()
    once, twice = (evaluate_suite(Knows(rows, .8, bias=4.), "hhh438", rows=rows, both_orders=b) for b in (False, True))
    fair = evaluate_suite(Knows(rows, .8), "hhh438", rows=rows)
    assert once["accuracy"]["mean"] < .6 and once["first_letter"] > .9
    assert twice["accuracy"]["mean"] == fair["accuracy"]["mean"] and difference(once, twice)["low"] > .1
    blind = evaluate_suite(Knows(rows, .5, bias=4.), "hhh438", rows=rows, both_orders=True)
    assert (blind["accuracy"]["mean"], blind["undecided"]) == (.5, len(rows))

def test_interval_is_wider_when_prompts_repeat():
    rows = made_up(100, 4)
    shared, own = (evaluate_suite(Knows(rows, .7, by=by), "hhh438", rows=rows) for by in ("group", "id"))
    naive = lambda r: wide(interval([score(i) for i in r["items"]]))
    assert 1.7 < wide(shared["accuracy"])/naive(shared) < 2.3 and .8 < wide(own["accuracy"])/naive(own) < 1.25
    assert (shared["accuracy"]["n"], shared["accuracy"]["groups"]) == (400, 100)
    assert cluster_interval([1.]*4, list("abcd"))["low"] < .6                    # four of four prove little

def test_killed_and_continued(tmp_path):
    rows = made_up(40, 1)
    class Killed(Knows):
        def choose(self, *a, **kw):
            if self.calls == 2: raise KeyboardInterrupt
            return super().choose(*a, **kw)
    whole = evaluate_suite(Knows(rows), "hhh438", rows=rows, chunk=8, store=JsonlStore(tmp_path/"a.jsonl"))
    with pytest.raises(KeyboardInterrupt): evaluate_suite(Killed(rows), "hhh438", rows=rows, chunk=8, store=JsonlStore(tmp_path/"b.jsonl"))
    rest = Knows(rows)
    assert evaluate_suite(rest, "hhh438", rows=rows, chunk=8, store=JsonlStore(tmp_path/"b.jsonl")) == whole and rest.calls == 3
    assert (tmp_path/"a.jsonl").read_bytes() == (tmp_path/"b.jsonl").read_bytes()
    with pytest.raises(CaiError, match="begun with other"): evaluate_suite(rest, "hhh438", rows=rows, chunk=8, model="another", store=JsonlStore(tmp_path/"b.jsonl"))
    rows[3]["options"][0] += "!"                                                 # the same ids, but another text
    with pytest.raises(CaiError, match="begun with other"): evaluate_suite(Knows(rows), "hhh438", rows=rows, chunk=8, store=JsonlStore(tmp_path/"b.jsonl"))

def test_module_is_light():
    code = "import sys, cai_repro.suites; print(sorted({'torch','transformers','numpy','matplotlib','datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(suites.__file__).parent.parent).stdout.strip() == "[]"

@pytest.mark.parametrize("name", SUITES)
def test_a_model_of_random_weights_on_every_suite(name, official):
    from cai_repro.core import resource_path
    from cai_repro.generate import LocalEngine
    from cai_repro.models import Roles, load_base, tiny_model
    tok = load_base(resource_path("data/pocket/base"))[1]
    engine = LocalEngine(Roles(tiny_model(tok, max_position_embeddings=1024), tok), batch_size=4, stop=("\n\nHuman:",))
    for kw in ({}, {"cot": True, "samples": 2, "max_new_tokens": 8}):
        r = evaluate_suite(engine, name, limit=5, **kw)
        assert len(r["items"]) == r["counts"]["asked"] == 5 and r["counts"]["too_long"] > 0 and r["settings"]["parameters"] > 0
        assert r["confidence"] < r["chance"] + .2
    assert r == evaluate_suite(engine, name, limit=5, chunk=32, **kw)

def test_the_command_on_the_pocket_model(official, tmp_path):
    ask = lambda *more: CliRunner().invoke(pipeline.app, ["eval", "--suite", "hhh438", "--limit", "4", "--out", str(tmp_path/"e"), *more])
    r = ask()
    assert r.exit_code == 0, r.output
    assert all(w in r.output for w in ("accuracy", "calibration error", "figure 4", "human PM", ".786", "eval.json"))
    saved = json.loads((tmp_path/"e"/"eval.json").read_text())
    assert saved["counts"] == {"all": 438, "leaked": 0, "equal_to_example": 0, "too_long": saved["counts"]["too_long"], "asked": 4}
    assert saved["settings"] | {"model": "", "parameters": 0} == {"model": "", "parameters": 0, "few_shot": 0, "cot": False, "samples": 1, "seed": 0, "both_orders": False, "limit": 4, "chunk": 32}
    texts = [o for row in suite("hhh438") for o in (*row["options"], *(t["text"] for t in row["conversation"])) if len(o) > 20]
    kept = "".join(p.read_text() for p in (tmp_path/"e").iterdir())
    assert not any(json.dumps(t)[1:-1] in kept or t in kept for t in texts)      # numbers are kept, the authors' words are not
    was = (tmp_path/"e"/"eval.json").read_bytes()
    assert ask().exit_code == 0 and (tmp_path/"e"/"eval.json").read_bytes() == was
    r = ask("--both-orders"); assert r.exit_code == 1 and "begun with other" in r.output and "Traceback" not in r.output
    r = ask("--chat")                                    # the pocket model was taught no template
    assert r.exit_code == 1 and "no chat template" in r.output

def test_the_command_with_an_adapter_and_reasoning(official, tmp_path):
    from cai_repro.core import resource_path
    r = CliRunner().invoke(pipeline.app, ["eval", "--suite", "harmfulness_classification", "--limit", "2", "--cot", "--adapter", str(resource_path("data/pocket/helpful")), "--out", str(tmp_path/"e")])
    assert r.exit_code == 0, r.output
    assert "figure 4" not in r.output and ".111 by chance" in r.output
    assert {len(row["p"]) for row in json.loads((tmp_path/"e"/"eval.json").read_text())["items"]} == {9}

@pytest.mark.parametrize("args, says", [(["--suite", "hhh"], "there are: hhh438"), (["--samples", "5"], "without reasoning"), (["--few-shot", "6"], "at most 5"),
                                        (["--suite", "harmfulness_classification", "--few-shot", "1"], "no released worked examples"), (["--adapter", "none"], "no adapter"), (["--model", "."], "no model")])
def test_the_command_refuses_early(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "eval_engine", lambda *a: pytest.fail("a model was loaded"))
    r = CliRunner().invoke(pipeline.app, ["eval", *args])
    assert r.exit_code == 1 and says in r.output and "->" in r.output and "Traceback" not in r.output, r.output
    assert not list(tmp_path.iterdir())

def test_help_names_every_suite():
    out = CliRunner().invoke(pipeline.app, ["eval", "--help"]).output
    assert all(n in out for n in SUITES)
