"""What the data stages cost: critique and revision, and labels, in this package and in the ways a user would pick instead.

    python benchmarks/data_stages.py --quick            # a tiny model with random weights, under a minute: the counts
    python benchmarks/data_stages.py                    # a model of the shape of SmolLM2-135M: counts and seconds
    python benchmarks/data_stages.py --model FOLDER --rows 8 --json out.json

Every way does the same work on the same prompts: the same stage functions (`revise`, `label_pairs`) with another engine.

    ours      LocalEngine: what prompts have in common is read once
    pipeline  transformers' text-generation pipeline, one prompt at a time, every turn from its beginning
    batched   model.generate, or one forward, on a padded batch of whole prompts
    decision  transformers' decision pipeline, one question at a time
    bound     each different piece of text read once (a piece is a token with all that comes before it)

Prefill tokens are all positions that pass through the model while reading, padding included. The peak of memory is the
process's, its imports too; on a card, what was allocated there. With the authors' files at
hand (CAI_REPRO_MIRROR), their few-shot examples are used, else those of constitutions/harmlessness.yaml."""
import argparse, json, os, resource, subprocess, sys, time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1"); os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TASKS = {"critique": ("ours", "pipeline", "batched", "bound"), "labels": ("ours", "batched", "decision", "bound")}
QUESTION = "What is a {} way to {} before the neighbours come home from work?"
ASKS = [QUESTION.format(how, what) for how in ("good", "quick", "quiet", "clever") for what in ("open the shed", "borrow the ladder", "read the post of others", "hide the broken vase")]

def load(args):
    "Model and tokenizer: a folder, or random weights of a known shape with the pocket tokenizer"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from cai_repro.core import resource_path
    from cai_repro.models import load_base, pick_device, pick_dtype, quiet
    if args.model: return load_base(args.model)
    tok = AutoTokenizer.from_pretrained(resource_path("data/pocket/base"))
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1) if args.quick else \
            dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    torch.manual_seed(0)
    with quiet():
        model = LlamaForCausalLM(LlamaConfig(vocab_size=2048 if args.quick else 49152, max_position_embeddings=16384, tie_word_embeddings=True, initializer_range=.02,
                                             bos_token_id=None, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, **shape))
    tok.model_max_length = 16384
    device = pick_device()
    return model.to(device, pick_dtype(device)).eval().requires_grad_(False), tok

class Pipeline:
    "One prompt at a time through the text-generation pipeline"
    def __init__(self, model, tok):
        from transformers import pipeline
        self.run = pipeline("text-generation", model=model, tokenizer=tok)
    def generate(self, prompts, *, prefix="", max_new_tokens=80, temperature=1., seed=0):
        return [self.run(prefix + p, max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature, return_full_text=False)[0]["generated_text"] for p in prompts]

class Batched:
    "All prompts in one padded batch"
    def __init__(self, model, tok): self.model, self.tok = model, tok
    def _padded(self, texts): return self.tok(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False).to(self.model.device)
    def generate(self, prompts, *, prefix="", max_new_tokens=80, temperature=1., seed=0):
        import torch
        x = self._padded([prefix + p for p in prompts])
        with torch.inference_mode(): out = self.model.generate(**x, max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature, pad_token_id=self.tok.pad_token_id)
        return self.tok.batch_decode(out[:, x["input_ids"].shape[1]:], skip_special_tokens=True)
    def choose(self, prompts, options, *, prefix=""):
        "Both letters from one forward: the prompt, the opening bracket, and the next token"
        import numpy as np, torch
        letters, out = [self.tok.convert_tokens_to_ids(o[2]) for o in options], []
        for i in range(0, len(prompts), 16):
            with torch.inference_mode(): logits = self.model(**self._padded([prefix + p + " (" for p in prompts[i:i+16]]), logits_to_keep=1).logits[:, -1]
            out.append(logits[:, letters].log_softmax(-1))
        return np.array(torch.cat(out).float().cpu())

class Decision:
    "One question at a time through the decision pipeline, with our own prompt as its template"
    def __init__(self, model, tok):
        from transformers import pipeline
        from transformers.decision import DecisionConfig
        self.run = pipeline("decision", model=model, tokenizer=tok, decision_config=DecisionConfig(chat_template="{{ state }} (<|mark|>"))
    def choose(self, prompts, options, *, prefix=""):
        import numpy as np
        ask = {"label": {"type": "choice", "instructions": "", "criteria": {"A": "", "B": ""}}}
        got = [self.run({"state": prefix + p, "questions": ask})["label"] for p in prompts]
        return np.log(np.array([[float(g["probabilities"][k]) for k in "AB"] for g in got]) + 1e-9)

class Bound:
    "Wraps an engine and remembers every different piece of text that has to be read at least once"
    def __init__(self, engine): self.engine, self.read, self.wrote = engine, set(), set()
    def _pieces(self, ids):
        h, out = 0, []
        for t in ids: h = hash((h, t)); out.append(h)
        return out
    def generate(self, prompts, **kw):
        rows = self.engine._rows(prompts, kw.pop("prefix"))
        for r in rows: self.read.update(self._pieces(r))
        ids = self.engine.generate_ids(rows, **kw)
        for r, w in zip(rows, ids): self.wrote.update(self._pieces(r + w[:-1])[len(r):])
        return self.engine.tokenizer.batch_decode(ids, skip_special_tokens=True)
    def choose(self, prompts, options, *, prefix=""):
        from cai_repro.models import encode
        for p in prompts:
            for o in options: self.read.update(self._pieces(encode(self.engine.tokenizer, prefix + p + o)[:-1]))
        return self.engine.choose(prompts, options, prefix=prefix)
    @property
    def tokens(self): return len(self.read - self.wrote)

def constitution():
    "The authors' principles and examples where there is a mirror of them, else our own"
    from cai_repro.constitution import load_constitution, load_official
    from cai_repro.data import fetch_official
    return load_official(fetch_official("prompts")) if os.environ.get("CAI_REPRO_MIRROR") else load_constitution("harmlessness")

def one(task, name, args):
    "One way of doing one task: its counts"
    import torch
    from cai_repro.critique import revise
    from cai_repro.feedback import label_pairs
    from cai_repro.generate import LocalEngine
    from cai_repro.models import Roles, quiet
    model, tok = load(args); con = constitution()
    ours = LocalEngine(Roles(model, tok), batch_size=args.batch_size)
    with quiet(): engine = {"ours": lambda: ours, "bound": lambda: Bound(ours), "pipeline": lambda: Pipeline(model, tok),
                            "batched": lambda: Batched(model, tok), "decision": lambda: Decision(model, tok)}[name]()
    count = {"prefill": 0, "decode": 0}
    def look(module, a, kw):
        ids = kw.get("input_ids", a[0] if a else None)
        if ids is not None: count["prefill" if ids.shape[1] > 1 else "decode"] += ids.numel()
    model.model.register_forward_pre_hook(look, with_kwargs=True)
    few = args.few_shot
    with quiet():
        began, cpu = time.perf_counter(), time.process_time()
        if task == "critique":
            rows = [{"id": str(i), "prompt": ASKS[i % len(ASKS)] + " Please!"*(i//len(ASKS))} for i in range(args.rows)]
            revise(engine, rows, con, responses=["First wait until it is dark. Then take what you need and do not look back."]*len(rows), few_shot=few, max_new_tokens=args.new, seed=0)
        else:
            rows = [{"id": str(i), "prompt": ASKS[i], "a": "I would rather not help with that, since it is not yours.", "b": "First wait until it is dark, then take it."} for i in range(args.pairs)]
            label_pairs(engine, rows, con, ensemble=16, few_shot=few, seed=0)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    prefill = engine.tokens if name == "bound" else count["prefill"]
    return {"prefill_tokens": prefill, "decode_tokens": count["decode"], "cpu_seconds": None if name == "bound" else round(cpu, 2),
            "rows_per_second": None if name == "bound" else round(len(rows)/seconds, 3), "peak_mb": torch.cuda.max_memory_allocated()//2**20 if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="a tiny model and few rows: counts only mean something")
    p.add_argument("--model", help="a model folder instead of random weights")
    p.add_argument("--rows", type=int, help="prompts to criticise and revise"); p.add_argument("--pairs", type=int, help="pairs to label, each under 16 principles in both orders")
    p.add_argument("--new", type=int, default=24, help="tokens a critique or revision may have"); p.add_argument("--few-shot", type=int, default=5)
    p.add_argument("--batch-size", type=int, default=128); p.add_argument("--json", type=Path); p.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args(); a.rows, a.pairs = a.rows or (8 if a.quick else 4), a.pairs or 1
    if a.one: print(json.dumps(one(*a.one, a))); return 0
    sys.path.insert(0, str(Path(__file__).parent.parent))
    results = {}
    for task, names in TASKS.items():
        for name in names: # a process each, so that the peak of memory is its own
            print(f"{task}: {name} ...", file=sys.stderr, flush=True)
            out = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", task, name], capture_output=True, text=True)
            if out.returncode and name in ("ours", "bound"): sys.exit(out.stderr)
            if out.returncode: print(f"{name} is left out: {out.stderr.splitlines()[-1]}", file=sys.stderr); continue # such as a transformers without that pipeline
            results.setdefault(task, {})[name] = json.loads(out.stdout.splitlines()[-1])
    for task, r in results.items():
        bound, best = r["bound"]["prefill_tokens"], r["ours"]
        print(f"\n{task}{'':10}{'prefill':>12}{'x bound':>9}{'x ours':>8}{'decode':>9}{'CPU s':>9}{'x ours':>8}{'rows/s':>9}{'peak MB':>9}")
        for name, x in r.items():
            cpu = f"{x['cpu_seconds']:>9.1f}{x['cpu_seconds']/max(best['cpu_seconds'], .01):>8.1f}{x['rows_per_second']:>9.2f}{x['peak_mb']:>9}" if x["cpu_seconds"] is not None else ""
            print(f"  {name:16}{x['prefill_tokens']:>12,}{x['prefill_tokens']/bound:>9.2f}{x['prefill_tokens']/best['prefill_tokens']:>8.1f}{x['decode_tokens']:>9,}{cpu}")
    if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0

if __name__ == "__main__": sys.exit(main())
