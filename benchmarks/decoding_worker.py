"""Sampling by one engine, when told to: a part of decoding_engines.py. Runs in that engine's own virtual environment.

    python benchmarks/decoding_worker.py ENGINE MODEL DTYPE THREADS

ENGINE: treepo, transformers, vllm or llama.cpp (by the package xllamacpp; MODEL is a GGUF file then). For each line on
standard input, {"prompts": [[ids], ...], "tokens": n}, it samples n tokens for every prompt, ends of answers ignored,
at temperature 1, all prompts at once, and writes the seconds that it took.
"""

# ruff: noqa: PLC0415 - each engine is imported where it is installed
# pyright: reportMissingImports=false, reportMissingModuleSource=false

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm_environment import ENVIRONMENT

os.environ.update(ENVIRONMENT, GOMP_SPINCOUNT="1000", OMP_NUM_THREADS=sys.argv[4])

MOST_PATHS, MOST_TOKENS = 256, 128

Sample = Callable[[list[list[int]], int], None]


def treepo(model: str, dtype: str, _: int) -> Sample:
    """The embedded engine; answers that meet the end of text go on, since no id ends them."""
    import numpy as np
    import torch

    from treepo.engine.base import SampleRequest
    from treepo.engine.torch.engine import TorchEngine
    from treepo.model.forward import FusedForward
    from treepo.model.policy import load_policy

    policy = load_policy(model).model
    engine = TorchEngine(policy, (), MOST_PATHS, max_cache_tokens=MOST_PATHS * MOST_TOKENS)
    engine.forward = FusedForward(policy, engine.kernel, getattr(torch, dtype))  # pyright: ignore[reportArgumentType]

    def sample(prompts: list[list[int]], num_tokens: int) -> None:
        for i, prompt in enumerate(prompts):
            engine.submit(SampleRequest(i, np.array(prompt, np.int32), num_tokens, seed=i, group=i))
        num_ended = 0
        while num_ended < len(prompts):
            num_ended += len(engine.step())
        for i in range(len(prompts)):
            engine.abort_group(i)

    return sample


def transformers(model: str, dtype: str, _: int) -> Sample:
    """`generate` with its own cache, prompts padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM

    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))

    def sample(prompts: list[list[int]], num_tokens: int) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        lengths = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        policy.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0, **lengths
        )

    return sample


def vllm(model: str, dtype: str, _: int) -> Sample:
    """vLLM's engine in this process, without random streams or log-probabilities per request: its fastest."""
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=model,
            dtype=dtype,  # pyright: ignore[reportArgumentType]
            max_model_len=MOST_TOKENS,
            enforce_eager=True,
            block_size=32,
            max_num_seqs=MOST_PATHS,
            max_num_batched_tokens=MOST_PATHS * MOST_TOKENS,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
    )
    calls = iter(range(10**9))

    def sample(prompts: list[list[int]], num_tokens: int) -> None:
        kind = RequestOutputKind.FINAL_ONLY
        settings = SamplingParams(max_tokens=num_tokens, ignore_eos=True, detokenize=False, output_kind=kind)
        for prompt in prompts:
            engine.add_request(str(next(calls)), {"prompt_token_ids": prompt}, settings)
        while engine.has_unfinished_requests():
            engine.step()

    return sample


def llama_cpp(model: str, _: str, threads: int) -> Sample:
    """llama.cpp's server in this process, with continuous batching."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = model
    params.n_parallel, params.n_ctx = MOST_PATHS, MOST_PATHS * MOST_TOKENS
    params.cont_batching, params.warmup, params.cache_prompt = True, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = Server(params)

    def one(prompt: list[int], num_tokens: int) -> None:
        sampling: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "samplers": []}
        wanted = {"prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(wanted | sampling)
        if isinstance(answer, str | bytes):
            answer = json.loads(answer)
        assert answer["usage"]["completion_tokens"] == num_tokens, answer

    def sample(prompts: list[list[int]], num_tokens: int) -> None:
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: one(prompt, num_tokens), prompts))

    return sample


ENGINES = {"treepo": treepo, "transformers": transformers, "vllm": vllm, "llama.cpp": llama_cpp}


def main() -> None:
    """Load, then sample as often as asked."""
    # What the libraries print goes to standard error: standard output is for the seconds alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sample = ENGINES[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        begin = time.perf_counter()
        sample(work["prompts"], work["tokens"])
        print(time.perf_counter() - begin, file=answers, flush=True)


if __name__ == "__main__":
    main()
