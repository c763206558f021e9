"""Models: what is asked of one (`base`), and one file for each way to reach one. Importing loads no provider's SDK."""

from massgen.models.base import Model, OnText, ScoringModel
from massgen.models.factory import BACKENDS, ignored_keys, open_model
from massgen.models.local import LocalModel
from massgen.models.scripted import ScriptedModel

__all__ = ["BACKENDS", "LocalModel", "Model", "OnText", "ScoringModel", "ScriptedModel", "ignored_keys", "open_model"]
