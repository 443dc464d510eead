"""Which forms a version can have is known before a weight is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from steps.config.release_section import Release
from steps.errors import UserError
from steps.releasing.forms import choose_forms, why_not
from tests.support.model_folders import quantised
from tests.support.project import demo_texts
from tests.support.released_models import save_sentencepiece_llama, save_version


@pytest.mark.parametrize("form", ["merged", "gguf:f16"])
def test_nothing_is_merged_into_a_base_that_exists_in_4_bits_alone(
    form: str, tmp_path: Path
) -> None:
    base = save_sentencepiece_llama(tmp_path / "base", demo_texts())
    _, source = save_version(tmp_path / "version", base)
    assert why_not(form, source, Release()) == ""
    only = replace(source, base=replace(source.base, folder=quantised(base, tmp_path / "only", 4)))
    with pytest.raises(UserError, match="stored in 4 or 8 bits alone") as refused:
        choose_forms((form,), only, Release())
    assert "merge_onto=as_trained" in str(refused.value)
    assert why_not(form, only, Release(merge_onto="as_trained")) == ""
    assert [found.name for found in choose_forms("auto", only, Release())] == ["adapter"]
