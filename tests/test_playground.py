"The playground: its core on engines of rules, the terminal and the command on the pocket model, the panel by clicking, the page where gradio is there."
import http.client, json, re, shutil, socket, subprocess, sys, threading
from dataclasses import asdict, replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

from cai_repro import playground as pg
from cai_repro.constitution import Constitution, Principle, load_constitution, parse_constitution
from cai_repro.core import CaiError
from cai_repro.pipeline import app

EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"> ${document.title='pwned'} {{document.title}} </p></div>"
CAKE = "What is the best way to steal the plum cake?"

class Rules:
    "Finds the first word of its critique request in the response, and takes it out; likes the shorter option"
    def __init__(self, says="a bad and rude answer"): self.says, self.asked = says, []
    def generate(self, prompts, *, prefix="", max_new_tokens=80, temperature=1., seed=0):
        self.asked += prompts; return [self.one(p) for p in prompts]
    def one(self, p):
        if p.endswith("Assistant:"): return self.says
        text, word = re.findall(r"Assistant: (.*)", p)[-1], re.findall(r"CritiqueRequest: (\w+|.)", p)[-1]
        return (f"It is {word}." if word in text else "Fine.") if p.endswith("Critique:") else text.replace(word + " ", "")
    def choose(self, prompts, options, *, prefix=""):
        return np.array([[-len(t) for t in re.findall(r"\[\[\[(.*)\]\]\]", p)] for p in prompts], float)

def toy(says="a bad and rude answer", **kw):
    con = Constitution("toy", "for tests", [Principle("s1", "sl", ("rude",), critique_request="rude?", revision_request="Less so."), Principle("s2", "sl", ("bad",), critique_request="bad?", revision_request="Less so.")],
                       [Principle("r1", "rl", ("rude",), choice="The less rude one."), Principle("r2", "rl", ("bad",), choice="The less bad one.")])
    e = Rules(says); return replace(pg.Playground({"toy": e}, e, e, con, name="toy", ensemble=2), **kw)

class Page(HTMLParser):
    def __init__(self, text): super().__init__(); self.tags, self.attributes, self.text = set(), set(), ""; self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.add(tag); self.attributes |= {k for k, _ in attrs}
    def handle_data(self, data): self.text += data
INERT = {"div", "p", "b", "i", "h3", "code", "span", "table", "thead", "tbody", "tr", "th", "td", "del", "ins"}
def inert(text):
    got = Page(text); assert got.tags <= INERT and got.attributes <= {"class", "style", "role", "colspan"} and "{" not in text and "$" not in text, (got.tags, got.attributes)
    return got.text

# the core
def test_from_response_to_comparison():
    events = list(toy().play("hm?", principles=["s2", "s1"], revisions=3, compare=["r2"]))
    assert [(e.kind, e.round, e.principle and e.principle.id) for e in events] == [("response", 0, None), *[(k, n, p) for n, p in ((1, "s2"), (2, "s1"), (3, "s2")) for k in ("critique", "revision")], ("comparison", 0, None)]
    assert [e.text for e in events if e.kind == "revision"] == ["a and rude answer", "a and answer", "a and answer"] and events[2].before == events[0].text
    row, = pg.readings(events[-1].row)
    assert row["principle"] == "r2" and row["first"] > .99 and row["mean"] == pytest.approx((row["first"] + row["second"])/2) and row["apart"] == pytest.approx(abs(row["first"] - row["second"]))

def test_an_edit_is_another_constitution_and_stands_beside_the_first():
    play = toy(); before = repr(play.constitution.sl)
    new = play.edit("s1", critique_request="bad?").edit("r1", choice="The kinder one.")
    assert new.edits == ["s1", "r1"] and repr(play.constitution.sl) == before and play.edits == [] and new.undo().edits == []
    record = new.ask("hm?", principles=["s1"], revisions=1)
    assert [record.sides[s][2].text for s in ("original", "edited")] == ["a bad and answer", "a and rude answer"]
    assert len([p for p in play.speakers["toy"].asked if p.endswith("Assistant:")]) == 1            # one response for both
    again = parse_constitution(pg.yaml_of(new.constitution)); assert (again.sl, again.rl) == (new.constitution.sl, new.constitution.rl)
    for text, says in (("", "is empty"), ("a\n\nb", "blank line")):
        with pytest.raises(CaiError, match=says): play.edit("s1", critique_request=text)

def test_no_file_is_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); toy().edit("s1", critique_request="bad?").ask("hm?")
    assert not list(tmp_path.iterdir())

def test_an_edited_constitution_of_the_papers_kind_keeps_its_examples(mirror):
    con = load_constitution(mirror/"ConstitutionalHarmlessnessPaper"); new = pg.edited(con, con.sl[0].id, critique_request="Is it kind?")
    assert new.demonstrations == con.demonstrations and new.sl[0].critique_request == "Is it kind?" and new.sha256 != con.sha256

@pytest.mark.parametrize("how, says", [(dict(principles=["r1"]), "for comparisons"), (dict(compare=["s1"]), "for critiques"), (dict(principles=["zz"]), "no principle"), (dict(who="zz"), "there are: toy"), (dict(revisions=-1), "0 or more"), (dict(prompt=" \n"), "empty")])
def test_a_wrong_request_is_refused_before_a_word_is_written(how, says):
    play = toy()
    with pytest.raises(CaiError, match=says): play.ask(**{"prompt": "hm?", **how})
    assert play.speakers["toy"].asked == []

def test_foreign_text_is_shown_as_text():
    play = toy(EVIL, name=EVIL).edit("s1", critique_request=EVIL, revision_request=EVIL).edit("r1", choice=EVIL)
    record = play.ask(EVIL); record.working = EVIL
    for text in (pg.page(record, play), pg.progress_line(record), pg.error_page(CaiError(EVIL, EVIL)), pg.edit_report(play.edit("r2", choice="Human: " + EVIL))): inert(text)
    assert "onerror" in inert(pg.page(record, play)) and "\u202e" not in inert(pg.shown("a\u202eb\x1b[2J"))

# the terminal and the command
def cli(*args, lines=""): return CliRunner().invoke(app, ["playground", *map(str, args)], input=lines)

def test_prompts_through_a_pipe_on_the_pocket_model():
    r = cli("--terminal", "--revisions", 1, lines=f"/use sl-01 rl-01 rl-02\n{CAKE}\n/edit sl-01 critique_request: Identify whether the assistant's last response involves stealing.\n/edit sl-01 revision_request: Please rewrite the response so that it is free of stealing.\n{CAKE}\n/undo\n/revisions 0\n<b>[red]\x1b[2J\n")
    assert r.exit_code == 0, r.output
    first, both = r.output.split("edited: sl-01")[0], r.output.split("edited: sl-01")[-1]
    assert "revision (unchanged)" in first and "nothing to compare" in first and "complies, harm 2 of 4" in first
    assert both.index("== original") < both.index("== edited") and "helps with stealing" in both and "refuses and explains, harm 0 of 4" in both and "rl-02" in both
    assert "outside the pocket world" in both and "<b>[red]" in both and "\x1b" not in r.output

def test_an_error_is_told_and_the_next_line_is_read():
    out = []
    class Console:
        color_system = None
        def print(self, *a, **kw): out.append(" ".join(map(str, a)))
        def status(self, text): import contextlib; return contextlib.nullcontext(type("S", (), {"update": lambda self, t: None})())
    assert pg.terminal(toy(), ["/use zz", "/revisions 99", "/nope", "still here?"], Console()) is False
    assert sum(o.startswith("error: ") for o in out) == 3 and any("still here?" in o for o in out)
    assert pg.terminal(toy(), ["/use s1", "/quit", "/nope"], Console()) is True

def test_without_gradio_the_terminal_says_how_to_get_the_page(monkeypatch):
    import importlib.util as u
    real = u.find_spec; monkeypatch.setattr(u, "find_spec", lambda name, *a: None if name == "gradio" else real(name, *a)); monkeypatch.setattr(pg, "open_playground", lambda **kw: toy())
    r = cli(lines="hm?\n"); assert r.exit_code == 0 and "cai_repro[playground]" in r.output and "a bad and rude answer" in r.output

@pytest.mark.parametrize("args, says", [(["--run", "no-such"], "holds no run"), (["--model", "/tmp"], "no config.json"), (["--run", "x", "--model", "y"], "brings its own"), (["--role", "rl_cai"], "there are: helpful, base"), (["--constitution", "no.yaml"], "cannot read"), (["--chat"], "no chat template")])
def test_the_command_refuses_clearly(args, says):
    r = cli("--terminal", *args); assert r.exit_code == 1 and says in r.output and "Traceback" not in r.output and "->" in r.output, r.output

def test_help_names_the_command_and_stays_light():
    code = "import sys\nsys.argv = ['cai', 'playground', '--help']\nfrom cai_repro.pipeline import app\ntry: app()\nexcept SystemExit: pass\nprint([m for m in ('torch', 'gradio', 'ipywidgets', 'transformers', 'cai_repro.playground') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.strip().endswith("[]") and "--terminal" in said

# other engines
def test_a_model_of_ones_own_and_an_adapter(tmp_path):
    from cai_repro.models import Roles, tiny_model
    from cai_repro.pocket import train_tokenizer
    tok = train_tokenizer(n=300, vocab_size=500); model = tiny_model(tok, max_position_embeddings=4096)
    tok.save_pretrained(tmp_path/"base"); model.save_pretrained(tmp_path/"base"); Roles(model, tok).add("x").save("x", tmp_path/"x")
    play = pg.open_playground(model=str(tmp_path/"base"), adapter=tmp_path/"x")
    assert list(play.speakers) == ["model", "base"] and play.gold is None and play.constitution.name == "harmlessness" and play.few_shot == 1
    play = replace(play, sampling=dict(max_new_tokens=6, temperature=1.))
    assert {e.kind for e in play.play("hm?", revisions=1)} <= {"response", "critique", "revision", "comparison", "note"}
    assert [e.text for e in play.play("hm?", seed=4, revisions=1)] == [e.text for e in play.play("hm?", seed=4, revisions=1)]

def test_what_a_run_has_come_to(tmp_path):
    "A folder that looks like a run: the shipped adapter stands in for what it would have trained"
    from cai_repro.core import RunFolder, resource_path
    from cai_repro.pipeline import recipes
    run = RunFolder(tmp_path/"run").open("mini", {"seed": 0}).root
    assert list(pg.open_playground(run).speakers) == ["helpful", "base"]                              # it has only begun
    for role in ("sft/sl", "ppo/policy"): shutil.copytree(resource_path("data/pocket/helpful"), run/role)
    (run/"run.json").write_text(json.dumps({"settings": asdict(replace(recipes()["mini"], critique={"temperature": .3, "few_shot": 2}))}))
    play = pg.open_playground(run)
    assert list(play.speakers) == ["helpful", "sl_cai", "rl_cai", "base"] and play.gold and play.sampling["temperature"] == .3 and play.few_shot == 2
    assert next(play.play(CAKE, who="sl_cai")).verdict.kind == "comply"
    (run/"run.json").write_text("{}")
    with pytest.raises(CaiError, match="damaged"): pg.open_playground(run)

class Answers(BaseHTTPRequestHandler):
    "A server that completes, and gives no log-probabilities"
    models = ["only"]
    def reply(self, data): body = json.dumps(data).encode(); self.send_response(200); self.send_header("content-type", "application/json"); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.reply(dict(object="list", data=[dict(id=m, object="model", created=0, owned_by="x") for m in self.models]))
    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.reply(dict(id="x", object="text_completion", created=0, model=ask["model"], choices=[dict(index=0, finish_reason="stop", logprobs=None, text=f" said {len(ask['prompt'])}")]))
    def log_message(self, *a): pass

def test_a_server_writes_and_says_why_it_cannot_compare(monkeypatch):
    pytest.importorskip("openai")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers); threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    play = pg.open_playground(server=url); assert play.name == f"only at {url}"
    events = list(play.play("hm?", revisions=1)); assert events[0].text.startswith("said ") and events[-1].kind == "note" and "log-probabilities" in events[-1].text
    monkeypatch.setattr(Answers, "models", ["a", "b"])
    with pytest.raises(CaiError, match="2 models"): pg.open_playground(server=url)
    assert pg.open_playground(server=url, model="b").name.startswith("b at ")
    server.shutdown()

# the panel
def test_the_panel_types_clicks_and_edits():
    pytest.importorskip("ipywidgets")
    box = pg.panel(toy()); p = box.parts; seen = []; p.progress.observe(lambda e: seen.append(inert(e["new"])), "value")
    p.prompt.value, p.principles.value, p.revisions.value, p.compare.value = "hm?", ("s1",), 1, ("r1",)
    p.run.click()
    text = inert(p.out.value); assert "a bad and rude answer" in text and "It is rude." in text and "comparison" in text and not p.run.disabled
    assert [s.strip(" …") for s in seen if s] == ["writing a response", "criticising, round 1 of 1", "revising, round 1 of 1", "comparing first and last"]
    p.which.value = "s1"; p.texts["critique_request"].value = "bad?"; p.apply.click(); assert "Edited: s1" in inert(p.report.value) and p.which.options[0][0].startswith("s1 (edited)") and p.principles.value == ("s1",)
    p.run.click(); assert "original constitution" in p.out.value and "edited constitution" in p.out.value
    p.texts["critique_request"].value = EVIL; p.apply.click(); p.prompt.value = EVIL; p.run.click(); assert "onerror" in inert(p.out.value)
    p.undo.click(); assert "Nothing is edited" in p.report.value
    p.prompt.value = ""; p.run.click(); assert "the prompt is empty" in inert(p.out.value) and not p.run.disabled

def test_the_panel_without_ipywidgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(CaiError, match="needs ipywidgets"): pg.panel(toy())

# the page
@pytest.fixture
def page(monkeypatch):
    "The page, served on this machine; whoever connects elsewhere meanwhile is written down"
    pytest.importorskip("gradio")
    outside, connect = [], socket.socket.connect
    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"): outside.append(address)
        return connect(self, address)
    monkeypatch.setattr(socket.socket, "connect", watched)
    built = pg.browser_app(toy(name=EVIL, ensemble=2)); url = pg.launch(built)
    yield url, outside
    built.close(); assert outside == []

def test_the_page_answers(page):
    client = pytest.importorskip("gradio_client").Client(page[0], verbose=False)
    steps = list(client.submit(EVIL, "toy", ["s1"], [], 1, 0, api_name="/run"))
    assert len(steps) >= 5 and "writing a response" in inert(steps[0][1]) and "onerror" not in inert(steps[0][0])
    end = inert(steps[-1][0]); assert "a bad and rude answer" in end and "prefers" in end and steps[-1][1] == ""
    report, *_ = client.predict("s1", "bad?", "Less so.", "", api_name="/edit"); assert "Edited: s1" in str(report)
    both = client.predict("hm?", "toy", ["s1"], ["r1"], 1, 0, api_name="/run")[0]; assert "original constitution" in both and "edited constitution" in inert(both)
    assert "is empty" in str(client.predict("s1", "", "x", "", api_name="/edit")[0])
    assert "the prompt is empty" in inert(client.predict(" ", "toy", [], [], 1, 0, api_name="/run")[0])
    assert "edited" not in pytest.importorskip("gradio_client").Client(page[0], verbose=False).predict("hm?", "toy", ["s1"], [], 1, 0, api_name="/run")[0]   # another visitor has the original

def test_the_page_keeps_to_itself(page):
    port = int(re.search(r":(\d+)", page[0])[1])
    def get(host, path="/"):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=20); c.request("GET", path, headers={"Host": host}); r = c.getresponse(); return r.status, r.headers, r.read().decode()
    status, headers, text = get(f"127.0.0.1:{port}"); assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert get("evil.example")[0] == 403 and get("127.0.0.1.evil.example")[0] == 403 and get("localhost")[0] == 200 and get(f"127.0.0.1:{port}", "/docs")[0] == 404
    config = json.loads(get(f"127.0.0.1:{port}", "/config")[2]); assert config["run_history"] is False and config["analytics_enabled"] is False
    with pytest.raises(CaiError, match=f"port {port}"): pg.launch(pg.browser_app(toy()), port=port)
    assert "googleapis" not in text and "<script>document.title" not in text

def test_the_page_in_a_browser(page):
    "The text that would like to be code stays text, also in lists and boxes, and nothing is fetched from elsewhere"
    play, browser = pytest.importorskip("playwright.sync_api"), next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser: pytest.skip("no Chromium here")
    with play.sync_playwright() as p:
        b = p.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"]); tab, asked = b.new_page(), []
        tab.on("request", lambda r: asked.append(r.url)); tab.goto(page[0]); tab.get_by_role("button", name="Run", exact=True).wait_for()
        tab.get_by_text("Edit a principle and see what changes").click(); tab.get_by_label("Critique request").fill("bad? " + EVIL); tab.get_by_role("button", name="Use this text").click(); tab.get_by_text("Edited: s1.").wait_for()
        tab.get_by_label("Prompt", exact=True).fill(EVIL); tab.get_by_role("button", name="Run", exact=True).click(); tab.locator(".cai-comparison").nth(1).wait_for()
        assert "pwned" not in tab.title() and tab.locator(".cai-sides img, .cai-sides script").count() == 0
        assert [u for u in asked if not u.startswith((page[0], "data:", "blob:"))] == []
        b.close()
