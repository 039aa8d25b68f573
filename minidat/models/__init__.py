"""The models: one pyramid, many configurations."""

from minidat.models.pyramid import Config, Pyramid, StageConfig
from minidat.models.zoo import MODELS, create

__all__ = ["MODELS", "Config", "Pyramid", "StageConfig", "create"]
