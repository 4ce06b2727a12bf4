"Tests never use the network, a GPU's nondeterminism is no concern here, and the official files are optional."
import os
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("CAI_REPRO_PROGRESS", "0")

from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout"
    return ROOT

@pytest.fixture(scope="session")
def mirror() -> Path:
    "A folder with the authors' files (never committed, see data/official.yaml)"
    for place in filter(None, [os.environ.get("CAI_REPRO_MIRROR"), ROOT.parent / "shared" / "official"]):
        if Path(place).is_dir(): return Path(place)
    pytest.skip("no official files here: set CAI_REPRO_MIRROR to a folder that holds them")

@pytest.fixture(scope="session")
def mini_run(tmp_path_factory) -> Path:
    "A run of the mini recipe, seed 3, on the pocket model; look at it, do not change it"
    from cai_repro.pipeline import PlainProgress, run
    out = tmp_path_factory.mktemp("mini")/"run"
    run("mini", out, seed=3, progress=PlainProgress(lambda s: None))
    return out
