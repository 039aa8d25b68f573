"""The models: one pyramid, many configurations."""

from minidat.models.backbone import Backbone
from minidat.models.config import Config, StageConfig
from minidat.models.pyramid import Pyramid
from minidat.models.zoo import MODELS, create

__all__ = ["MODELS", "Backbone", "Config", "Pyramid", "StageConfig", "create"]
