"""What the page asks: about which picture, with which patches visible, and what to look at."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from fcmae.masking import draw_visible
from fcmae.run.json_files import as_dataclass, parse_json


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of the page.

    Attributes:
        picture: The name of the picture, see `finetune.exploring.pictures`.
        stage: Whose features are shown, from 1 to 4.
        visible: 0 or 1 for each patch; None to draw them anew.
        ratio: The share of patches to hide, if they are drawn.
        seed: Of the draw.
        patch: The number of the patch that is compared with all others, or None.
    """

    picture: str
    stage: int
    visible: str | None = None
    ratio: float = 0.0
    seed: int = 0
    patch: int | None = None

    @staticmethod
    def of_json(encoded: bytes, patches: int) -> "Question":
        """Read a question about a picture of so many patches.

        Raises:
            ValueError: It is none.
        """
        question = as_dataclass(Question, parse_json(encoded, "the question", object))
        if not 1 <= question.stage <= 4:
            raise ValueError(f"stage={question.stage} must be 1 to 4")
        if question.patch is not None and not 0 <= question.patch < patches:
            raise ValueError(f"patch={question.patch} must be 0 to {patches - 1}")
        return question

    def visible_of(self, n: int) -> Bool[Tensor, " n"]:
        """Which of n patches are visible.

        Raises:
            ValueError: None of them is, or the question has another number of patches.
        """
        if self.visible is None:
            generator = torch.Generator().manual_seed(self.seed % 2**63)
            return draw_visible(1, n, self.ratio, generator=generator)[0]
        if len(self.visible) != n or set(self.visible) - {"0", "1"}:
            raise ValueError(f"visible must have 0 or 1 for each of {n} patches")
        if "1" not in self.visible:
            raise ValueError("all patches are hidden: show one, since the encoder needs something")
        return torch.tensor([letter == "1" for letter in self.visible])
