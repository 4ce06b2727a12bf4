"The package as others get it: metadata, what a wheel holds, notebooks and modules in step."
import configparser, filecmp, json, os, re, shlex, shutil, subprocess, sys, zipfile
from importlib import metadata
from pathlib import Path
import pytest

def run(*args, cwd, **env):
    done = subprocess.run(list(map(str, args)), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout

def settings(root):
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(root / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]

@pytest.fixture(scope="session")
def copy(root, tmp_path_factory):
    "A copy of what git would track, without build leftovers"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".ipynb_checkpoints", "*.tmp")
    to = tmp_path_factory.mktemp("copy")
    for name in ("cai_repro", "constitutions", "data", "nbs", "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "constraints.txt"):
        if (root / name).is_dir(): shutil.copytree(root / name, to / name, ignore=ignore)
        elif (root / name).exists(): shutil.copy(root / name, to / name)
    return to

@pytest.fixture(scope="session")
def wheel(copy, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy, cwd=out)
    return next(out.glob("*.whl"))

def test_notebooks_are_light(root):
    "No widget state, which pages without a kernel cannot show, and nothing that takes long to load"
    for p in sorted((root/"nbs").rglob("*.ipynb")):
        nb = json.loads(p.read_text(encoding="utf-8"))
        assert "widgets" not in nb["metadata"] and p.stat().st_size < 1.5e6, p
        kinds = {kind for c in nb["cells"] for o in c.get("outputs", []) for kind in o.get("data", {})}
        assert not [k for k in kinds if "jupyter.widget" in k], f"{p}: a widget among the outputs"

def test_cells_have_names_of_their_own(root):
    for p in sorted((root/"nbs").rglob("*.ipynb")):
        names = [c["id"] for c in json.loads(p.read_text(encoding="utf-8"))["cells"]]
        assert len(set(names)) == len(names), (p, sorted(n for n in set(names) if names.count(n) > 1))

def test_metadata(root):
    cfg, dist = settings(root), metadata.distribution("cai_repro")
    import cai_repro
    assert dist.version == cai_repro.__version__ == cfg["version"]
    assert [e.name for e in dist.entry_points if e.group == "console_scripts"] == ["cai"]
    assert "version" not in (root / "pyproject.toml").read_text()   # settings.ini is the one source
    wanted = {re.split(r"[<>=!~\[; ]", r)[0].lower() for r in dist.requires if "extra" not in r}
    assert wanted == {re.split(r"[<>=!~]", r)[0].lower() for r in shlex.split(cfg["requirements"])}

def test_constraints_hold_every_requirement(root):
    "Each requirement has a tested version, within the range that settings.ini allows"
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(k): v for k, v in pins.items()}
    cfg = settings(root)
    for text in (t for key in cfg if key.endswith("requirements") and not key.startswith("vllm") for t in shlex.split(cfg[key])):   # vLLM wants other versions of its own
        r = Requirement(text)
        assert canonicalize_name(r.name) in pins, f"constraints.txt has no tested version of {r.name}"
        assert r.specifier.contains(pins[canonicalize_name(r.name)]), f"{text} excludes the tested {pins[canonicalize_name(r.name)]}"

def test_wheel_carries_constitutions_and_data(copy, wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ("constitutions", "data"):
        files = [p.relative_to(copy).as_posix() for p in (copy / top).rglob("*") if p.is_file()]
        assert files and {f"cai_repro/_resources/{f}" for f in files} <= names
    assert not [n for n in names if n.split("/")[0] in ("nbs", "tests", "tools", "build")]
    assert "cai_repro/core.py" in names
    assert [n for n in names if n.endswith("LICENSE")]

def test_wheel_carries_types(wheel, tmp_path):
    "`py.typed`, and for each module with `@patch` a stub in which the methods stand in their classes"
    import ast
    names = zipfile.ZipFile(wheel); names.extractall(tmp_path); home = tmp_path / "cai_repro"
    assert (home / "py.typed").exists()
    patched = {p.stem for p in home.glob("*.py") if "\n@patch" in p.read_text(encoding="utf-8")}
    assert patched == {p.stem for p in home.glob("*.pyi")} and {"models", "generate", "constitution", "core"} <= patched
    def methods(module, cls): return {n.name: n for c in ast.parse((home / f"{module}.pyi").read_text(encoding="utf-8")).body if isinstance(c, ast.ClassDef) and c.name == cls for n in c.body if isinstance(n, ast.FunctionDef)}
    roles, parse = methods("models", "Roles"), methods("core", "Dialogue")["parse"]
    assert {"add", "load", "save", "use", "trainable", "device"} <= set(roles) and {"generate", "choose"} <= set(methods("generate", "LocalEngine")) and "draw" in methods("constitution", "Constitution")
    assert [ast.unparse(d) for d in parse.decorator_list] == ["classmethod"] and [ast.unparse(d) for d in roles["big"].decorator_list] == ["property"] and ast.unparse(roles["add"].returns) == "'Roles'"

def test_wheel_names_its_extras(root, wheel):
    "Each `NAME_requirements` of settings.ini is an extra, and none is required without it"
    names = zipfile.ZipFile(wheel)
    meta = names.read(next(n for n in names.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    extras = {k.removesuffix("_requirements"): shlex.split(v) for k, v in settings(root).items() if k.endswith("_requirements")}
    assert set(extras) == set(re.findall(r"^Provides-Extra: (\S+)$", meta, re.M)) and "vllm" in extras
    for extra, wanted in extras.items():
        found = re.findall(rf'^Requires-Dist: ([\w.-]+)[^;\n]*; extra == "{extra}"$', meta, re.M)
        assert {n.lower() for n in found} == {re.split(r"[<>=!~]", r)[0].lower() for r in wanted}

def test_wheel_finds_its_resources(wheel, tmp_path):
    "What a plain `pip install .` unpacks works away from any checkout"
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    found = run(sys.executable, "-c", "import cai_repro.core as c; from cai_repro.constitution import load_constitution as l; print(c.__file__); print(c.resource_path('constitutions/harmlessness.yaml')); print(len(l('harmlessness').sl))",
                cwd=tmp_path, PYTHONPATH=str(tmp_path / "site")).split()
    assert all(str(tmp_path / "site" / "cai_repro") in f for f in found[:2]) and "_resources" in found[1] and found[2] == "16"

def test_export_and_clean_change_nothing(copy, tmp_path):
    "The modules are what the notebooks say, and the notebooks are clean"
    bin, work = Path(sys.executable).parent, tmp_path / "tree"
    shutil.copytree(copy, work)
    run(bin / "nbdev_export", cwd=work); run(bin / "nbdev_clean", cwd=work)
    for top in ("cai_repro", "nbs"):
        names = lambda d: {p.relative_to(d) for p in (d / top).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert names(work) == names(copy)
        changed = [str(n) for n in names(copy) if not filecmp.cmp(copy / n, work / n, shallow=False)]
        assert not changed, f"run nbdev_export and nbdev_clean: {changed}"

def test_readme_is_index(root, tmp_path):
    "README.md is what tools/readme.py makes of nbs/index.ipynb"
    out = run(sys.executable, root / "tools" / "readme.py", "--stdout", cwd=root)
    assert out == (root / "README.md").read_text(encoding="utf-8"), "run `make readme`"

def test_modules_import_without_heavy_libraries():
    "So that `cai --help` answers at once"
    light = "core constitution data pocket critique feedback evaluate figures hardware pipeline share playground".split()
    code = "import sys, importlib, importlib.util as u\nfor m in %r:\n    if u.find_spec('cai_repro.'+m): importlib.import_module('cai_repro.'+m)\nprint(sorted({'torch','transformers','trl','peft','datasets','matplotlib','bitsandbytes','scipy','pandas'} & set(sys.modules)))" % light
    assert run(sys.executable, "-c", code, cwd=Path(__file__).parent).strip() == "[]"

def test_official_files_load_through_the_mirror(mirror, monkeypatch):
    monkeypatch.setenv("CAI_REPRO_MIRROR", str(mirror))
    from cai_repro.constitution import load_official
    from cai_repro.data import fetch_official, hh_rlhf_prompts
    official = load_official(fetch_official("prompts"))
    assert (len(official.sl), len(official.rl)) == (16, 16)
    assert len(hh_rlhf_prompts(fetch_official("hh-rlhf"))) > 1000
