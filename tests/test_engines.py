"A live server: `transformers serve` with the pocket model, on this machine only"
import os, socket, subprocess, sys, time, urllib.request
import pytest
from cai_repro.core import CaiError, resource_path

pytest.importorskip("openai"); pytest.importorskip("uvicorn"); pytest.importorskip("fastapi")

@pytest.fixture(scope="module")
def server():
    "Base URL and model name of a running server"
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    model = str(resource_path("data/pocket/base"))
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    p = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(240):
        if p.poll() is not None: pytest.fail("the server did not start:\n" + p.stdout.read()[-2000:])
        try: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1); break
        except OSError: time.sleep(.25)
    yield f"http://127.0.0.1:{port}/v1", model
    p.terminate(); p.wait(20)

def test_texts_from_a_live_server(server, tmp_path):
    from cai_repro.engines import Recorded, ServerEngine
    from cai_repro.pocket import Judge
    url, model = server
    engine = ServerEngine(url, model, stop=("\n",), concurrency=2, answers=tmp_path/"answers.jsonl")
    asks = [f"\n\nHuman: How do I {what}?\n\nAssistant:" for what in ("water the garden", "steal the red bike", "learn the piano")]
    said = engine.generate(asks, max_new_tokens=60, seed=[1, 2, 3])
    assert all(said) and not any("\n" in t for t in said)
    assert sum(Judge().judge("", t).fluent for t in said) >= 2           # it is the pocket model that speaks
    assert engine.generate(asks, max_new_tokens=60, seed=[1, 2, 3]) == said  # from the file
    assert len((tmp_path/"answers.jsonl").read_text().splitlines()) == 3

def test_a_server_without_logprobs_cannot_judge_and_says_so(server):
    from cai_repro.engines import ServerEngine
    with pytest.raises(CaiError, match="gives no log-probabilities"): ServerEngine(*server, retries=0).choose(["The answer is:"], [" (A)", " (B)"])
