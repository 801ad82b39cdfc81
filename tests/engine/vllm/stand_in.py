"""A stand-in for vLLM: its modules as far as treepo uses them, over transformers' own forward of every prefix."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from treepo.engine.vllm import start as start_module
from treepo.engine.vllm.engine import _clear_cache


class Core:
    """vLLM's LLMEngine. As vLLM it makes process groups with all processes, and ends torch.distributed for all.

    fails: names of methods that raise; "weights" raises once a tensor is loaded. calls: names of those that ran.
    own: the group that all instances of a process share.
    """

    fails: frozenset[str] = frozenset()
    own: Any = None

    def __init__(self, arguments: dict[str, Any]) -> None:
        config = AutoConfig.from_pretrained(arguments["model"])
        self.arguments, self.calls, self.running = arguments, [], {}
        self.model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, arguments["dtype"]))
        self.processor = arguments["logits_processors"][0](None, None, False)
        _, self.rank, self.local_rank = arguments["distributed_executor_backend"]()._distributed_args()
        if Core.own is None:
            Core.own = dist.new_group()
        self._note("start")
        self.vllm_config = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=arguments["max_num_seqs"]),
            cache_config=SimpleNamespace(num_gpu_blocks=9, block_size=arguments["block_size"]),
            model_config=SimpleNamespace(
                max_model_len=arguments["max_model_len"],
                dtype=self.model.dtype,
                get_vocab_size=lambda: config.vocab_size,
            ),
        )
        inner = SimpleNamespace(scheduler=SimpleNamespace(kv_cache_manager=SimpleNamespace(usage=0.0)))
        self.engine_core = SimpleNamespace(shutdown=self.clean_up, engine_core=inner)

    @classmethod
    def from_vllm_config(cls, config: dict[str, Any], disable_log_stats: bool) -> "Core":
        return cls(config)

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        self.running[name] = (prompt["prompt_token_ids"], params, [])

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            del self.running[name]

    @torch.no_grad()
    def step(self) -> list[Any]:
        rows = list(self.running.items())
        added = [(i, params, prompt, tokens) for i, (_, (prompt, params, tokens)) in enumerate(rows)]
        self.processor.update_state(SimpleNamespace(removed=range(100), added=added, moved=[]))
        every = [self.model(torch.tensor([prompt + tokens])).logits[0, -1] for _, (prompt, _, tokens) in rows]
        finished = []
        drawn = self.processor.apply(torch.stack(every)).argmax(-1).tolist()
        for (name, (_, params, tokens)), token in zip(rows, drawn, strict=True):
            tokens.append(token)
            if len(tokens) == params.max_tokens or tokens[-1] in params.stop_token_ids:
                del self.running[name]
                outputs = [SimpleNamespace(token_ids=tokens)]
                finished.append(SimpleNamespace(request_id=name, finished=True, outputs=outputs, num_cached_tokens=0))
        return finished

    def collective_rpc(self, method: Any, kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:
            assert method is _clear_cache and not self.is_sleeping()
            return
        assert method == "reload_weights"
        held = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, tensor in kwargs["weights_iterator"]:
                assert type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.dtype == self.model.dtype, name
                held.pop(name).copy_(tensor)
                self._note("weights")
        assert not held

    def sleep(self, level: int) -> None:
        assert level == 2
        self._note("sleep")
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(float("nan"))

    def is_sleeping(self) -> bool:
        return self.calls[-1:] == ["sleep"]

    def wake_up(self, tags: list[str]) -> None:
        self._note("wake_up")

    def reset_prefix_cache(self) -> bool:
        return True

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise torch.OutOfMemoryError(f"no memory: {name}")

    @staticmethod
    def clean_up() -> None:
        dist.destroy_process_group(Core.own)
        dist.destroy_process_group()
        Core.own = None


class Executor:
    """vLLM's UniProcExecutor, which knows of one process."""

    def _distributed_args(self) -> tuple[str, int, int]:
        return "file:///nowhere", 0, 0


def install() -> None:
    """Make this process import the stand-in."""
    start_module._version = {"vllm": "0.32.0"}.get  # pyright: ignore[reportAttributeAccessIssue]
    own: dict[str, dict[str, Any]] = {
        "vllm": {
            "EngineArgs": lambda **arguments: SimpleNamespace(create_engine_config=lambda: arguments),
            "LLMEngine": Core,
            "SamplingParams": SimpleNamespace,
        },
        "vllm.distributed": {"cleanup_dist_env_and_memory": Core.clean_up},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
        "vllm.v1.sample.logits_processor": {
            "BatchUpdate": object,
            "LogitsProcessor": object,
            "MoveDirectionality": SimpleNamespace(SWAP=1),
        },
        "vllm.v1.executor.uniproc_executor": {"UniProcExecutor": Executor},
    }
    for name, members in own.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
