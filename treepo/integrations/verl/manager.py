"""verl's agent loops with one tree per prompt: leaf i is session i."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import asyncio
import logging
from collections.abc import Collection
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from verl.experimental.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ

from treepo.engine.base import SampleResult
from treepo.errors import EngineError, SettingError
from treepo.grow.builder import Segment, TreeBuilder
from treepo.integrations.verl.rollout import grow_tree, token_advantages
from treepo.integrations.verl.settings import tree_settings
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed, digest

logger = logging.getLogger(__name__)

# A class that ray.remote has wrapped cannot be inherited from.
Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


class TreeAgentLoopWorker(Worker):
    """Grows, scores and credits a tree per prompt of training, and puts its leaves into the TransferQueue.

    Each row has `tree_advantages`, float32 [response length], as `token_advantages` gives them. Validation samples
    independent responses, as in verl. A tree depends on `rollout.seed`, the step, the prompt and its `index`: a prompt
    that occurs twice in a step under one index gets the same tree twice if the server is deterministic.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = tree_settings(self.config)
        self.rules = self.settings.rules(self.settings.shape(self.rollout_config), self._decode)
        self.eos_ids = eos_ids_of(self.model_config)

    def _decode(self, token_ids: Any) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        if trajectory["validate"]:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        uid = prompt["uid"]
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "running"})
        try:
            await self._grow_and_put(prompt, sampling_params, int(trajectory["step"]))
            status = "finished"
        except Exception:  # as in verl, whose replay buffer goes on without a prompt that failed
            logger.exception("no tree for prompt %s", uid)
            status = "failure"
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": status})

    async def _grow_and_put(self, prompt: dict[str, Any], sampling_params: dict[str, Any], step: int) -> None:
        """Grow the tree of a prompt and put its leaves, with rewards and advantages, into the TransferQueue."""
        columns = {k: v for k, v in prompt.items() if k not in {"__rollout_n__", "__do_sample__", "agent_name"}}
        if (name := prompt.get("agent_name", "single_turn_agent")) != "single_turn_agent":
            raise SettingError("agent_name", "must be 'single_turn_agent': a tree is of one turn", name)
        if (n := prompt.get("__rollout_n__", self.rules.shape.width)) != self.rules.shape.width:
            raise SettingError("__rollout_n__", f"a tree has rollout.n = {self.rules.shape.width} leaves", n)
        prompt_ids = await self._prompt_ids(list(columns["raw_prompt"]))
        seed = derive_seed(self.rollout_config.seed, step, str(columns.get("index")), digest(str(prompt_ids)).hex())
        client = SegmentClient(self.llm_client, sampling_params, self.eos_ids)
        start = perf_counter()
        tree = await grow_tree(TreeBuilder(columns["uid"], prompt_ids, seed, self.rules), client.generate)
        outputs = as_outputs(tree, perf_counter() - start, client.versions)
        scored = [self._compute_score([o], kwargs=columns | {"session_id": i}) for i, o in enumerate(outputs)]
        await asyncio.gather(*scored)
        rewards = np.array([output.reward_score for output in outputs], np.float64)
        advantages = token_advantages(tree, rewards, self.settings.credit)
        for i, (output, values) in enumerate(zip(outputs, advantages, strict=True)):
            own = {"session_id": i, "tree_advantages": torch.from_numpy(values)}
            await self._agent_loop_postprocess(output, validate=False, **columns, **own)

    async def _prompt_ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """The prompt as verl's own single-turn loop makes it; raises SettingError for images and sound."""
        loop = SingleTurnAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            hf_model_type=self.hf_model_type,
        )
        if await loop.process_multi_modal_info(messages):
            raise SettingError("data", "trees are of text prompts, without images, videos and sound")
        return [int(i) for i in await loop.ct_build_initial_tokens(messages)]


class TreeAgentLoopManager(AgentLoopManagerTQ):
    """AgentLoopManagerTQ whose workers grow trees; `agent.agent_loop_manager_class` names it. Raises SettingError."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        tree_settings(config)
        super().__init__(config, *args, **kwargs)
        if self.reward_loop_worker_handles is None:
            raise SettingError("reward", "trees need rewards as they grow, but no reward worker is there")
        self.agent_loop_workers_class = ray.remote(TreeAgentLoopWorker)


class SegmentClient:
    """Decodes the segments of one tree over verl's servers.

    All go under one id to the router, which so keeps a tree on one server, where the prefix cache knows its prefixes.
    versions: those of the weights that sampled so far.
    """

    def __init__(self, llm_client: Any, sampling_params: dict[str, Any], eos_ids: Collection[int]) -> None:
        self.llm_client = llm_client
        self.sampling_params = sampling_params
        self.eos_ids = eos_ids
        self.session = uuid4().hex
        self.versions: set[int] = set()

    async def generate(self, segment: Segment) -> SampleResult:
        """Raises EngineError if the server ends the request early, or returns no log-probabilities."""
        # vLLM begins each request's random numbers anew: a path that goes on needs others than those it began with.
        seed = derive_seed(segment.seed, len(segment.prefix_ids))
        params = dict(self.sampling_params, max_tokens=segment.max_new_tokens, logprobs=True, seed=seed)
        output = await self.llm_client.generate(
            self.session, prompt_ids=segment.prefix_ids.tolist(), sampling_params=params
        )
        if output.stop_reason == "aborted" or not output.token_ids:
            raise EngineError(f"the server ended a request early: {output.stop_reason}")
        ids, logprobs = np.array(output.token_ids, np.int32), np.array(output.log_probs or [], np.float32)
        if len(ids) != len(logprobs) or not np.isfinite(logprobs).all():
            raise EngineError("the server returned log-probabilities that are no finite numbers, or too few of them")
        version = output.extra_fields.get("global_steps")
        self.versions |= set() if version is None else {int(version)}
        ended = int(ids[-1]) in self.eos_ids or len(ids) < segment.max_new_tokens
        return SampleResult(0, ids, logprobs, ended)


def as_outputs(tree: Tree, seconds: float, versions: Collection[int]) -> list[AgentLoopOutput]:
    """The leaves as verl's responses. seconds: what growing took. versions: of the weights that sampled."""
    sizes = {
        "decoded_tokens": tree.num_decoded(),
        "completion_tokens": int(tree.response_lens().sum()),
        "fallbacks": tree.num_fallbacks,
    }
    steps = {"min_global_steps": min(versions, default=None), "max_global_steps": max(versions, default=None)}
    return [
        AgentLoopOutput(
            prompt_ids=tree.prompt_ids.tolist(),
            response_ids=path.token_ids.tolist(),
            response_mask=[1] * len(path.token_ids),
            response_logprobs=path.sampled_logprobs.tolist(),
            num_turns=2,
            metrics=AgentLoopMetrics(generate_sequences=seconds),
            extra_fields={"turn_scores": [], "tool_rewards": [], "tree": sizes, **steps},
        )
        for path in tree.trajectories()
    ]


def eos_ids_of(model_config: Any) -> frozenset[int]:
    """The tokens at which vLLM ends a response: the tokenizer's, and those of the generation config."""
    given = [model_config.tokenizer.eos_token_id, getattr(model_config.generation_config, "eos_token_id", None)]
    lists = [ids if isinstance(ids, list) else [ids] for ids in given]
    return frozenset(int(i) for ids in lists for i in ids if i is not None)
