"""Every command that README.md, CONTRIBUTING.md or a tutorial shows is run, and every Python block of README.md.

A command is run as it stands, from the top of a copy of the checkout (a git repository of its own), unless `INSTEAD` says what
is run in its place. `cai` runs in this process, with a `pocket` recipe of a dozen prompts.
"""
import contextlib, json, os, re, shlex, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cai_repro import pipeline

ROOT = Path(__file__).resolve().parent.parent
MAKE = "make -o $TRIED/.demo -o $TRIED/.dev -o $TRIED/.docs VENV=$TRIED "        # with the environment that runs this test

class See(str):
    "A test that runs the command already: file::function"

class Other(str):
    "A command of another program, which there is nothing to try about here: why"

INSTEAD = { # what is documented -> what is run, a test that runs it, or why nothing is
    "make demo": MAKE + "-n demo",
    "make test": MAKE + "-n test",
    "make docs": MAKE + "-n docs",
    "make dev": "make -n dev",
    "make canary": MAKE + "-n canary && python tools/canary.py --help",
    'make chapters CHAPTERS="00 07"': MAKE + "chapters CHAPTERS=00 TO=runs/chapters",
    "cai run --constitution mine.yaml --prompts mine.txt": "cai run --constitution mine.yaml --prompts mine.txt --dry-run",
    "cai run --rl dpo": "cai run --rl dpo --dry-run",
    "cai run --recipe pocket --out runs/quickstart": "cai run --recipe pocket --out runs/quickstart --dry-run",
    "cai playground": See("tests/test_playground.py::test_without_gradio_the_terminal_says_how_to_get_the_page"),
    "cai eval --model FOLDER --suite hhh438": "cai eval --model data/pocket/base --suite hhh438 --limit 2",
    "cai claims --only C5,C7": "cai claims --only C1 --seeds 1 --quick",
    "cai claims": "cai claims --only C2 --seeds 1 --quick",
    ". .venv/bin/activate": "python -m venv --without-pip .venv && . .venv/bin/activate",
    "nbdev_export": See("tests/test_package.py::test_export_and_clean_change_nothing"),
    "nbdev_clean": See("tests/test_package.py::test_export_and_clean_change_nothing"),
    "python tools/readme.py": See("tests/test_package.py::test_readme_is_index"),
    "python -m pytest tests/test_package.py": "python -m pytest tests/test_package.py --collect-only -q",
    "python benchmarks/seeds.py": "python benchmarks/seeds.py --help",
    "python benchmarks/ppo.py": See("tests/test_benchmarks.py::test_ppo"),
    "python -m venv /tmp/check": "python -m venv --without-pip check",
    "/tmp/check/bin/pip install -c constraints.txt dist/*.whl": See("tests/test_package.py::test_wheel_finds_its_resources"),
    "(cd /tmp && /tmp/check/bin/cai run --recipe mini)": "cai run --recipe mini --dry-run",
    "git clone https://github.com/cai-repro/cai_repro": "git clone -q . runs/clone",
    "make .venv/.demo": "make -n .venv/.demo",
    "hf auth login": "hf auth login --help",
    "hf auth whoami": "hf auth whoami --help",
    "tmux new -s cai": Other("a window that stays open"),
    "cai run --recipe rtx-24gb-7b --out runs/7b --tensorboard runs/7b-board": "cai run --recipe rtx-24gb-7b --out runs/7b --dry-run --card 'RTX 3090'",
    "nohup cai run --recipe rtx-24gb-7b --out runs/7b > 7b.log 2>&1 &": "nohup cai run --recipe rtx-24gb-7b --out runs/7b --dry-run --card 'RTX 3090' > 7b.log 2>&1",
    "tensorboard --logdir runs/7b-board --port 6006": Other("looks at what --tensorboard wrote, where TensorBoard is installed"),
    "ssh -L 6006:localhost:6006 you@machine": Other("leads a port to another machine"),
    "accelerate launch --config_file data/accelerate/ddp.yaml --num_processes 2 .venv/bin/cai run --recipe rtx-24gb-7b --out runs/7b": See("tests/test_processes.py::test_launch_file_is_understood"),
    "accelerate launch --config_file data/accelerate/fsdp.yaml --num_processes 2 mine.py": See("tests/test_processes.py::test_a_base_in_pieces_learns_the_same"),
}

def cells(path: Path, kind: str) -> list[str]:
    "Sources of a notebook's cells of a kind"
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]

def blocks(text: str, *languages: str) -> list[str]:
    "Fenced blocks in one of these languages"
    return [b for lang, b in re.findall(r"^```[ ]*\{?\.?(\w*)\}?[^\n]*\n(.*?)^```", text, re.M | re.S) if lang in languages]

def commands(block: str) -> list[str]:
    "Lines of a shell block without prompts and comments, continued lines joined"
    lines = re.sub(r"\\\n\s*", "", block).split("\n")
    return [c for line in lines if (c := re.sub(r"(^|\s)#(\s.*)?$", "", line.strip()).removeprefix("$ ").strip())]

def documented() -> dict[str, str]:
    "Each command, with where it stands"
    found, texts = {}, {name: (ROOT/name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
    for p in sorted((ROOT/"nbs/tutorials").glob("*.ipynb")):
        texts[p.name] = "\n\n".join(cells(p, "markdown"))
        for code in cells(p, "code"):
            shell = re.match(r"(?:#\|.*\n)*%%(?:bash|sh)\s*\n(.*)", code, re.S)
            for c in commands(shell[1]) if shell else [m.strip() for m in re.findall(r"^\s*(?:!|%(?=pip\b))(.+)$", code, re.M)]: found.setdefault(c, p.name)
    for name, text in texts.items():
        for block in blocks(text, "sh", "bash", "shell", "console"):
            for c in commands(block): found.setdefault(c, name)
    return found

@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The checkout as a git repository of its own, with files that a reader is told to bring"
    to = tmp_path_factory.mktemp("documented")/"cai_repro"
    shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(".git", ".venv", "venv", "__pycache__", "*.egg-info", "build", "dist", "runs", "_docs", "_proc", ".ipynb_checkpoints", ".pytest_cache", "*.tmp"))
    (to/"mine.yaml").write_text((to/"constitutions/pocket.yaml").read_text(encoding="utf-8").replace("name: pocket", "name: mine"), encoding="utf-8")
    (to/"mine.txt").write_text("How do I steal the red bike?\nHow do I break into the shed?\n")
    shell("git init -q && git add -A && git commit -qm all", to)
    return to

def shell(command: str, cwd: Path):
    "Run it with this interpreter's programs first on the path, a home of its own, and no network for models"
    own = cwd.parent
    if not (own/"env").exists(): (own/"env").symlink_to(sys.prefix)
    env = os.environ | dict(HOME=str(own), TRIED=str(own/"env"), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(cwd), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1",
                            GIT_AUTHOR_NAME="test", GIT_AUTHOR_EMAIL="test@localhost", GIT_COMMITTER_NAME="test", GIT_COMMITTER_EMAIL="test@localhost")
    done = subprocess.run(["bash", "-ec", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

@pytest.fixture(scope="module")
def tiny() -> pipeline.Recipe:
    "The pocket recipe with a dozen prompts and a single step"
    few = {"red_team": 12, "benign": 12, "red_team_pairs": 12, "contrast_pairs": 8, "benign_pairs": 12, "rl": 8, "held_out": 8}
    return replace(pipeline.recipes()["pocket"], prompts=few, sft={"epochs": 1}, ppo={"steps": 1, "rollouts_per_step": 8, "minibatch": 4, "epochs": 1})

def cai(command: str, cwd: Path, tiny, monkeypatch):
    "A `cai` command in this process"
    shipped, run = pipeline.recipes(), pipeline.run
    monkeypatch.setattr(pipeline, "recipes", lambda: shipped | {"pocket": tiny})
    if " compare " in command:                                              # of two runs; both are the one that "cai run" made
        made = cwd/"runs/mine"
        if not made.exists(): run(tiny, made, seed=1, progress=pipeline.PlainProgress(lambda s: None))
        monkeypatch.setattr(pipeline, "run", lambda recipe, out, **k: shutil.copytree(made, out))
    with contextlib.chdir(cwd): r = CliRunner().invoke(pipeline.app, shlex.split(command)[1:])
    assert r.exit_code == 0, f"{command}\n{r.output[-3000:]}"

@pytest.mark.parametrize("command", documented())
def test_command(command, copy, tiny, monkeypatch, request):
    run = INSTEAD.get(command, command)
    if isinstance(run, Other): return
    if isinstance(run, See):
        file, name = run.split("::")
        assert f"\ndef {name}(" in (ROOT/file).read_text(encoding="utf-8"), f"no such test: {run}"
    elif run.startswith("cai "):
        if run.startswith("cai eval"): monkeypatch.setenv("CAI_REPRO_MIRROR", str(request.getfixturevalue("mirror")))
        cai(run, copy, tiny, monkeypatch)
    else: shell(run, copy)

def test_no_entry_is_left_over():
    assert not set(INSTEAD) - set(documented()), "documented nowhere: take them out of INSTEAD"

@pytest.fixture
def stand_in(tmp_path, monkeypatch, recipe, whole):
    "A folder where runs/mine is a finished run, and a process in which any model id of the Hub is a tiny model with a chat template"
    from transformers import AutoTokenizer
    from cai_repro import generate
    shutil.copytree(whole[0], tmp_path/"runs/mine"); shutil.copytree(recipe.base, tmp_path/"base")
    tok = AutoTokenizer.from_pretrained(tmp_path/"base"); tok.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"; tok.save_pretrained(tmp_path/"base")
    load, is_id = generate.load_base, lambda model: re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) and not Path(model).exists()
    monkeypatch.setattr(generate, "load_base", lambda model, **k: load(tmp_path/"base" if is_id(model) else model, **k)); monkeypatch.chdir(tmp_path)

@pytest.mark.parametrize("code", blocks((ROOT/"README.md").read_text(encoding="utf-8"), "python"))
def test_python_of_the_readme(code, stand_in): exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})

def spans() -> list[tuple[str, str]]:
    "Every `cai ...` inside a sentence of the README or of a notebook"
    texts = {"README.md": (ROOT/"README.md").read_text(encoding="utf-8"), "CONTRIBUTING.md": (ROOT/"CONTRIBUTING.md").read_text(encoding="utf-8")}
    for p in sorted((ROOT/"nbs").rglob("*.ipynb")): texts[p.name] = "\n\n".join(cells(p, "markdown"))
    return [(name, c) for name, text in texts.items() for c in re.findall(r"(?<!`)`(cai [^`\n]+)`(?!`)", text)]

def test_commands_in_sentences_exist():
    "Subcommand and options; placeholders and values are not looked at"
    group = get_command(pipeline.app)
    wrong = []
    for name, c in spans():
        words = re.split(r"[\s\[\]|=]+", c)[1:]
        sub = group if words[0].startswith("-") else group.commands.get(words[0])
        known = {o for p in sub.params for o in (*p.opts, *p.secondary_opts)} | {"--help"} if sub else set()
        if not sub or not {w for w in words if w.startswith("--")} <= known: wrong.append(f"{name}: {c}")
    assert not wrong, wrong
