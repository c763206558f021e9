"""Models: what is asked of one (`base`), and one file for each way to reach one. Importing loads no provider's SDK."""

from massgen.models.base import Model, OnPiece, Options, ScoringModel
from massgen.models.factory import open_model
from massgen.models.local import LocalModel
from massgen.models.scripted import ScriptedModel

__all__ = ["LocalModel", "Model", "OnPiece", "Options", "ScoringModel", "ScriptedModel", "open_model"]
