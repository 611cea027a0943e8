"""Files that are either whole or absent: JSON and safetensors, written beside their place and renamed.

A writer that is killed leaves at most a file whose name starts with ``.tmp-``, never half an artefact.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphprune.core.errors import FormatError, GraphpruneError, InputError

TEMPORARY, ASIDE = ".tmp-", "old-"


def temporary_path(path: Path) -> Path:
    """Where this process writes what shall become ``path``."""
    return path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"


def settle(temporary: Path, path: Path) -> None:
    """Flushes a finished temporary file and lets it take its place."""
    temporary.chmod(0o644)  # safetensors makes its files readable by their owner alone
    flush(temporary)
    temporary.replace(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        GraphpruneError: the disk is full or the folder can't be written; nothing is left behind.
    """
    temporary = temporary_path(path)
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            settle(temporary, path)
            flush(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says of errors of the operating system that they kept ``path`` from being written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise GraphpruneError(f"cannot write {path}: {_reason(error)}") from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    A folder that stood there before is moved aside first and removed last, so one of the two is always whole.

    Raises:
        GraphpruneError: the disk is full or the place can't be written; nothing is left behind.
    """
    temporary, aside = temporary_path(path), temporary_path(path.parent / f"{ASIDE}{path.name}")
    with _writing(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                flush(file)
            if path.exists():
                path.rename(aside)
            temporary.rename(path)
            flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _restore(aside, path)


def _restore(aside: Path, path: Path) -> None:
    """Puts a folder back that was moved aside for one that never came; else removes it."""
    if aside.exists() and not path.exists():
        aside.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def _reason(error: OSError | SafetensorError) -> str:
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else str(error)
    text = str(error)  # safetensors wraps the operating system's error in a sentence
    return os.strerror(errno.ENOSPC) if f"os error {errno.ENOSPC}" in text else text


def flush(path: Path) -> None:
    """Forces a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path, *, depth: int = 2, own: bool = False) -> None:
    """Removes what processes that no longer run have left half-written in ``folder`` and the folders in it.

    Args:
        folder: where to look.
        depth: how many levels below it.
        own: also what this process has left: it writes nothing any more.
    """
    for path in [path for level in range(depth + 1) for path in folder.glob(f"{'*/' * level}{TEMPORARY}*")]:
        owner, _, name = path.name.removeprefix(TEMPORARY).partition("-")
        if owner.isdigit() and ((own and int(owner) == os.getpid()) or not _is_alive(int(owner))):
            if path.is_dir() and name.startswith(ASIDE):
                _restore(path, path.parent / name.removeprefix(ASIDE))
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        InputError: there is no such file.
        FormatError: it isn't a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no JSON object")
    return value


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as one safetensors file, whole or not at all."""
    with replacing(path) as temporary:
        _save(temporary, tensors, metadata)


def write_temporary(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes and flushes a safetensors file under a temporary name; `settle` it later."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, tensors)
        flush(path)


def _save(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{TEMPORARY}{os.getpid()}-") as scratch:
        file = Path(scratch, "tensors")  # safetensors writes under a random name first, which nobody could sweep
        save_file(whole, str(file), metadata=dict(metadata) if metadata else None)  # an empty one can't be read again
        file.replace(path)
    if metadata and len(metadata) > 1:
        _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file, which the library writes in random order: same content, same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) != size:
            raise FormatError(f"{path} has a header of {size} bytes, sorted it has {len(text)}")
        file.seek(8)
        file.write(text)


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file whose tensors are memory-mapped, with damage reported as `FormatError`."""
    with open_tensors(path) as file:
        try:
            yield file
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path} is truncated or corrupt: {error}") from error


def open_tensors(path: Path) -> Any:
    """A safetensors file, open.

    Raises:
        InputError: there is no such file.
        FormatError: it is damaged.
    """
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is truncated, corrupt or no safetensors file: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file (memory-mapped, not copied) and its metadata."""
    with opened_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, whole and on the disk when this returns.

    A writer that is killed leaves at most half a line, behind which the next one starts a new one.

    Raises:
        GraphpruneError: the disk is full or the file can't be written.
    """
    data = (line + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a writer was killed within its last line
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                raise GraphpruneError(f"cannot write {path}: the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            flush(path.parent)
    except OSError as error:
        raise GraphpruneError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from error


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file; none if it isn't there.

    Raises:
        FormatError: the file can't be read.
    """
    try:
        return path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error


def digest(value: object) -> str:
    """A short, stable hash of anything JSON can express: the key under which a finished step is found again."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
