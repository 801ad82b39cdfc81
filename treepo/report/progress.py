"""What is said of one training step, in lines of at most 80 columns."""

from treepo.report.metrics import Metrics

PHASES = ("grow", "verify", "pack", "entropies", "update")
"""For which there is room; entropies are computed at some steps alone."""


def step_lines(step: int, metrics: Metrics) -> list[str]:
    """Reward, share of right answers, trees trained on, trajectories and their tokens per second; in lines of their
    own, if there is something to say, held-out accuracy and that memory ran out."""
    parts = [
        f"step {step:3d}",
        f"reward {metrics['reward/mean']:.3f}",
        f"right {metrics['correct/mean']:.0%}",
        f"trees {metrics['problems/trained']:.0f}/{metrics['problems/grown']:.0f}",
        f"{_short(metrics['time/trajectories_per_s'])} traj/s",
        f"{_short(metrics['time/tokens_per_s'])} tok/s",
    ]
    lines = ["  ".join(parts)]
    if "eval/avg" in metrics:
        lines.append(f"          held out {metrics['eval/avg']:.1%} (greedy {metrics['eval/greedy']:.1%})")
    if metrics.get("update/num_oom"):
        limit = metrics["update/micro_batch_tokens"]
        lines.append(f"          out of memory: train.micro_batch_tokens is {limit:.0f} from now on")
    return lines


def state_line(seconds_left: float, metrics: Metrics) -> str:
    """Time left, how much was shared, and the share of the step's time that each phase took, in percent."""
    total = max(metrics["time/step_s"], 1e-9)
    taken = {name: metrics[f"time/{name}_s"] for name in PHASES if f"time/{name}_s" in metrics}
    shares = " ".join(f"{name} {100 * seconds / total:.0f}" for name, seconds in taken.items())
    minutes, seconds = divmod(round(seconds_left), 60)
    time_left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    return f"{time_left}  sharing {_short(metrics['tokens/sharing'])}  {shares}%"


def _short(number: float) -> str:
    """At most five characters: 0.52, 3.40, 12.3, 512, 1234, 12.3k, 512k, 4.50M."""
    unit = ""
    if number >= 999.5e3:
        number, unit = number / 1e6, "M"
    elif number >= 9999.5:
        number, unit = number / 1e3, "k"
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{unit}"
