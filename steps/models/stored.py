"""The tensors of a model folder's safetensors files, read one at a time, whole or in part.

A file is mapped for as long as a tensor is read, so that neither memory nor pages of other tensors
stay with the process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class StoredTensors:
    """What the files of a model folder hold.

    Attributes:
        name: Of the model, for messages.
        files: The file of each tensor, by its name there.
        shapes: Their shapes.
    """

    name: str
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, folder: Path, name: str) -> "StoredTensors":
        """Read the headers of a folder's files: those that transformers would load.

        Args:
            folder: With `model.safetensors`, or an index of several files.
            name: What to call the model.

        Raises:
            UserError: They are missing, damaged or cut off.
        """
        index = folder / _INDEX
        if index.is_file() and not (folder / _SINGLE).is_file():
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            paths = [folder / file for file in sorted(set(listed))]
        else:
            paths = [folder / _SINGLE]
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            with opened(path, name) as content:
                for key in content.keys():  # noqa: SIM118 - no mapping: it has keys and no items
                    files[key] = path
                    shapes[key] = tuple(content.get_slice(key).get_shape())
        return cls(name, files, shapes)

    def copy_into(self, target: "Tensor", key: str, start: int, end: int) -> None:
        """Fill a range of a tensor with the same range of a stored one, in the target's format.

        Only that range of the file is read.

        Args:
            target: Contiguous, of the shape that is stored; elsewhere it stays as it is.
            key: The name of the stored tensor.
            start: The first element, counted through all dimensions.
            end: One past the last.
        """
        with opened(self.files[key], self.name) as content:
            # A view of the mapped file: its pages are read where they are looked at.
            stored = content.get_tensor(key).reshape(-1)
            target.view(-1)[start:end].copy_(stored[start:end])

    def read(self, key: str, dtype: Any = None) -> "Tensor":
        """A stored tensor in memory of its own, in a number format (`torch.dtype`), or its own."""
        import torch

        with opened(self.files[key], self.name) as content:
            stored = content.get_tensor(key)
            made = torch.empty(self.shapes[key], dtype=dtype or stored.dtype)
            return made.copy_(stored)


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """A safetensors file.

    Raises:
        UserError: It is missing, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as content:
            yield content
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"the weights of {name} are damaged ({path.name}: {first_line(error)}): fetch the "
            "model again"
        ) from None
