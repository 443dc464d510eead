"""The registered model, as code: what `mlflow.pyfunc.load_model` and `mlflow models serve` run.

MLflow stores this file beside the adapter (models from code), so nothing is pickled. The
base is resolved from its description when the model is loaded.

    {"inputs": ["The gene is"], "params": {"max_new_tokens": 4}}      a causal model
    {"inputs": ["The [MASK] gene is mutated."]}                       a masked model
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

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
        tokenizer = self.adapted.tokenizer
        encoded = tokenizer(text, return_tensors="pt").to(self.adapted.device)
        sampling = (
            {"do_sample": True, "temperature": temperature}
            if temperature > 0
            else {"do_sample": False}
        )
        with self.adapted.autocast():
            output = self.adapted.model.generate(
                **encoded,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
                **sampling,
            )
        return str(
            tokenizer.decode(output[0, encoded.input_ids.shape[1] :], skip_special_tokens=True)
        )

    def _fill(self, text: str) -> str:
        tokenizer = self.adapted.tokenizer
        encoded = tokenizer(text, return_tensors="pt", verbose=False).to(self.adapted.device)
        positions = (encoded.input_ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
        longest = min(self.adapted.model.config.max_position_embeddings, tokenizer.model_max_length)
        if not positions or encoded.input_ids.shape[1] > longest:
            raise MlflowException.invalid_parameter_value(
                f"the text {text[:60]!r} has {len(positions)} {tokenizer.mask_token} and "
                f"{encoded.input_ids.shape[1]} tokens: expected at least one mask, and at most "
                f"{longest} tokens"
            )
        with self.adapted.autocast():
            logits = self.adapted.model(**encoded).logits[0]
        return " | ".join(
            ", ".join(tokenizer.decode([i]).strip() for i in logits[p].topk(TOP_TOKENS).indices)
            for p in positions
        )


def _texts(model_input: Any) -> Sequence[str]:
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0]
    return [str(text) for text in model_input]


mlflow.models.set_model(AdaptedLanguageModel())
