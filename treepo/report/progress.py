"""What is said of one training step, in lines of at most 80 columns."""

from treepo.report.metrics import Metrics

PHASES = ("grow", "verify", "pack", "update")


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
    shares = " ".join(f"{name} {100 * metrics.get(f'time/{name}_s', 0.0) / total:.0f}" for name in PHASES)
    minutes, seconds = divmod(round(seconds_left), 60)
    time_left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    return f"{time_left}  sharing {_short(metrics['tokens/sharing'])}  {shares}%"


def _short(number: float) -> str:
    """Three digits or so: 0.52, 3.4, 512, 12.3k, 4.5M."""
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 9999.5 * factor / 1e3:
            return f"{number / factor:.1f}{unit}"
    return f"{number:.0f}" if number >= 99.5 else f"{number:.1f}" if number >= 9.95 else f"{number:.2f}"
