"""Parameters of a checkpoint folder, read one by one from memory-mapped safetensors."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from graphprune.core.errors import FormatError, ModelError
from graphprune.core.io import file_digest, opened_tensors, read_json
from graphprune.core.memory import give_back

GIVE_BACK = 256 << 20


def check_finite(name: str, tensor: torch.Tensor, where: str) -> None:
    """Checks that a parameter holds numbers.

    Raises:
        ModelError: it has a value that is NaN or infinite.
    """
    if tensor.is_floating_point() and tensor.numel():
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ModelError(f"{name} in {where} has a value that is NaN or infinite")


class Checkpoint(Mapping[str, torch.Tensor]):
    """The parameters of a folder by name. A tensor is mapped when asked for and checked once for NaN and infinity.

    What was read stays in memory as long as its file is mapped, so every tensor has a mapping of its own: when it is
    dropped, its pages are. Of what is made of them, free memory is given back every `GIVE_BACK` bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = self._index()
        self._checked: set[str] = set()
        self._read = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for path in sorted(set(self._file_of.values())):
            with opened_tensors(path) as file:
                for name in file.keys():  # noqa: SIM118
                    view = file.get_slice(name)
                    self.shapes[name] = tuple(view.get_shape())
                    self.dtypes[name] = view.get_dtype()
        missing = self._file_of.keys() - self.shapes.keys()
        if missing:
            raise FormatError(f"{folder} is incomplete: {min(missing)} is in its index but in no file")

    def _index(self) -> dict[str, Path]:
        single, index = self.folder / "model.safetensors", self.folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or any(Path(f).name != f for f in weight_map.values()):
                raise FormatError(f"{index} has no weight map")
            return {name: self.folder / file for name, file in weight_map.items()}
        if single.is_file():
            with opened_tensors(single) as file:
                return dict.fromkeys(file.keys(), single)
        if any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt*")):
            raise ModelError(
                f"{self.folder} holds its weights only as pickle, which is never read; save as safetensors"
            )
        raise ModelError(f"{self.folder} holds no model.safetensors")

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self._file_of[name]
        if self._read >= GIVE_BACK:
            give_back()
            self._read = 0
        with opened_tensors(path) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        self._read += tensor.nbytes
        if name not in self._checked:
            check_finite(name, tensor, str(path))
            self._checked.add(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in set(self._file_of.values()))

    def identity(self) -> str:
        """A hash of the configuration and of every weight file."""
        total = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in sorted(set(self._file_of.values())):
            total.update(f"{path.name}:{file_digest(path)}".encode())
        return total.hexdigest()
