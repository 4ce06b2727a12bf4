"""Execute chapters from the first cell to the last, slow cells included, on two processor cores.

    python tools/chapters.py                        every chapter and tutorial, in place
    python tools/chapters.py 00 quickstart          these two
    python tools/chapters.py 00 --to runs/chapters  the results into a folder, the notebooks stay as they are

Chapters that go on from a pocket run find it in runs/pocket-seed0; if it is not there, it is made first (six minutes).
Cells marked `#| gpu` or `#| eval: false` are left as they are. Ends with minutes a chapter, and with status 1 if a cell failed.
Cells that read the authors' files find them through CAI_REPRO_MIRROR and do nothing without: in place their outputs are lost then.
"""
import argparse, os, re, subprocess, sys, time
from pathlib import Path

import nbformat
from docs import chapters, directives, root

TAG = "skip-execution"                                     # what nbclient knows

def execute(path: Path, to: Path) -> str | None:
    "Run the notebook at `path` from its own folder and write it to `to`; the first error, if any"
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    nb, error = nbformat.read(path, as_version=4), None
    skipped = [c for c in nb.cells if {"gpu", "eval: false"} & directives(c)]
    for c in skipped: c.metadata["tags"] = [*c.metadata.get("tags", []), TAG]
    try: NotebookClient(nb, timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True, skip_cells_with_tag=TAG, resources={"metadata": {"path": str(path.parent)}}).execute()
    except (CellExecutionError, DeadKernelError) as e: error = str(e)
    for c in skipped: c.metadata.pop("tags")
    nb.metadata.pop("widgets", None)                        # nbclient must keep the state of widgets while it runs, or it fails over the first one that prints
    for c in nb.cells:                                      # a widget without its state shows nothing
        if c.cell_type == "code": c.outputs = [o for o in c.outputs if not any("jupyter.widget" in k for k in o.get("data", {}))]
    if error and to == path: return error                  # a broken chapter does not take the place of a whole one
    to.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, to)
    return error

def chosen(names: list[str]) -> list[Path]:
    "The chapters of these numbers or names, all of them without any"
    known = {p: {p.stem, p.name, p.stem.split("_")[0]} for p in chapters()}
    for n in names:
        if not any(n in of for of in known.values()): sys.exit(f"no chapter {n!r}; there are: " + ", ".join(p.stem for p in known))
    return [p for p, of in known.items() if not names or of & set(names)]

def pocket_run(paths: list[Path]) -> None:
    "The pocket run that chapters 09, 10, 11 and 16 go on from, made once before they are timed: six minutes"
    out = root/"runs"/"pocket-seed0"
    if (out/"report.html").exists() or not any(re.search(r"Path\(\W*\.\./runs/pocket-seed0", p.read_text(encoding="utf-8")) for p in paths): return
    subprocess.run([sys.executable, "-c", "from cai_repro.pipeline import app; app()", "run", "--recipe", "pocket", "--out", str(out)], cwd=root, check=True)

if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("chapters", nargs="*", help="numbers or names, such as 05b or quickstart")
    ask.add_argument("--to", type=Path, help="folder for the executed notebooks; without it they are written in place and cleaned")
    args = ask.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false", CAI_REPRO_PROGRESS="0")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    took, failed, paths = {}, {}, chosen(args.chapters)
    pocket_run(paths)
    for path in paths:
        name, start = path.relative_to(root/"nbs"), time.time()
        error = execute(path, args.to/name if args.to else path)
        took[name] = (time.time() - start)/60
        if error: failed[name] = error
        print(f"{took[name]:6.1f} min  {name}{'  FAILED' if error else ''}", flush=True)
    print(f"{sum(took.values()):6.1f} min  all {len(took)}")
    for name, error in failed.items(): print(f"\n{name}\n{error[-3000:]}")
    if not args.to: subprocess.run([Path(sys.executable).with_name("nbdev_clean")], cwd=root, check=True)
    sys.exit(bool(failed))
