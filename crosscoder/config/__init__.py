"""Every setting of a run, as frozen pydantic models that refuse unknown keys.

A YAML file holds one `RunConfig`, which `load.load_config` reads. Each section of the file has a module of the same name here
(the section `crosscoder` is in `dictionary`); `run` combines them. The description of a field is its documentation: the
reference in `docs/reference` and the error messages are generated from it. Nothing here imports torch.
"""

from .activations import (
    ActivationsConfig,
    CachedActivations,
    FileActivations,
    StoreConfig,
    StreamedActivations,
    store_settings,
)
from .analysis import AnalysisConfig, Conditions, FiringRuleConfig, LabelRule
from .block import Count, Device, Dtype, PositiveFloat, Settings, Share
from .controls import ControlsConfig
from .dictionary import CrosscoderConfig, DictionaryConfig
from .discovery import DiscoveryConfig
from .pair import AdapterSource, BitsAndBytes, ContextSource, Message, ModelSource, PairConfig, TorchAo
from .run import RunConfig, SurveyConfig
from .sparsity import BatchTopK, JumpReLU, ReLU, SparsityConfig, TopK
from .text import TextConfig, TextSource
from .tokens import TokenPolicy
from .training import AuxiliaryConfig, TrainingConfig
from .wandb import WandbConfig

__all__ = [
    "ActivationsConfig",
    "AdapterSource",
    "AnalysisConfig",
    "AuxiliaryConfig",
    "BatchTopK",
    "BitsAndBytes",
    "CachedActivations",
    "Conditions",
    "ContextSource",
    "ControlsConfig",
    "Count",
    "CrosscoderConfig",
    "Device",
    "DictionaryConfig",
    "DiscoveryConfig",
    "Dtype",
    "FileActivations",
    "FiringRuleConfig",
    "JumpReLU",
    "LabelRule",
    "Message",
    "ModelSource",
    "PairConfig",
    "PositiveFloat",
    "ReLU",
    "RunConfig",
    "Settings",
    "Share",
    "SparsityConfig",
    "StoreConfig",
    "StreamedActivations",
    "SurveyConfig",
    "TextConfig",
    "TextSource",
    "TokenPolicy",
    "TopK",
    "TorchAo",
    "TrainingConfig",
    "WandbConfig",
    "store_settings",
]
