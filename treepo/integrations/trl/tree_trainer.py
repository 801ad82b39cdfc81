"""TRL's GRPOTrainer whose completions are the leaves of trees."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from trl.extras.profiling import profiling_context
from trl.trainer.utils import get_config_model_id

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.engine.torch.engine import TorchEngine
from treepo.errors import SettingError
from treepo.integrations.trl.attention import attention
from treepo.integrations.trl.config import LIMITS, TreeGRPOConfig
from treepo.integrations.trl.packed_trainer import PackedGRPOTrainer
from treepo.integrations.trl.rollout import credit_rows, groups_of, grow_trees
from treepo.integrations.trl.vllm import TrlVllmEngine, check_vllm
from treepo.model.attention import ATTENTION_NAME
from treepo.model.policy import decoded
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed

REFUSED = ("tools", "rollout_func", "environment_factory")
"""Arguments of GRPOTrainer that generate in ways of their own."""


class TreeGRPOTrainer(PackedGRPOTrainer):
    """GRPOTrainer that grows a tree of `num_generations` completions per prompt, and credits and learns from it.

    Arguments are GRPOTrainer's; args: a TreeGRPOConfig. Trees grow over the model that is trained, or over TRL's vLLM
    with `use_vllm`. Reward functions, losses, callbacks, checkpoints and LoRA are TRL's. Evaluations sample
    `num_generations_eval` independent completions. trees: those of the last batch. Raises SettingError.
    """

    args: TreeGRPOConfig

    def __init__(self, model: Any, reward_funcs: Any = None, args: TreeGRPOConfig | None = None, **kwargs: Any) -> None:
        for name in REFUSED:
            if kwargs.get(name):
                raise SettingError(name, "generates completions in its own way; trees are grown without it")
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = TreeGRPOConfig(f"{name.split('/')[-1]}-GRPO")
        if not isinstance(args, TreeGRPOConfig):
            raise SettingError("args", "must be a TreeGRPOConfig, with the settings of trees", type(args).__name__)
        if kwargs.get("eval_dataset") is not None:
            args.check_eval()
        if args.use_vllm:
            check_vllm(args, args.world_size)
        elif args.cast_lm_head_to_fp32:
            raise SettingError("cast_lm_head_to_fp32", "the engine of trees does not; load the model in float32", True)
        super().__init__(model, reward_funcs, args, **kwargs)
        self.estimator = args.sections().estimator
        self.trees: list[Tree] = []
        self._engine: Engine | None = None
        self._processes: DistContext | None = None
        self._seed_of: tuple[int, int] = -1, 0
        self._rewards = torch.empty(0)

    @property
    def engine(self) -> Engine:
        """What decodes segments, made when it is first needed."""
        if self._engine is None and self.use_vllm:
            self._engine = TrlVllmEngine(self.vllm_generation, self.eos_token_ids)
        elif self._engine is None:
            limits = self.args.sections().engine
            dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            self._engine = TorchEngine(
                self.base_model,
                sorted(self.eos_token_ids),
                autocast=dtype,
                **{name: getattr(limits, name) for name in LIMITS},
            )
        return self._engine

    @property
    def processes(self) -> DistContext:
        """Those that train together; all have to ask for it at the same time first."""
        if self._processes is None:
            self._processes, count = SINGLE_PROCESS, self.accelerator.num_processes
            if count > 1:
                group = dist.new_group(backend="gloo")
                assert isinstance(group, dist.ProcessGroup), "this process is one of them"
                self._processes = DistContext(self.accelerator.process_index, count, group)
        return self._processes

    @property
    def mode(self) -> str:
        """TRL's: "train" or "eval"."""
        return "train" if self.model.training else "eval"

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]]]:
        mode = self.mode
        setting = f"per_device_{mode}_batch_size"
        prompts = groups_of(prompt_ids, num_generations, setting)
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            with profiling_context(self, "sync_weights"):
                self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        make_rules = self.args.rules if mode == "train" else self.args.eval_rules
        rules = make_rules(num_generations, lambda ids: decoded(self._tokenizer, ids))
        sampling = SamplingParams(self.temperature, self.top_k or 0, self.top_p or 1.0, self.min_p or 0.0)
        self.model.eval()
        try:
            with profiling_context(self, "grow_trees"), attention(self.base_model, ATTENTION_NAME):
                self.engine.update_weights(self.base_model)
                self.trees = grow_trees(self.engine, rules, sampling, prompts, self._next_seed(mode))
                self.engine.sleep()
        finally:
            self.model.train(mode == "train")
        self._log_trees(mode)
        paths = [path for tree in self.trees for path in tree.trajectories()]
        return [path.token_ids.tolist() for path in paths], [path.sampled_logprobs.tolist() for path in paths]

    def _next_seed(self, mode: str) -> int:
        """Another seed at each call, the same ones for a run that goes on from a checkpoint."""
        step, count = self._seed_of
        self._seed_of = self.state.global_step, count + 1 if step == self.state.global_step else 0
        return derive_seed(self.args.seed, mode, *self._seed_of, self.accelerator.process_index)

    def _log_trees(self, mode: str) -> None:
        """Add this batch's means over all processes to TRL's metrics."""
        sums = [
            [tree.num_decoded() for tree in self.trees],
            [int(tree.response_lens().sum()) for tree in self.trees],
            [tree.num_fallbacks for tree in self.trees],
        ]
        means = self.accelerator.gather(torch.tensor(sums, dtype=torch.float32, device=self.accelerator.device).mean(1))
        for name, value in zip(TREE_METRICS, means.view(-1, len(sums)).mean(0).tolist(), strict=True):
            self._metrics[mode][name].append(value)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        rewards = (self._rewards * self.reward_weights.to(self._rewards.device)).nansum(dim=1)
        rewards[torch.isnan(self._rewards).all(dim=1)] = torch.nan
        start = self.accelerator.process_index * len(inputs)
        own = rewards[start : start + len(inputs)].cpu().numpy().astype(np.float64).reshape(len(self.trees), -1)
        advantages = credit_rows(self.trees, own, self.estimator, output["completion_ids"].shape[1], self.processes)
        output["advantages"] = advantages.to(output["advantages"].device)
        self._log_advantages(output["advantages"], output["completion_mask"])
        return output

    def _log_advantages(self, advantages: Tensor, mask: Tensor) -> None:
        """Put the mean advantage of each completion where TRL has logged its own."""
        if advantages.ndim == 2:
            advantages = (advantages * mask).sum(1) / mask.sum(1).clamp(min=1)
        means, logged = self.accelerator.gather(advantages).tolist(), self._logs["advantages"]
        for _ in range(min(len(means), len(logged))):
            logged.pop()
        logged.extend(means)


TREE_METRICS = ("trees/decoded_tokens", "trees/completion_tokens", "trees/fallbacks")
"""Per tree: tokens sampled, tokens of its completions with shared ones counted for each, and points of fallbacks."""
