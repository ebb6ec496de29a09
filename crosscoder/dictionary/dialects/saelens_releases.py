"""Releases of SAELens: `saelens:RELEASE/SAE_ID` is what `SAE.from_pretrained(RELEASE, SAE_ID)` loads.

SAELens ships a table of releases, so a name is looked up without the network. Its own loader of the release downloads the files from the Hub
and converts them; the result is stored as SAELens stores an SAE, and read from there (`saelens`).
"""

import re
import warnings
from pathlib import Path
from typing import Any

from ...errors import ConfigError, CrosscoderError, FormatError, did_you_mean, first_line
from .saelens import write_sae

SCHEME = "saelens:"
_SHOWN = 5


def fetch(name: str, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Store the SAE called RELEASE/SAE_ID in `folder`; return the commit of the Hub, and what the table says of the release.

    Raises:
        ConfigError: There is no such release, or no such SAE in it.
        FormatError: It cannot be downloaded, or SAELens cannot convert it to an SAE.
    """
    from sae_lens import SAE

    found, sae_id = _found(name)
    try:
        with warnings.catch_warnings():
            # The reader asks for the factor then.
            warnings.filterwarnings("ignore", message="norm_scaling_factor not found")
            sae = SAE.from_pretrained(found.release, sae_id)
    except CrosscoderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise FormatError(
            f"{SCHEME}{name}: SAELens cannot load {found.saes_map[sae_id]} of {found.repo_id} from the Hub ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error
    weights = sae.state_dict()
    sae.process_state_dict_for_saving(weights)
    write_sae(folder, weights, sae.cfg.to_dict())
    said = {
        "release": found.release,
        "sae_id": sae_id,
        "repository": found.repo_id,
        "path": found.saes_map[sae_id],
        "model": found.model,
        "norm_scaling_factor": found.norm_scaling_factor.get(sae_id),
    }
    return _cached_commit(found.repo_id), {name: value for name, value in said.items() if value is not None}


def _found(name: str) -> tuple[Any, str]:
    """Return the entry of the table, and the id. Names of releases have no slash; ids may."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    table = get_pretrained_saes_directory()
    release, _, sae_id = name.partition("/")
    if release not in table:
        raise ConfigError(
            f"{SCHEME}{name}: SAELens knows no release {release!r}{did_you_mean(release, table)}; give {SCHEME}RELEASE/SAE_ID with one of "
            f"its {len(table)} releases, or the Hub id of the repository"
        )
    known = table[release].saes_map
    if sae_id not in known:
        hint = did_you_mean(sae_id, known) or _examples(sae_id, list(known))
        raise ConfigError(f"{SCHEME}{name}: release {release} has no SAE {sae_id!r}{hint}")
    return table[release], sae_id


def _examples(sae_id: str, known: list[str]) -> str:
    """Return ids to append to a message: those with the same numbers first, e.g. of the same layer."""
    numbers = set(re.findall(r"\d+", sae_id))
    nearest = sorted(known, key=lambda name: -len(numbers & set(re.findall(r"\d+", name))))
    more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"; it has {', '.join(nearest[:_SHOWN])}{more}"


def _cached_commit(repository: str) -> str | None:
    """Return the commit that the cache of the Hub has for the newest version; None if it keeps none, as without symbolic links."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    path = folder / "refs" / "main"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
