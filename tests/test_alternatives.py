"RLOO, GRPO and DPO beside what the chapter shows: a 4-bit base, gradient checkpointing, a training that is killed"
import json

import pytest
import torch

from cai_repro.alternatives import GroupConfig, sample_means, train_dpo, train_rl
from cai_repro.core import CaiError, resource_path
from cai_repro.models import Roles, load_base, quiet, tiny_model

ROWS = [{"prompt": f"is it {w}?"} for w in ("a hat", "red", "so", "me")]
PAIRS = [{"prompt": f"is it {w}?", "a": a, "b": b, "p_a": p} for w, a, b, p in (("red", "yes it is", "no", .9), ("so", "no", "it is late", .3), ("me", "yes", "a big hat", 1.))] * 4
SETTINGS = {m: dict(steps=2, rollouts_per_step=16, group=4, minibatch=8, microbatch=8, max_new_tokens=6, lr=5e-3) for m in ("rloo", "grpo")} | {"dpo": dict(batch_size=4, lr=5e-3)}

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A small random base on the disk"
    _, tok = load_base(resource_path("data/pocket/base"), device="cpu")
    with quiet():
        path = tmp_path_factory.mktemp("base")
        tiny_model(tok, width=64, max_position_embeddings=128, initializer_range=.1).save_pretrained(path); tok.save_pretrained(path)
    return path

def make(folder, quantize=None, dtype=None):
    roles = Roles(*load_base(folder, quantize, "cpu", dtype))
    for role, head in (("sl", False), ("pm", True)):
        roles.add(role, head=head)
        for i, p in enumerate(roles.params(role)): p.data += (1. if p.shape[0] == 1 else .05) * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    return roles

def bits(roles): return {r: [p.detach().clone() for p in roles.params(r)] for r in roles.names}
def same(a, b): return all(torch.equal(x, y) for r in a for x, y in zip(a[r], b[r], strict=True))

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_four_bits(folder, method, dtype):
    roles = make(folder, "nf4", dtype); before, base = bits(roles), roles.base_sha256()
    log = train_rl(method, roles, ROWS, PAIRS, SETTINGS[method])
    assert roles.base_sha256() == base and roles.names == ["sl", "pm", "policy"] and same(before, bits(roles))
    assert {p.dtype for r in roles.names for p in roles.params(r)} == {torch.float32}           # TRL rounds to bfloat16, which must not stay
    assert all(not torch.equal(x, y) for x, y in zip(before["sl"], roles.params("policy")))
    if method == "dpo": assert abs(log[0]["loss"] - .65) < .1
    else: assert abs(log[0]["kl"]) < 1e-6 < 1e-3 < abs(log[1]["kl"])                            # the reference is the policy's start, to the bit

@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_gradient_checkpointing_changes_nothing(folder, method, monkeypatch):
    plain = make(folder); log = train_rl(method, plain, ROWS, PAIRS, SETTINGS[method])
    monkeypatch.setattr("cai_repro.models.BIG", 0)           # as for a base of billions
    big = make(folder); again = train_rl(method, big, ROWS, PAIRS, SETTINGS[method])
    for x, y in zip(log, again, strict=True):
        for k in set(x) & {"pm_score", "kl", "loss", "length"}: assert x[k] == pytest.approx(y[k], abs=1e-2), k
    assert not any(getattr(m, "gradient_checkpointing", False) for m in big.base.modules())

@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_killed(folder, method, tmp_path):
    class Killed(BaseException): pass
    def die(done, total):
        if done == 1: raise Killed
    roles = make(folder); before, base = bits(roles), roles.base_sha256()
    with pytest.raises(Killed): train_rl(method, roles, ROWS, PAIRS, SETTINGS[method], on_progress=die, log_path=tmp_path/"log.jsonl")
    assert roles.names == ["sl", "pm"] and same(before, bits(roles)) and roles.base_sha256() == base
    assert not roles.model.training and roles.active is None and "forward" not in roles.base.__dict__
    log = train_rl(method, roles, ROWS, PAIRS, SETTINGS[method], log_path=tmp_path/"log.jsonl")   # and the same call works after it
    other = make(folder); want = train_rl(method, other, ROWS, PAIRS, SETTINGS[method])
    steady = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert steady(log) == steady(want) == steady(map(json.loads, (tmp_path/"log.jsonl").read_text().splitlines()))
    assert same(bits(roles), bits(other))

LONGER = {m: s | (dict(epochs=2) if m == "dpo" else dict(steps=3, epochs=2)) for m, s in SETTINGS.items()}   # DPO: three gradient steps a pass

@pytest.mark.parametrize("method, at", [("rloo", 2), ("grpo", 2), ("dpo", 3), ("dpo", 4), ("dpo", 5)])
def test_goes_on_where_it_was_killed(folder, method, at, tmp_path):
    "In step `at`: what comes out is what an unbroken training gives, to the last bit; DPO within a pass, at its end, and within the second"
    class Killed(BaseException): pass
    steady, seen = (lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]), []
    def die(done, total):
        if done == at: raise Killed
    whole, half = make(folder), make(folder)
    want = train_rl(method, whole, ROWS, PAIRS, LONGER[method])
    with pytest.raises(Killed): train_rl(method, half, ROWS, PAIRS, LONGER[method], checkpoint=tmp_path/"state", every=1, on_progress=die)
    assert [p.name for p in (tmp_path/"state").iterdir()] == [f"step-{at - 1:06d}"] and half.names == ["sl", "pm"]
    (tmp_path/"state"/".new").mkdir(); (tmp_path/"state"/".new"/"learned.safetensors").write_bytes(b"half of it")   # as a kill while writing leaves it
    torch.rand(7)                                                                               # another process would not be at this random state
    log = train_rl(method, half, ROWS, PAIRS, LONGER[method], checkpoint=tmp_path/"state", every=1, on_progress=lambda done, total: seen.append(done))
    assert steady(log) == steady(want) and same(bits(half), bits(whole)) and seen[0] == at - 1 and len(seen) == len(set(seen))
    last = [p.name for p in (tmp_path/"state").iterdir()]
    again = make(folder)
    assert steady(train_rl(method, again, ROWS, PAIRS, LONGER[method], checkpoint=tmp_path/"state")) == steady(want) and same(bits(again), bits(whole))   # finished: nothing is left to do
    assert [p.name for p in (tmp_path/"state").iterdir()] == last
    with pytest.raises(CaiError, match="belongs to another training: lr was"): train_rl(method, make(folder), ROWS, PAIRS, LONGER[method] | dict(lr=1e-4), checkpoint=tmp_path/"state")
    file = tmp_path/"state"/last[0]/"learned.safetensors"; file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CaiError, match="damaged"): train_rl(method, make(folder), ROWS, PAIRS, LONGER[method], checkpoint=tmp_path/"state")

def test_what_can_not_be_kept(folder, monkeypatch, tmp_path):
    for method in ("rloo", "dpo"):
        with pytest.raises(CaiError, match="every=0"): train_rl(method, make(folder), ROWS, PAIRS, SETTINGS[method], checkpoint=tmp_path/"state", every=0)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")                                           # a base in pieces
    for method in ("ppo", "rloo", "grpo", "dpo"):
        with pytest.raises(CaiError, match=f"{method.upper()} can not run under FSDP.*") as e: train_rl(method, None, ROWS, PAIRS)
        assert "ddp.yaml" in e.value.remedy
    assert not (tmp_path/"state").exists()

def test_real_stop_strings(folder):
    "Without `newline_stops` a response may hold line breaks; it ends where the next speaker begins"
    roles = make(folder)
    log = train_rl("rloo", roles, ROWS, (), SETTINGS["rloo"], newline_stops=False)
    assert len(log) == 2 and log[0]["length"] <= 6
    means, said = sample_means(roles, "policy", ROWS, newline_stops=False, max_new_tokens=6)
    assert len(said) == 4 and means["kl"] != 0

def test_two_policies_side_by_side(folder):
    roles = make(folder)
    train_rl("rloo", roles, ROWS, (), SETTINGS["rloo"], policy="one"); kept = bits(roles)
    train_dpo(roles, PAIRS, policy="two", batch_size=4)
    assert roles.names == ["sl", "pm", "one", "two"] and same(kept, bits(roles))
    assert GroupConfig(**SETTINGS["grpo"]).group == 4
