"""A run and its surroundings: its directory, its signals, what it shows and what it leaves.

It owns paper and time; it never calls the network and knows no loss.
"""

import contextlib
import math
import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sa_flax import strict_json
from sa_flax.config import Config
from sa_flax.data.pipeline import describe_cache
from sa_flax.data.splits import Example, Splits
from sa_flax.files import write_whole
from sa_flax.inference import evaluate
from sa_flax.inference.denoiser import Denoiser
from sa_flax.noise import Noise
from sa_flax.pictures import side_by_side
from sa_flax.training import logs, processes, run_data
from sa_flax.training.checkpoint import Checkpoints
from sa_flax.training.mirror import Mirror
from sa_flax.training.monitor import Monitor
from sa_flax.training.network import best_score, save_network, step_of_network
from sa_flax.training.one_writer import OneWriter
from sa_flax.training.provenance import versions
from sa_flax.training.run_directory import claim, earlier_config, saved_steps
from sa_flax.training.signals import catch_signals
from sa_flax.training.state import TrainState, learning_rate_schedule


class Run:
    """One start of a training run, from claiming its directory to its last word.

        with Run(config, place, splits, resume=False) as run:
            state = run.restore(state)
            run.begin(facts)
            for step in run.steps():
                ...  # train
                run.note(step, metrics)

    Args:
      config: of the run.
      place: its directory, and where that is copied to; see `run_directory.claim` for what it may
        hold.
      splits: its pictures. That they are those of the run's earlier starts is checked, and what
        they are made of noted in data.json.
      resume: insist that there is a run to go on with.

    Attributes:
      step: training steps done.
      stopped: whether a signal has ended it before its last step.
    """

    def __init__(self, config: Config, place: Mirror, splits: Splits, *, resume: bool):
        self.config, self.output = config, place.folder
        self._mirror = place
        self.step = self._began = 0
        self._splits = splits
        self._claim = claim(self.output, config, resume=resume)
        self._monitor = Monitor(config.optimizer.max_skipped)
        self._broken: list[str] = []
        self._pending: list[dict[str, jax.Array]] = []
        self._waited = 0.0
        self._scores: dict[str, float] = {}
        self._scored_at = 0
        own = evaluate.PAIRS if splits.pairs else evaluate.own_name(config.noise)
        self._own_noises = [] if own is None else [own]
        self._stopping = False

    def __enter__(self) -> "Run":
        data = self._splits.manifest
        with contextlib.ExitStack() as stack:
            moved = processes.first(lambda: run_data.data_changes(self.output, data))
            # Before claiming writes the new one.
            self._earlier = earlier_config(self.output) if processes.is_first() else None
            changes = processes.first(lambda: stack.enter_context(self._claim))
            self._changes, self._data_changes = list(changes or ()), list(moved or ())
            processes.first(lambda: run_data.note_data(self.output, data))
            make = Checkpoints if self._mirror.shared else OneWriter
            self._checkpoints = make(self.output, keep=self.config.keep_checkpoints)
            stack.enter_context(contextlib.closing(self._checkpoints))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint's state, or, where there is none, `state` as it is."""
        restored = self._checkpoints.restore(state)
        if restored is not None:
            state, self.step, self._broken = restored
        self._began = self.step
        return state

    def begin(self, facts: dict[str, str]) -> None:
        """Says what the run is, opens the log, and from here on only notes signals."""
        say(f"skipped a broken checkpoint: step {line}" for line in self._broken)
        say([logs.format_facts(facts)])
        say(f"  changed since: {line}" for line in self._changes)
        say(rate_change(self._earlier, self.config, self.step))
        say(f"  data: {line}" for line in self._splits.notes)
        say(_shortened("  data changed since", self._data_changes, self.output))
        say(_shortened("  left out", self._splits.skipped, self.output))
        self._log: logs.RunLog | logs.NoLog = logs.NoLog()
        if processes.is_first():
            self._log = logs.RunLog(self.output, steps=self.config.steps, start=self.step)
        self._stack.enter_context(contextlib.closing(self._log))
        self._mirror.push()
        self._stop_catching = self._stack.enter_context(contextlib.ExitStack())
        self._caught = self._stop_catching.enter_context(catch_signals())

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to do, up to the last one or until a signal."""
        while self.step < self.config.steps and not self._stopping:
            self.step += 1
            yield self.step
            self._log.step()
        self._flush()

    @property
    def stopped(self) -> bool:
        """Whether a signal has ended it, be it in its last step."""
        return self._stopping or self.step < self.config.steps

    def next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time it is waited for is noted."""
        asked = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - asked
        return batch

    def note(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes a step's metrics, which may not be computed yet; logs their means when it is time.

        Raises:
          DivergedError: where too many updates in a row were skipped.
        """
        self._pending.append(metrics)
        if len(self._pending) > 2:  # stay at most two steps ahead of the device
            jax.block_until_ready(self._pending[-3])
        config = self.config
        # All processes stop at the same step.
        if jax.process_count() == 1 or step % 10 == 0 or step == config.steps:
            self._listen()
        if any(map(self.due, (config.log_every, config.evaluate_every, config.checkpoint_every))):
            self._flush()

    def _listen(self) -> None:
        """Ends the run where a signal has reached any process. All must call this together."""
        self._stopping = self._stopping or processes.any_process(bool(self._caught))

    def _flush(self) -> None:
        if not self._pending:
            return
        means = self._monitor.means(self._pending, last_step=self.step)
        self._log.metrics(
            self.step,
            {**means, "seconds_waiting_for_data": self._waited},
            images_per_step=self.config.data.batch_size,
        )
        self._pending, self._waited = [], 0.0

    def due(self, every: int) -> bool:
        """Whether what is done every so many steps, and at the last, is to be done now.

        Not once the run is being stopped: then it is saved, and no more.
        """
        last = self.step == self.config.steps
        return (self.step % every == 0 or last) and not self._stopping

    def owes_validation(self) -> bool:
        """Whether the step that it goes on from was to be validated, and a signal came first."""
        entries = logs.read_metrics(self.output) if self.step and processes.is_first() else []
        done = any(e["step"] == self.step and any("validation/" in k for k in e) for e in entries)
        owed = bool(entries) and self.due(self.config.evaluate_every) and not done
        return processes.any_process(owed)

    def scores(self, rows: Sequence[dict[str, Any]]) -> None:
        """Notes the figures of a validation, the rows of `evaluate`."""
        scores = {row["noise"]: row["psnr"] for row in rows if row["method"] != "noisy"}
        self._log.validation(self.step, scores)
        self._scores = scores
        self._scored_at = self.step

    def save(self, state: TrainState, network: nnx.Module) -> None:
        """Saves a checkpoint and, beside it, the averaged network. Once for each step.

        The best checkpoint is the one with the highest PSNR on the run's own noise; where that is
        the published noise, on the mean of its levels. Its network is kept besides, in `best`.
        """
        psnr, judged_by = None, list[str]()
        if self._scores and self._scored_at == self.step:
            judged_by = [name for name in self._own_noises if name in self._scores]
            judged_by = judged_by or list(self._scores)
            psnr = min(float(np.mean([self._scores[name] for name in judged_by])), 999.0)
        self._mirror.changing()
        saved = self._checkpoints.save(state, self.step, psnr=psnr)
        if not processes.is_first():
            return
        better = psnr is not None and psnr > best_score(self.output, judged_by)
        # A run that died after its checkpoint may have left an older network.
        if not (saved or better or step_of_network(self.output) != self.step):
            return
        for best in [None, psnr] if better else [None]:
            save_network(
                self.output,
                network,
                self.config,
                step=self.step,
                scores=self._scores,
                scored_at=self._scored_at,
                best=best,
            )
        self._mirror.push()

    def samples(
        self,
        denoiser: Denoiser,
        examples: Sequence[Example],
        noises: Mapping[str, Noise | None],
        folder: str,
    ) -> None:
        """Saves noisy | denoised | clean of each picture: its own noise, or the middle level."""
        if not processes.is_first():
            return
        middle = list(noises)[len(self.config.evaluation_sigmas) // 2]
        title = next((own for own in self._own_noises if own in noises), middle)
        for index, example in enumerate(examples):
            noisy, clean, sigma = evaluate.noisy_and_clean(
                example, noises[title], seed=0, index=index
            )
            name = f"picture{index}_{title.replace(' ', '')}"
            shown = side_by_side([noisy, denoiser.method(noisy, sigma), clean])
            logs.save_png(self.output / "samples" / folder / f"{name}.png", shown)
            if folder != "test":
                self._log.picture(self.step, name, shown)

    def newest(self) -> str:
        """What checkpoint there is to go on from."""
        if not self._mirror.shared:
            return f"What is saved is at {self._mirror.name}."
        steps = [int(path.name) for path in saved_steps(self.output)]
        return f"The newest checkpoint is of step {max(steps)}." if steps else "Nothing is saved."

    def say_goodbye(self) -> int:
        """The last words of a run that a signal has stopped; returns its exit code."""
        say([f"stopped at step {self.step}; the same command goes on from there."])
        return 128 + (self._caught or [signal.SIGTERM])[0]

    def finish(
        self, rows: Sequence[dict[str, Any]], *, test_set: Sequence[Example], seconds: float
    ) -> None:
        """Says on how many of the test pictures the rows were measured; writes evaluation.json.

        The steps noted there are those of this start alone: a run that was resumed, or evaluated
        anew, had more.
        """
        output, measured, among = self.output, len(test_set), len(self._splits.test)
        print(
            f"\n{evaluate.format_table(rows)}\n"
            + (
                f"(the first {measured} of {among} test pictures; sa-flax evaluate {output} "
                "--images FOLDER measures any number)\n"
                if among > measured
                else f"(all {measured} test pictures)\n"
            )
        )
        results = {
            "results": rows,
            "test_pictures": {"measured": measured, "of": among},
            "steps_of_this_start": self.step - self._began,
            "seconds": round(seconds, 1),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            **versions(),
        }
        write_whole(output / "evaluation.json", strict_json.dumps(results, indent=2) + "\n")
        print(f"pictures (noisy | denoised | clean): {output}/samples, {output}/learning_curve.png")
        print(f"logs: {output}/metrics.jsonl, tensorboard --logdir {output}/tensorboard")
        model = self._mirror.name
        print(f"\nnext: sa-flax denoise YOUR_PICTURE.jpg --model {model} --output denoised")

    def close_log(self) -> None:
        """Ends the log, draws the learning curve, and hears signals as before."""
        self._listen()
        self._stop_catching.close()
        self._log.close()
        if isinstance(self._log, logs.RunLog):
            logs.save_learning_curve(self.output)
            print(self._log.summary())


MOST_MEASURED = 24


def evaluation_crops(
    examples: Sequence[Example], *, largest: int, most: int = MOST_MEASURED
) -> list[Example]:
    """The first `most` examples, their centres where a side is longer than `largest` pixels."""
    crops = []
    for index in range(min(len(examples), most)):
        example = examples[index]
        shape = example["clean"].shape
        height, width = (min(side, largest) for side in shape[:2])
        top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
        window = np.s_[top : top + height, left : left + width]
        crops.append({name: picture[window] for name, picture in example.items()})
    return crops


def facts(config: Config, output: str, params: Any, splits: Splits, step: int) -> dict[str, str]:
    """What the start-up table says."""
    devices = jax.devices()
    model = config.model
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    attention = f", attention {model.attention} ({model.attend})"
    split = [
        f"{what} over {n}"
        for what, n in (("state", config.mesh.fsdp), ("height", config.mesh.height))
        if n > 1
    ]
    start = f"going on at step {step}" if step else "from the start"
    return {
        "run": f"{output} ({start}, to step {config.steps})",
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{os.cpu_count()} CPU cores, {config.dtype}"
        + (f", {jax.process_count()} processes" if jax.process_count() > 1 else "")
        + "".join(f", {s}" for s in split),
        "network": f"{model.name}, {count:,} parameters, {model.channels} channel(s)"
        + (attention if model.name == "attention_unet" else ""),
        **({"starts from": config.init_from} if config.init_from else {}),
        "noise": str(config.noise),
        "data": f"{config.data.source}: {len(splits.train)} to train, {len(splits.validation)} to "
        f"validate{_measured(splits.validation)}, {len(splits.test)} to test"
        f"{_measured(splits.test)}"
        + (f"; {len(splits.skipped)} left out, see below" if splits.skipped else ""),
        "memory": describe_cache(config.data),
        "batch": f"{config.data.batch_size} crops of {config.data.crop} x {config.data.crop}"
        + (f", {config.optimizer.accumulate} parts" if config.optimizer.accumulate > 1 else ""),
        "seed": str(config.seed),
    }


def rate_change(earlier: Config | None, config: Config, step: int) -> list[str]:
    """A line where the learning rate jumps as a run goes on, with more steps for example."""
    if earlier is None or not step:
        return []
    before, now = (
        float(learning_rate_schedule(c.optimizer, c.steps)(step)) for c in (earlier, config)
    )
    if math.isclose(before, now, rel_tol=0.01):
        return []
    advice = (
        "; to be able to add steps later, train with --optimizer.schedule wsd, whose rate falls "
        "over the last steps only"
        if config.optimizer.schedule == "cosine" and config.steps > earlier.steps
        else ""
    )
    return [f"  learning rate at step {step}: {before:.1e} -> {now:.1e}{advice}"]


def _measured(examples: Sequence[Example]) -> str:
    return f" (the first {MOST_MEASURED} measured)" if len(examples) > MOST_MEASURED else ""


def _shortened(what: str, lines: Sequence[str], output: Path, most: int = 20) -> list[str]:
    """Lines to print: the first `most`; the others stand in data.json."""
    rest = len(lines) - most
    more = [f"{what}: {rest} more, see {output / run_data.DATA}"] if rest > 0 else []
    return [f"{what}: {line}" for line in lines[:most]] + more


def say(lines: Iterable[str]) -> None:
    """Prints lines, in the first process only."""
    for line in lines if processes.is_first() else ():
        print(line)
