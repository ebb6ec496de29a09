"""Activations that another program computed, such as an inference server: one safetensors file for each document.

    token_ids       [token]           integers: all tokens that the model read
    hidden_states   [token, d_model]  floating point, or [token, layer, d_model] with one or several layers

This is what vLLM writes when it extracts hidden states. A file belongs to the document whose tokens it holds, whatever its name is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from ..errors import ConfigError, DataError, FormatError
from ..runtime.digests import content_digest
from .shards import map_tensors

_TOKEN_IDS, _STATES = "token_ids", "hidden_states"

_NAMED = 3
"""Largest number of documents that a message names."""

_SECONDS_UNTIL_PROGRESS = 2.0


class _Mapped(NamedTuple):
    """Memory maps of one file."""

    token_ids: np.ndarray
    states: np.ndarray
    dtype: torch.dtype


class DocumentFiles:
    """The files of one model. Only their headers and token ids are read until activations are asked for."""

    def __init__(
        self,
        folder: Path,
        model: str,
        wanted: Mapping[int, Int[np.ndarray, " token"]],
        layer: int | None,
        n_before: int = 0,
    ) -> None:
        """Find the file of every document.

        Args:
            model: Name of the model, for messages.
            wanted: The token ids that the model reads for each document, a context before it included.
            layer: Which of several stored layers to read, counted from 0; None: there is only one.
            n_before: Number of tokens of the context, whose activations are left out.

        Raises:
            ConfigError: There is no such folder, or not this layer.
            FormatError: A file is damaged, or lacks one of the two tensors.
            DataError: A document has no file or two, or a file lacks tokens or differs in width from the others.
        """
        self.folder, self.model, self.layer, self._n_before = folder, model, layer, n_before
        self.n_unknown = 0
        """Files whose tokens are those of no document."""
        self._paths: dict[int, Path] = {}
        self._digests = {document: _digest(ids) for document, ids in wanted.items()}
        documents: dict[str, list[int]] = {}
        """Documents by the digest of their tokens; several may have the same."""
        for document, digest in self._digests.items():
            documents.setdefault(digest, []).append(document)
        first: tuple[Path, tuple[int, ...], torch.dtype] | None = None
        found = sorted(require_files(folder))
        for path in tqdm(found, desc=f"{model} files", unit="file", delay=_SECONDS_UNTIL_PROGRESS):
            file = _read(path)
            own = documents.get(_digest(file.token_ids))
            if own is None:
                self.n_unknown += 1
                continue
            if (other := self._paths.get(own[0])) is not None:
                raise DataError(
                    f"{path}: holds the tokens of document {own[0]}, as {other.name} does; keep one of the two files in the folder"
                )
            self._check(path, file, first)
            first = first or (path, file.states.shape[1:], file.dtype)
            self._paths |= dict.fromkeys(own, path)
        self._require_all(wanted.keys() - self._paths.keys(), len(wanted))
        assert first is not None, "there are documents, and each has a file"
        self.d_model, self.dtype = first[1][-1], first[2]

    def activations(
        self, document: int, at: Bool[np.ndarray, " token"] | slice
    ) -> Float[Tensor, "row d_model"]:
        """Return the activations of one document, at the given tokens of it.

        Raises:
            FormatError, DataError: The file is not what it was, or holds NaN or infinite values at these tokens.
        """
        path = self._paths[document]
        file = _read(path)
        if _digest(file.token_ids) != self._digests[document] or len(file.states) != len(file.token_ids):
            raise DataError(f"{path}: changed while it was read; wait until the other program has finished")
        states = file.states if file.states.ndim == 2 else file.states[:, self.layer or 0]
        values = torch.from_numpy(np.array(states[self._n_before :][at], order="C"))
        values = values.view(torch.bfloat16) if file.dtype == torch.bfloat16 else values
        broken = ~values.isfinite().all(dim=1)
        if broken.any():
            raise DataError(
                f"{path}: {_STATES} of the {self.model} model are NaN or infinite at {int(broken.sum())} tokens of document {document}; "
                "have the other program compute it again, in a dtype with a larger range"
            )
        return values

    def _check(
        self, path: Path, file: _Mapped, first: tuple[Path, tuple[int, ...], torch.dtype] | None
    ) -> None:
        """Check one file by its header, also against the `first` one."""
        shape = file.states.shape
        if len(shape) not in (2, 3) or 0 in shape or not file.dtype.is_floating_point:
            raise DataError(
                f"{path}: {_STATES} is {file.dtype} of shape {shape}; it must be floating point, [token, d_model] or [token, layer, d_model]"
            )
        if shape[0] != len(file.token_ids):
            raise DataError(
                f"{path}: holds activations of {shape[0]} tokens, but token ids of {len(file.token_ids)}; let the server return all tokens of "
                "the prompt and none besides: switch chunked prefill and prefix caching off"
            )
        n_layers = shape[1] if len(shape) == 3 else 1
        if self.layer is None and n_layers > 1:
            raise ConfigError(
                f"--file-layer: {path} holds {n_layers} layers; say which of them is read at the hookpoint, from 0 to {n_layers - 1}"
            )
        if self.layer is not None and not 0 <= self.layer < n_layers:
            raise ConfigError(
                f"--file-layer: {self.layer} was asked for, but {path} holds {n_layers} layers, counted from 0; give 0 to {n_layers - 1}"
            )
        if first is not None and (shape[1:], file.dtype) != first[1:]:
            raise DataError(
                f"{path}: {_STATES} is {file.dtype} of shape {shape}, but {first[0].name} has {first[2]} and {first[1]} for each token; "
                "keep the files of one extraction alone in the folder"
            )

    def _require_all(self, missing: set[int], n_documents: int) -> None:
        if not missing:
            return
        shown = ", ".join(map(str, sorted(missing)[:_NAMED]))
        unknown = (
            f"; {self.n_unknown} files hold token ids of no document, e.g. of documents that were cut or tokenized again"
            if self.n_unknown
            else ""
        )
        raise DataError(
            f"{self.folder}: {len(missing)} of {n_documents} documents have no file of the {self.model} model (document {shown}"
            f"{', …' if len(missing) > _NAMED else ''}){unknown}; give the server the token ids that `crosscoder harvest CONFIG --token-ids FOLDER` writes"
        )


def require_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder. Raises ConfigError if there are none."""
    if not folder.is_dir():
        raise ConfigError(
            f"--from-files: {folder} is not a folder; it must hold one safetensors file for each document"
        )
    found = list(folder.glob("*.safetensors"))
    if not found:
        raise ConfigError(
            f"--from-files: {folder} holds no safetensors file; it must hold one for each document"
        )
    return found


def _read(path: Path) -> _Mapped:
    """Map the two tensors of a file. Raises FormatError if it does not have them."""
    maps = map_tensors(path)
    if not maps.keys() >= {_TOKEN_IDS, _STATES}:
        raise FormatError(
            f"{path}: holds {', '.join(sorted(maps))}; a file of activations has {_TOKEN_IDS} [token] and {_STATES} [token, d_model]"
        )
    (token_ids, id_dtype), (states, dtype) = maps[_TOKEN_IDS], maps[_STATES]
    if token_ids.ndim != 1 or id_dtype.is_floating_point or id_dtype.is_complex:
        raise FormatError(
            f"{path}: {_TOKEN_IDS} is {id_dtype} of shape {token_ids.shape}; it must hold one integer for each token"
        )
    return _Mapped(token_ids, states, dtype)


def _digest(token_ids: Int[np.ndarray, " token"]) -> str:
    return content_digest(np.ascontiguousarray(token_ids, dtype=np.int64).tobytes())
