"""The registered model, as code: what `mlflow.pyfunc.load_model` and `mlflow models serve` run.

MLflow stores this file beside the adapter (models from code), so nothing is pickled. The
base is resolved from its description when the model is loaded.

    {"inputs": ["The gene is"], "params": {"max_new_tokens": 4}}      a causal model
    {"inputs": ["The [MASK] gene is mutated."]}                       a masked model
    {"inputs": ["Which gene is mutated?"]}                            an instruction model
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from steps.models.chat import Chat

# The project's source, where the model brings it: MLflow puts the folder on the path, and Python
# imports from the archive in it. A model of an earlier version has the files themselves.
SOURCE = Path(__file__).with_name("code") / "steps.zip"
if SOURCE.is_file() and str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))

DEFAULT_NEW_TOKENS = 64
TOP_TOKENS = 5


class AdaptedLanguageModel(PythonModel):  # type: ignore[misc]
    """Writes on from a text (causal), or fills its mask (masked)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the adapter on its base."""
        from steps.models.adapted import load_adapted

        self.folder = Path(context.artifacts["adapter"])
        self.adapted = load_adapted(self.folder)

    def predict(
        self, context: PythonModelContext, model_input: Any, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Answer each text.

        Args:
            context: MLflow's.
            model_input: Texts: a list, an array, or a frame with one column.
            params: `max_new_tokens`, `temperature` (0: the likeliest token, always).

        Returns:
            Causal: the text that follows. Masked: the likeliest tokens for the mask, the best
            first, divided by commas; those of several masks by " | ".

        Raises:
            MlflowException: A masked model got a text without a mask, or one that is too long
                (the server answers 400).
        """
        settings = params or {}
        texts = _texts(model_input)
        if self.adapted.objective == "masked":
            return [self._fill(text) for text in texts]
        return [
            self._continue(
                text,
                int(settings.get("max_new_tokens", DEFAULT_NEW_TOKENS)),
                float(settings.get("temperature", 0.0)),
            )
            for text in texts
        ]

    def probe_difference(self) -> float:
        """How far this model's probe logits are from those that the trainer had."""
        from steps.models.adapted import probe_difference

        return probe_difference(self.adapted, self.folder)

    def _continue(self, text: str, max_new_tokens: int, temperature: float) -> str:
        """Go on from a text that opens as the papers of the training did, or answer it."""
        import torch

        from steps.models.tokenizer import continuation

        tokenizer = self.adapted.tokenizer
        prompt = self._prompt(text)
        given = torch.tensor([prompt], device=self.adapted.device)
        sampling = (
            {"do_sample": True, "temperature": temperature}
            if temperature > 0
            else {"do_sample": False}
        )
        with self.adapted.autocast():
            output = self.adapted.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=self._ends(),
                use_cache=True,
                **sampling,
            )
        return continuation(tokenizer, prompt, output[0, len(prompt) :].tolist())

    def _prompt(self, text: str) -> list[int]:
        """A text as token ids: as the beginning of a paper, or as a question."""
        from steps.messages import Message
        from steps.models.tokenizer import start_token

        tokenizer, chat = self.adapted.tokenizer, self._chat()
        if chat is not None:
            return list(chat.ids(chat.prompt([Message("user", text)])))
        prompt: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        start = start_token(tokenizer)
        # Somebody may have written the opening into the text.
        return prompt if prompt[:1] == [start] else [start, *prompt]

    def _chat(self) -> "Chat | None":
        """How a model that answers is asked; None for others."""
        from steps.models.chat import Chat

        return Chat.of(self.adapted.tokenizer, None) if self.adapted.task == "instruction" else None

    def _ends(self) -> list[int]:
        """Where a text ends: the token that closed the papers, and what the base stops at."""
        own = getattr(self.adapted.model.generation_config, "eos_token_id", None)
        stated = own if isinstance(own, list) else [own]
        chat = self._chat()
        ends = [self.adapted.tokenizer.eos_token_id, *stated, *(chat.stops if chat else ())]
        return [end for end in dict.fromkeys(ends) if end is not None]

    def _fill(self, text: str) -> str:
        from steps.evaluation.filling import fill, masked_ids
        from steps.models.lengths import longest_text

        tokenizer = self.adapted.tokenizer
        tokens = masked_ids(tokenizer, text)
        masks = tokens.count(tokenizer.mask_token_id)
        longest = min(
            longest_text(self.adapted.model.config) or len(tokens),
            tokenizer.model_max_length,
        )
        if not masks or len(tokens) > longest:
            raise MlflowException.invalid_parameter_value(
                f"the text {text[:60]!r} has {masks} {tokenizer.mask_token} and "
                f"{len(tokens)} tokens: expected at least one mask, and at most "
                f"{longest} tokens"
            )
        with self.adapted.autocast():
            filled = fill(self.adapted.model, tokenizer, tokens, TOP_TOKENS, self.adapted.device)
        return " | ".join(", ".join(word.word for word in words) for words in filled)


def _texts(model_input: Any) -> Sequence[str]:
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0]
    texts = [str(text) for text in model_input]
    for place, text in enumerate(texts):
        if not text.strip():
            raise MlflowException.invalid_parameter_value(
                f"text {place} is empty: give the beginning of a text, or a text with a mask"
            )
    return texts


mlflow.models.set_model(AdaptedLanguageModel())
