"""A run folder: everything about one model, every artefact whole, every step recorded and found again."""

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import read_json, sweep_temporaries, write_json

FORMAT, VERSION = "graphprune.run", 1


@dataclass(frozen=True)
class Run:
    """A run folder, opened for the model it belongs to."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, *, identity: str | None = None, facts: Mapping[str, Any] | None = None) -> "Run":
        """Opens a run folder, or makes one if a model is given.

        Args:
            folder: where it is or shall be.
            identity: hash of the model's checkpoint.
            facts: what the manifest shall say of the model.

        Raises:
            InputError: there is none, or the folder holds something else.
            FormatError: it belongs to another model, is damaged, or of a newer version.
        """
        run = cls(folder.expanduser().absolute())
        if run._manifest_path.is_file():
            run._check(identity)
            sweep_temporaries(run.folder)
            return run
        if identity is None:
            raise InputError(f"{folder} is not a run folder; `graphprune export MODEL -o {folder}` makes one")
        if run.folder.exists() and not run.folder.is_dir():
            raise InputError(f"{folder} is a file, a run is a folder")
        if run.folder.is_dir():
            sweep_temporaries(run.folder)
            if any(run.folder.iterdir()):
                raise InputError(f"{folder} holds something else than a run; name a new or empty folder")
        versions = {name: version(name) for name in ("graphprune", "torch", "transformers")}
        versions["python"] = platform.python_version()
        model = {"identity": identity, **(facts or {})}
        manifest = {"format": FORMAT, "version": VERSION, "model": model, "versions": versions, "steps": {}}
        write_json(run._manifest_path, manifest)
        return run

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _check(self, identity: str | None) -> None:
        manifest = self.manifest()
        if manifest.get("format") != FORMAT:
            raise InputError(f"{self.folder} holds something else than a run; name a new or empty folder")
        if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
            raise FormatError(f"{self._manifest_path} is of a newer version; this program reads up to {VERSION}")
        try:
            model = manifest["model"]
            found, name = model["identity"], model.get("name", "another model")
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{self._manifest_path} is damaged: it names no model") from error
        if not isinstance(manifest.get("steps", {}), dict):
            raise FormatError(f"{self._manifest_path} is damaged: its steps are no object")
        if identity is not None and found != identity:
            raise FormatError(f"the run folder {self.folder} belongs to another model ({name}); name a new folder")

    def manifest(self) -> dict[str, Any]:
        return read_json(self._manifest_path)

    @property
    def graph_folder(self) -> Path:
        return self.folder / "graph"

    def stats_path(self, key: str) -> Path:
        return self.folder / "stats" / f"{key}.safetensors"

    def scores_path(self, name: str) -> Path:
        return self.folder / "scores" / f"{checked_name(name)}.safetensors"

    def mask_path(self, name: str) -> Path:
        return self.folder / "masks" / f"{checked_name(name)}.safetensors"

    def model_folder(self, name: str) -> Path:
        return self.folder / "models" / checked_name(name)

    def journal_folder(self, key: str) -> Path:
        """Where the finished blocks of a run that isn't finished lie."""
        return self.folder / "blocks" / key[:16]

    def evaluation_path(self, name: str) -> Path:
        return self.folder / "evaluations" / f"{checked_name(name)}.json"

    def comparison_path(self, name: str) -> Path:
        return self.folder / "comparisons" / f"{checked_name(name)}.safetensors"

    def finished(self, step: str, inputs: str) -> dict[str, Any] | None:
        """What a step gave, if it has run with these inputs and its output is still there."""
        entry = self.manifest().get("steps", {}).get(step)
        if isinstance(entry, dict) and entry.get("inputs") == inputs:
            result: dict[str, Any] = entry.get("result", {})
            paths = [Path(self.folder, path) for path in entry.get("outputs", [])]
            return result if all(path.exists() for path in paths) else None
        return None

    @contextmanager
    def recording(self, step: str, inputs: str, options: Mapping[str, Any]) -> Iterator["Record"]:
        """Records a step in the manifest once it has finished, with its options and its seconds."""
        record = Record({}, [])
        start = time.perf_counter()
        yield record
        record.result["seconds"] = round(time.perf_counter() - start, 3)
        manifest = self.manifest()
        outputs = [str(path.relative_to(self.folder)) for path in record.outputs]
        entry = {"inputs": inputs, "options": dict(options), "result": record.result, "outputs": outputs}
        manifest.setdefault("steps", {})[step] = entry
        write_json(self._manifest_path, manifest)


@dataclass
class Record:
    """What a step says of itself while it runs: its result, and the paths it wrote."""

    result: dict[str, Any]
    outputs: list[Path]


def checked_name(name: str) -> str:
    """A name that is a plain file name.

    Raises:
        InputError: it could lead out of its folder.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise InputError(f"{name!r} can't be the name of a file")
    return name
