"""The site under _docs/: every chapter as its notebook shows it, a reference of all exported names, the commands of `cai`.

Notebooks are read, never executed. `_proc/` gets a copy of them laid out as in the repository, so that links between files
mean the same here and there; Sphinx turns it into pages, and then every link and anchor of the built site is followed.
"""
import ast, base64, configparser, functools, importlib, inspect, re, shutil, sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
import nbformat

root = Path(__file__).resolve().parent.parent
work, out = root/"_proc", root/"_docs"
proc = work/"src"
ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
ini.read(root/"settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
git_url = cfg["git_url"].replace("%(user)s", cfg["user"]).replace("%(repo)s", cfg["repo"])

# --- what there is: notebooks, their titles, and which cell defines which name

def chapters() -> list[Path]:
    "Chapters in reading order, then tutorials in the order in which index.ipynb names them, unnamed ones last"
    index = (root/"nbs/index.ipynb").read_text(encoding="utf-8")
    named = lambda p: (p.name not in index, index.find(p.name), p.name)
    return sorted(p for p in (root/"nbs").glob("*.ipynb") if p.stem != "index") + sorted((root/"nbs/tutorials").glob("*.ipynb"), key=named)

read = functools.cache(lambda path: nbformat.read(path, as_version=4))
number = lambda path: (re.match(r"\d+\w*(?=_)", path.name) or [""])[0]

def title(path: Path) -> str:
    "The first heading of a notebook"
    return next(m[1].strip() for c in read(path).cells if c.cell_type == "markdown" for m in [re.search(r"^# (.+)$", c.source, re.M)] if m)

def directives(cell) -> set[str]:
    "`#| echo: false` is 'echo: false'"
    return {re.sub(r"\s*:\s*", ": ", m.strip()) for m in re.findall(r"^#\s*\|(.*)$", cell.source, re.M)} if cell.cell_type == "code" else set()

def module(path: Path) -> str | None:
    "The module that a notebook exports"
    return next((f"{cfg['lib_name']}.{d.split()[1]}" for c in read(path).cells for d in directives(c) if d.startswith("default_exp")), None)

def defined(cell) -> dict[str, str]:
    "Names that an export cell defines, with the comment behind a constant; a patched method is called Class.method"
    names, lines = {}, cell.source.split("\n")
    for n in ast.parse(cell.source).body if any(d.startswith("export") for d in directives(cell)) else []:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            patched = any("patch" in ast.unparse(d) for d in n.decorator_list) and n.args.args[0].annotation
            names |= {f"{c.id}.{n.name}": "" for c in ast.walk(patched) if isinstance(c, ast.Name)} if patched else {n.name: ""}
        for t in n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []:
            comment = re.match(r"\s*#\s*(.+)", lines[n.lineno - 1].encode()[n.end_col_offset:].decode()) if n.lineno == n.end_lineno else None
            names |= {x.id: comment[1] if comment else "" for x in ast.walk(t) if isinstance(x, ast.Name)}
    return names

@functools.cache
def places() -> dict[str, tuple[Path, str, str]]:
    "For each full name its notebook, the id of its cell, and its comment"
    return {f"{module(p)}.{name}": (p, c.id, said) for p in chapters() if module(p) for c in read(p).cells if c.cell_type == "code" for name, said in defined(c).items()}

# --- the copy in _proc/

def relink(text: str, folder: Path) -> str:
    "Markdown from `folder` with links to the README led to the front page and folders to the repository; linked files come along"
    def one(m):
        to, hash, anchor = m[2].partition("#")
        if not to or re.match(r"\w+:", to): return m[0]
        path = (folder/to).resolve()
        if path in (root/"README.md", root/"nbs/index.ipynb"): return f"{m[1]}{'../'*len(folder.relative_to(root).parts)}index.md{hash}{anchor})"
        if path.is_relative_to(root):
            rel = path.relative_to(root)
            if path.is_dir(): return f"{m[1]}{git_url}/tree/{cfg['branch']}/{rel.as_posix()})"
            if path.is_file() and path.suffix not in (".ipynb", ".md"): put(rel, path.read_bytes())
        return m[0]
    text = re.sub(r"!\[([^]]*)\]\(https?://[^()\s]+\)", r"\1", text)          # a page loads nothing from elsewhere: the words stand for a badge
    return re.sub(r"(\]\()([^()\s]+)\)", one, text)

def put(rel, content):
    "A file of the copy"
    to = proc/rel
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(content if isinstance(content, bytes) else content.encode())

def shown(path: Path):
    "A notebook as readers see it: hidden cells left out, directives taken off, an anchor before what is exported"
    nb, cells, md = read(path), [], nbformat.v4.new_markdown_cell
    for c in map(nbformat.from_dict, nb.cells):
        flags, c = directives(c), nbformat.from_dict(dict(c))
        if flags & {"hide", "include: false"}: continue
        if c.cell_type == "markdown":
            for name, data in c.pop("attachments", {}).items():
                put(path.parent.relative_to(root)/f"{c.id}-{name}", base64.b64decode(next(iter(data.values()))))
                c.source = c.source.replace(f"attachment:{name}", f"{c.id}-{name}")
            c.source = relink(c.source, path.parent)
        if c.cell_type == "code":
            if defined(c): cells.append(md(f"(cell-{c.id})="))
            c.source = re.sub(r"^#\s*\|.*\n?", "", c.source, flags=re.M).strip("\n")
            if flags & {"output: false", "hide_output"}: c.outputs = []
            if flags & {"echo: false", "hide_input"}: c.metadata = {"tags": ["remove-input"]}
            for o in c.outputs:
                if "text/markdown" in o.get("data", {}): o.data["text/markdown"] = relink(o.data["text/markdown"], path.parent)
        if c.source: cells.append(c)
    name, mod = path.relative_to(root).as_posix(), module(path)
    put(f"files/{name}", path.read_bytes())
    cells.append(md(f"---\n\nThis page is the notebook {{download}}`{name} </files/{name}>`." + (f" Its code is the module {{doc}}`{mod} </api/{mod}>`." if mod else "")))
    new = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    return nbformat.writes(new)

@functools.cache
def typer_app():
    "The Typer application behind `cai`"
    mod, name = dict(e.split("=") for e in cfg["console_scripts"].split())["cai"].split(":")
    return getattr(importlib.import_module(mod), name)

def commands() -> str:
    "All of `cai --help`, command by command"
    import typer
    from typer.cli import get_docs_for_click
    cmd = typer.main.get_command(typer_app())
    text = get_docs_for_click(obj=cmd, ctx=typer.Context(cmd), name="cai", title="Commands")
    return re.sub(r"\x08\n(.+?)\n\n", r"```text\n\1\n```\n\n", text, flags=re.S)   # \b keeps the lines of a paragraph

def reference(path: Path) -> str:
    "The page of a chapter's module: everything in its `__all__`, in the order of the source"
    mod = importlib.import_module(module(path))
    called = {c.callback for c in typer_app().registered_commands}
    page = [mod.__name__, "="*len(mod.__name__), "", (mod.__doc__ or "").strip(), "",
            f"Chapter {number(path)}: :doc:`/{path.relative_to(root).with_suffix('').as_posix()}`", "", f".. py:module:: {mod.__name__}", ""]
    for name in mod.__all__:
        o = getattr(mod, name)
        plain = isinstance(o, (str, int, float, tuple, list, dict, set, frozenset, re.Pattern)) and len(repr(o)) <= 200
        page += [f".. autoclass:: {name}\n   :members:\n   :undoc-members:" if isinstance(o, type) else
                 f".. autofunction:: {name}" + "(...)"*(o in called) if inspect.isfunction(o) else
                 f".. autodata:: {name}" + "\n   :no-value:"*(not plain), ""]
    return "\n".join(page)

def stage():
    "Write the copy"
    shutil.rmtree(work, ignore_errors=True)
    tree = lambda caption, entries: f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"
    entry = lambda p: f"{number(p)} {title(p)} </{p.relative_to(root).with_suffix('').as_posix()}>".strip()
    for p in chapters(): put(p.relative_to(root), shown(p))
    books = [p for p in chapters() if module(p)]
    for p in books: put(f"api/{module(p)}.rst", reference(p))
    put("api/index.md", "# Modules\n\nOne chapter, one module.\n\n| module | chapter |\n|---|---|\n"
        + "\n".join(f"| [{module(p)}]({module(p)}.rst) | [{number(p)} {title(p)}](/{p.relative_to(root).as_posix()}) |" for p in books)
        + "\n\nAll names: {ref}`index <genindex>`.\n" + tree("Modules", (module(p) for p in books)))
    put("api/commands.md", commands())
    pages = [p for pattern in ("*.md", "nbs/*.md", "benchmarks/*.md") for p in sorted(root.glob(pattern)) if p != root/"README.md"]
    for p in pages: put(p.relative_to(root), relink(p.read_text(encoding="utf-8"), p.parent))
    put("index.md", relink((root/"README.md").read_text(encoding="utf-8"), root)
        + tree("Chapters", map(entry, (p for p in chapters() if p.parent == root/"nbs"))) + tree("Tutorials", map(entry, (p for p in chapters() if p.parent != root/"nbs")))
        + tree("Reference", ["/api/commands", "/api/index"]) + tree("The project", (f"/{p.relative_to(root).with_suffix('').as_posix()}" for p in pages)))

# --- Sphinx, with two additions: MathML, and docments

SIGNS = "20-7E A0-FF 300-36F 391-3F5 2010-2044 2070-209C 2102-2124 2190-21FF 2200-22FF 2308-230B 27E8 27E9 1D434-1D467 1D4D0-1D503 1D538-1D56B 1D6A4-1D6E1 1D6FC-1D71B"
CSS = """@font-face { font-family: "STIX Two Math"; src: url(math.woff); }
math { font-family: "STIX Two Math", math; }
.cell_output table { font-size: 85%; border-collapse: collapse; }
.cell_output td, .cell_output th { padding: .2em .5em; vertical-align: top; border-bottom: 1px solid var(--color-background-border); }
@media (min-width: 82em) { .content { width: clamp(46em, 100vw - 37em, 60em); } }
"""

def static():
    "Our few style rules, and a font for formulas: few machines have one, and the one that ziamath carries is cut down to the signs in use"
    import ziamath
    from fontTools import subset
    put("_static/site.css", CSS)
    font = Path(ziamath.__file__).parent/"fonts/STIXTwoMath-Regular.ttf"
    subset.main([str(font), "--unicodes=" + ",".join(SIGNS.split()), "--layout-features=", "--flavor=woff", f"--output-file={proc/'_static/math.woff'}"])

def formula(display):
    "Visitor that writes a formula as MathML, so that pages need no script for it"
    def visit(self, node):
        from docutils.nodes import SkipNode
        from latex2mathml.converter import convert
        spaced = re.sub(r"(<mi>(?:log|ln|exp|max|min)</mi>)(?!<mo)", r'\1<mspace width="0.17em"/>', convert(node.astext(), display=display))
        self.body.append(spaced)
        raise SkipNode
    return visit

def rst(text: str, mod: str) -> str:
    "Our docstrings are plain text with `code`: nothing else in them is markup, and code that is a name of ours links to it"
    def code(name):
        found = [n for n in (f"{mod}.{name}",) if n in places()] or [n for n in places() if n.endswith(f".{name}") and n.count(".") == 2]
        return rf"\ :py:obj:`{name} <{found[0]}>`\ " if len(found) == 1 else rf"\ ``{name}``\ " if name.strip() else ""
    return "".join(code(part) if i % 2 else re.sub(r"([*|_\\])", r"\\\1", part) for i, part in enumerate(text.split("`")))

def describe(app, what, name, obj, options, lines):
    "The docstring, and what the comments behind parameters (docments) or a constant say"
    from fastcore.docments import docments
    mod = ".".join(name.split(".")[:2])
    command = next((c.name for c in typer_app().registered_commands if c.callback is obj), None)
    if command: lines[:] = [f"The command :doc:`cai {command} </api/commands>`. {rst(lines[0], mod)}"]; return
    if what == "data": lines[:] = [places()[name][2] if name in places() else ""]   # not the docstring of its type
    lines[:] = rst("\n".join(lines), mod).split("\n")
    if what in ("function", "method", "class"):
        try: params = docments(obj, full=True)
        except (TypeError, ValueError, OSError): params = {}
        said = [f"- {'returns' if k == 'return' else f'``{k}``'}: {rst(' '.join(v.docment.split()), mod)}" for k, v in params.items() if v.get("docment")]
        if said: lines += ["", *said]

def skip(app, what, name, obj, skip, options):
    "Fields of a class without a word of their own stand in its signature already"
    return True if what == "class" and not inspect.isroutine(obj) and not isinstance(obj, property) and not inspect.isclass(obj) else None

def source(domain: str, info: dict) -> str | None:
    "Where `[source]` leads: to the cell in the chapter"
    full = f"{info['module']}.{info['fullname']}"
    where = places().get(full) or places().get(full.rpartition(".")[0])
    return f"../{where[0].relative_to(root).with_suffix('.html').as_posix()}#cell-{where[1]}" if where else None

def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(formula("inline"), None), block_renderers=(formula("block"), None))
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-skip-member", skip)

def build():
    from sphinx.application import Sphinx
    conf = dict(project=cfg["title"], html_show_copyright=False, release=cfg["version"], root_doc="index", language="en",
        extensions=["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.githubpages", Path(__file__).stem],
        exclude_patterns=["files/**"], smartquotes=False, linkcode_resolve=source, add_module_names=False, maximum_signature_line_length=70,
        autodoc_preserve_defaults=True, autodoc_member_order="bysource",
        html_theme="furo", html_title=cfg["title"], html_copy_source=False, html_show_sourcelink=False, html_static_path=["_static"], html_css_files=["site.css"],
        html_math_renderer="mathml", nb_execution_mode="off", nb_merge_streams=True, nb_render_markdown_format="gfm", nb_ipywidgets_js={},
        myst_enable_extensions=["dollarmath", "amsmath"], myst_dmath_double_inline=True, myst_heading_anchors=4, suppress_warnings=["myst.header"])
    app = Sphinx(proc, None, work/"html", work/"doctrees", "html", confoverrides=conf, warningiserror=True, status=None)
    app.build()
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(work/"html", out)
    return app.statuscode

# --- what was built

def broken() -> list[str]:
    "Links to pages, files or anchors that are not there, and anything that a page would load from elsewhere"
    from bs4 import BeautifulSoup
    pages = {p: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in sorted(out.rglob("*.html"))}
    ids = {p: {e["id"] for e in soup.find_all(id=True)} for p, soup in pages.items()}
    wrong = []
    for page, soup in pages.items():
        for e in soup.find_all(["a", "link", "script", "img", "source", "iframe"]):
            url = urlsplit(e.get("href") or e.get("src") or "")
            say = lambda why: wrong.append(f"{page.relative_to(out)}: {url.geturl()} {why}")
            if url.scheme == "data": continue
            if url.scheme or url.netloc:
                if e.name != "a" and "canonical" not in e.get("rel", []): say("is loaded from elsewhere")
                continue
            to = (page.parent/unquote(url.path)).resolve() if url.path else page
            if to.is_dir(): to = to/"index.html"
            if not to.is_file(): say("is not there")
            elif url.fragment and to in ids and unquote(url.fragment) not in ids[to]: say("has no such anchor")
    said = {i for found in ids.values() for i in found}
    wrong += [f"{module(p)}.{name} is missing from the reference" for p in chapters() if module(p) for name in importlib.import_module(module(p)).__all__ if f"{module(p)}.{name}" not in said]
    return sorted(set(wrong))

if __name__ == "__main__":
    stage(); static()
    code, wrong = build(), broken()
    print("\n".join(wrong))
    print(f"{len(chapters())} chapters and tutorials, {len(list(out.rglob('*.html')))} pages in {out.relative_to(root)}/, {len(wrong)} broken links")
    sys.exit(bool(code or wrong))
