"Two processes make what one makes: the same files, and the same training up to rounding. Offline, on the CPU, with gloo."
import json, os, socket, subprocess, sys
from pathlib import Path

ROWS = [dict(id=f"q{i}", prompt=f"How do I oil hinge {i}?") for i in range(9)]

def tiny(seed=0):
    "A base of random weights, with an SL-CAI and a preference model that say something"
    import torch
    from cai_repro.models import Roles, tiny_model
    from cai_repro.pocket import train_tokenizer
    tok = train_tokenizer(n=200, vocab_size=400)
    roles = Roles(tiny_model(tok, max_position_embeddings=4096, initializer_range=.1), tok)
    for role, head in (("sl", False), ("pm", True)):
        roles.add(role, head=head)
        for i, p in enumerate(roles.params(role)): p.data += .05*torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return roles

def data_stages(folder):
    "Chains, pairs and labels, in files"
    from cai_repro.constitution import load_constitution
    from cai_repro.core import JsonlStore
    from cai_repro.critique import revise
    from cai_repro.feedback import label_pairs, sample_pairs
    from cai_repro.generate import LocalEngine
    roles, con, store = tiny(), load_constitution("harmlessness"), lambda name: JsonlStore(folder/f"{name}.jsonl")
    engine = LocalEngine(roles, role="sl", batch_size=4)
    revise(engine, ROWS, con, responder=engine, n_revisions=1, few_shot=0, max_new_tokens=6, chunk=2, store=store("chains"))
    pairs = sample_pairs(engine, ROWS, max_new_tokens=6, chunk=2, store=store("pairs"))
    return label_pairs(LocalEngine(roles, batch_size=4), pairs, con, chunk=2, store=store("labels"))

def reinforcement(folder):
    "Two steps of PPO, then two more from the checkpoint: the log and the weights"
    from cai_repro.ppo import PPOConfig, train_ppo
    roles = tiny()
    for steps in (2, 4):
        log = train_ppo(roles, ROWS, PPOConfig(steps=steps, rollouts_per_step=10, minibatch=5, microbatch=2, max_new_tokens=8, lr=1e-3), checkpoint=folder/"ppo", log_path=folder/"ppo.jsonl", every=2,
                        probe=lambda step, prompts, responses: dict(letters=float(sum(map(len, responses)))))
    return log, [p.detach().flatten().tolist() for role in ("policy", "value") for p in roles.params(role)]

def trainers():
    "Fine-tuning and preference model with TRL: first and last losses, gradient steps, weights, and whether all else stood still"
    from cai_repro.preference import train_pm
    from cai_repro.sft import train_sft
    roles = tiny(); roles.add("other", like="sl"); base, other = roles.base_sha256(), [p.clone() for p in roles.params("other")]
    sft = train_sft(roles, "sl", [dict(prompt=f"\n\nHuman: {r['prompt']}\n\nAssistant:", completion=" Use a drop.") for r in ROWS*2], batch_size=4, epochs=2)
    pm = train_pm(roles, "pm", [dict(prompt=r["prompt"], a="Use a drop.", b="No.", p_a=.9) for r in ROWS*2], batch_size=4, epochs=2)
    same = roles.base_sha256() == base and all(bool((a == b).all()) for a, b in zip(other, roles.params("other")))
    return [sft[0]["loss"], sft[-2]["loss"], pm[0]["loss"], pm[-2]["loss"]], [l[-2]["step"] for l in (sft, pm)], [p.detach().flatten().tolist() for role in ("sl", "pm") for p in roles.params(role)], same

def stumble(folder):
    "An error in the second process only is an error in all, and what was whole before it stays"
    from cai_repro.core import CaiError, JsonlStore, world
    from cai_repro.critique import run_chunks
    def make(c, part):
        if c == 3: raise CaiError("the fourth chunk", "try again")
        return part
    try: run_chunks(ROWS, make, chunk=2, store=JsonlStore(folder/"stumble.jsonl"))
    except CaiError as e: return str(e)

def main(folder):
    import torch; torch.set_num_threads(1)
    from cai_repro.core import once, world
    once(lambda: folder.mkdir(exist_ok=True))
    out = dict(labels=len(data_stages(folder)), stumble=stumble(folder)); out["log"], out["ppo"] = reinforcement(folder); out["losses"], out["steps"], out["trained"], out["same"] = trainers()
    (folder/f"process-{world()[0]}.json").write_text(json.dumps(out))

def launch(folder, n):
    "This file as a script, in `n` processes with the environment that torchrun and accelerate give"
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = os.environ | dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent), PYTHONWARNINGS="ignore")
    group = lambda r: dict(RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)) if n > 1 else {}
    return [subprocess.Popen([sys.executable, __file__, str(folder)], env=env | group(r), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in range(n)]

def test_two_processes_make_what_one_makes(tmp_path):
    import numpy as np
    for folder, n in ((tmp_path/"one", 1), (tmp_path/"two", 2)):
        jobs = launch(folder, n); said = [j.communicate(timeout=240)[0] for j in jobs]
        assert not any(j.returncode for j in jobs), "\n\n".join(said)[-6000:]
    (one,), (a, b) = ([json.loads(p.read_text()) for p in sorted((tmp_path/f).glob("process-*.json"))] for f in ("one", "two"))
    for name in ("chains", "pairs", "labels"): assert (tmp_path/"one"/f"{name}.jsonl").read_bytes() == (tmp_path/"two"/f"{name}.jsonl").read_bytes(), name
    assert one["stumble"] == a["stumble"] == b["stumble"] == "the fourth chunk\n  -> try again"
    assert len((tmp_path/"one"/"stumble.jsonl").read_text().splitlines()) == 6 and len((tmp_path/"two"/"stumble.jsonl").read_text().splitlines()) == 4
    assert a["ppo"] == b["ppo"] and a["trained"] == b["trained"]                     # processes agree to the last bit
    flat = lambda x: np.concatenate([np.array(p) for p in x])
    assert np.abs(flat(a["ppo"]) - flat(one["ppo"])).max() < 1e-4, np.abs(flat(a["ppo"]) - flat(one["ppo"])).max()
    for x, y in zip(one["log"], a["log"], strict=True):
        for k in x: assert k == "seconds" or abs(x[k] - y[k]) < 1e-3*max(1, abs(x[k])), (k, x[k], y[k])
    log = [json.loads(l) for l in (tmp_path/"two"/"ppo.jsonl").read_text().splitlines()]
    assert log == a["log"] and [p.name for p in (tmp_path/"two"/"ppo").iterdir()] == ["step-000004"]
    assert one["steps"] == a["steps"] == b["steps"]                                  # TRL's trainers share their batches: no more steps, no fewer
    assert all(o["same"] and o["losses"][1] < o["losses"][0] and o["losses"][3] < o["losses"][2] for o in (one, a, b)), (one["losses"], a["losses"])

def test_launch_file_is_understood(root):
    from accelerate.commands.config.config_args import load_config_from_file
    config = load_config_from_file(str(root/"data"/"accelerate"/"ddp.yaml"))         # refuses keys that it does not know
    assert config.num_processes == 2 and config.distributed_type.value == "MULTI_GPU"

if __name__ == "__main__": main(Path(sys.argv[1]))
