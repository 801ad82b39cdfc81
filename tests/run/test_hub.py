"""Pushing the final model to the hub, against an object that stands in for it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.parts import prepare
from tests.run.test_run import QUIET, settings
from treepo.config.schema import TrackingSettings
from treepo.errors import SettingError
from treepo.run.hub import PATTERNS, check_hub, push
from treepo.run.train import train


class Hub:
    """Notes what it is asked; fails where it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.calls: list[tuple[str, dict]] = []

    def _note(self, name: str, **given) -> None:
        self.calls.append((name, given))
        if name == self.fails_at:
            raise ConnectionError("403 Forbidden\nno")

    def whoami(self) -> dict[str, str]:
        self._note("whoami")
        return {"name": "me"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> SimpleNamespace:
        self._note("create_repo", repo_id=repo_id, private=private, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def upload_folder(self, **given) -> None:
        self._note("upload_folder", **given)


@pytest.fixture
def hub(monkeypatch) -> Hub:
    found = Hub()
    monkeypatch.setattr("treepo.run.hub.HfApi", lambda: found)
    return found


@pytest.mark.parametrize("lora", [{}, {"rank": 2, "merge": False}], ids=["model", "adapter"])
def test_the_final_model_or_adapter_is_pushed(hub, chain_model, tmp_path, caplog, lora):
    """Named after the run's folder, into a private repository, whose name is told."""
    if lora:
        pytest.importorskip("peft")
    caplog.set_level("INFO")
    config = settings(chain_model, train={"num_steps": 0}, tracking={"push_to_hub": True}, lora=lora)
    out = tmp_path / "mine"
    train(prepare(config, out, QUIET), out, QUIET)
    (name, created), (_, uploaded) = hub.calls[1:]
    assert hub.calls[0] == ("whoami", {})
    assert (name, created) == ("create_repo", {"repo_id": "mine", "private": True, "exist_ok": True})
    folder = out / ("adapter" if lora else "model")
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/mine", str(folder))
    matched = {path.name for path in folder.iterdir() if any(path.match(pattern) for pattern in PATTERNS)}
    assert {path.name for path in folder.iterdir()} - matched <= {"README.md"}
    assert "The model is at https://huggingface.co/me/mine." in caplog.messages


def test_a_hub_that_takes_no_token_ends_the_run_before_its_first_step(hub, chain_model, tmp_path):
    """Hours of training came before the upload that could not work."""
    hub.fails_at = "whoami"
    with pytest.raises(SettingError, match=r"^tracking.push_to_hub: the hub takes no token of yours .*HF_TOKEN$"):
        prepare(settings(chain_model, tracking={"push_to_hub": True}), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fails_at", ["create_repo", "upload_folder"])
def test_an_upload_that_fails_is_a_warning_with_the_command_that_tries_again(fails_at, hub, caplog):
    hub.fails_at = fails_at
    push(TrackingSettings(push_to_hub=True, hub_model_id="team/m"), Path("runs/x"), Path("runs/x/model"))
    assert caplog.messages == [
        "the model could not be pushed to team/m (ConnectionError: 403 Forbidden); "
        "`hf upload team/m runs/x/model` tries again"
    ]


def test_nobody_is_asked_unless_wanted(hub):
    check_hub(TrackingSettings())
    push(TrackingSettings(), Path("runs/x"), Path("runs/x/model"))
    assert hub.calls == []
