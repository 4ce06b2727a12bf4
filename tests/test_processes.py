"Two processes make what one makes: the same files, and the same training up to rounding. Offline, on the CPU, with gloo."
import json, os, socket, subprocess, sys
from pathlib import Path

import pytest

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

def groups(folder):
    "Two steps of RLOO, of GRPO and some of DPO: logs, what the observer saw, and the weights; then a KL out of bounds, which must stop all processes"
    from cai_repro.alternatives import GroupConfig, train_dpo, train_group
    from cai_repro.core import CaiError
    out, cfg = {}, dict(steps=2, rollouts_per_step=16, group=4, minibatch=8, microbatch=8, max_new_tokens=6)
    for method in ("rloo", "grpo"):
        roles, seen = tiny(), []
        log = train_group(method, roles, ROWS, GroupConfig(**cfg), log_path=folder/f"{method}.jsonl", probe=lambda step, prompts, responses: seen.append(responses) or dict(letters=sum(map(len, responses))))
        out[method] = dict(log=log, seen=seen, weights=numbers(roles, "policy"))
    log = train_dpo(tiny(), [dict(prompt=r["prompt"], a="Use a drop.", b="No.", p_a=.9) for r in ROWS*2], batch_size=4, epochs=2, log_path=folder/"dpo.jsonl")
    out["dpo"] = dict(log=log)
    try: train_group("rloo", tiny(), ROWS, GroupConfig(**cfg | dict(steps=4, lr=.05, kl_limit=1e-4)))
    except CaiError as e: out["stopped"] = str(e)
    return out

def fine_tune(roles): return train("sft", roles, "sl", [dict(prompt=f"\n\nHuman: {r['prompt']}\n\nAssistant:", completion=" Use a drop.") for r in ROWS*2])
def prefer(roles): return train("pm", roles, "pm", [dict(prompt=r["prompt"], a="Use a drop.", b="No.", p_a=.9) for r in ROWS*2])

def train(what, roles, role, rows):
    "One training with TRL: first and last loss, gradient steps, and whether base (unless in pieces) and other roles stood still"
    from cai_repro.preference import train_pm
    from cai_repro.sft import train_sft
    if "other" not in roles: roles.add("other", like="sl")
    base, others = roles.base_sha256(), {r: [p.detach().clone() for p in roles.params(r)] for r in roles.names if r != role}
    log = {"sft": train_sft, "pm": train_pm}[what](roles, role, rows, batch_size=4, epochs=2)
    same = all(bool((a == b).all()) for r in others for a, b in zip(others[r], roles.params(r), strict=True)) and (roles.cut or roles.base_sha256() == base)
    return [log[0]["loss"], log[-2]["loss"]], log[-2]["step"], bool(same)

def numbers(roles, *names): return [p.detach().flatten().tolist() for role in names for p in roles.params(role)]

def trainers():
    "Fine-tuning and preference model with TRL: first and last losses, gradient steps, weights, and whether all else stood still"
    roles = tiny()
    (a, m, same), (b, n, also) = fine_tune(roles), prefer(roles)
    return a + b, [m, n], numbers(roles, "sl", "pm"), same and also

def shard_on_a_cpu():
    "accelerate knows FSDP on cards only, and trains by DDP elsewhere without a word; here it takes a CPU for a card"
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType
    init = AcceleratorState.__init__
    def start(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if kwargs.get("fsdp_plugin"): self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, kwargs["fsdp_plugin"]
    AcceleratorState.__init__ = start

def pieces(folder):
    "The same trainings by FSDP, each on a base of its own; and one on four bits: losses, whole weights, the share of the base that is here, what is refused"
    import torch
    from cai_repro.core import CaiError, everyone, once
    from cai_repro.models import Roles, load_base, quiet, tiny_model
    shard_on_a_cpu()
    def share(roles):
        "Numbers of the layers' matrices that this process holds, of all"
        own = [p for n, p in roles.base.named_parameters() if "layers." in n and ".lora_" not in n and p.ndim == 2]
        return sum(p.to_local().numel() for p in own)/sum(p.numel() for p in own)
    def refused(f):
        try: f()
        except CaiError as e: return str(e)
    out = {}
    for name, f, role in (("sft", fine_tune, "sl"), ("pm", prefer, "pm")):
        roles = tiny(); losses, steps, same = f(roles)
        once(lambda: roles.save(role, folder/role) and None)
        out[name] = dict(losses=losses, steps=steps, same=same, trained=numbers(roles, role), share=share(roles), saved=numbers(tiny_with(folder/role), "again"), again=refused(lambda: f(roles)))
    def base():
        roles = tiny()
        with quiet(): tiny_model(roles.tokenizer, width=64, max_position_embeddings=256, initializer_range=.1).save_pretrained(folder/"base"); roles.tokenizer.save_pretrained(folder/"base")
    once(base)
    roles = Roles(*load_base(folder/"base", "nf4", "cpu", torch.bfloat16)).add("sl")
    losses, _, same = fine_tune(roles)
    out["nf4"] = dict(losses=losses, same=same, trained=numbers(roles, "sl"), share=share(roles), dtypes=[str(p.dtype) for p in roles.params("sl")])
    (folder/f"pieces-{os.environ['RANK']}.json").write_text(json.dumps(out))

def tiny_with(folder): return tiny().load("again", folder)

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
    from cai_repro.core import once, sharding, world
    once(lambda: folder.mkdir(exist_ok=True))
    if sharding(): return pieces(folder)
    out = dict(labels=len(data_stages(folder)), stumble=stumble(folder)); out["log"], out["ppo"] = reinforcement(folder); out["losses"], out["steps"], out["trained"], out["same"] = trainers()
    out["groups"] = groups(folder)
    (folder/f"process-{world()[0]}.json").write_text(json.dumps(out))

def launch(folder, n, more={}):
    "This file as a script, in `n` processes with the environment that torchrun and accelerate give, on the processor even where there is a card"
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = os.environ | dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]), PYTHONWARNINGS="ignore") | more
    group = lambda r: dict(RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)) if n > 1 else {}
    return [subprocess.Popen([sys.executable, __file__, str(folder)], env=env | group(r), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in range(n)]

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with what one process makes, and what two do"
    tmp = tmp_path_factory.mktemp("made")
    for folder, n in ((tmp/"one", 1), (tmp/"two", 2)): wait(launch(folder, n))
    return tmp

def wait(jobs):
    said = [j.communicate(timeout=240)[0] for j in jobs]
    assert not any(j.returncode for j in jobs), "\n\n".join(said)[-6000:]

def test_two_processes_make_what_one_makes(made):
    import numpy as np
    tmp_path = made
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

def test_group_trainings_draw_what_one_process_draws(made):
    "Each process draws its own share of one process's responses; the log is of all of them and written once; a stop stops all"
    (one,), (a, b) = ([json.loads(p.read_text())["groups"] for p in sorted((made/f).glob("process-*.json"))] for f in ("one", "two"))
    still = lambda row: {k: v for k, v in row.items() if k != "seconds"}
    for method in ("rloo", "grpo"):
        x, y = one[method], a[method]
        assert x["seen"][0] == y["seen"][0] and len(set(y["seen"][0])) > 12 and b[method]["seen"] == []          # the observer looks once, at all
        for k in ("pm_score", "kl", "reward", "length", "eos_share", "generated", "trained", "letters"): assert abs(x["log"][0][k] - y["log"][0][k]) < 1e-4*max(1, abs(x["log"][0][k])), (method, k)
        assert [still(r) for r in y["log"]] == [still(r) for r in b[method]["log"]] and y["weights"] == b[method]["weights"]
    for method in ("rloo", "grpo", "dpo"):
        written = [json.loads(l) for l in (made/"two"/f"{method}.jsonl").read_text().splitlines()]
        assert written == a[method]["log"] and len(written) == len(one[method]["log"]), method
    assert "over kl_limit=0.0001" in one["stopped"] and "over kl_limit=0.0001" in a["stopped"] and a["stopped"] == b["stopped"]

def started_with(file):
    "The environment that `accelerate launch` would give its processes, and the checked arguments; it refuses keys that it does not know"
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(file), "--num_cpu_threads_per_process", "1", "mine.py"]))
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    env = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    return {k: v for k, v in env.items() if k.startswith(("ACCELERATE_", "FSDP_"))}, args

FILES = Path(__file__).parent.parent/"data"/"accelerate"

@pytest.mark.parametrize("file", sorted(FILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_launch_file_is_understood(file, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    config = load_config_from_file(str(file))
    env, args = started_with(file)
    assert config.num_processes == args.num_processes == 2 and config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(file.stem, "DEEPSPEED")
    for k, v in env.items(): monkeypatch.setenv(k, v)
    from cai_repro.core import sharding
    assert sharding() == {"ddp": None, "fsdp": "FSDP"}.get(file.stem, "DeepSpeed")
    if file.stem == "fsdp":
        from accelerate import FullyShardedDataParallelPlugin
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
        p = FullyShardedDataParallelPlugin()
        assert (p.fsdp_version, p.reshard_after_forward, p.cpu_ram_efficient_loading, p.activation_checkpointing, p.auto_wrap_policy) == (2, True, False, False, transformer_auto_wrap_policy)
    if file.stem.startswith("zero"):
        from accelerate.utils import DeepSpeedPlugin
        from accelerate.utils.deepspeed import HfDeepSpeedConfig
        from transformers import TrainingArguments
        from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
        p = DeepSpeedPlugin(); stage = int(file.stem[-1])
        assert p.zero_stage == p.deepspeed_config["zero_optimization"]["stage"] == stage and not p.zero3_init_flag and not p.zero3_save_16bit_model
        for k in env: monkeypatch.delenv(k, raising=False)
        class Parser(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):   # as the trainer reads it, but for the question whether DeepSpeed is installed
            def __init__(self, config): HfDeepSpeedConfig.__init__(self, config); self._dtype, self.mismatches = None, []
        from cai_repro.sft import trainer_settings
        parser = Parser(p.deepspeed_config); parser.trainer_config_process(TrainingArguments(**trainer_settings(tiny(), epochs=1, lr=1e-3, batch_size=4, seed=0, output_dir="nowhere")))
        assert parser.mismatches == [] and parser.config["gradient_clipping"] == 1. and parser.config["train_batch_size"] == 4, parser.mismatches

def test_a_base_in_pieces_learns_the_same(made, tmp_path):
    "FSDP as the shipped file sets it: the same losses and weights as two processes with the whole base, half of the base in each"
    import numpy as np
    folder = tmp_path/"pieces"
    wait(launch(folder, 2, started_with(FILES/"fsdp.yaml")[0]))
    a, b = (json.loads((folder/f"pieces-{r}.json").read_text()) for r in (0, 1))
    whole = json.loads((made/"two"/"process-0.json").read_text())
    flat = lambda x: np.concatenate([np.array(p) for p in x])
    both, off = flat(a["sft"]["trained"] + a["pm"]["trained"]), flat(whole["trained"])
    assert np.abs(both - off).max() < 1e-4, np.abs(both - off).max()
    assert np.abs(np.array(a["sft"]["losses"] + a["pm"]["losses"]) - whole["losses"]).max() < 1e-4 and [a["sft"]["steps"], a["pm"]["steps"]] == whole["steps"]
    for x, y in ((a[k], b[k]) for k in a):
        assert x["trained"] == y["trained"] and x["same"] and y["same"] and .4 < x["share"] < .6 and x["losses"][1] < x["losses"][0]
    for k in ("sft", "pm"): assert a[k]["saved"] == a[k]["trained"] and "in pieces" in a[k]["again"]                 # an ordinary adapter; but no second training
    assert set(a["nf4"]["dtypes"]) == {"torch.float32"}

@pytest.mark.parametrize("name, value, says", [("FSDP_VERSION", "1", "only version 2"), ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "first process only")])
def test_settings_that_would_train_on_nothing_are_refused(name, value, says, root, monkeypatch):
    from cai_repro.core import CaiError
    from cai_repro.models import load_base
    from cai_repro.sft import train_sft
    for k, v in (started_with(FILES/"fsdp.yaml")[0] | {name: value}).items(): monkeypatch.setenv(k, v)
    with pytest.raises(CaiError, match=says): train_sft(tiny(), "sl", [dict(prompt="a", completion=" b")]*4) if name == "FSDP_VERSION" else load_base(root/"data/pocket/base")

if __name__ == "__main__": main(Path(sys.argv[1]))
