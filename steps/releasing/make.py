"""The making of forms: one merge, from which every form but the adapter is written.

maker = Maker(source, settings, scratch)
folder = maker.make(form)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from steps.config.release_section import Release
from steps.releasing.converter import convert
from steps.releasing.forms import Form, Source
from steps.releasing.gguf import write_gguf
from steps.releasing.merging import merge, release_dtype, write_adapter, write_model


class Maker:
    """Writes forms of one version, and merges it once for all of them."""

    def __init__(self, source: Source, forms: Sequence[Form], settings: Release, scratch: Path):
        """Take what is to be made.

        Args:
            source: The version.
            forms: All that will be made.
            settings: The section `release`.
            scratch: A folder for what is written on the way.
        """
        self._source = source
        self._forms = forms
        self._settings = settings
        self._between = scratch / "between"
        self._merged = scratch / "merged"

    def make(self, form: Form, folder: Path, stops: Sequence[str]) -> None:
        """Write a form.

        Args:
            form: One of those that were announced.
            folder: Where to; made.
            stops: Tokens that end a text, as they are written.

        Raises:
            UserError: The base cannot be loaded, or llama.cpp does not take the model.
        """
        if form.name == "adapter":
            write_adapter(folder, self._source)
            return
        self._merge_once()
        if form.name == "merged":
            self._merged.rename(folder)
            return
        write_gguf(folder, form, self._between / "f16.gguf", stops)

    def clear(self) -> None:
        """Remove what stood between version and forms."""
        shutil.rmtree(self._between, ignore_errors=True)

    def _merge_once(self) -> None:
        """Merge, and write the weights as float32 for the converter and as 16 bits to be served."""
        if self._between.exists():
            return
        import torch

        self._between.mkdir()
        names = {form.name for form in self._forms}
        as_trained = self._settings.merge_onto == "as_trained"
        model = merge(self._source, as_trained=as_trained)
        if any(form.reader == "llama.cpp" for form in self._forms):
            whole = self._between / "float32"
            write_model(whole, model, self._source, torch.float32)
            convert(whole, self._between / "f16.gguf")
            shutil.rmtree(whole)
        if "merged" in names:
            dtype = release_dtype(self._source, self._settings)
            write_model(self._merged, model, self._source, dtype)
