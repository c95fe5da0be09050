"""Signals at the steps that are validated, with the loop in this process."""

import dataclasses
import json
import os
import signal
from pathlib import Path

from sa_flax.config import PRESETS, DataConfig
from sa_flax.inference import evaluate
from sa_flax.models.saved import from_pretrained
from sa_flax.training import loop
from sa_flax.training.mirror import Mirror
from sa_flax.training.run import Run


def validated(run: Path) -> list[int]:
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [e["step"] for e in entries if any("validation" in key for key in e)]


def test_a_signal_at_a_step_that_is_validated(few_pictures, tmp_path, monkeypatch):
    """In its training, and it is validated at the next start; in its validation, and it ends."""
    smoke = PRESETS["smoke"]
    config = dataclasses.replace(
        smoke,
        steps=4,
        evaluate_every=2,
        evaluation_sigmas=(25.0,),
        model=dataclasses.replace(smoke.model, width=4, levels=2),
        data=DataConfig(source=str(few_pictures), batch_size=8, crop=16),
    )
    place = Mirror(tmp_path / "run")
    note, measure = Run.note, evaluate.evaluate

    def note_signalled(self, step, metrics):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        note(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "note", note_signalled)
        assert loop.train(config, place, resume=False) == 128 + signal.SIGTERM
    assert validated(place.folder) == []

    def evaluate_signalled(*args, **kwargs):
        if validated(place.folder):
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", evaluate_signalled)
        assert loop.train(config, place, resume=True) == 128 + signal.SIGTERM
    assert validated(place.folder) == [2, 4]
    kept, best = (from_pretrained(f"{place.folder}{end}")[1]["training"] for end in ("", "@best"))
    assert (kept["step"], kept["validated_at"]) == (4, 4)
    assert best["best_psnr"] == max(best["validation_psnr"].values())
    assert best["step"] == best["validated_at"]
    assert not (place.folder / "evaluation.json").exists()
