"""An unembedding given as a matrix, without a final norm, for the tests of the logit lens."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


class MatrixReader:
    """Reads directions through `rows`, [vocabulary, d_model]; the intervened model doubles the logits."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def direction_logits(self, directions: Tensor, model: int) -> Tensor:
        return directions @ self.rows.T * (1 + model)

    def token_cosines(self, directions: Tensor, logits: Tensor, token_ids: Tensor, model: int) -> Tensor:
        centered = normalize(self.rows - self.rows.mean(dim=0), dim=1)
        return torch.einsum("nkd,nd->nk", centered[token_ids], normalize(directions, dim=1))
