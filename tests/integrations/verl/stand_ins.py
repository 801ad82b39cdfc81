"""What stands in for verl's GPU servers and reward workers."""

import math
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput

from treepo.utils.numeric import derive_seed

EOS = 2
NUM_TOKENS = 50
MAX_LEN = 60
LOGPROB = -math.log(NUM_TOKENS)


def script(ids: Any, seed: int) -> tuple[int, float]:
    """A token that depends on the random stream alone; one in 25 ends the response."""
    token = 10 + seed % NUM_TOKENS
    return (EOS if token < 12 else token), LOGPROB


def reward_of(response: list[int]) -> float:
    """Whether a response is right, in a way that some responses of most trees are."""
    return float(sum(response) % 2)


@ray.remote(num_cpus=0.1)
class Server:
    """verl's vLLMHttpServer: token ids in, TokenOutput out. It aborts what has a long prompt."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[int], dict[str, Any]]] = []

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        self.requests.append((prompt_ids, sampling_params))
        if len(prompt_ids) > MAX_LEN:
            return TokenOutput(token_ids=[], stop_reason="aborted")
        ids = list(prompt_ids)
        for _ in range(sampling_params.get("max_tokens", 32)):
            ids.append(script(ids, derive_seed(sampling_params.get("seed", 0), len(ids)))[0])
            if ids[-1] == EOS:
                break
        tokens = ids[len(prompt_ids) :]
        return TokenOutput(
            token_ids=tokens,
            log_probs=[LOGPROB] * len(tokens),
            stop_reason="completed",
            extra_fields={"global_steps": 3},
        )

    async def seen(self) -> list[tuple[list[int], dict[str, Any]]]:
        return self.requests


@ray.remote(num_cpus=0.1)
class Reward:
    """verl's reward worker."""

    def compute_score(self, data: Any) -> dict[str, Any]:
        length = int(data.non_tensor_batch["response_len"][0])
        response = data.batch["responses"][0][:length].tolist()
        assert data.non_tensor_batch["data_source"][0] == "chains"
        return {"reward_score": reward_of(response), "reward_extra_info": {"length": length}}
