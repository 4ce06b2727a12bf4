"""The two tutorials for people with a card: their badge and address, their set-up beside the libraries that a machine brings, and both from end to end on a stand-in.

The resolution asks the package registry for a few files of metadata and is skipped where that cannot be reached.
CAI_REPRO_COLAB=1 does it for real besides: Colab's torch and the rest (some 3 GB), the set-up cell, and the notebook in what came of it.
"""
import configparser, json, os, re, shutil, subprocess, sys
from pathlib import Path

import nbformat, pytest
from packaging.utils import canonicalize_name

TUTORIALS = "nbs/tutorials"
BOTH = ("colab_t4", "own_gpu_7b")
COLAB = ("colab_t4", "quickstart", "your_constitution", "goodhart")     # those with a badge
HELD = ("torch", "torchvision", "transformers", "tokenizers", "huggingface-hub", "safetensors", "peft", "accelerate", "numpy")

@pytest.fixture(scope="session")
def address(root) -> str:
    "The repository's address, from settings.ini"
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None); ini.read(root/"settings.ini", encoding="utf-8"); d = ini["DEFAULT"]
    return d["git_url"].replace("%(user)s", d["user"]).replace("%(repo)s", d["repo"])

def notebook(root, name): return nbformat.read(root/TUTORIALS/f"{name}.ipynb", 4)
def text_of(nb): return "\n".join(c.source for c in nb.cells)
def said(cell) -> str: return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", []))

def set_up(root, name) -> str:
    "The source of a tutorial's set-up cell"
    found = [c.source for c in notebook(root, name).cells if c.cell_type == "code" and c.source.startswith("# set-up")]
    assert len(found) == 1
    return found[0]

def test_badge_and_addresses(root, address):
    "The badge opens this very notebook from the repository's default branch; no other address of a repository of ours stands anywhere"
    branch = re.search(r"^branch = (\S+)$", (root/"settings.ini").read_text(), re.M)[1]
    for name in COLAB:
        opened = re.findall(r"https://colab\.research\.google\.com/github/\S+?\.ipynb", notebook(root, name).cells[0].source)
        assert opened == [f"https://colab.research.google.com/github/{address.removeprefix('https://github.com/')}/blob/{branch}/{TUTORIALS}/{name}.ipynb"]
        assert set_up(root, name) == set_up(root, "colab_t4"), name
    for name in BOTH:
        text = text_of(notebook(root, name))
        assert f'SOURCE = "git+{address}"' in text and set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text)) == {address}, name

def test_outputs_say_whose_they_are(root):
    "Each cell that marks its output did so when it was executed, in the committed notebooks too; cells for a card have none, or name it"
    nb = notebook(root, "colab_t4")
    marked = [c for c in nb.cells if c.cell_type == "code" and re.search(r"^note\(", c.source, re.M)]
    assert len(marked) > 12 and all(said(c).startswith("[") for c in marked)
    assert not [c.source for c in nb.cells if c.cell_type == "code" and "cai(\"run\"" in c.source and c not in marked]
    for c in notebook(root, "own_gpu_7b").cells:
        if c.cell_type != "code": continue
        if c.source.startswith("#| gpu"): assert not c.outputs or "NVIDIA" in said(c), c.source
        elif re.search(r"(?<!too )\bsmall\b", c.source) and c.outputs: assert "[stand-in" in said(c), c.source

# ---- set-up, beside libraries that only seem to be there

def fresh(folder: Path) -> Path:
    "A new virtual environment; its Python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder/"bin"/"python"

def pretend(python: Path, pins: dict[str, str]) -> None:
    "Make pip believe that these are installed"
    site = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip())
    for name, version in pins.items():
        info = site/f"{name.replace('-', '_')}-{version}.dist-info"; info.mkdir()
        (info/"METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"); (info/"INSTALLER").write_text("pip\n"); (info/"RECORD").write_text("")

def pins_of(file: Path) -> dict[str, str]: return dict(re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(), re.M))

@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    "Is there one? (asked once, for a small package)"
    asked = subprocess.run([sys.executable, "-m", "pip", "--timeout", "20", "--retries", "0", "download", "--quiet", "--no-deps", "-d", tmp_path_factory.mktemp("asked"), "trl>=1.13"], capture_output=True, text=True)
    if asked.returncode: pytest.skip("the package registry cannot be reached: " + asked.stderr.strip()[-200:])

@pytest.fixture(scope="session")
def repository(root, tmp_path_factory, address):
    "A git repository of this tree, and an environment in which git finds it at the address of settings.ini"
    if not shutil.which("git"): pytest.skip("no git here")
    to = tmp_path_factory.mktemp("repository")/"it"; to.mkdir()
    for name in ("cai_repro", "constitutions", "data", "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "constraints.txt"):
        (shutil.copytree if (root/name).is_dir() else shutil.copy)(root/name, to/name)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "as it is"]): subprocess.run(["git", *words], cwd=to, check=True, capture_output=True)
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{to}.insteadOf", "GIT_CONFIG_VALUE_0": address}

DRY = """import subprocess
run = subprocess.run
subprocess.run = lambda words, **kw: run([*(w for w in words if w != "--quiet"), "--dry-run", "--report", {report!r}], **kw)
"""   # in front of a set-up cell: its pip resolves, says what it finds, and installs nothing

def run_cell(python: Path, source: str, folder: Path, **env):
    "A set-up cell in a process of its own, in a folder that is no checkout"
    folder.mkdir(exist_ok=True); (folder/"cell.py").write_text(source)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([python, "cell.py"], cwd=folder, env={**clean, **env}, capture_output=True, text=True)

def wanted(root) -> set[str]:
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None); ini.read(root/"settings.ini", encoding="utf-8")
    return {canonicalize_name(re.split(r"[<>=!~]", r)[0]) for r in ini["DEFAULT"]["requirements"].split()}

def resolved(root, name, tmp_path, pins, folder="content", **env) -> tuple[subprocess.CompletedProcess, dict[str, str]]:
    "What a tutorial's set-up cell would install beside `pins`"
    python, file = fresh(tmp_path/"venv"), tmp_path/"report.json"; pretend(python, pins)
    done = run_cell(python, DRY.format(report=str(file)) + set_up(root, name), tmp_path/folder, **env)
    report = json.loads(file.read_text())["install"] if file.exists() else []
    return done, {canonicalize_name(r["metadata"]["name"]): r["metadata"]["version"] for r in report}

def test_set_up_leaves_colabs_own_alone(root, tmp_path, registry, repository):
    pins = pins_of(root/"tests"/"colab.txt")
    done, new = resolved(root, "colab_t4", tmp_path, pins, **repository)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"cai-repro", "trl", "bitsandbytes"} <= new.keys() and not new.keys() & set(HELD), new
    assert not [n for n in new if n.startswith(("nvidia-", "torch"))]                          # no CUDA of another kind
    replaced = new.keys() & {canonicalize_name(n) for n in pins}
    assert replaced <= {"datasets", "pyarrow", "fastcore", "dill", "multiprocess", "fsspec"}, {n: new[n] for n in replaced}
    have = {canonicalize_name(k): v for k, v in pins.items()} | new
    assert not wanted(root) - have.keys()                                                       # all that we ask for is there or comes

def test_set_up_refuses_an_older_colab(root, tmp_path, registry, repository):
    "Rather an error than another torch or transformers"
    done, new = resolved(root, "colab_t4", tmp_path, pins_of(root/"tests"/"colab.txt") | {"transformers": "5.9.0"}, **repository)
    assert done.returncode != 0 and not new and "conflicting dependencies" in done.stderr and "transformers" in done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]

def test_set_up_of_ones_own_machine(root, tmp_path, registry):
    "In a checkout, beside the tested versions, nothing but the package is new"
    pins = pins_of(root/"constraints.txt"); pins.pop("trl"); pins.pop("bitsandbytes")
    for name in ("cai_repro", "constitutions", "data"): shutil.copytree(root/name, tmp_path/"it"/name)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "constraints.txt"): shutil.copy(root/name, tmp_path/"it"/name)
    (tmp_path/"it"/TUTORIALS).mkdir(parents=True)
    done, new = resolved(root, "own_gpu_7b", tmp_path, pins, folder=f"it/{TUTORIALS}"); assert done.returncode == 0, done.stderr[-3000:]
    tested = {canonicalize_name(k): v for k, v in pins_of(root/"constraints.txt").items()}
    assert new["cai-repro"] and new["trl"] == tested["trl"] and not new.keys() & {canonicalize_name(n) for n in pins}, new

def test_set_up_does_nothing_where_all_is_there(root, tmp_path):
    for name in BOTH:
        done = subprocess.run([sys.executable, "-c", set_up(root, name)], cwd=root/TUTORIALS, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
        assert done.returncode == 0 and "nothing installed" in done.stdout, done.stdout + done.stderr

# ---- from end to end

def execute(root, name, **env):
    "A tutorial executed as it stands, less the cells for a card"
    from nbclient import NotebookClient
    nb = notebook(root, name); nb.cells = [c for c in nb.cells if not c.source.startswith("#| gpu")]
    for c in nb.cells: c.get("outputs", []).clear()
    old = {k: os.environ.get(k) for k in env}; os.environ.update(env)
    try: NotebookClient(nb, timeout=1500, kernel_name="python3", coalesce_streams=True, resources={"metadata": {"path": str(root/TUTORIALS)}}).execute()
    finally:
        for k, v in old.items(): os.environ.pop(k) if v is None else os.environ.update({k: v})
    return nb

def test_colab_from_end_to_end(root, tmp_path):
    nb = execute(root, "colab_t4", CAI_REPRO_STANDIN=str(tmp_path), CAI_REPRO_PROMPTS="4", CUDA_VISIBLE_DEVICES="")
    out = next((tmp_path/"drive").glob("*-standin"))
    for f in ("assistant/helpful", "sft/sl", "preference/pm", "ppo/policy"): assert (out/f/"adapter_model.safetensors").exists()
    assert "stand-in" in json.loads((out/"run.json").read_text())["command"] or (out/"report.html").exists()
    text = "\n".join(said(c) for c in nb.cells if c.cell_type == "code")
    kept = int(re.search(r"killed: (\d+) of 4 dialogues", text)[1]); assert 0 < kept <= 4 and "what is there now: True (4 dialogues)" in text
    assert text.count("critiques and revisions") >= 5 and re.search(r"helpful-only responses\s+8 rows  kept", text)
    assert "RL-CAI: PPO" in text and "preferred to helpful-only" in text and "-rl-cai.zip" in text and "  RL-CAI: " in text
    assert (tmp_path/"drive"/f"{out.name}-rl-cai.zip").exists() and "SHARE = 0.25" in text

def test_own_gpu_from_end_to_end(root, tmp_path):
    nb = execute(root, "own_gpu_7b", CUDA_VISIBLE_DEVICES="")
    text = "\n".join(said(c) for c in nb.cells if c.cell_type == "code")
    for words in ("mistralai/Mistral-7B-v0.3: 7.25 billion parameters", "helpful-only SFT", "AI feedback", "preference model", "distributed_type: MULTI_GPU", "'generate'", "microbatch 2"): assert words in text, words

@pytest.mark.skipif(not os.environ.get("CAI_REPRO_COLAB"), reason="downloads some 3 GB: set CAI_REPRO_COLAB=1")
def test_colabs_versions_for_real(root, tmp_path, repository):
    "Colab's libraries, its set-up cell, its notebook; CAI_REPRO_COLAB may name the Python to use"
    python = tmp_path/"venv"/"bin"/"python"; base = os.environ["CAI_REPRO_COLAB"]
    subprocess.run([base if base != "1" else sys.executable, "-m", "venv", tmp_path/"venv"], check=True)
    pins = {k: v.split("+")[0] for k, v in pins_of(root/"tests"/"colab.txt").items() if k not in ("torchvision", "torchaudio", "triton", "fastai")}
    subprocess.run([python, "-m", "pip", "install", "--quiet", *[f"{k}=={v}" for k, v in pins.items()], "ipykernel", "nbclient"], check=True)
    done = run_cell(python, set_up(root, "colab_t4"), tmp_path/"content", **repository); assert done.returncode == 0 and "installed: cai_repro, trl, bitsandbytes" in done.stdout, done.stderr[-3000:]
    shutil.copy(root/TUTORIALS/"colab_t4.ipynb", tmp_path/"content"/"it.ipynb")
    code = "import nbformat; from nbclient import NotebookClient as C; nb = nbformat.read('it.ipynb', 4); C(nb, timeout=1500, kernel_name='python3').execute(); nbformat.write(nb, 'it.ipynb')"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run([python, "-c", code], cwd=tmp_path/"content", env={**env, "CAI_REPRO_PROMPTS": "4", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True); assert ran.returncode == 0, ran.stderr[-4000:]
    after = json.loads(subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True).stdout)
    have = {canonicalize_name(p["name"]): p["version"] for p in after}
    assert {n: have[n] for n in HELD if n in have and n in {canonicalize_name(k) for k in pins}} == {n: v for k, v in pins.items() if (n := canonicalize_name(k)) in HELD}
