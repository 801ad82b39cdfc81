"""The parts of runs, without the trainer around them."""

from pathlib import Path

from treepo.config.paths import with_absolute_paths
from treepo.config.schema import Config
from treepo.distributed import Job, resolve_device
from treepo.report.terminal import Terminal
from treepo.run.build import Run, build_run
from treepo.run.folder import check_before_loading, make_folder


def prepare(config: Config, out: Path, terminal: Terminal, job: Job | None = None) -> Run:
    """The parts of a new run, and its folder with the resolved settings; no lock, nothing recorded."""
    job, config = job or Job(resolve_device(config.model.device)), with_absolute_paths(config)
    check_before_loading(config, out, job.processes)
    with terminal.stage("loading the model"), terminal.progress("making the base model") as report:
        run = build_run(config, report, job)
    try:
        with job.processes.synced_errors():
            if job.processes.is_first:
                make_folder(run.config, out)
    except BaseException:
        run.close()
        raise
    return run
