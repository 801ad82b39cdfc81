from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from treepo.tasks.base import BOS_ID, EOS_ID, PAD_ID, is_eval_prompt
from treepo.tasks.base_model import (
    IGNORED,
    backward,
    find_or_make_base_model,
    initial_model,
    learning_rate,
    make_base_model,
    pad_right,
    pretraining_batches,
)
from treepo.tasks.chain_sums import draw_corpus, make_chain_tokenizer
from treepo.tasks.settings import BaseModelSettings

QUICK = BaseModelSettings(num_steps=3, tokens_per_step=400, num_warmup_steps=1)
EXAMPLE = r"b55+5=60,60+2=62;\boxed{62}"


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_model_is_as_specified() -> None:
    model = initial_model(0, make_chain_tokenizer(), BaseModelSettings())
    config = model.config
    assert config.model_type == "qwen2"
    assert config.vocab_size == 29
    assert (config.hidden_size, config.intermediate_size) == (128, 384)
    assert (config.num_hidden_layers, config.num_attention_heads) == (4, 4)
    assert config.num_key_value_heads == 2
    assert config.max_position_embeddings == 256
    assert model.lm_head.weight is model.model.embed_tokens.weight, "tied"
    assert model.lm_head.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert weights(model).dtype == torch.float32
    assert 750_000 < len(weights(model)) < 850_000


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(98)
    state = torch.random.get_rng_state()
    first, _ = make_base_model(0, settings=QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    again, _ = make_base_model(0, settings=QUICK)
    other, _ = make_base_model(1, settings=QUICK)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_pretraining_lowers_the_loss_and_reports_each_step() -> None:
    reports: list[tuple[int, int, float]] = []
    settings = dataclasses.replace(QUICK, num_steps=20)
    make_base_model(0, lambda *report: reports.append(report), settings)
    assert [report[:2] for report in reports] == [(step, 20) for step in range(1, 21)]
    assert reports[0][2] == pytest.approx(torch.log(torch.tensor(29.0)).item(), rel=0.2)
    assert reports[-1][2] < 0.8 * reports[0][2]


def test_a_batch_holds_whole_answers_of_training_prompts_and_ignores_the_rest() -> None:
    tokenizer = make_chain_tokenizer()
    settings = BaseModelSettings()
    for batch in islice(pretraining_batches(draw_corpus(0, 0.45), tokenizer, settings), 3):
        assert len(batch) == settings.num_buckets
        num_tokens = sum(int(ids.ne(PAD_ID).sum()) for ids, _ in batch)
        assert 3000 <= num_tokens < 3130
        assert sum(ids.numel() for ids, _ in batch) < 1.2 * num_tokens
        for ids, labels in batch:
            for row, row_labels in zip(ids.tolist(), labels.tolist(), strict=True):
                answer_ids = [label for label in row_labels if label != IGNORED]
                start = row_labels.index(answer_ids[0])
                assert row[start : start + len(answer_ids)] == answer_ids
                assert set(row[start + len(answer_ids) :]) <= {PAD_ID}
                assert answer_ids[-1] == EOS_ID
                assert row[0] == BOS_ID
                prompt = str(tokenizer.decode(row[1:start]))
                assert prompt.endswith(":")
                assert not is_eval_prompt(prompt)


def test_parts_of_a_batch_and_their_padding_change_nothing() -> None:
    tokenizer = make_chain_tokenizer()
    (batch,) = islice(pretraining_batches(draw_corpus(0, 0.45), tokenizer, QUICK), 1)
    single = [
        (ids[None, :length], labels[None, :length])
        for part_ids, part_labels in batch
        for ids, labels in zip(part_ids, part_labels, strict=True)
        for length in [int(ids.ne(PAD_ID).sum())]
    ]
    assert len(single) > len(batch)
    losses, gradients = [], []
    for parts in (batch, single):
        model = initial_model(0, tokenizer, QUICK).double()
        losses.append(backward(model, parts))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_pad_right() -> None:
    assert pad_right([[5], [6, 7]], 0).tolist() == [[5, 0], [6, 7]]


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    settings = BaseModelSettings()
    rates = [learning_rate(step, settings) for step in range(settings.num_steps)]
    assert rates[0] == pytest.approx(3e-3 / 50)
    assert rates[49] == max(rates) == pytest.approx(3e-3)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert 0 < rates[-1] < 1e-7


def test_a_model_is_made_once_and_loads_as_a_hugging_face_folder(tmp_path: Path) -> None:
    reports: list[int] = []
    cache_folder = tmp_path / "not" / "there"
    folder = find_or_make_base_model(cache_folder, 0, lambda step, _total, _loss: reports.append(step), QUICK)
    assert len(reports) == QUICK.num_steps
    assert list(cache_folder.iterdir()) == [folder]
    assert (folder / "model.safetensors").is_file()

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made, made_tokenizer = make_base_model(0, settings=QUICK)
    assert torch.equal(weights(model), weights(made))
    assert len(tokenizer) == 29
    assert tokenizer.encode(EXAMPLE) == made_tokenizer.encode(EXAMPLE)
    assert tokenizer.decode(tokenizer.encode(EXAMPLE)) == EXAMPLE
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == EOS_ID
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == PAD_ID

    again = find_or_make_base_model(cache_folder, 0, lambda step, _total, _loss: reports.append(step), QUICK)
    assert again == folder
    assert len(reports) == QUICK.num_steps, "found, not made again"


def test_another_seed_or_setting_is_another_model(tmp_path: Path) -> None:
    quick = dataclasses.replace(QUICK, num_steps=1)
    folders = {
        find_or_make_base_model(tmp_path, 0, settings=quick),
        find_or_make_base_model(tmp_path, 1, settings=quick),
        find_or_make_base_model(tmp_path, 0, settings=dataclasses.replace(quick, peak_lr=1e-3)),
    }
    assert len(folders) == 3


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_make_base_model(tmp_path, 0, interrupt, QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_may_finish_first(tmp_path: Path) -> None:
    folders: list[Path] = []

    def be_second(step: int, total: int, loss: float) -> None:
        if step == total and not folders:
            folders.append(find_or_make_base_model(tmp_path, 0, settings=QUICK))

    folder = find_or_make_base_model(tmp_path, 0, be_second, QUICK)
    assert [folder] == folders == list(tmp_path.iterdir())
    assert (folder / "model.safetensors").is_file()
