"""The built-in tasks' base models: 0.8M parameters, pretrained here in a minute or two, then cached.

It is trained on careful and careless worked answers alike, so reinforcement learning teaches it nothing new: it makes a
way of working more likely that the model already knows.

Letters: B sequences in a batch, T tokens in its longest sequence, V vocabulary.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from treepo.model.saving import save_model
from treepo.tasks.base import BOS_ID, EOS_ID, PAD_ID, BuiltInTask, make_tokenizer
from treepo.tasks.chain_sums import ChainSums
from treepo.tasks.settings import BaseModelSettings
from treepo.utils import ProgressCallback
from treepo.utils.numeric import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


IGNORED = -100


def find_or_make_base_model(
    cache_folder: Path,
    seed: int,
    report: ProgressCallback | None = None,
    settings: BaseModelSettings | None = None,
    task: type[BuiltInTask] = ChainSums,
) -> Path:
    """Return the Hugging Face folder of a task's base model, pretraining it if it is not there yet.

    settings: the task's own if not given. Raises OSError if it cannot be kept.
    """
    settings = settings or task.pretraining
    started_by = {} if task.continues is None else {task.continues.name: asdict(task.continues.pretraining)}
    made_by = json.dumps({**asdict(settings), **started_by, "seed": seed}, sort_keys=True)
    folder = cache_folder / f"{task.name.replace('_', '-')}-{digest(made_by, size=6).hex()}"
    if folder.is_dir():
        return folder

    cache_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    start = None
    if task.continues is not None:
        start = find_or_make_base_model(cache_folder, seed, report, task=task.continues)
    model, tokenizer = make_base_model(seed, report, settings, task, start)
    with tempfile.TemporaryDirectory(dir=cache_folder, prefix=".unfinished-") as unfinished:
        finished = Path(unfinished) / "model"
        save_model(model, finished, tokenizer)
        try:
            finished.rename(folder)
        except OSError:
            # Another process was first: its model is the same one.
            if not folder.is_dir():
                raise
    return folder


def make_base_model(
    seed: int,
    report: ProgressCallback | None = None,
    settings: BaseModelSettings | None = None,
    task: type[BuiltInTask] = ChainSums,
    start: Path | None = None,
) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """Pretrain a base model on worked answers, careful and careless steps mixed.

    start: the base model of `task.continues` to go on from; random weights if not given. The same seed
    gives the same weights on the same number of threads. The global random state is left unchanged.
    """
    settings = settings or task.pretraining
    tokenizer = make_tokenizer(task.tokens)
    model = initial_model(seed, tokenizer, settings)
    if start is not None and task.continues is not None:
        continue_from(start, task.continues.tokens, model, task.tokens)
    decay = settings.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), betas=settings.betas, weight_decay=decay, fused=True)
    batches = pretraining_batches(task.draw_corpus(seed, settings.careful_share), tokenizer, settings)
    for step in range(settings.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        loss = backward(model, next(batches))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if report is not None:
            report(step + 1, settings.num_steps, loss)
    return model.eval(), tokenizer


def initial_model(seed: int, tokenizer: PreTrainedTokenizerFast, settings: BaseModelSettings) -> Qwen2ForCausalLM:
    """Return a small Qwen2 with random float32 weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        max_position_embeddings=settings.max_positions,
        initializer_range=settings.init_std,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).float()


def continue_from(start: Path, known: Sequence[str], model: Qwen2ForCausalLM, tokens: Sequence[str]) -> None:
    """Give a model the weights of another; known, tokens: what stands for the rows of their embeddings."""
    from transformers import Qwen2ForCausalLM

    weights, own = Qwen2ForCausalLM.from_pretrained(start).state_dict(), model.state_dict()
    shared = [token for token in tokens if token in known]
    rows, theirs = ([names.index(token) for token in shared] for names in (tokens, known))
    with torch.no_grad():
        for name, value in own.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                value[rows] = weights[name][theirs]
            else:
                value.copy_(weights[name])


def learning_rate(step: int, settings: BaseModelSettings) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then a cosine down to 0."""
    num_warmup = settings.num_warmup_steps
    if step < num_warmup:
        return settings.peak_lr * (step + 1) / num_warmup
    done = (step - num_warmup) / (settings.num_steps - num_warmup)
    return settings.peak_lr * 0.5 * (1 + math.cos(math.pi * done))


Batch = list[tuple[torch.Tensor, torch.Tensor]]
"""One step's sequences in parts of similar length: (ids [B, T], labels [B, T]) each."""


def pretraining_batches(
    corpus: Iterator[tuple[str, ...]], tokenizer: PreTrainedTokenizerFast, settings: BaseModelSettings
) -> Iterator[Batch]:
    """Yield endless batches of what a corpus holds (see `BuiltInTask.draw_corpus`), of about `tokens_per_step` tokens
    each."""
    while True:
        rows: list[tuple[list[int], list[int]]] = []
        num_tokens = 0
        while num_tokens < settings.tokens_per_step:
            rows.append(labelled(next(corpus), tokenizer))
            num_tokens += len(rows[-1][0])
        rows.sort(key=lambda row: len(row[0]))
        size = math.ceil(len(rows) / settings.num_buckets)
        yield [
            (pad_right([ids for ids, _ in part], PAD_ID), pad_right([labels for _, labels in part], IGNORED))
            for part in (rows[i : i + size] for i in range(0, len(rows), size))
        ]


def labelled(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """(ids, labels) of a prompt and what follows it: what the model writes, each time with an end of sequence, has
    labels, what it is replied has none."""
    ids, labels = [BOS_ID], [IGNORED]
    for number, text in enumerate(texts):
        own = tokenizer.encode(text)
        is_answer = number % 2 == 1
        own += [EOS_ID] * is_answer
        ids += own
        labels += own if is_answer else [IGNORED] * len(own)
    return ids, labels


def pad_right(rows: list[list[int]], padding: int) -> torch.Tensor:
    """Return rows of unequal length as one tensor [B, T], T the longest."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)


def backward(model: Qwen2ForCausalLM, batch: Batch) -> float:
    """Add the gradient of the mean loss per answer token of the batch, and return that loss."""
    num_targets = sum(int((labels != IGNORED).sum()) for _, labels in batch)
    total = 0.0
    for ids, labels in batch:
        # No attention mask: padding comes last, so no target's token can attend to it.
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # [B, T - 1, V]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
        (loss / num_targets).backward()
        total += loss.item()
    return total / num_targets
