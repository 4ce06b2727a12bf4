"""Do the newest releases of what we stand on still carry us? A fresh environment without constraints.txt, then the tests.

    python tools/canary.py                                  environment, tests, report
    python tools/canary.py --only tests                     without the notebooks
    python tools/canary.py --pip='--extra-index-url URL'    options for every `pip install`, such as an index with CPU builds of torch

It works on a copy of the checkout and takes away what it made (unless --keep). Notebooks are tested without their slow cells. Status 0: all passed.
"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tempfile, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "venv", "__pycache__", "*.egg-info", "build", "dist", "runs", "_docs", "_proc", ".ipynb_checkpoints", ".pytest_cache", "*.tmp")
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()

def run(*args, cwd: Path, **env) -> tuple[int, str]:
    "Exit status of a command, and all it said"
    done = subprocess.run([str(a) for a in args], cwd=cwd, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout

def pins() -> dict[str, str]:
    "Package -> version of constraints.txt"
    return {plain(k): v for k, v in re.findall(r"^([\w.-]+)==(\S+)$", (root/"constraints.txt").read_text(encoding="utf-8"), re.M)}

def report(taken: dict[str, str], seconds: dict[str, float], failed: list[str]) -> str:
    "What was taken, what differs from constraints.txt, what failed"
    known = pins()
    differ = [f"  {n:18} {known[n]:>14} -> {v}" for n, v in sorted(taken.items()) if n in known and v.split("+")[0] != known[n]]
    same = [f"{n} {v}" for n, v in sorted(taken.items()) if n in known and v.split("+")[0] == known[n]]
    return "\n".join([f"\nPython {sys.version.split()[0]}, {len(taken)} packages; " + ", ".join(f"{k} {s/60:.1f} min" for k, s in seconds.items()),
                      "\nother than in constraints.txt:", *(differ or ["  nothing"]), "\nas in constraints.txt: " + (", ".join(same) or "nothing"),
                      "\nnot installed: " + (", ".join(sorted(set(known) - set(taken))) or "nothing"),
                      "\nfailed:" if failed else "\nAll passed.", *(f"  {f}" for f in failed)])

def canary(work: Path, pip: list[str], only: str | None) -> int:
    "Make the environment in `work`, run the checks, print the report"
    copy, seconds, failed = work/"cai_repro", {}, []
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, ignore=LEFT_OUT)
    subprocess.run([sys.executable, "-m", "venv", str(work/"venv")], check=True)      # one that is there already stays
    bin = work/"venv"/("Scripts" if os.name == "nt" else "bin")
    def step(name, *args, **env):
        print(f"{name} ...", flush=True); start = time.time()
        code, said = run(*args, cwd=copy, **env)
        seconds[name] = time.time() - start
        (work/f"{name}.txt").write_text(said, encoding="utf-8")
        return code, said
    code, said = step("install", bin/"python", "-m", "pip", "install", "--upgrade", *pip, "-e", ".[dev]")
    if code: print(said[-4000:]); return 1
    taken = {plain(p["name"]): p["version"] for p in json.loads(run(bin/"python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check", cwd=work)[1].split("\n")[0])}
    quiet = dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1", MPLBACKEND="agg", CAI_REPRO_PROGRESS="0", OMP_NUM_THREADS="1",
                 PATH=f"{bin}{os.pathsep}{os.environ['PATH']}", PYTHONPATH="", VIRTUAL_ENV=str(work/"venv"))
    if only in (None, "notebooks"):
        code, said = step("notebooks", bin/"nbdev_test", "--n_workers", "1", **quiet)
        if code: failed += re.findall(r"^\t(\S+\.ipynb)$", said, re.M) or [f"nbdev_test ended with status {code}: {said[-2000:]}"]
    if only in (None, "tests"):
        code, said = step("tests", bin/"python", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", **quiet)
        if code: failed += re.findall(r"^(?:FAILED|ERROR) .+", said, re.M) or [f"pytest ended with status {code}: {said[-2000:]}"]
        print(said.strip().split("\n")[-1].strip("= "))
    print(report(taken, seconds, failed))
    return bool(failed)

if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--only", choices=["notebooks", "tests"], help="half of the checks")
    ask.add_argument("--pip", type=shlex.split, default=[], help="options for pip install")
    ask.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and leave it, with what each step said; given again, its environment is brought up to date and used")
    args = ask.parse_args()
    if args.keep: args.keep.mkdir(parents=True, exist_ok=True); sys.exit(canary(args.keep.resolve(), args.pip, args.only))
    with tempfile.TemporaryDirectory(prefix="canary-") as work: sys.exit(canary(Path(work), args.pip, args.only))
