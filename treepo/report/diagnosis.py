"""What makes steps or an evaluation useless: the measured share, the likely cause, and the setting to change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from treepo.evaluate.results import DatasetResult
from treepo.report.run_log import Metrics
from treepo.utils.text import pluralize

NEARLY_ALL = 0.9
"""Share from which on a kind of answer leaves nothing to learn from."""

MOST = 0.5
"""Share of weights left as they were, of trajectories lost or of wrong answers cut off, from which on it is said."""

NO_LESS = 0.99
"""Share of weights without a gradient from which on nothing is learned; embeddings of unused tokens have none."""

MIN_REPEAT = 5
"""Steps in a row after which it is said once more."""

NUM_LATER = 3
"""Steps in a row that something must last before it is said, unless the run begins with it."""

LONGER = "raise tree.max_response_len, tree.depth or tree.segment_len, or ask for shorter answers (prompt.question)"

_CAUSES = {
    "completions/clipped_ratio": f"cut off before their end: {LONGER}",
    "stop/repetition": "stopped because they repeat themselves: see [stopping], or lower engine.temperature",
    "verify/no_answer": "without an answer that the verifier finds: prompt.question must ask for the form that the "
    "verifier reads, a \\boxed{} unless [verifier] says otherwise",
    "verify/lost": "lost by the verifier, which crashes or runs out of time: see verifier.use and [verifier_pool]",
    "verify/unparsed": "in a form that the verifier cannot compare: see verifier.use, or ask for another form "
    "(prompt.question)",
}
"""What is wrong where a share of the answers is near 1; what comes first causes what follows."""


_LOSSES = {
    "env_error": "raised",
    "env_timeout": "took more than environment.timeout_s",
    "env_diverged": "answered otherwise when their actions were replayed: give it a method fork, or draw its random "
    "numbers from the problem",
}
"""How an environment fails, by stop reason."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: kind, the same for the same cause; text, with the share and the setting to change."""

    kind: str
    text: str


def diagnose_step(metrics: Mapping[str, float]) -> Finding | None:
    """What makes a training step useless, or nearly so; None if nothing does. metrics: those of the step."""
    if found := _of_environment(metrics) or _of_answers(metrics):
        return found
    if metrics.get("update/frac_no_gradient", 0.0) > NO_LESS:
        cause = "numbers of [reward], [credit], [loss], [aggregation] or [lora], or optim.max_grad_norm, are too large"
        return Finding("no gradient", f"the weights have no gradient, so that nothing is learned: {cause} or too small")
    if (unchanged := metrics.get("update/frac_unchanged", 0.0)) >= MOST:
        rate = f" ({metrics['update/lr']:.2g} here)" if "update/lr" in metrics else ""
        cause = f"a step of optim.lr{rate} is too small for the type of the weights to hold; raise optim.lr, or lower"
        text = f"{_percent(unchanged)} of the weights did not change: {cause} optim.warmup_steps, or keep the weights"
        return Finding("unchanged", f'{text} in float32 (model.dtype = "float32" with train.autocast = "bfloat16")')
    return None if metrics.get("problems/trained", 1) else _of_rewards(metrics)


def _of_rewards(metrics: Mapping[str, float]) -> Finding:
    """Why no tree of a step carries a signal."""
    if metrics.get("problems/grown") and "reward/mean" not in metrics:
        return Finding("abstaining", "no answer has a reward: the reward functions return None or nan for all of them")
    num, solved, failed = (int(metrics[f"problems/{name}"]) for name in ("grown", "solved", "failed"))
    trees = f"no tree carries a signal ({num} of {num} have equal rewards)"
    if solved == num:
        return Finding("solved", f"{trees}: all answers are right; take harder problems (data.train)")
    if failed == num:
        cause = "all answers are wrong; take easier problems (data.train) or a stronger model (model.path)"
        if (clipped := metrics.get("completions/clipped_ratio", 0.0)) >= MOST:
            cause = f"all answers are wrong, and {_percent(clipped)} are cut off before their end; {LONGER}"
        return Finding("failed", f"{trees}: {cause}, and read some answers with `treepo report`")
    if metrics.get("leaves/mean", 2.0) <= 1:
        return Finding("single", f"{trees}: each has one answer, with nothing to compare it with; raise tree.width")
    cause = "the answers to a problem are all right or all wrong" if solved + failed == num else "see [reward]"
    if "environment/lost" in metrics and "accuracy" not in metrics:
        cause = "the environment gives all answers to a problem the same; let `step` reward parts of the way, too"
    return Finding("equal", f"{trees}: {cause}; raise tree.width or engine.temperature, or train.prompts_per_step")


def diagnose_result(result: DatasetResult) -> str | None:
    """What an evaluation's figures say nothing about, since nearly all answers are lost, or all right or all wrong."""
    if (lost := result.lost_ratio or 0.0) >= MOST:
        return f"{_percent(lost)} of the answers are lost to their environment, which failed: see the warnings above"
    if result.is_rewarded:
        nothing = result.avg.value == result.pass_at[max(result.pass_at)].value == 0 if result.pass_at else False
        return "no answer got a reward from the environment: read the turns of some" if nothing else None
    shares = {f"verify/{name.replace(' ', '_')}": share for name, share in result.outcomes.items()}
    if found := _of_answers(shares | {"completions/clipped_ratio": result.clipped_ratio or 0.0}):
        return found.text
    if result.avg.value == 0:
        return f"none of {result.num_answers} answers is right: read some, and check verifier.use and prompt.question"
    if result.avg.value == 1:
        return f"all {result.num_answers} answers are right: these problems do not tell good models apart"
    return None


def _of_environment(metrics: Mapping[str, float]) -> Finding | None:
    """What is wrong with most trajectories of several turns, if those are what is grown."""
    if (lost := metrics.get("environment/lost", 0.0)) >= MOST:
        shares = [(metrics.get(f"stop/{stop}", 0.0), what) for stop, what in _LOSSES.items()]
        causes = "; ".join(f"{_percent(share)} {what}" for share, what in shares if share)
        text = f"{_percent(lost)} of the trajectories are lost to their environments and not learned from: {causes}"
        return Finding("environment lost", f"{text} (the log names the first causes)")
    # An answer that ends a path in its first turn is worth something to a verifier alone.
    ends = ("env_done", "turns", *(["answer"] if "accuracy" in metrics else []))
    ended = sum(metrics.get(f"stop/{stop}", 0.0) for stop in ends)
    if metrics.get("turns/max", 2) > 1 or ended >= MOST:
        return None
    clipped = _percent(metrics.get("completions/clipped_ratio", 0.0))
    text = f"no trajectory has a second turn: {clipped} are cut off, before the model ends its first turn (EOS) or"
    return Finding("one turn", f"{text} since a reply does not fit (environment.max_observed_tokens); {LONGER}")


def _of_answers(metrics: Mapping[str, float]) -> Finding | None:
    """What is wrong with nearly all answers. metrics: shares of the answers, by the names of a step's metrics."""
    lost = metrics.get("verify/timeout", 0.0) + metrics.get("verify/crashed", 0.0)
    shares = {**metrics, "verify/lost": lost}
    for name, cause in _CAUSES.items():
        if (share := shares.get(name, 0.0)) >= NEARLY_ALL:
            text = f"{_percent(share)} of the answers are {cause}"
            clipped, unanswered = (shares.get(n, 0.0) for n in ("completions/clipped_ratio", "verify/no_answer"))
            is_verified = "accuracy" in shares or "verify/graded" in shares
            if name == "completions/clipped_ratio" and is_verified and unanswered < 0.5:
                text += f'; {_percent(1 - unanswered)} hold an answer: stopping.answer = "answer" ends them there'
            if name == "verify/no_answer" and clipped >= 1 - NEARLY_ALL:
                text += f"; {_percent(clipped)} are cut off before one: {LONGER}"
            return Finding(name, text)
    return None


def _percent(share: float) -> str:
    # 0.999 must not read as all of them.
    return f"{share:.1%}" if 0.99 < share < 1 else f"{share:.0%}"


class StepWatch:
    """Says what makes a run's steps useless: at its first step, or once it has lasted; and again while it stays so."""

    def __init__(self) -> None:
        self.num_seen = 0
        self.kind = ""
        self.num_lasting = 0
        self.next_due = 1

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """Take the metrics of the next step; returns what is to be said after it, with the steps that it has lasted."""
        finding, is_first = diagnose_step(metrics), self.num_seen == 0
        self.num_seen += 1
        if finding is None or finding.kind != self.kind:
            self.kind, self.num_lasting = finding.kind if finding else "", 0
            self.next_due = 1 if is_first else NUM_LATER
        if finding is None:
            return None
        self.num_lasting += 1
        if self.num_lasting < self.next_due:
            return None
        self.next_due = max(2 * self.num_lasting, MIN_REPEAT)
        return finding.text if self.num_lasting == 1 else f"{self.num_lasting} steps in a row: {finding.text}"


def diagnose_run(steps: Sequence[Metrics]) -> list[str]:
    """What made at least half of a run's steps useless, with the number of steps; for each, how it was at the last."""
    by_kind: dict[str, list[str]] = {}
    for metrics in steps:
        if finding := diagnose_step(metrics):
            by_kind.setdefault(finding.kind, []).append(finding.text)
    num_useless = sum(map(len, by_kind.values()))
    if 2 * num_useless < len(steps):
        return []
    return [f"{len(texts)} of {pluralize(len(steps), 'step')}: {texts[-1]}" for texts in by_kind.values()]
