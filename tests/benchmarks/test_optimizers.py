"""The study of rates and clipping: each training once, and the table."""

import json
import sys
from pathlib import Path

from benchmarks import optimizers
from sa_flax.training.command import parse_command


def test_each_training_once_and_a_table(tmp_path, monkeypatch, capsys):
    """Trainings that only leave their results; one is stopped once."""
    commands, codes = [], {0.008: [143, 0]}

    def train(command: list[str]) -> tuple[int, float]:
        parsed = parse_command(command[command.index("quick") :])
        commands.append(parsed)
        run, rate = Path(parsed.output), parsed.config.optimizer.learning_rate
        (run / "network").mkdir(parents=True, exist_ok=True)
        code = codes.get(rate, [0]).pop(0)
        if code == 0:
            training = {"validation_psnr": {"sigma 15": 31.0, "sigma 25": 1000 * rate}}
            (run / "network" / "config.json").write_text(json.dumps({"training": training}))
            row = {"method": run.name, "noise": "sigma 25", "psnr": 30.0}
            others = [{**row, "method": "noisy", "psnr": 20.0}]
            (run / "evaluation.json").write_text(
                json.dumps({"results": [row, *others], "versions": {"jax": "0"}})
            )
        return code, 60.0

    monkeypatch.setattr(optimizers, "train", train)
    words = ["--rates", "2e-3", "4e-3", "8e-3", "--clips", "0.2", "--steps", "7", "--b2s", "0.95"]
    monkeypatch.setattr(sys, "argv", ["optimizers", *words, "--output", str(tmp_path)])
    assert optimizers.main() == 143
    assert len(list(tmp_path.glob("work/adamw-rate*"))) == 1, (
        "what was stopped is kept to go on with"
    )
    assert optimizers.main() == 0
    rates = [parsed.config.optimizer.learning_rate for parsed in commands]
    assert rates == [0.002, 0.004, 0.008, 0.008]
    assert {
        (p.config.steps, p.config.optimizer.clip_norm, p.config.optimizer.b2) for p in commands
    } == {(7, 0.2, 0.95)}
    assert len(list(tmp_path.glob("*.json"))) == 3
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--kinds", "muon", "--rates", "5e-3"])
    assert optimizers.main() == 0
    assert [parsed.config.optimizer.kind for parsed in commands] == 4 * ["adamw"] + ["muon"]
    assert not list((tmp_path / "work").iterdir())
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table == [
        "| adamw | 0.002 | 0.2 | 0.95 | 0.01 | 7 | 16.50 | 30.00 |",
        "| adamw | 0.004 | 0.2 | 0.95 | 0.01 | 7 | 17.50 | 30.00 |",
        "| adamw | 0.008 | 0.2 | 0.95 | 0.01 | 7 | 19.50 | 30.00 |",
        "| muon | 0.005 | 0.2 | 0.95 | 0.01 | 7 | 18.00 | 30.00 |",
    ]
