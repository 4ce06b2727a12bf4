"""Constitutional AI as a library: `from cai_repro import load_constitution, open_engine, revise`

A name is imported from its module when it is first used (PEP 562), so `import cai_repro` loads no torch."""
__version__ = "0.1.0"

from typing import TYPE_CHECKING

__all__ = ["CaiError", "Constitution", "Dialogue", "LocalEngine", "PPOConfig", "Principle", "Roles", "evaluate_suite", "label_pairs", "load_base", "load_constitution",
           "open_engine", "revise", "run", "run_datasets", "sample_pairs", "score_responses", "sl_rows", "train_pm", "train_ppo", "train_sft"]

if TYPE_CHECKING:   # for editors and type checkers; at run time `_HOME` says the same
    from .constitution import Constitution, Principle, load_constitution
    from .core import CaiError, Dialogue
    from .critique import revise
    from .feedback import label_pairs, sample_pairs
    from .generate import LocalEngine, open_engine
    from .models import Roles, load_base
    from .pipeline import run
    from .ppo import PPOConfig, train_ppo
    from .preference import score_responses, train_pm
    from .sft import sl_rows, train_sft
    from .share import run_datasets
    from .suites import evaluate_suite
else:
    _HOME = {"constitution": ("Constitution", "Principle", "load_constitution"), "core": ("CaiError", "Dialogue"), "critique": ("revise",), "feedback": ("label_pairs", "sample_pairs"),
             "generate": ("LocalEngine", "open_engine"), "models": ("Roles", "load_base"), "pipeline": ("run",), "ppo": ("PPOConfig", "train_ppo"),
             "preference": ("score_responses", "train_pm"), "sft": ("sl_rows", "train_sft"), "share": ("run_datasets",), "suites": ("evaluate_suite",)}
    _MODULE = {name: module for module, names in _HOME.items() for name in names}

    def __getattr__(name):
        if name not in _MODULE: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module
        value = globals()[name] = getattr(import_module(f".{_MODULE[name]}", __name__), name)
        return value

    def __dir__(): return sorted({*globals(), *__all__})
