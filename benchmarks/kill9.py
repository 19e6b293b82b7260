"""Kill −9 at twenty moments, resume until finished: are the final weights the bytes of the run that nobody killed?

Moments are drawn by a seed: anywhere in the run (starting up and before the first checkpoint included), while a
checkpoint is being written (its folder `.step-….new` is waited for), and on a finished run. A killed run is resumed,
some are killed once more while resuming, and the SHA-256 of model.safetensors is compared with the uninterrupted
run's, whose compute settings (`--compute-from`) all share.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._material import shakespeare
from benchmarks._runner import Bench, begin, empty, flags, show
from textus.core.io import read_json, sha256

MODEL = (
    "model.n_layer=2", "model.d_model=128", "model.n_head=2", "model.context_length=64", "train.batch_size=16",
)  # fmt: skip
STEPS, EVERY = 400, 20
FINISH_WITHIN = 300


@dataclass
class Trial:
    """One killed run: what was planned, what happened."""

    number: int
    plan: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    same: bool = False
    why: str = ""


class Training:
    """A `textus` command that can be killed."""

    def __init__(self, arguments: list[str | Path], run: Path, log: Path) -> None:
        self.run, self.started = run, time.monotonic()
        with log.open("a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "textus"), *map(str, arguments)],
                stdout=errors,
                stderr=errors,
            )

    @property
    def over(self) -> bool:
        """Whether it ended by itself."""
        return self.process.poll() is not None

    def kill(self, plan: str) -> dict[str, Any]:
        """SIGKILL, then the state on the disk."""
        self.process.kill()
        code = self.process.wait()
        saving = [folder.name for folder in (self.run / "state").glob(".step-*.new")]
        return {
            "plan": plan,
            "seconds": round(time.monotonic() - self.started, 3),
            "killed": code == -9,
            "while_saving": bool(saving),
            "checkpoints": len(list((self.run / "state").glob("step-*"))),
            "run_json": (self.run / "run.json").exists(),
        }

    def kill_after(self, seconds: float) -> dict[str, Any]:
        """Wait, unless it ends before."""
        while time.monotonic() - self.started < seconds and not self.over:
            time.sleep(0.002)
        return self.kill(f"after {seconds:.2f} s")

    def kill_while_saving(self, nth: int) -> dict[str, Any]:
        """Wait for the folder of the nth checkpoint that is being written."""
        state, seen = self.run / "state", set()
        before = {folder.name for folder in state.glob(".step-*.new")}  # left by an earlier kill
        while not self.over:
            for folder in state.glob(".step-*.new"):
                if folder.name not in before:
                    seen.add(folder.name)
            if len(seen) >= nth:
                break
        return self.kill(f"while saving, checkpoint {nth}")

    def kill_before_first_checkpoint(self) -> dict[str, Any]:
        """Wait for run.json, then a moment."""
        while not (self.run / "run.json").exists() and not self.over:
            time.sleep(0.001)
        return self.kill("run.json exists, no checkpoint yet")


class Killing:
    """The uninterrupted run and how the others are made."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.log = bench, bench.log
        self.corpus, self.tokenizer, _ = shakespeare(bench)
        self.steps = 100 if bench.smoke else STEPS
        self.reference = bench.work / "reference"
        whole = bench.textus(*self.command_line(self.reference, None))
        self.seconds, self.expected = whole.wall, sha256(self.reference / "model.safetensors")
        self.command = whole.command

    def command_line(self, out: Path, compute_from: Path | None) -> list[str | Path]:
        """The arguments of the training command."""
        options = flags(
            tokenizer=self.tokenizer, steps=self.steps, checkpoint_every=EVERY, out=out, force=True, set=MODEL,
            compute_from=compute_from,
        )  # fmt: skip
        return ["train", self.corpus, *options]

    def start(self, run: Path) -> Training:
        """Start the run, or resume an existing one."""
        if (run / "run.json").exists():
            return Training(["resume", run], run, self.log)
        return Training(self.command_line(run, self.reference), run, self.log)

    def once(self, trial: Trial, random_: random.Random) -> None:
        """Kill as planned, then resume until finished, and compare."""
        run = self.bench.work / f"run-{trial.number}"
        if run.exists():
            empty(run).rmdir()
        if trial.plan == "finished":
            self.bench.textus(*self.command_line(run, self.reference))
        self.kill(trial.plan, self.start(run), trial, random_)
        if trial.plan == "twice":
            self.kill("anywhere", self.start(run), trial, random_)
        started_again = not (run / "run.json").exists()
        trial.resumed.append("started again by its command" if started_again else "resumed")
        last = self.start(run)
        if last.process.wait(FINISH_WITHIN):
            trial.why = f"resuming failed with exit code {last.process.returncode}, see {self.log}"
            return
        self.compare(trial, run)

    def kill(self, plan: str, training: Training, trial: Trial, random_: random.Random) -> None:
        """One kill −9."""
        if plan == "saving":
            trial.kills.append(training.kill_while_saving(random_.randint(1, self.steps // EVERY - 1)))
        elif plan == "before":
            trial.kills.append(training.kill_before_first_checkpoint())
        elif plan == "finished":
            trial.kills.append(training.kill_after(random_.uniform(0.05, 0.6)))
        else:
            trial.kills.append(training.kill_after(random_.uniform(0.02, 0.95) * self.seconds))

    def compare(self, trial: Trial, run: Path) -> None:
        """The bytes, and that resuming a finished run changes nothing."""
        digest = sha256(run / "model.safetensors")
        if (status := read_json(run / "run.json")["status"]) != "finished":
            trial.why = f"the status of run.json is {status}"
        elif digest != self.expected:
            trial.why = f"SHA-256 {digest[:12]}…, expected {self.expected[:12]}…"
        else:
            command = [str(Path(sys.executable).parent / "textus"), "resume", str(run)]
            again = subprocess.run(command, capture_output=True, text=True, check=False)
            reported = "is finished" in again.stderr + again.stdout
            trial.same = reported and sha256(run / "model.safetensors") == digest
            trial.why = "" if trial.same else "resuming the finished run did not report it, or changed it"


def plans(n: int, random_: random.Random) -> list[str]:
    """Of twenty: six while saving, two before the first checkpoint, one on a finished run, four killed twice."""
    fixed = ["saving"] * 6 + ["before"] * 2 + ["finished"] + ["twice"] * 4
    chosen = fixed + ["anywhere"] * (n - len(fixed)) if n > 3 else ["saving", "before", "anywhere"]
    random_.shuffle(chosen)
    return chosen


def main() -> None:
    """All trials; a line is printed as each ends."""
    bench = begin("kill9", __doc__, seed={"type": int, "default": 0, "help": "of the moments"})
    random_ = random.Random(bench.options.seed)
    killing = Killing(bench)
    trials = [Trial(i, plan) for i, plan in enumerate(plans(3 if bench.smoke else 20, random_), 1)]
    for trial in trials:
        killing.once(trial, random_)
        moments = "; ".join(f"{kill['plan']} at {kill['seconds']} s" for kill in trial.kills)
        outcome = "same bytes" if trial.same else f"DIFFERENT: {trial.why}"
        print(f"  {trial.number:2} {moments}: {outcome}", flush=True)
    kills = [(trial, kill) for trial in trials for kill in trial.kills]
    result = bench.result = {
        "passed": sum(trial.same for trial in trials),
        "trials": len(trials),
        "killed_while_saving": sum(kill["while_saving"] for _, kill in kills),
        "killed_before_first_checkpoint": sum(
            kill["checkpoints"] == 0 and trial.plan != "finished" for trial, kill in kills
        ),
        "kills": sum(kill["killed"] for _, kill in kills),
        "uninterrupted_seconds": round(killing.seconds, 2),
        "sha256": killing.expected,
        "trained_by": killing.command,
        "each": [vars(trial) for trial in trials],
    }
    names = ("passed", "trials", "kills", "killed_while_saving", "killed_before_first_checkpoint")
    show("kill −9, resume, compare", names, [[result[name] for name in names]])
    bench.save()
    raise SystemExit(result["passed"] != result["trials"])


if __name__ == "__main__":
    main()
