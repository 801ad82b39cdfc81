"""What a user may have meant by a setting or option that there is not: a name of TRL or verl, or a slip."""

from collections.abc import Iterable
from difflib import get_close_matches

ELSEWHERE = {
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "algorithm": "credit.use",
    "adv_estimator": "credit.use",
    "batch_size": "train.prompts_per_step",
    "beta": "penalties.kl_coef",
    "bf16": "train.autocast",
    "clip_ratio": "loss.clip_low",
    "clip_ratio_high": "loss.clip_high",
    "clip_ratio_low": "loss.clip_low",
    "data": "data.train",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "early_stopping_patience": "eval.patience",
    "entropy_coeff": "penalties.entropy_coef",
    "epochs": "train.num_epochs",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "estimator": "credit.use",
    "eval_dataset": "data.eval",
    "eval_steps": "eval.every",
    "experiment_name": "tracking.run_name",
    "gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "grad_clip": "optim.max_grad_norm",
    "group_size": "tree.width",
    "kl_coef": "penalties.kl_coef",
    "kl_loss_coef": "penalties.kl_coef",
    "learning_rate": "optim.lr",
    "lora_alpha": "lora.alpha",
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "lora_target_modules": "lora.targets",
    "loss_type": "loss.use",
    "max_completion_length": "tree.max_response_len",
    "max_length": "tree.max_response_len",
    "max_new_tokens": "tree.max_response_len",
    "max_prompt_length": "data.max_prompt_len",
    "max_response_length": "tree.max_response_len",
    "max_steps": "train.num_steps",
    "max_tokens": "tree.max_response_len",
    "metric_for_best_model": "eval.keep_best",
    "model": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "n": "tree.width",
    "num_generations": "tree.width",
    "num_train_epochs": "train.num_epochs",
    "output_dir": "out",
    "per_device_train_batch_size": "train.prompts_per_step",
    "ppo_epochs": "train.num_iterations",
    "ppo_mini_batch_size": "train.num_mini_batches",
    "prompt_length": "data.max_prompt_len",
    "ppo_max_token_len_per_gpu": "train.max_tokens_per_micro_batch",
    "report_to": "tracking.trackers",
    "reward_funcs": "verifier.use",
    "resume_from_checkpoint": "resume",
    "rollout_n": "tree.width",
    "save_freq": "checkpoint.every",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "steps": "train.num_steps",
    "system_prompt": "prompt.system",
    "test_freq": "eval.every",
    "top_p": "engine.top_p",
    "total_epochs": "train.num_epochs",
    "total_training_steps": "train.num_steps",
    "train_batch_size": "train.prompts_per_step",
    "train_dataset": "data.train",
    "train_files": "data.train",
    "use_vllm": "engine.kind",
    "val_files": "data.eval",
    "wandb_project": "tracking.project",
}
"""Names that TRL, verl and others give to settings and options of ours."""

CLOSE = 0.75
"""Least likeness of two names that count as one misspelled, of 1."""

MAX_SHOWN = 3


def suggest(typed: str, names: Iterable[str]) -> str:
    """What to say after `--typed` was not found: `; did you mean --optim.lr?`, or nothing.

    names: settings as `section.key`, and options, without dashes. The last part of a setting decides.
    """
    typed = typed.lstrip("-").partition("=")[0]
    last = _key(typed)
    by_key: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_key.setdefault(_key(name), []).append(name)
    known = {other: [ours] for other, ours in ELSEWHERE.items() if ours in by_key.get(_key(ours), [])}
    found = by_key.get(last) or known.get(last, [])
    if not found:
        keys = [*by_key, *known]
        found = [name for key in get_close_matches(last, keys, 1, CLOSE) for name in (by_key | known)[key]]
    # In the section that was typed, if it is there.
    own = [name for name in found if "." in typed and name.partition(".")[0] == typed.partition(".")[0]]
    chosen = [name for name in own or found if name != typed][:MAX_SHOWN]
    return f"; did you mean {' or '.join(f'--{name}' for name in chosen)}?" if chosen else ""


def _key(name: str) -> str:
    """The part of a name that tells what it is, in one spelling."""
    return name.rpartition(".")[2].replace("-", "_").lower()
