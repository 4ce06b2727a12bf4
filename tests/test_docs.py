"The site builder: what readers get to see of a notebook, and that a broken link is noticed. (`make docs` builds the real thing.)"
import json

import nbformat
import pytest

pytest.importorskip("bs4")

@pytest.fixture
def docs(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root/"tools"))
    import docs
    return docs

@pytest.fixture
def checkout(docs, tmp_path, monkeypatch):
    "A checkout of one chapter and one tutorial"
    code, md = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    out = [nbformat.v4.new_output("stream", text="said\n")]
    book = [code("#| default_exp thing"), md("# A thing\n\n> It does\n\nSee [it](tutorials/first.ipynb), [data](../data/x.json), [there](../data) and [home](../README.md#top)."),
            code("#| export\nLIMIT = 3   # how many\ndef f(x): # a number\n    return x\n@patch\ndef go(self:Thing): return 1", id="aaaa0001"),
            code("#| hide\nsecret = 1"), code("#| slow\nf(2)", outputs=out), code("#|echo: false\nf(3)", outputs=out), code("#| output: false\nf(4)", outputs=out)]
    (tmp_path/"nbs/tutorials").mkdir(parents=True); (tmp_path/"data").mkdir(); (tmp_path/"data/x.json").write_text("{}")
    nbformat.write(nbformat.v4.new_notebook(cells=book), tmp_path/"nbs/07_thing.ipynb")
    for name in ("second", "first", "extra"): nbformat.write(nbformat.v4.new_notebook(cells=[md(f"# The {name}")]), tmp_path/f"nbs/tutorials/{name}.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=[md("[1](nbs/tutorials/first.ipynb) [2](nbs/tutorials/second.ipynb)")]), tmp_path/"nbs/index.ipynb")
    for name, value in dict(root=tmp_path, work=tmp_path/"_proc", proc=tmp_path/"_proc/src", out=tmp_path/"_docs").items(): monkeypatch.setattr(docs, name, value)
    docs.read.cache_clear(); docs.places.cache_clear()
    yield tmp_path
    docs.read.cache_clear(); docs.places.cache_clear()

def test_order_titles_and_names(docs, checkout):
    assert [docs.title(p) for p in docs.chapters()] == ["A thing", "The first", "The second", "The extra"]
    book = docs.chapters()[0]
    assert (docs.number(book), docs.module(book)) == ("07", "cai_repro.thing")
    assert {k: v[1:] for k, v in docs.places().items()} == {f"cai_repro.thing.{n}": ("aaaa0001", c) for n, c in (("LIMIT", "how many"), ("f", ""), ("Thing.go", ""))}

def test_directives_are_honoured(docs, checkout):
    cells = json.loads(docs.shown(docs.chapters()[0]))["cells"]
    text = ["".join(c["source"]) for c in cells]
    assert "secret" not in "".join(text) and "#|" not in "".join(text) and not any("default_exp" in t for t in text)
    assert text[text.index("(cell-aaaa0001)=") + 1].startswith("LIMIT = 3")
    code = {s: c for s, c in zip(text, cells) if c["cell_type"] == "code"}
    assert code["f(2)"]["outputs"] and code["f(3)"]["metadata"]["tags"] == ["remove-input"] and not code["f(4)"]["outputs"]

def test_links_lead_on(docs, checkout):
    text = "".join("".join(c["source"]) for c in json.loads(docs.shown(docs.chapters()[0]))["cells"])
    assert "(tutorials/first.ipynb)" in text and "(../data/x.json)" in text and "(../index.md#top)" in text
    assert f"({docs.git_url}/tree/main/data)" in text
    assert (docs.proc/"data/x.json").read_text() == "{}"        # a linked file comes along

def test_broken_links_are_found(docs, checkout, monkeypatch):
    docs.out.mkdir()
    (docs.out/"b.html").write_text('<h1 id="here">B</h1>')
    (docs.out/"a.html").write_text('<a href="b.html#here">1</a><a href="https://example.org">2</a><a href="#no">3</a><a href="c.html">4</a><a href="b.html#gone">5</a>'
                                   '<script src="https://example.org/x.js"></script><img src="data:image/png;base64,AA">')
    monkeypatch.setattr(docs, "module", lambda path: None)      # no reference here
    assert docs.broken() == ["a.html: #no has no such anchor", "a.html: b.html#gone has no such anchor", "a.html: c.html is not there", "a.html: https://example.org/x.js is loaded from elsewhere"]

# ---- its neighbours in tools/

def test_chapters_run_whole_but_for_cells_of_a_card(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(root/"tools"))
    import chapters
    code = nbformat.v4.new_code_cell
    for name, last in (("good", "7"), ("bad", "1/0")):
        nbformat.write(nbformat.v4.new_notebook(cells=[code("#| slow\n6*7"), code("#| gpu\n1/0", outputs=[nbformat.v4.new_output("stream", text="from a card\n")]), code(last)]), tmp_path/f"{name}.ipynb")
    assert chapters.execute(tmp_path/"good.ipynb", tmp_path/"to/good.ipynb") is None
    done = nbformat.read(tmp_path/"to/good.ipynb", as_version=4).cells
    assert done[0].outputs[0].data["text/plain"] == "42" and done[1].outputs[0].text == "from a card\n" and not done[1].metadata
    before = (tmp_path/"bad.ipynb").read_bytes()
    assert "ZeroDivisionError" in chapters.execute(tmp_path/"bad.ipynb", tmp_path/"bad.ipynb") and (tmp_path/"bad.ipynb").read_bytes() == before

def test_canary_says_what_moved(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root/"tools"))
    import canary
    pins = canary.pins()
    said = canary.report({**pins, "torch": "99.0+cpu", "numpy": pins["numpy"] + "+local"}, {"install": 60.}, ["FAILED x"])
    assert f"{pins['torch']} -> 99.0+cpu" in said and said.count(" -> ") == 1 and f"numpy {pins['numpy']}" in said and said.endswith("failed:\n  FAILED x")
