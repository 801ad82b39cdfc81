"""The cache folder: where it is, and whether what lies in it is the user's own."""

import os
from pathlib import Path

import pytest

from treepo.utils.io import default_cache_folder, is_own, private_folder


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREEPO_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert default_cache_folder() == Path("/one")
    monkeypatch.delenv("TREEPO_CACHE")
    assert default_cache_folder() == Path("/two/treepo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path("/three/.cache/treepo")


def test_a_private_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    """Also one that could be read by others before, and whatever the umask."""
    old = os.umask(0)
    try:
        for _ in range(2):
            folder = private_folder(tmp_path / "cache" / "kernels")
            assert folder.stat().st_mode & 0o777 == 0o700
            folder.chmod(0o755)
    finally:
        os.umask(old)


def test_a_folder_in_which_others_write_is_refused(tmp_path: Path) -> None:
    """Itself, the one it lies in, and a link to one that is the user's own."""
    for name, mode in (("kernels", 0o770), (".", 0o777)):
        cache = tmp_path / f"cache{mode}"
        private_folder(cache / "kernels")
        (cache / name).chmod(mode)
        with pytest.raises(PermissionError, match="not this user's own"):
            private_folder(cache / "kernels")
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(PermissionError):
        private_folder(tmp_path / "link")
    assert is_own(tmp_path / "own")
    assert not is_own(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(private_folder(tmp_path / "cache" / "kernels"), 65534, -1)
    with pytest.raises(PermissionError):
        private_folder(tmp_path / "cache" / "kernels")
