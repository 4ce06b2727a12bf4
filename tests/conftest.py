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

SIZES = {"red_team": 10, "benign": 8, "red_team_pairs": 12, "contrast_pairs": 6, "benign_pairs": 8, "rl": 8, "held_out": 8}

@pytest.fixture(scope="session")
def constitution(tmp_path_factory):
    "A file with one principle per harm of the pocket world and phase, plus one about everything else"
    from cai_repro.pocket import world
    w, lines = world(), ["name: test", "description: a constitution for tests", "sl:"]
    groups = [*[[h] for h in w.harms], [i for i in w.issues if i not in w.harms]]
    for i, g in enumerate(groups): lines.append(f'  - {{id: sl-{i}, harms: [{", ".join(g)}], critique_request: "Say whether there is any {g[0]}.", revision_request: "Remove any {g[0]}."}}')
    lines.append("rl:")
    for i, g in enumerate(groups): lines.append(f'  - {{id: rl-{i}, harms: [{", ".join(g)}], choice: "Choose the response with less {g[0]}."}}')
    file = tmp_path_factory.mktemp("constitution")/"test.yaml"; file.write_text("\n".join(lines) + "\n")
    return file

@pytest.fixture(scope="session")
def recipe(tmp_path_factory, constitution):
    "A recipe of seconds: a Llama of random weights that knows the pocket world's words and nothing else"
    from cai_repro.models import Roles, tiny_model
    from cai_repro.pipeline import Recipe
    from cai_repro.pocket import train_tokenizer
    home = tmp_path_factory.mktemp("tiny"); tok = train_tokenizer(n=400, vocab_size=600)
    model = tiny_model(tok, max_position_embeddings=2048); tok.save_pretrained(home/"base"); model.save_pretrained(home/"base")
    Roles(model, tok).add("helpful").save("helpful", home/"helpful")
    return Recipe("tiny", base=str(home/"base"), helpful=str(home/"helpful"), constitution=str(constitution), max_new_tokens=10, batch_size=8, prompts=SIZES,
                  critique={"chunk": 4, "few_shot": 0}, sft={"batch_size": 4}, feedback={"chunk": 4}, preference={"batch_size": 4}, ppo={"steps": 2, "rollouts_per_step": 8, "minibatch": 4, "epochs": 1})

@pytest.fixture(scope="session")
def whole(recipe, tmp_path_factory):
    "A run of that recipe from beginning to end: its folder and its metrics"
    from cai_repro.pipeline import run
    out = tmp_path_factory.mktemp("runs")/"whole"
    return out, run(recipe, out)
