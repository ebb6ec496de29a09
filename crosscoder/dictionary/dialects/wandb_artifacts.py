"""Dictionaries that are artifacts of Weights & Biases: `wandb:ENTITY/PROJECT/NAME:VERSION`, as a run logs them."""

import re
from pathlib import Path

from ...config import WandbConfig
from ...errors import ConfigError, FormatError, ResourceError, first_line
from ...run.tracking import ARTIFACT_SCHEME as SCHEME
from ...run.tracking import wandb_mode

_NAME = re.compile(r"([\w.-]+/[\w. -]+)/([\w.-]+):([\w.-]+)")
_SKIPPED = (".", "..")


def fetch(name: str) -> tuple[Path, str]:
    """Download an artifact to the cache of wandb; return where it is, and its version, which an alias such as `latest` stands for.

    Raises:
        ConfigError: It is no name of an artifact, or wandb is switched off.
        FormatError: There is no such artifact, or it cannot be downloaded.
        ResourceError: wandb is not logged in.
    """
    matched = _NAME.fullmatch(name)
    if matched is None or any(part in _SKIPPED for part in re.split("[/:]", name)):
        raise ConfigError(f"{SCHEME}{name}: is no artifact; give {SCHEME}ENTITY/PROJECT/NAME:VERSION")
    mode = wandb_mode(WandbConfig(mode="online"))
    if mode != "online":
        raise ConfigError(
            f"{SCHEME}{name}: wandb is {mode} here (WANDB_MODE or WANDB_DISABLED), so nothing can be downloaded; unset it, or give a folder"
        )
    import wandb
    from wandb.errors import AuthenticationError, CommError, UsageError

    try:
        artifact = wandb.Api().artifact(name)
        project, own_name, _ = matched.groups()
        root = _cache() / project / own_name / artifact.version
        return Path(artifact.download(root=str(root))), artifact.version
    except (AuthenticationError, UsageError) as error:
        raise ResourceError(
            f"{SCHEME}{name}: wandb is not logged in ({first_line(error)}); type `wandb login`, or set WANDB_API_KEY"
        ) from None
    except (CommError, ValueError, OSError) as error:
        raise FormatError(f"{SCHEME}{name}: cannot be downloaded from wandb ({first_line(error)})") from None


def _cache() -> Path:
    from wandb.env import get_cache_dir

    return Path(get_cache_dir()) / "crosscoder"
