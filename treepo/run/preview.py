"""What `treepo train --dry-run` shows: the first prompt as the model would get it, and what is known about it."""

from treepo.config.schema import Config
from treepo.data.datasets import Dataset
from treepo.data.problem import Problem, Task, Verdict
from treepo.errors import SettingError
from treepo.model.tokenizer_only import TokenizerOnly, load_tokenizer_only
from treepo.report.terminal import Terminal
from treepo.run.engine import check_vllm_settings
from treepo.run.length import with_epochs
from treepo.run.model_path import model_folder
from treepo.run.task import build_task, check_trainable
from treepo.run.tracking import check_installed
from treepo.tasks.base import BuiltInTask, make_tokenizer
from treepo.tasks.registry import built_in_task
from treepo.utils.text import pluralize, shorten
from treepo.verify.task import VerifiedTask

RULE = "-" * 80


def preview(config: Config, terminal: Terminal, num_processes: int = 1) -> None:
    """Build the task of a run without its model's weights, and show its first prompt; nothing is grown or written.

    num_processes: those that would train together. Raises SettingError for settings that cannot work, as far as they
    can be told without the weights.
    """
    check_trainable(config)
    check_installed(config.tracking)
    if config.engine.kind == "vllm":
        check_vllm_settings("tree.align", config.tree.align, config.vllm, config.model.device)
    config.environment.check()
    model = _load(config)
    with terminal.stage("reading the problems"):
        task = build_task(config, model, _engine_room(config))
    try:
        if isinstance(task, VerifiedTask):
            task.check_functions(getattr(config.reward, "functions", ()), bool(config.environment.tool_factory))
        _show_settings(with_epochs(config, task), task, terminal, num_processes)
        _show_problem(task, model, terminal)
    finally:
        if isinstance(task, VerifiedTask):
            task.close()
    terminal.say("dry run: nothing was grown, nothing was written")


def _load(config: Config) -> TokenizerOnly:
    if config.model.path:
        model = config.model
        return load_tokenizer_only(
            model_folder(model.path), model.trust_remote_code, tokenizer=model.tokenizer, revision=model.revision
        )
    if config.data.is_given:
        raise SettingError("model.path", f"the problems of {config.data.train[0]!r} need a model; none is given")
    return TokenizerOnly(make_tokenizer(built_in_task(config.task).tokens))


def _engine_room(config: Config) -> int:
    """Most tokens of a sequence that the settings allow the engine; a real one may have memory for fewer."""
    room = config.data.max_prompt_len + config.tree.max_response_tokens
    limits = {"embedded": config.engine.max_cache_tokens, "vllm": config.vllm.max_model_len}
    return min(room, limits.get(config.engine.kind) or room)


def _show_settings(config: Config, task: Task, terminal: Terminal, num_processes: int) -> None:
    tree, train = config.tree, config.train
    verifier = type(config.verifier).__name__ if config.data.is_given else "that of the built-in task"
    terminal.say(f"model      {model_folder(config.model.path) or 'base model of the built-in task'}")
    terminal.say(
        f"tree       {pluralize(tree.width, 'trajectory', 'trajectories')} of at most "
        f"{pluralize(tree.depth, 'segment')} of {pluralize(tree.segment_len, 'token')}, "
        f"{tree.max_response_tokens} in all"
    )
    size = pluralize(train.prompts_per_step, "problem")
    if config.tokens_per_step:
        size = f"about {config.tokens_per_step} decoded tokens ({size} until the first plan)"
    terminal.say(f"training   {pluralize(train.num_steps, 'step')} of {size}, lr {config.optim.lr:g}")
    terminal.say(f"credit     {type(config.credit).__name__}, loss {type(config.loss).__name__}")
    terminal.say(f"engine     {config.engine.kind}")
    if num_processes > 1:
        shard_size = config.processes.shard_size or num_processes
        terminal.say(f"processes  {num_processes}, of which {shard_size} share a copy of the weights")
    if (environment := config.environment).is_given:
        terminal.say(f"turns      at most {environment.max_turns}, with {', '.join(environment.names)}")
    terminal.say(f"verifier   {verifier}")
    if not isinstance(task, VerifiedTask):
        terminal.say("problems   drawn anew at every step")
        return
    for name, datasets in (("train", task.train), ("eval", task.eval)):
        for dataset in datasets:
            size = len(dataset.problems) if isinstance(dataset, Dataset) else None
            problems = "problems without end" if size is None else pluralize(size, "problem")
            terminal.say(f"{name:<10} {dataset.name}: {problems}")


def _show_problem(task: Task, model: TokenizerOnly, terminal: Terminal) -> None:
    (problem,) = task.training_problems(0, 1)
    prompt = model.tokenizer.decode(
        list(problem.prompt_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    response, verdict = _judge_example(task, problem)
    extracted = "none" if verdict.extracted_answer is None else shorten(repr(verdict.extracted_answer))
    num_tokens = pluralize(len(problem.prompt_ids), "token")
    terminal.say(f"\nfirst prompt, {problem.id}: {num_tokens}\n{RULE}\n{prompt}\n{RULE}")
    terminal.say(f"known answer   {shorten(repr(problem.ground_truth))}")
    terminal.say(f"as a response  {shorten(repr(response))}")
    terminal.say(f"verdict        {verdict.correct:g} ({verdict.outcome}), extracted answer {extracted}")


def _judge_example(task: Task, problem: Problem) -> tuple[str, Verdict]:
    """The known answer as the verifier would write it, and what it says of it."""
    assert isinstance(task, VerifiedTask | BuiltInTask), "what build_task builds"
    writer = task.pool.verifier if isinstance(task, VerifiedTask) else task
    response = writer.example_response(problem.ground_truth)
    return response, task.verify([(problem, response)])[0]
