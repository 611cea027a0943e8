"""Files that are either whole or absent."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphprune.core import io
from graphprune.core.errors import FormatError, GraphpruneError, InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with io.replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt(), ValueError("no")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with io.replacing(path) as temporary:
            temporary.write_text("new, but only ha")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_is_said_in_one_sentence_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"

    def write() -> None:
        with io.replacing(path) as temporary:
            temporary.write_text("some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(GraphpruneError, match=f"^cannot write {path}: No space left on device$"):
        write()
    assert names(tmp_path) == []


def test_a_place_that_is_a_file_is_said_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GraphpruneError, match=f"cannot write {tmp_path / 'file' / 'more'}: "):
        io.write_json(tmp_path / "file" / "more", {})
    with pytest.raises(GraphpruneError, match="cannot write"):
        io.save_tensors(tmp_path / "file" / "more", {"x": torch.ones(1)})


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with io.replacing_folder(path) as temporary:
        (temporary / "new").write_text("new")
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")

    def write() -> None:
        with io.replacing_folder(path) as temporary:
            (temporary / "new").write_text("new")
            raise error

    with pytest.raises(GraphpruneError if isinstance(error, OSError) else type(error)):
        write()
    assert names(tmp_path) == ["folder"]
    assert (path / "old").read_text() == "old"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder is already aside when the second rename fails: it must come back."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    rename = Path.rename

    def fails_to_arrive(self: Path, target: Path) -> Path:
        if target == path and "-old-" not in self.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_to_arrive)

    def write() -> None:
        with io.replacing_folder(path) as temporary:
            (temporary / "new").write_text("new")

    with pytest.raises(GraphpruneError, match=f"cannot write {path}: "):
        write()
    assert names(tmp_path) == ["folder"]
    assert (path / "old").read_text() == "old"


def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        (folder / f"{io.TEMPORARY}{ended.pid}-x").write_text("half")
        (folder / f"{io.TEMPORARY}{os.getpid()}-x").write_text("being written")
        (folder / f"{io.TEMPORARY}other").write_text("somebody else's")
    (tmp_path / f"{io.TEMPORARY}{ended.pid}-folder").mkdir()
    (tmp_path / f"{io.TEMPORARY}{ended.pid}-folder" / "file").write_text("half")
    io.sweep_temporaries(tmp_path)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        left = [path.name for path in folder.iterdir() if path.name.startswith(io.TEMPORARY)]
        assert sorted(left) == sorted([f"{io.TEMPORARY}{os.getpid()}-x", f"{io.TEMPORARY}other"])


def test_json_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    io.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert io.read_json(path) == {"a": "é", "b": [1, 2.5]}
    for content in ('{"a": ', "[1, 2]", "\xff\xfe"):
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(FormatError, match=str(path)):
            io.read_json(path)
    with pytest.raises(InputError, match=f"{tmp_path / 'none.json'} is not there"):
        io.read_json(tmp_path / "none.json")


def test_tensors_round_trip_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T, "y": torch.tensor([True, False])}
    io.save_tensors(path, tensors, {"what": "test"})
    found, metadata = io.load_tensors(path)
    assert metadata == {"what": "test"}
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_damaged_tensors_are_refused_with_the_path(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.safetensors"
    io.save_tensors(path, {"x": torch.ones(100)})
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-10], "overwritten": b"no safetensors at all", "empty": b""}[damage])
    with pytest.raises(FormatError, match=f"{path} is truncated, corrupt or no safetensors file"):
        io.load_tensors(path)
    with pytest.raises(InputError, match=r"none\.safetensors is not there"):
        io.load_tensors(tmp_path / "none.safetensors")


def test_digests_do_not_depend_on_the_order_of_keys_and_see_every_value(tmp_path: Path) -> None:
    assert io.digest({"a": 1, "b": [2, 3]}) == io.digest({"b": [2, 3], "a": 1})
    assert io.digest({"a": 1}) != io.digest({"a": 2})
    assert io.digest(["ab"]) != io.digest(["a", "b"])
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert io.file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
