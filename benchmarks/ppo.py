"""What a step of PPO costs: ours, on one base with an adapter for each role, beside TRL's trainers.

    python benchmarks/ppo.py                                    # a CPU will do: the pocket model's shape, a minute or two
    python benchmarks/ppo.py --shape 1.5b --cap-gib 8           # on a card: does it fit 8 GiB?
    python benchmarks/ppo.py --shape 7b --cap-gib 15 --names ours
    python benchmarks/ppo.py --shape 7b --names ours trl_ppo    # ours and stock PPO side by side, without a cap
    python benchmarks/ppo.py --shape 1.5b --no-graphs           # no step of ours is recorded once and played (chapter 05)
    python benchmarks/ppo.py --starts                           # on a CPU: what a card would have to start, counted

    ours      cai_repro.ppo.train_ppo: policy, value function, reference and preference model are adapters on one base
    trl_ppo   stock PPOTrainer of TRL 1.12.0, the last that had one: a policy with LoRA (its reference is the policy with
              LoRA switched off, the thriftiest that trainer knows), a value model with LoRA, a reward model; three bases
    trl_rloo  TRL's RLOOTrainer on our roles (cai_repro.alternatives): no value function at all

All have the same random weights (in NF4 on a card, made there layer by layer), the same prompts, and responses that never
end early, so that the tokens are the same; one epoch, one gradient step a round, LoRA of rank 16 on all linear layers. Each
NAME runs in a process of its own. A base of more than 0.3 billion parameters computes its activations twice to save memory
where its trainer can: ours by its own settings, stock PPO with the model's own switch, which its trainer does not set.
In bfloat16 stock PPO's policy runs under autocast, without which it stops.
The first round warms up and does not count; seconds are those of the middle round. On a CPU they are
processor seconds, which neighbours disturb less than the clock on the wall, and memory is counted: distinct storages of
weights, gradients and what Adam remembers, and the process's peak over what it had after its imports.

Where a card waits for its processor (RESULTS.md), seconds depend on how many operations are started, about one kernel each.
--starts counts those instead of seconds, on a CPU with the card's formats: NF4, bfloat16, activations computed twice. A step of
writing that a card would play from a record runs again and is counted as one; with --no-graphs all that it starts is.

TRL 1.12.0 goes into a virtual environment of its own (--venv), laid over the packages here: torch and transformers are the
same for all. Without a network: pip download trl==1.12.0, unzip the wheel into a folder and name it with --trl-path.

The floor is what no implementation on LoRA can go under: bytes of one base, four adapters and Adam's memory of two (in 8
bits on a card); operations of one reading and writing, three readings (reference, value, preference model), and two
trainings without computing anything twice, by the formulas of chapter 15, over the device's peak."""
import argparse, contextlib, importlib.util, json, os, resource, statistics, subprocess, sys, time, venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONUNBUFFERED": "1"}
NAMES, PHASES, STOCK = ("ours", "trl_ppo", "trl_rloo"), ("rollout", "score", "update"), "trl==1.12.0"
SHAPES = {"pocket": (32, 32, 32, 16), "135m": (8, 32, 32, 4), "1.5b": (16, 256, 256, 2), "7b": (16, 256, 256, 2)} # dialogues a round, prompt, response, micro-batch
BIG = 3e8 # as in chapter 04

def shape_of(name):
    "`config.json` of a shape: our own base's, SmolLM2-135M's, or those of the field recipes"
    from cai_repro.core import resource_path
    from cai_repro.hardware import read_recipe, recipe_files
    if name == "pocket": return json.loads(resource_path("data/pocket/base/config.json").read_text())
    if name == "135m": return dict(model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True)
    return {"sliding_window": None} | read_recipe(recipe_files()[{"1.5b": "t4-1.5b", "7b": "rtx-24gb-7b"}[name]])["hub"]["model"]

def four_bits(layer, dtype):
    "Put NF4 layers in the place of the linear ones, one after the other"
    import bitsandbytes as bnb
    from torch import nn
    for m in list(layer.modules()):
        for name, old in [(n, c) for n, c in m.named_children() if type(c) is nn.Linear]:
            new = bnb.nn.Linear4bit(old.in_features, old.out_features, False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4", device="meta")
            new.bias, where = old.bias, old.weight.device
            new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new).to(where)
            setattr(m, name, new); old.weight = None

def build(args, kind="CausalLM"):
    "A frozen model of the shape with random weights, and a tokenizer. Layers are made, and if wanted quantised, one at a time: beside the result there is never more than one layer in full"
    import torch, transformers
    from cai_repro.core import resource_path
    from cai_repro.models import _nf4_config, keep_gradients_right, keep_weights_right, pick_device, pick_dtype, quiet
    tok, device = transformers.AutoTokenizer.from_pretrained(resource_path("data/pocket/base")), pick_device()
    dtype, c = torch.bfloat16 if args.starts else pick_dtype(device), {"max_position_embeddings": 4096} | shape_of(args.shape) | dict(bos_token_id=None, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, num_labels=1)
    n, _ = c["num_hidden_layers"], [c.pop(k, None) for k in ("layer_types", "transformers_version", "architectures", "dtype")]
    torch.manual_seed(0)
    with quiet(), torch.device(device):
        config = lambda n: transformers.AutoConfig.for_model(c["model_type"], **{k: v for k, v in c.items() if k != "model_type"} | {"num_hidden_layers": n})
        model = getattr(transformers, f"AutoModelFor{kind}").from_config(config(1), dtype=dtype); layers = model.model.layers
        full = config(n); full._attn_implementation = model.config._attn_implementation
        usual = torch.get_default_dtype(); torch.set_default_dtype(dtype)
        for i in range(n):
            if i: layers.append(type(layers[0])(full, i))
            if args.quantize: four_bits(layers[i], dtype)
        torch.set_default_dtype(usual)
    for m in model.modules(): # the one layer knew a model of one layer
        if getattr(m, "config", None) is not None: m.config = full
    if args.quantize: # what `from_pretrained` would have noted
        model.is_quantized = model.is_loaded_in_4bit = True; full.quantization_config = _nf4_config(dtype, torch.uint8)
        model.quantization_method, model.hf_quantizer = full.quantization_config.quant_method, transformers.quantizers.AutoHfQuantizer.from_config(full.quantization_config, pre_quantized=False)
        keep_gradients_right(model); keep_weights_right(model)
    if kind == "CausalLM": # no response ends early
        head = model.get_output_embeddings(); head.bias = torch.nn.Parameter(torch.zeros(c["vocab_size"], device=device, dtype=dtype)); head.bias.data[[tok.eos_token_id, tok.pad_token_id]] = -1e4
        model.generation_config = transformers.GenerationConfig(eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    tok.model_max_length = 4096
    return model.eval().requires_grad_(False), tok

def words_of(tok, n, seed):
    "n words of a token each"
    import numpy as np
    known = sorted(w[1:] for w in tok.get_vocab() if w[0] == "Ġ" and w[1:].isascii() and w[1:].isalpha() and w[1:].islower())
    return " ".join(np.random.default_rng(seed).choice(known, n))

def prompts_of(tok, args):
    "Prompts that are dialogues of exactly so many tokens, as rows and as ids"
    from cai_repro.critique import dialogue_text
    from cai_repro.models import encode
    ids = lambda p: encode(tok, dialogue_text(p))
    room = args.prompt - len(ids(words_of(tok, 1, 0))) + 1
    if room < 1: sys.exit(f"--prompt {args.prompt} is too short: the dialogue's labels alone are {args.prompt - room} tokens")
    prompts = [words_of(tok, room, i) for i in range(args.rollouts)]
    assert {len(ids(p)) for p in prompts} == {args.prompt}
    return [{"prompt": p} for p in prompts], [ids(p) for p in prompts]

class Clock:
    "Seconds between marks, by phase and round; and the tokens of a round"
    def __init__(self):
        import torch
        self.cuda, self.rounds, self.tokens, self.roles, self.starts = torch.cuda.is_available(), [dict.fromkeys(PHASES, 0.)], None, None, None
        self.sync, self.now = (torch.cuda.synchronize, time.perf_counter) if self.cuda else (lambda: None, time.process_time)
        self.last = self.now()
    def mark(self, phase):
        self.sync(); now = self.now(); self.rounds[-1][phase] += now - self.last; self.last = now
    def end(self): self.mark("update"); self.rounds.append(dict.fromkeys(PHASES, 0.))
    def seconds(self): return {p: round(statistics.median(r[p] for r in self.rounds[1:-1]), 4) for p in PHASES} # of the first round: loading, warming up

def count_starts(clock):
    """A context in which the clock shows how many operations were started that write memory. Views do not, and what does nothing, such as
    a cast to the same format, does not get here. As on a card, an optimiser's step is one (fused), and PEFT notices autocast"""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
    from torch.utils._python_dispatch import TorchDispatchMode
    class Starts(TorchDispatchMode):
        n, on = 0, True
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            if torch._C._dispatch_has_kernel_for_dispatch_key(f.name(), "CompositeImplicitAutograd"): # made of others: count those
                with self: out = f.decompose(*args, **kwargs or {})
                if out is not NotImplemented: return out
            self.n += self.on and not f.is_view and not f.name().split("::")[1].startswith(("empty", "new_empty", "_unsafe_view", "_local_scalar", "lift_fresh"))
            return f(*args, **kwargs or {})
        def record(self, run):
            def play():
                self.on = False
                try: out = run()
                finally: self.on = True
                self.n += 1
                return out
            for _ in range(3): run() # two rehearsals and the recording (chapter 05)
            return play
    mode, noticed = Starts(), torch.is_autocast_enabled
    torch.is_autocast_enabled = lambda *device: noticed(*device or ("cpu",)) # without an argument it asks for a card's
    register_optimizer_step_pre_hook(lambda *_: setattr(mode, "on", False)); register_optimizer_step_post_hook(lambda *_: vars(mode).update(on=True, n=mode.n + 1))
    clock.now, clock.last = lambda: mode.n, 0
    return mode

class Books:
    "What is there at every step of an optimiser: distinct storages of the weights, gradients, and what optimisers remember"
    def __init__(self, modules):
        from torch.optim.optimizer import register_optimizer_step_post_hook
        self.modules, self.weights, self.gradients, self.adam = modules, 0, 0, {}
        register_optimizer_step_post_hook(self.look)
    def look(self, opt, *_):
        import torch
        params, seen = [p for m in self.modules() for p in m.parameters()], {}
        of = lambda q: [] if q is None else [v for v in vars(q).values() if torch.is_tensor(v)] + of(getattr(q, "state2", None)) # NF4: scales of the blocks
        for t in [*params, *(b for m in self.modules() for b in m.buffers()), *(t for p in params for t in of(getattr(p, "quant_state", None)))]:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        self.weights, self.gradients = max(self.weights, sum(seen.values())), max(self.gradients, sum(p.grad.nbytes for p in params if p.grad is not None))
        self.adam[id(opt)] = sum(v.nbytes for s in opt.state.values() for v in s.values() if torch.is_tensor(v))
    def counted(self): return {"weights": self.weights, "gradients": self.gradients, "adam": sum(self.adam.values())}

def wrap(owner, name, before=lambda *a: None, after=lambda out: None):
    "Let something happen before and after a function, to take the time"
    f = getattr(owner, name)
    def timed(*args, **kw):
        before(); out = f(*args, **kw); after(out)
        return out
    setattr(owner, name, timed)

def our_roles(args, clock):
    "A base with a reference and a preference model; rollouts are timed and counted"
    from cai_repro.generate import LocalEngine
    from cai_repro.models import Roles
    roles = clock.roles = Roles(*build(args)).add("sl").add("pm", head=True)
    def drawn(out): clock.mark("rollout"); clock.tokens = sum(map(len, out)) + len(out)*args.prompt
    wrap(LocalEngine, "generate_ids", after=drawn)
    if args.starts and not args.no_graphs: from cai_repro.generate import _Recorder; roles._recorder = _Recorder(clock.starts.record)
    return roles, prompts_of(roles.tokenizer, args)[0], Books(lambda: [roles.model, roles.heads])

def ours(args, clock):
    from cai_repro import ppo
    roles, rows, books = our_roles(args, clock)
    wrap(ppo, "update_policy", before=lambda: clock.mark("score"))
    cfg = ppo.PPOConfig(steps=args.rounds + 1, rollouts_per_step=args.rollouts, minibatch=args.rollouts, microbatch=args.microbatch, max_new_tokens=args.new, lr=1e-5, value_lr=1e-5, checkpointing=args.big)
    ppo.train_ppo(roles, rows, cfg, newline_stops=False, on_progress=lambda *_: clock.end())
    return books

def trl_rloo(args, clock):
    from cai_repro import alternatives as alt
    roles, rows, books = our_roles(args, clock)
    wrap(alt.Scribe, "measure", after=lambda _: clock.mark("score"))
    cfg = alt.GroupConfig(steps=args.rounds + 1, rollouts_per_step=args.rollouts, minibatch=args.rollouts, microbatch=args.microbatch, max_new_tokens=args.new, lr=1e-5)
    alt.train_rloo(roles, rows, cfg, newline_stops=False, on_progress=lambda *_: clock.end())
    return books

def trl_ppo(args, clock):
    "As in TRL's own examples of PPO with LoRA; the rest of its settings are its own"
    import tempfile, torch
    import trl.experimental.ppo.ppo_trainer as stock
    from datasets import Dataset
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import TrainerCallback
    lora, cpu = dict(r=16, lora_alpha=32, lora_dropout=0., target_modules="all-linear"), not clock.cuda
    (policy, tok), (value, _), (reward, _) = build(args), build(args, "SequenceClassification"), build(args, "SequenceClassification")
    inject_adapter_in_model(LoraConfig(**lora, task_type="SEQ_CLS"), value)
    for n, p in value.named_parameters(): p.requires_grad_("lora_" in n or n.startswith("score"))
    if args.big: policy.gradient_checkpointing_enable(); value.gradient_checkpointing_enable()
    class End(TrainerCallback):
        def on_step_end(self, *args, **kw): clock.end()
    def drawn(out): clock.mark("rollout"); clock.tokens = out[0].numel()
    wrap(stock, "batch_generation", after=drawn)
    with tempfile.TemporaryDirectory() as folder:
        cfg = stock.PPOConfig(output_dir=folder, per_device_train_batch_size=args.microbatch, gradient_accumulation_steps=args.rollouts//args.microbatch, total_episodes=args.rollouts*(args.rounds + 1),
                              num_ppo_epochs=1, num_mini_batches=1, num_sample_generations=0, local_rollout_forward_batch_size=min(64, args.rollouts), response_length=args.new, temperature=1., stop_token="eos",
                              missing_eos_penalty=1., learning_rate=1e-5, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=cpu, bf16=policy.dtype.itemsize == 2)
        trainer = stock.PPOTrainer(args=cfg, processing_class=tok, model=policy, ref_model=None, reward_model=reward, value_model=value, callbacks=[End()], peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
                                   train_dataset=Dataset.from_dict({"input_ids": prompts_of(tok, args)[1]}))
        if cfg.bf16: # on a 4-bit base that trainer turns the norms to float32 and draws text outside of autocast: the output layer refuses the mix
            policy.forward = torch.autocast(policy.device.type, torch.bfloat16)(policy.forward)
        books = Books(lambda: [trainer.model, reward])
        begun = []
        def update(): begun or clock.mark("score"); begun.append(True)
        wrap(trainer.accelerator, "accumulate", before=update)       # the first micro-batch of a round ends its scoring
        wrap(clock, "end", after=lambda _: begun.clear())
        trainer.train()
    return books

def floor(args, card, threads):
    "Bytes, operations and seconds that a round on LoRA cannot go under"
    from cai_repro import hardware as hw
    s = hw.sizes(shape_of(args.shape)); n, B, P, R, width = hw.lora_count(s), args.rollouts, args.prompt, args.new, 2 if card else 4
    size = sum(hw.base_bytes(s, args.quantize, width)) + 4*(4*n + 2*s.hidden_size) + 2*hw.adam_bytes(n, 8 if card else 32)
    look, L = (P + R)/2, B*(P + R)
    ops = sum(hw.forward_flops(s, L, look, predicted) for predicted in (B*R, B*R, 0, 0)) + sum(hw.train_flops(s, L, look, predicted, False) for predicted in (B*R, 0))
    here = hw.find_card() if card else hw.this_cpu()
    peak = here.peak*1e12 if card else here.peak*hw.USED/(os.cpu_count() or 1)*threads*1e12
    return {"bytes": size, "flops": ops, "seconds": None if card and here.name not in hw.CARDS and "as of a T4" in here.source else ops/peak}

def one(name, args):
    "One NAME in this process: what it took"
    import torch, transformers, peft, cai_repro.ppo     # before the baseline of memory
    if name != "ours": import datasets, trl             # which ours does without
    if name == "trl_ppo": import trl.experimental.ppo.ppo_trainer
    cuda = torch.cuda.is_available()
    if not cuda: torch.set_num_threads(args.threads)
    args.quantize = {"auto": "nf4" if cuda or args.starts else None, "none": None, "nf4": "nf4"}[args.quantize]
    before = resident()
    if args.no_graphs: os.environ["CAI_REPRO_GRAPHS"] = "0"
    if args.cap_gib and cuda: torch.cuda.set_per_process_memory_fraction(min(1., args.cap_gib*2**30/torch.cuda.get_device_properties(0).total_memory))
    clock, out = Clock(), {"device": torch.cuda.get_device_name(0) if cuda else f"CPU, threads: {args.threads}", "card": cuda, "quantize": args.quantize,
                           "versions": {n: m.__version__ for n in ("torch", "transformers", "peft", "trl") if (m := sys.modules.get(n))}, "floor": floor(args, cuda, args.threads)}
    peaks = lambda: {"peak_allocated_bytes": torch.cuda.max_memory_allocated(), "peak_reserved_bytes": torch.cuda.max_memory_reserved()} if cuda else {"peak_allocated_bytes": None, "peak_reserved_bytes": None}
    if args.starts: from cai_repro import models; models.BIG, clock.starts = 0, count_starts(clock) # BIG: activations computed twice
    try:
        with clock.starts or contextlib.nullcontext(): books = {"ours": ours, "trl_ppo": trl_ppo, "trl_rloo": trl_rloo}[name](args, clock)
    except torch.OutOfMemoryError as e: return peaks() | {"seconds": None, "tokens": None, "error": "out of memory"} | out
    if clock.roles: out["steps_recorded"] = bool(getattr(vars(clock.roles).get("_recorder"), "trusted", False))
    if args.starts: return {"starts": {p: round(n) for p, n in clock.seconds().items()}, "tokens": clock.tokens} | out
    return peaks() | {"seconds": clock.seconds(), "tokens": clock.tokens, "counted_bytes": books.counted(), "rss_bytes": max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before)} | out

def resident():
    "Bytes of this process in memory"
    return int(Path("/proc/self/statm").read_text().split()[1])*resource.getpagesize()

def stock_python(args):
    "An interpreter that finds TRL 1.12.0, and its environment; `OSError` or `CalledProcessError` if there is none to be had"
    also = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if args.trl_path: return sys.executable, os.environ | {"PYTHONPATH": f"{args.trl_path}{os.pathsep}{also}"}
    python, done = args.venv/"bin/python", args.venv/"done"
    if not done.exists():
        print(f"making {args.venv} for {STOCK} ...", file=sys.stderr, flush=True)
        venv.create(args.venv, with_pip=True, clear=True, symlinks=True)
        next(args.venv.glob("lib/python*/site-packages")).joinpath("all_else.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", STOCK], check=True, stdout=sys.stderr); done.touch()
    return python, os.environ | {"PYTHONPATH": also}

KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_TOP_PAD_": str(2**28)} # for glibc

def measure(name, args):
    "Run one NAME in a process of its own: what it took, or None with a word on why not"
    python, env = sys.executable, dict(os.environ)
    try:
        if name == "trl_ppo": python, env = stock_python(args)
        if name == "trl_rloo" and not importlib.util.find_spec("cai_repro.alternatives"): raise OSError("cai_repro.alternatives is missing here")
    except (OSError, subprocess.CalledProcessError) as e: print(f"{name} is left out: {e}", file=sys.stderr); return None
    print(f"{name} ...", file=sys.stderr, flush=True)
    out = subprocess.run([python, __file__, *sys.argv[1:], "--one", name], capture_output=True, text=True, env=env | (KEEP if args.keep_heap else {}))
    if out.returncode: sys.exit(f"{name} failed:\n{out.stderr}")
    return json.loads(out.stdout.splitlines()[-1])

def table(results, rows, base="ours"):
    "Print rows of (what, number of a result or None, format), and the ratio of the first two"
    names = list(results)
    print(f"{'':34}" + "".join(f"{n:>12}" for n in names) + (f"{names[0] + '/' + names[1]:>16}" if len(names) > 1 else ""))
    for what, get, form in rows:
        xs = []
        for r in results.values():
            try: xs.append(get(r))
            except (TypeError, KeyError, ZeroDivisionError): xs.append(None)
        ratio = f"{xs[0]/xs[1]:>16.2f}" if len(xs) > 1 and xs[0] and xs[1] else ""
        print(f"{what:34}" + "".join(f"{'-' if x is None else format(x, form):>12}" for x in xs) + ratio)

def targets(args, r):
    "What was hoped for, and what came of it: lines of text"
    o, t = r.get("ours"), r.get("trl_ppo")
    card, billion, fine = bool(o and o["card"]), args.shape in ("1.5b", "7b"), lambda ok: "reached" if ok else "NOT reached"
    both = o and t and o["seconds"] and t["seconds"]
    total, peak = lambda x: sum(x["seconds"].values()), "peak_allocated_bytes"
    yield "peak memory at most 0.5 x stock PPO's, from a billion parameters on: " + (
        (f"{o[peak]/t[peak]:.2f}, {fine(o[peak] <= .5*t[peak])}" if both else "stock PPO ran out of memory under this cap" if o and t else "one of the two is missing") if card and billion else "missing for want of a card" if not card else "missing: ask for --shape 1.5b or 7b")
    yield "a round at most 0.8 x stock PPO's seconds: " + (f"{total(o)/total(t):.2f} with shape {args.shape} on {'a card' if card else 'a CPU'}, {fine(total(o) <= .8*total(t))}" if both else "one of the two is missing")
    for shape, cap in (("7b", 15), ("1.5b", 8)):
        asked = card and args.shape == shape and args.cap_gib and args.cap_gib <= cap and args.prompt + args.new >= 512
        yield f"{shape}, dialogues of 512 tokens, under {cap} GiB: " + (fine(bool(o["seconds"])) if asked else "missing for want of a card" if not card else f"not asked for: --shape {shape} --cap-gib {cap}")

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="pocket", help="pocket: 3.4M parameters; 135m: SmolLM2; 1.5b: Qwen2.5; 7b: Mistral; all with random weights")
    p.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    p.add_argument("--rollouts", type=int, help="dialogues a round"); p.add_argument("--prompt", type=int, help="tokens of a prompt, all alike"); p.add_argument("--new", type=int, help="tokens of a response")
    p.add_argument("--microbatch", type=int, help="dialogues a backward pass; a divisor of --rollouts")
    p.add_argument("--rounds", type=int, default=3, help="rounds that count, after one that does not")
    p.add_argument("--quantize", choices=("auto", "nf4", "none"), default="auto", help="auto: nf4 on a card, none on a CPU")
    p.add_argument("--no-graphs", action="store_true", help="do not record the steps of ours and of trl_rloo's rollouts (chapter 05)")
    p.add_argument("--starts", action="store_true", help="on a CPU: count the operations a card would have to start, instead of seconds")
    p.add_argument("--cap-gib", type=float, help="let a process take so much of the card and no more (what CUDA itself takes, some 0.5 GiB, is not in it)")
    p.add_argument("--threads", type=int, default=1, help="on a CPU")
    p.add_argument("--venv", type=Path, default=Path.home()/".cache/cai_repro/trl-1.12.0", help="where TRL 1.12.0 lives, made if missing; default: %(default)s")
    p.add_argument("--keep-heap", action="store_true", help="on a CPU: have the C library keep what was freed. Else a program asks the system anew for each large tensor, such as an unpacked matrix, or not, as its heap happens to lie: up to a third of the seconds. For seconds only: memory is more")
    p.add_argument("--trl-path", type=Path, help="a folder with TRL 1.12.0 unpacked, instead of --venv")
    p.add_argument("--json", type=Path, help="write the figures here"); p.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    a = p.parse_args()
    for k, usual in zip(("rollouts", "prompt", "new", "microbatch"), SHAPES[a.shape]): setattr(a, k, getattr(a, k) or usual)
    if a.rollouts % a.microbatch: p.error("--microbatch must divide --rollouts")
    from cai_repro import hardware
    a.big = a.starts or sum(hardware.count(hardware.sizes(shape_of(a.shape))).values()) > BIG
    if a.starts and hardware.find_card().name != "CPU": p.error("--starts is for a machine without a card")
    if a.one: print(json.dumps(one(a.one, a))); return 0
    results = {n: r for n in NAMES if n in a.names and (r := measure(n, a))}
    if not results: return 1
    first = next(iter(results.values())); gb = 1e9
    print(f"\n{a.shape}, {'NF4' if first['quantize'] else 'not quantised'}, on {first['device']}; a round: {a.rollouts} dialogues of {a.prompt} + {a.new} tokens; middle of {a.rounds}" + (f"; cap {a.cap_gib:g} GiB" if a.cap_gib else ""))
    if a.starts:
        table(results, [*((f"{k}, operations started", lambda r, k=k: r["starts"][k], ",d") for k in PHASES), ("all", lambda r: sum(r["starts"].values()), ",d"), ("tokens", lambda r: r["tokens"], ",d")])
        if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")
        return 0
    total = lambda r: sum(r["seconds"].values())
    table(results, [("peak allocated, GB", lambda r: r["peak_allocated_bytes"]/gb, ".3f"), ("peak reserved, GB", lambda r: r["peak_reserved_bytes"]/gb, ".3f"),
        *((f"counted: {k}, GB", lambda r, k=k: r["counted_bytes"][k]/gb, ".4f") for k in ("weights", "gradients", "adam")), ("counted: the three together, GB", lambda r: sum(r["counted_bytes"].values())/gb, ".4f"),
        ("process's peak over imports, GB", lambda r: r["rss_bytes"]/gb, ".3f"), *((f"{k}, seconds", lambda r, k=k: r["seconds"][k], ".3f") for k in PHASES),
        ("all, seconds", total, ".3f"), ("tokens", lambda r: r["tokens"], ",d"), ("tokens a second", lambda r: r["tokens"]/total(r), ",.0f"),
        ("bytes at their peak / floor", lambda r: r["peak_allocated_bytes"]/r["floor"]["bytes"], ".2f"), ("seconds / floor", lambda r: total(r)/r["floor"]["seconds"], ".1f")])
    f = first["floor"]; print(f"floor: {f['bytes']/gb:.4f} GB, {f['flops']/1e12:.3f} TFLOP, " + (f"{f['seconds']:.3f} s at the device's peak" if f["seconds"] else "the device's peak is not known to chapter 15"))
    for n, r in results.items():
        if r.get("error"): print(f"{n}: {r['error']}")
        if r["card"] and r.get("steps_recorded") is False and not a.no_graphs: print(f"{n}: steps could not be recorded")
    if len({r["tokens"] for r in results.values() if r["tokens"]}) > 1: print("the tokens differ: do not compare seconds")
    if not first["card"]: print("missing for want of a card: peak allocated and reserved bytes, NF4's speed, and whether anything fits under a cap; seconds are processor seconds")
    for line in targets(a, results): print("-", line)
    if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0

if __name__ == "__main__": sys.exit(main())
