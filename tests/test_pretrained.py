"""The ten lines of a newcomer on a real language model: `make test-pretrained`."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import treepo
from treepo.run.model_path import model_folder

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif("TREEPO_PRETRAINED" not in os.environ, reason="make test-pretrained"),
]


def test_ten_lines_train_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Questions with known answers, a verifier and an own reward: rewards differ within trees, and weights move."""
    seen: list[str] = []

    def shorter_is_better(
        prompts: list[str], completions: list[str], answer: list[str], **columns: object
    ) -> list[float]:
        seen.extend(prompts)
        return [-len(text) / 1000 for text in completions]

    named = os.environ["TREEPO_PRETRAINED"]
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(11, 40) for b in range(11, 40)]
    trainer = treepo.TreePOTrainer(
        model=named,
        train_dataset=rows,
        reward_funcs=[treepo.verify.NumericVerifier(extract_from=("box", "last_number")), shorter_is_better],
        reward_weights=[1.0, 0.1],
        config=treepo.TreePOConfig(
            output_dir=tmp_path / "run",
            tree={"width": 8, "depth": 3, "segment_len": 12},
            max_steps=2,
            prompts_per_step=4,
            learning_rate=2e-5,
            eval={"num_problems": 8},
            prompt={"question": "{question} Answer with one number."},
        ),
    )
    metrics = trainer.train()
    assert metrics["reward/mean"] == pytest.approx(metrics["reward/correct"] + metrics["reward/shorter_is_better"])
    assert metrics["reward/shorter_is_better"] < 0 < metrics["update/grad_norm"]
    # Two steps of four trees, and two answers to each held-out problem, before the first and after the last.
    assert len(seen) == 2 * 4 * 8 + 2 * 8 * 2 and all(text.startswith("What is ") for text in seen)
    before, after = (
        load_file(Path(model_folder(named)) / "model.safetensors"),
        load_file(tmp_path / "run" / "model" / "model.safetensors"),
    )
    moved = [
        float(np.abs(after[name].numpy() - tensor.numpy()).max()) for name, tensor in before.items() if name in after
    ]
    assert 0 < max(moved) < 1e-3, "two small steps"
    trainer.grow("What is 3 + 4?").show()
    assert "What is 3 + 4?" in capsys.readouterr().out
