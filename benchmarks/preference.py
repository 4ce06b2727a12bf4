"""What a preference model costs to train: `train_pm` beside plain TRL's RewardTrainer.

    python benchmarks/preference.py                        # a CPU will do: the pocket model's shape, a minute or two
    python benchmarks/preference.py --shape 1.5b           # on a card, in NF4
    python benchmarks/preference.py --starts --turns 1     # on a CPU: operations that a card would have to start (ppo.py)

    ours        cai_repro.preference.train_pm: an adapter and a head on the base that all roles share, soft labels
    trl_reward  trl.RewardTrainer as it is: a classifier of its own with LoRA, hard labels

Both have the same random weights, LoRA of rank 16 on all linear layers, the same pairs as the same tokens in batches of
the same size, and the same settings of the trainer; every label is 0 or 1, so that soft and hard labels ask for the same. (TRL
keeps LoRA and head on a 4-bit base in bfloat16, we in float32.) Each has a process of its own, and they take turns of some steps,
ours, theirs, ours, theirs, while the other waits: whatever else the machine does hits both. The ratio is the middle one of the
turns; a few steps before the first warm up. On a CPU seconds are processor seconds and memory is counted, as in ppo.py."""
import argparse, contextlib, json, statistics, subprocess, sys, tempfile
from pathlib import Path

from ppo import SHAPES, Books, Clock, BIG, build, count_starts, resident, shape_of, table, words_of

NAMES, WARM = ("ours", "trl_reward"), 3

def pairs_of(tok, args):
    "Pairs of dialogues of just so many tokens"
    from cai_repro.preference import tokenize_pairs
    row = lambda i, k: {"prompt": words_of(tok, k, 3*i), "a": words_of(tok, k, 3*i + 1), "b": words_of(tok, k, 3*i + 2), "p_a": 1.}
    most = (args.tokens - max(len(e["chosen_ids"]) for e in tokenize_pairs(tok, [row(0, 1)])[0]) + 2)//2 # words of prompt and response
    if most < 1: sys.exit(f"--tokens {args.tokens} is too few: labels and end alone take more")
    return [row(i, most) for i in range((args.turns*args.steps + WARM)*args.batch)]

def step_done(args, clock):
    "The end of a gradient step; at the end of a turn, wait until the next may begin"
    clock.end(); n = len(clock.rounds) - 1 - WARM
    if n >= 0 and n % args.steps == 0:
        print("turn", flush=True)
        if n < args.turns*args.steps: sys.stdin.readline(); clock.last = clock.now()

def ours(args, clock, rows):
    from cai_repro.models import Roles
    from cai_repro.preference import train_pm
    roles = Roles(*build(args)).add("pm", head=True); roles.half = args.starts; books = Books(lambda: [roles.model, roles.heads])
    train_pm(roles, "pm", rows(roles.tokenizer), lr=1e-4, batch_size=args.batch, max_length=args.tokens, on_progress=lambda *_: step_done(args, clock))
    return books

def trl_reward(args, clock, rows):
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer
    from cai_repro.models import Roles, quiet
    from cai_repro.preference import tokenize_pairs
    from cai_repro.sft import trainer_settings
    model, tok = build(args, "SequenceClassification"); rows = tokenize_pairs(tok, rows(tok), args.tokens)[0]
    class End(TrainerCallback):
        def on_step_end(self, *_, **kw): step_done(args, clock)
    with tempfile.TemporaryDirectory() as folder, quiet():
        settings = trainer_settings(Roles(model, tok), epochs=1, lr=1e-4, batch_size=args.batch, seed=0, output_dir=folder, n_rows=len(rows)) | {"gradient_checkpointing": args.big} | ({"bf16": True} if args.starts else {})
        del settings["train_sampling_strategy"] # by length: the plain trainer drops its column of lengths before it looks for it; here all are alike
        data = Dataset.from_list([{k: e[k] for k in ("chosen_ids", "rejected_ids")} for e in rows])
        trainer = RewardTrainer(model=model, args=RewardConfig(**settings, max_length=None), processing_class=tok, train_dataset=data, callbacks=[End()],
                                peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0., target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]))
        books = Books(lambda: [trainer.model]); trainer.train()
    return books

def one(name, args):
    "One NAME in this process: steps a second, and memory"
    import resource, torch, transformers, peft, trl, datasets # before the baseline
    cuda = torch.cuda.is_available()
    if not cuda: torch.set_num_threads(args.threads)
    if args.starts: from cai_repro import models; models.BIG = 0 # activations computed twice, as on a card
    args.quantize = {"auto": "nf4" if cuda or args.starts else None, "none": None, "nf4": "nf4"}[args.quantize]
    before, clock = resident(), Clock()
    with count_starts(clock) if args.starts else contextlib.nullcontext(): books = {"ours": ours, "trl_reward": trl_reward}[name](args, clock, lambda tok: pairs_of(tok, args))
    if args.starts: return {"starts": statistics.median(sum(r.values()) for r in clock.rounds[WARM:-1]), "tokens": 2*args.batch*args.tokens, "device": "CPU", "card": False, "quantize": args.quantize}
    seconds = [sum(r.values()) for r in clock.rounds[WARM:-1]]
    turns = [args.steps/sum(seconds[i:i + args.steps]) for i in range(0, len(seconds), args.steps)]
    return {"steps_per_second": statistics.median(turns), "turns": turns, "tokens": 2*args.batch*args.tokens, "peak_allocated_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "peak_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None, "counted_bytes": books.counted(), "rss_bytes": max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before),
            "device": torch.cuda.get_device_name(0) if cuda else f"CPU, threads: {args.threads}", "card": cuda, "quantize": args.quantize, "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, trl)}}

def start(name):
    "A process that has warmed up and waits for its turn"
    err = tempfile.TemporaryFile("w+")
    p = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--one", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True); p.err = err
    return turn(p)

def turn(p):
    "Wait for the end of a turn"
    for line in p.stdout:
        if line == "turn\n": return p
    failed(p)

def ended(p):
    "The last line of a process"
    rest = p.stdout.read() # not communicate(): that would miss what has been read ahead
    return failed(p) if p.wait() else rest.splitlines()[-1]

def failed(p): p.err.seek(0); sys.exit(p.err.read())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="pocket", help="as in ppo.py"); p.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    p.add_argument("--turns", type=int, default=7, help="of each"); p.add_argument("--steps", type=int, default=6, help="gradient steps a turn")
    p.add_argument("--batch", type=int, default=16, help="pairs a gradient step"); p.add_argument("--tokens", type=int, default=64, help="longest dialogue of a pair, all nearly alike")
    p.add_argument("--quantize", choices=("auto", "nf4", "none"), default="auto", help="auto: nf4 on a card, none on a CPU"); p.add_argument("--threads", type=int, default=1, help="on a CPU")
    p.add_argument("--starts", action="store_true", help="on a CPU: count operations instead of seconds, as ppo.py does")
    p.add_argument("--json", type=Path, help="write the figures here"); p.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    a = p.parse_args()
    from cai_repro import hardware
    a.big = a.starts or sum(hardware.count(hardware.sizes(shape_of(a.shape))).values()) > BIG
    if a.starts and hardware.find_card().name != "CPU": p.error("--starts is for a machine without a card")
    if a.one: print(json.dumps(one(a.one, a))); return 0
    names = [n for n in NAMES if n in a.names]
    running = {n: start(n) for n in names}
    for i in range(a.turns):
        print(f"turn {i + 1} of {a.turns} ...", file=sys.stderr, flush=True)
        for p in running.values(): p.stdin.write("go\n"); p.stdin.flush(); turn(p)
    results = {n: json.loads(ended(p)) for n, p in running.items()}
    first = results[names[0]]
    print(f"\n{a.shape}, {'NF4' if first['quantize'] else 'not quantised'}, on {first['device']}; {a.batch} pairs of dialogues of {a.tokens} tokens a step; {a.turns} turns of {a.steps} steps")
    if a.starts:
        table(results, [("operations started in a step", lambda r: r["starts"], ",.0f")])
        if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")
        return 0
    table(results, [("steps a second, middle turn", lambda r: r["steps_per_second"], ".3f"), ("peak allocated, GB", lambda r: r["peak_allocated_bytes"]/1e9, ".3f"), ("peak reserved, GB", lambda r: r["peak_reserved_bytes"]/1e9, ".3f"),
        *((f"counted: {k}, GB", lambda r, k=k: r["counted_bytes"][k]/1e9, ".4f") for k in ("weights", "gradients", "adam")), ("process's peak over imports, GB", lambda r: r["rss_bytes"]/1e9, ".3f")])
    if not first["card"]: print("missing for want of a card: peak allocated and reserved bytes; seconds are processor seconds")
    if len(names) == 2:
        ratios = [x/y for x, y in zip(results["ours"]["turns"], results["trl_reward"]["turns"])]; r = statistics.median(ratios)
        print("steps a second, ours / plain TRL, by turn: " + " ".join(f"{x:.3f}" for x in ratios))
        print(f"- at least .95 of plain TRL's steps a second: {r:.3f}, {'reached' if r >= .95 else 'NOT reached'}")
        results["ratio"] = {"turns": ratios, "median": r}
    if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0

if __name__ == "__main__": sys.exit(main())
